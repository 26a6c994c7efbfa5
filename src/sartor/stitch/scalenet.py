"""ScaleNet: a deeper network out of a pretrained one, with next to no new parameters.

Source: Hao, Guo, Shen, Han, Tang, Hu, Wang, ScaleNet: Scaling up Pretrained Neural Networks with
Incremental Parameters, IEEE Transactions on Image Processing 2025, arXiv 2510.18431. Its official
code could not be had. From the paper: layer l of the deep network has the weights of layer l modulo
L, shared for the whole of training, and an adapter of its own beside them. Decided here, as the
detail could not be read: the adapter is a bottleneck beside the MLP, behind the block's second norm
and inside its layer scale and stochastic depth; LoRA lies on the projections to queries, keys and
values and on all matrices of the MLP; norms are shared unless asked otherwise; buffers (statistics
of batch norms) are each layer's own; a Swin block keeps its own shift.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import nn

from sartor.core.errors import FamilyError, NoEffectError
from sartor.core.packages import require
from sartor.nn.sources import seeded
from sartor.stitch.layer_map import ScaleNetConfig, layer_map
from sartor.stitch.shared_blocks import AdaptedMlp, LoraLinear, ParallelAdapter, tied_copy

__all__ = ["ScaleNetConfig", "count_executed_params", "layer_map", "param_groups", "scale_depth"]

#: where timm's plain transformers, transformers' decoders and timm's Swins keep their blocks
_PLACES = ("blocks", "model.layers", "layers")
_LISTS = (nn.Sequential, nn.ModuleList)
_OUTPUT_PROJECTIONS = ("proj", "o_proj", "out_proj")
_DROP_PATHS = ("drop_path", "drop_path1", "drop_path2")


def scale_depth(model: nn.Module, config: ScaleNetConfig | None = None) -> nn.Module:
    """Make a deeper copy of a model, whose new layers share the weights of its blocks.

    Parameters stay almost as many; operations and time grow with the depth. Right after it, the
    copy equals the plain network of repeated blocks, as adapters start at zero; that is not the
    original model, so train it.

    Args:
        model: a timm ViT, DeiT or Swin, a Llama of transformers, or any model with a list of blocks
            of one shape; it is left as it is.
        config: how deep, in which order, with which adapters.

    Returns:
        A model of the same class, in the same mode. Give it back with other ``blocks`` to deepen
        another stage.

    Raises:
        FamilyError: the blocks are not found, differ in shape, or lack a part that is asked for.
        RecipeError: depth and mapping do not fit the model.
        NoEffectError: nothing would change.

    Example:
        >>> from sartor.nn import tiny_vit
        >>> deep = scale_depth(tiny_vit(embed_dim=24, depth=3), ScaleNetConfig(rank=4))
        >>> len(deep.blocks), sum(p.numel() for p in deep.parameters())
        (6, 23842)
    """
    config = config or ScaleNetConfig()
    deep: Any = copy.deepcopy(model)
    path, blocks = _find_blocks(deep, config.blocks)
    numbers = _numbers(len(blocks), config)
    if numbers == list(range(len(blocks))) and config.adapter is None and config.drop_path is None:
        raise NoEffectError(
            f"The model already has these {len(blocks)} blocks in this order, and no adapter was "
            "asked for; give more layers."
        )
    with seeded(config.seed):
        layers = [_layer(blocks, numbers, index, config) for index in range(len(numbers))]
    owner, _, name = path.rpartition(".")
    whole = nn.Sequential(*layers) if isinstance(blocks, nn.Sequential) else nn.ModuleList(layers)
    setattr(deep.get_submodule(owner), name, whole.train(blocks.training))
    for layer, number in zip(layers, numbers, strict=True):
        layer.train(blocks[number].training)
    _describe_depth(deep, path, numbers)
    return deep  # type: ignore[no-any-return]


def count_executed_params(model: nn.Module) -> int:
    """Count the values of the parameters of every layer, shared ones as often as they are used;
    :func:`sartor.measure.count_params` counts them once.

    Example:
        >>> layer = nn.Linear(4, 4)
        >>> count_executed_params(nn.Sequential(layer, tied_copy(layer)))
        40
    """
    return sum(p.numel() for _, p in model.named_parameters(remove_duplicate=False))


def param_groups(
    model: nn.Module, *, lr: float, adapter_lr_mult: float = 5.0, weight_decay: float = 0.05
) -> list[dict[str, Any]]:
    """Groups for an optimiser: pretrained tensors learn slower than adapters; vectors do not decay.

    Each parameter is in one group, once, however many layers share it.

    Args:
        model: what :func:`scale_depth` made.
        lr: rate of the pretrained tensors. Their gradients add up over the layers that share them:
            keep clipping gradients at 1.
        adapter_lr_mult: factor of that rate for the adapters; 3 to 10 is usual.
        weight_decay: of matrices; biases and norms get none.

    Example:
        >>> from sartor.nn import tiny_vit
        >>> groups = param_groups(scale_depth(tiny_vit()), lr=1e-4)
        >>> [group["lr"] for group in groups]
        [0.0001, 0.0001, 0.0005, 0.0005]
    """
    adapters = {id(p) for module in model.modules() for p in _own_parameters(module)}
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = []
    for rate, own in ((lr, False), (lr * adapter_lr_mult, True)):
        for decay, matrix in ((weight_decay, True), (0.0, False)):
            chosen = [p for p in trained if (id(p) in adapters, p.ndim > 1) == (own, matrix)]
            groups.append({"params": chosen, "lr": rate, "weight_decay": decay})
    return [group for group in groups if group["params"]]


def _own_parameters(module: nn.Module) -> list[nn.Parameter]:
    if isinstance(module, LoraLinear):
        return [*module.lora_a.parameters(), *module.lora_b.parameters()]
    return list(module.parameters()) if isinstance(module, ParallelAdapter) else []


def _numbers(depth: int, config: ScaleNetConfig) -> list[int]:
    """The block of each layer."""
    doubled = 2 * depth if isinstance(config.mapping, str) else len(config.mapping)
    asked = doubled if config.num_layers is None else config.num_layers
    return layer_map(depth, asked, config.mapping)


def _find_blocks(model: nn.Module, path: str) -> tuple[str, Any]:
    """The dotted name of the list of blocks, and the list."""
    modules = dict(model.named_modules())
    found = path or next((place for place in _PLACES if isinstance(modules.get(place), _LISTS)), "")
    blocks = modules.get(found)
    if not isinstance(blocks, _LISTS) or not len(blocks):
        raise FamilyError(
            f"The model {type(model).__name__} has no list of blocks "
            f"{f'called {path!r}' if path else 'where timm or transformers keep it'}; name one "
            "with blocks=, for example 'layers.2.blocks'."
        )
    if not path and isinstance(getattr(blocks[0], "blocks", None), _LISTS):
        return _find_blocks(model, f"{found}.{min(2, len(blocks) - 1)}.blocks")
    shapes = [{name: p.shape for name, p in block.named_parameters()} for block in blocks]
    odd = next((index for index, shape in enumerate(shapes) if shape != shapes[0]), None)
    if odd is not None:
        raise FamilyError(
            f"The blocks {found}.0 and {found}.{odd} differ in the shapes of their parameters, so "
            "their layers cannot be repeated; name a list of equal blocks with blocks=, for "
            "example one stage of a Swin, 'layers.2.blocks'."
        )
    return found, blocks


def _layer(
    blocks: Sequence[nn.Module], numbers: Sequence[int], index: int, config: ScaleNetConfig
) -> nn.Module:
    """Layer ``index`` of the deep network."""
    layer: Any = tied_copy(blocks[numbers[index]])
    if config.private_norm and numbers[index] in numbers[:index]:
        for name, child in layer.named_children():
            if "norm" in name:
                setattr(layer, name, copy.deepcopy(child))
    if config.adapter == "parallel":
        mlp = _mlp(layer)
        first = _linears(mlp)[0]
        where: Any = {"device": first.weight.device, "dtype": first.weight.dtype}
        adapter = ParallelAdapter(first.in_features, config.rank, config.scale, **where)
        layer.mlp = AdaptedMlp(mlp, adapter)
    elif config.adapter == "lora":
        _add_lora_(layer, config)
    if config.drop_path is not None:
        _set_drop_path_(layer, config.drop_path * index / max(len(numbers) - 1, 1))
    for module in layer.modules():
        if hasattr(module, "layer_idx"):  # under which a decoder layer caches keys and values
            module.layer_idx = index
    return layer  # type: ignore[no-any-return]


def _mlp(layer: nn.Module) -> nn.Module:
    mlp = getattr(layer, "mlp", None)
    if not isinstance(mlp, nn.Module) or not _linears(mlp):
        raise FamilyError(
            f"A {type(layer).__name__} has no mlp with linear layers for an adapter to stand "
            "beside; give adapter=None, or 'lora' where its attention has them."
        )
    return mlp


def _linears(module: nn.Module) -> list[nn.Linear]:
    return [part for part in module.modules() if isinstance(part, nn.Linear)]


def _add_lora_(layer: nn.Module, config: ScaleNetConfig) -> None:
    names = [
        name
        for name, part in layer.named_modules()
        if isinstance(part, nn.Linear) and name.rpartition(".")[2] not in _OUTPUT_PROJECTIONS
    ]
    if not names:
        raise FamilyError(
            f"A {type(layer).__name__} has no linear layers for LoRA; give adapter=None."
        )
    for name in names:
        owner, _, leaf = name.rpartition(".")
        linear: Any = layer.get_submodule(name)
        setattr(layer.get_submodule(owner), leaf, LoraLinear(linear, config.rank, config.scale))


def _set_drop_path_(layer: nn.Module, rate: float) -> None:
    names = [name for name in _DROP_PATHS if hasattr(layer, name)]
    if not names:
        raise FamilyError(
            f"A {type(layer).__name__} has no stochastic depth; leave drop_path at None."
        )
    for name in names:
        part = require("timm.layers").DropPath(rate) if rate else nn.Identity()
        setattr(layer, name, part)


def _describe_depth(model: Any, path: str, numbers: Sequence[int]) -> None:
    """What models say of their own depth: transformers in a config, timm in its feature table."""
    config: Any = getattr(model, "config", None)
    if path in ("layers", "model.layers") and hasattr(config, "num_hidden_layers"):
        config.num_hidden_layers = len(numbers)
        if getattr(config, "layer_types", None):
            config.layer_types = [config.layer_types[number] for number in numbers]
    table = getattr(model, "feature_info", None)
    if isinstance(table, list) and [row.get("module") for row in table][:1] == [f"{path}.0"]:
        model.feature_info = [
            {**table[number], "module": f"{path}.{index}"} for index, number in enumerate(numbers)
        ]
