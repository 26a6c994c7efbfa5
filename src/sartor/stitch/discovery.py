"""Finding anchors: cut a model into embedding, blocks and head, without copying its forward."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sartor.core.errors import FamilyError
from sartor.core.family import Member, Split
from sartor.core.modes import eval_mode
from sartor.stitch.anchor import Anchor, Stage
from sartor.stitch.features import CONVOLUTIONS, trace
from sartor.stitch.sized_block import SizedBlock, takes_size

__all__ = ["find_anchor"]

#: the parts of a route that was extracted from a stitched net
_OWN = Split(blocks=("blocks",), embed="embed", head=("head",))
_LISTS = (nn.Sequential, nn.ModuleList)
_CONTAINERS = (("blocks",), ("layers",), ("stages",), ("layer1", "layer2", "layer3", "layer4"))


class _Embedding(nn.Module):
    """A model with its blocks, and all that follows them, taken out: inputs -> what the first block
    takes.
    """

    def __init__(self, model: nn.Module, method: str) -> None:
        super().__init__()
        self.model, self.method = model, method

    def forward(self, inputs: Tensor) -> Tensor:
        embedded: Tensor = getattr(self.model, self.method)(inputs)
        return embedded


class _Head(nn.Module):
    """What follows the last block: modules, then a method of the model."""

    def __init__(self, tail: Sequence[nn.Module], model: nn.Module, method: str) -> None:
        super().__init__()
        self.tail, self.model, self.method = nn.Sequential(*tail), model, method

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = getattr(self.model, self.method)(self.tail(features))
        return logits


def find_anchor(member: Member, example: Tensor) -> Anchor:
    """Cut a model into an anchor and check that nothing was lost.

    Args:
        member: its ``split`` says where to cut; without one, timm's accessors are used
            (``forward_features``, ``forward_head`` and the module lists ``blocks``, ``layers``,
            ``stages`` or ``layer1`` to ``layer4``).
        example: inputs (B, ...) that the model takes; only shape, dtype and device matter, unless
            they are integers. On the ``meta`` device only shapes are checked.

    Returns:
        An anchor that shares its modules with the model.

    Raises:
        FamilyError: no blocks are found, or running them one by one gives other outputs than the
            model.
    """
    model = member.model
    split = member.split or (_OWN if _is_route(model) else None)
    anchor = _by_split(member, split) if split else _by_accessors(member, example)
    probe = _noise_like(example)
    reason = "it gives other outputs when its blocks run one by one"
    try:
        with eval_mode(model, anchor), torch.no_grad():
            found, wanted = anchor(probe), model(probe)
        same = found.shape == wanted.shape and (wanted.is_meta or torch.equal(found, wanted))
        anchor.layout = _layout(model, anchor, probe)
    except Exception as error:
        same, reason = False, f"its blocks do not run one by one ({_first_line(error)})"
    if not same:
        raise FamilyError(
            f"The model {member.name!r} cannot be stitched: {reason}; "
            "name its embedding, blocks and head with Split(blocks=..., embed=..., head=...)."
        )
    return anchor


def _is_route(model: nn.Module) -> bool:
    return {name for name, _ in model.named_children()} == {"embed", "blocks", "head"}


def _by_accessors(member: Member, example: Tensor) -> Anchor:
    model: Any = member.model
    children = dict(model.named_children())
    containers = next((names for names in _CONTAINERS if set(names) <= set(children)), ())
    names = [name for name in containers if any(children[name].children())]  # ResNets of 3 stages
    if not names or not (hasattr(model, "forward_features") and hasattr(model, "forward_head")):
        raise FamilyError(
            f"The model {member.name!r} ({type(model).__name__}) has no blocks that timm's "
            "accessors show; "
            "name them with Split(blocks=..., head=...)."
        )
    order = list(children)
    later = order[order.index(names[-1]) + 1 :]
    tail = _called(model, "forward_features", example, later)
    embed = _without(
        model, {**{n: nn.Sequential() for n in names}, **{n: nn.Identity() for n in later}}
    )
    head = _without(
        model, {n: nn.Identity() for n in order if n not in later or n in tail}, bare=True
    )
    return Anchor(
        member.name,
        _Embedding(embed, "forward_features"),
        _stages([children[name] for name in names], lists=_LISTS),
        _Head([children[name] for name in tail], head, "forward_head"),
    )


def _by_split(member: Member, split: Split) -> Anchor:
    containers = [_part(member, name, split) for name in split.blocks]
    if split.embed:
        embed = _part(member, split.embed, split)
    else:
        embed = _Embedding(_stripped(member.model, split), "forward")
    head = nn.Sequential(*(_part(member, name, split) for name in split.head))
    stages = _stages(containers, lists=(nn.ModuleList,))  # a sequential is a block of the user's
    return Anchor(member.name, embed, stages, head)


def _part(member: Member, name: str, split: Split) -> nn.Module:
    """The submodule of that dotted name, or a view of the model that runs its method of that
    name.
    """
    modules = dict(member.model.named_modules())
    if name in modules:
        return modules[name]
    if name.isidentifier() and name not in split.blocks and hasattr(type(member.model), name):
        return _Embedding(_stripped(member.model, split), name)
    raise FamilyError(
        f"The model {member.name!r} has no module or method {name!r}; its parts are "
        f"{', '.join(n for n, _ in member.model.named_children())}."
    )


def _stages(containers: Sequence[nn.Module], *, lists: tuple[type, ...]) -> list[Stage]:
    """One stage for each sequence of blocks; a single sequence of stages is opened.

    Args:
        containers: sequences of blocks, or of stages.
        lists: an entry of one of these types, or one that has ``blocks``, is a stage.
    """
    if len(containers) > 1:
        return [_stage(container) for container in containers]
    entries = list(containers[0].children())
    if entries and all(isinstance(entry, lists) or _has_blocks(entry) for entry in entries):
        return [_stage(entry) for entry in entries]
    return [Stage((), tuple(entries))]


def _has_blocks(module: nn.Module) -> bool:
    return isinstance(getattr(module, "blocks", None), _LISTS)


def _stage(module: nn.Module) -> Stage:
    if isinstance(module, _LISTS):
        return Stage((), tuple(module))
    names = [name for name, _ in module.named_children()]
    at, children = names.index("blocks"), list(module.children())
    enter, blocks = tuple(children[:at]), tuple(children[at].children())
    if any(takes_size(block) for block in blocks):
        # without what enters and without blocks, the stage's own forward is what leaves it
        leave = _without(module, {**dict.fromkeys(names[:at]), "blocks": nn.ModuleList()})
        return Stage(enter, tuple(SizedBlock(block) for block in blocks), (leave,))
    return Stage(enter, blocks, tuple(children[at + 1 :]))


def _layout(model: nn.Module, anchor: Anchor, example: Tensor) -> str:
    """Where the features' channels are: as timm says, else first if blocks convolve over them."""
    told = str(getattr(model, "output_fmt", ""))
    if told:
        return "first" if told.endswith("NCHW") else "last"
    (features, _), *_ = trace(anchor, example[:1]).values()
    convolution, inside = CONVOLUTIONS.get(features.ndim), list(anchor.stages.modules())
    if convolution is None or any(isinstance(module, SizedBlock) for module in inside):
        return "last"
    return "first" if any(isinstance(module, convolution) for module in inside) else "last"


