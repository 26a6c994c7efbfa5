"""A route through stitched language models as a ``LlamaForCausalLM`` that ``generate`` runs.

The forward, with its masks and caches, is that of transformers. Only the list of layers differs
from a model that was trained as one: layers may have the widths of different models, and the first
layer behind a change of models maps its inputs before it reads them. A route through one model is
an ordinary ``LlamaForCausalLM``. Saved as safetensors and JSON.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sartor.core.errors import ArtifactError, FamilyError
from sartor.core.files import atomic_path, read_json, write_json
from sartor.core.packages import require
from sartor.core.schema import check_keys
from sartor.stitch.llama import DecoderBlock
from sartor.stitch.network import Route, StitchableNetwork

__all__ = ["StitchedLayer", "load_llama", "save_llama", "to_transformers"]

_WEIGHTS, _PLAN = "model.safetensors", "route.json"


class StitchedLayer(nn.Module):
    """A decoder layer of another width: maps the features (B, T, C) that it gets, then runs.

    Args:
        stitch: from the width before to that of the layer.
        layer: of a ``LlamaModel``.
    """

    def __init__(self, stitch: nn.Module, layer: nn.Module) -> None:
        super().__init__()
        self.stitch, self.layer = stitch, layer

    def forward(self, features: Tensor, **kwargs: Any) -> Tensor:
        """Features (B, T, C before) -> (B, T, C); masks, positions and cache go to the layer."""
        following: Tensor = self.layer(self.stitch(features), **kwargs)
        return following


def to_transformers(network: StitchableNetwork, index: int) -> Any:
    """Take configuration ``index`` out of stitched language models, updates and biases folded in.

    Args:
        network: made by :func:`~sartor.stitch.llama.stitch_llamas`, adapted or not.
        index: of the configuration.

    Returns:
        A ``LlamaForCausalLM`` with weights of its own, in eval mode. One that runs through a single
        model also works with ``save_pretrained``; for others there is :func:`save_llama`. Caches
        that are allocated from the config, such as ``StaticCache``, need models with equally many
        key-value heads.

    Raises:
        FamilyError: there is no such configuration, or the network holds no language models.

    Example:
        >>> model = to_transformers(net, 5)  # doctest: +SKIP
        >>> model.generate(ids, max_new_tokens=20)  # doctest: +SKIP
    """
    route = network.extract(index)
    if not isinstance(route, Route) or not isinstance(route.blocks[0], DecoderBlock):
        raise FamilyError(
            "The network holds no language models; make it with stitch_llamas, or take the "
            "configuration out with extract."
        )
    state, configs, layers, joints = _read(route)
    model = _assemble(configs, layers, joints)
    wanted = {name for name, _ in model.named_parameters()}
    weight = next(iter(state.values()))
    for name in sorted(wanted - set(state)):  # biases of neighbours, which configs know in groups
        size = model.get_parameter(name).shape
        state[name] = torch.zeros(size, device=weight.device, dtype=weight.dtype)
    model.load_state_dict(state, assign=True)
    model.config.dtype = weight.dtype
    return model.to(weight.device)


def save_llama(model: Any, folder: Path) -> None:
    """Write what :func:`to_transformers` made: ``model.safetensors`` and ``route.json``, each whole
    or not at all.

    Args:
        model: of :func:`to_transformers` or :func:`load_llama`.
        folder: is made if it is not there.
    """
    configs: list[dict[str, Any]] = []
    layers, joints = [], []
    for number, layer in enumerate(model.model.layers):
        if isinstance(layer, StitchedLayer):
            joints.append(number)
            layer = layer.layer
        described = layer.self_attn.config.to_dict()
        if described not in configs:
            configs.append(described)
        layers.append(configs.index(described))
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.detach().cpu().clone().contiguous() for k, v in model.state_dict().items()}
    with atomic_path(folder / _WEIGHTS) as temporary:
        save_file(tensors, temporary)
    write_json(folder / _PLAN, {"configs": configs, "layers": layers, "joints": joints})


def load_llama(folder: Path) -> Any:
    """Read what :func:`save_llama` wrote; no code of the folder runs.

    Returns:
        A ``LlamaForCausalLM`` on the CPU, in eval mode.

    Raises:
        ArtifactError: a file is missing, damaged or does not fit the other.
    """
    plan = read_json(folder / _PLAN)
    check_keys(plan, "route.json", {"configs": list, "layers": list, "joints": list}, {})
    kind = require("transformers").LlamaConfig
    numbers = range(len(plan["configs"]))
    if not plan["layers"] or any(number not in numbers for number in plan["layers"]):
        raise ArtifactError(f"{folder / _PLAN} names a layer of no model; write the route again.")
    try:
        configs = [kind.from_dict(config) for config in plan["configs"]]
        model = _assemble(configs, plan["layers"], plan["joints"])
        state = load_file(folder / _WEIGHTS)
        model.load_state_dict(state, assign=True)
    except (OSError, SafetensorError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ArtifactError(
            f"The route in {folder} cannot be read ({reason}); write it again with save_llama."
        ) from error
    return model


def _read(route: Route) -> tuple[dict[str, Tensor], list[Any], list[int], list[int]]:
    """Weights by the names of transformers, configs of the models, the config of each layer, and
    the layers that have a stitching layer before them.
    """
    configs: list[Any] = []
    layers: list[int] = []
    joints: list[int] = []
    modules: dict[str, Any] = {"model.embed_tokens": route.embed}
    for module in route.blocks:
        if not isinstance(module, DecoderBlock):
            joints.append(len(layers))
            modules[f"model.layers.{len(layers)}.stitch"] = module
            continue
        if all(module.config is not config for config in configs):
            configs.append(module.config)
        within = ".layer" if joints[-1:] == [len(layers)] else ""
        modules[f"model.layers.{len(layers)}{within}"] = module.layer
        layers.append(next(i for i, config in enumerate(configs) if module.config is config))
    modules["model.norm"], modules["lm_head"] = route.head  # type: ignore[misc]
    state = {
        f"{name}.{key}": value.detach()
        for name, module in modules.items()
        for key, value in module.state_dict().items()
    }
    configs = [copy.deepcopy(config) for config in configs]
    for config in configs:
        config.attention_bias = any(".self_attn." in k and k.endswith(".bias") for k in state)
        config.mlp_bias = any(".mlp." in k and k.endswith(".bias") for k in state)
    return state, configs, layers, joints


def _assemble(configs: Sequence[Any], layers: Sequence[int], joints: Sequence[int]) -> Any:
    """Make the structure, without memory for weights: layer i as ``configs[layers[i]]`` says."""
    llama = require("transformers.models.llama.modeling_llama")
    config = copy.deepcopy(configs[layers[-1]])
    config.num_hidden_layers = len(layers)
    config.tie_word_embeddings = False
    config.max_position_embeddings = min(c.max_position_embeddings for c in configs)
    first = configs[layers[0]]
    with torch.device("meta"):
        model = llama.LlamaForCausalLM(config)
        if len(configs) > 1:
            model.model.embed_tokens = nn.Embedding(config.vocab_size, first.hidden_size)
            made: list[nn.Module] = []
            before = first.hidden_size
            for number, which in enumerate(layers):
                configs[which]._attn_implementation = config._attn_implementation
                layer = llama.LlamaDecoderLayer(configs[which], number)
                if number in joints:
                    layer = StitchedLayer(nn.Linear(before, configs[which].hidden_size), layer)
                made.append(layer)
                before = configs[which].hidden_size
            model.model.layers = nn.ModuleList(made)
    model.model.rotary_emb = llama.LlamaRotaryEmbedding(config)
    return model.eval()