def _noise_like(example: Tensor) -> Tensor:
    """Inputs that excite every part of a model; integers, which may be indices, stay as given."""
    if not example.is_floating_point():
        return example
    generator = torch.Generator().manual_seed(0)
    return torch.randn(example.shape, generator=generator).to(example)


def _called(model: nn.Module, method: str, example: Tensor, names: Iterable[str]) -> list[str]:
    """Which children of those names a method runs, in order."""
    called: list[str] = []
    hooks = [
        getattr(model, name).register_forward_hook(lambda *_, name=name: called.append(name))
        for name in names
    ]
    try:
        with eval_mode(model), torch.no_grad():
            getattr(model, method)(example)
    except Exception as error:
        raise FamilyError(
            f"The model {type(model).__name__} does not take inputs {tuple(example.shape)} "
            f"({_first_line(error)}); give models and data of one input size."
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    return called


def _stripped(model: nn.Module, split: Split) -> nn.Module:
    """A view of a model without the modules that its split names."""
    view, modules = _without(model, {}), dict(model.named_modules())
    for name in (*split.blocks, split.embed, *split.head):
        if name and name in modules:
            owner, *path = view, *name.split(".")
            for part in path[:-1]:
                inner = _without(owner._modules[part], {})  # type: ignore[arg-type]
                owner._modules[part] = inner
                owner = inner
            owner._modules[path[-1]] = nn.Sequential()
    return view


def _without(
    model: nn.Module, replaced: Mapping[str, nn.Module | None], *, bare: bool = False
) -> nn.Module:
    """A view of a model that shares its parts, but for some children; ``bare`` also lacks its own
    parameters.
    """
    view = copy.copy(model)
    view._modules = {**model._modules, **replaced}
    view._parameters = {} if bare else dict(model._parameters)
    view._buffers = {} if bare else dict(model._buffers)
    return view


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
