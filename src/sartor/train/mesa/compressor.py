"""Decides what becomes of each tensor that autograd saves, and keeps the running ranges."""

from __future__ import annotations

import fnmatch
import math

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sartor.core.errors import RecipeError, nearest
from sartor.train.mesa.layout import group_shape, in_memory_order, memory_order, region
from sartor.train.mesa.operation import Place, head_counts
from sartor.train.mesa.quantizer import encode_in_pieces, pack_codes, running
from sartor.train.mesa.settings import MesaReport, MesaSettings
from sartor.train.mesa.store import Codes, Kept, StorageTable, Stored

__all__ = ["Compressor"]

#: operations whose tensors (B, H, N, ...) have a head for each H
_HEADED = ("matmul", "attention", "softmax")


class Compressor:
    """The two hooks of autograd, and what they remember.

    Attributes:
        ranges: place of a tensor -> running range and offset, (groups,) each.
        place: where the model is at work.
    """

    def __init__(self, model: nn.Module, settings: MesaSettings) -> None:
        self.model, self.settings = model, settings
        self.place = Place(model)
        self.ranges: dict[str, tuple[Tensor, Tensor]] = {}
        self._heads = _heads(model, settings)
        self._excluded = _excluded(model, settings)
        self._table = StorageTable()
        self._weights: set[int] = set()
        self._seed = 0
        self._generators: dict[torch.device, torch.Generator] = {}

    def begin(self, step: int) -> None:
        """Get ready for forward pass number ``step``, whose rounding follows seed and number."""
        held = [*self.model.parameters(), *self.model.buffers()]
        self._weights = {x.untyped_storage()._cdata for x in held}
        rank = dist.get_rank() if dist.is_initialized() else 0
        mixed = self.settings.seed * 0x9E3779B1 + step * 0x85EBCA77 + rank * 0xC2B2AE3D
        self._seed, self._generators = mixed % 2**32, {}

    def end(self) -> MesaReport:
        """Let go of the pass, whose codes now belong to autograd alone."""
        kinds = {kind: (exact, stored) for kind, (exact, stored) in self._table.kinds.items()}
        self._table, self._weights = StorageTable(), set()
        exact, stored = (sum(pair[i] for pair in kinds.values()) for i in (0, 1))
        return MesaReport(exact_bytes=exact, stored_bytes=stored, kinds=kinds)

    def pack(self, x: Tensor) -> Stored | Kept:
        """What autograd keeps in place of ``x``."""
        with torch.no_grad(), torch._C.DisableTorchFunction():
            key, kind = self.place.next_key(), self.place.operation.kind
            plain = type(x) in (Tensor, nn.Parameter) and x.layout is torch.strided
            if not plain or self._is_weight(x):
                return Kept(x)
            order = memory_order(x) if self._is_wanted(x) else None
            if order is None:
                return self._table.keep(x, kind)
            row = self._table.row(x, kind)
            spot = (*region(x, order), x.dtype, x._version)
            if spot not in row:
                codes = self._encode(x, key, kind)
                if codes is None:
                    return self._table.keep(x, kind)
                row[spot] = self._table.add(codes, kind)
            return Stored.of(row[spot], x, order)

    @staticmethod
    def unpack(stored: Stored | Kept) -> Tensor:
        """The tensor that the backward pass is given."""
        return stored.restore()

    def _is_weight(self, x: Tensor) -> bool:
        known = x.untyped_storage()._cdata in self._weights
        return known or self.place.operation.copies_weight(x)

    def _is_wanted(self, x: Tensor) -> bool:
        settings, operation = self.settings, self.place.operation
        return (
            x.is_floating_point()
            and x.numel() * self._processes() >= max(settings.min_numel, 1)
            and operation.kind not in ("singular", "loss", *settings.keep)
            and self.place.module not in self._excluded
            and not operation.is_statistic(x)
        )

    def _processes(self) -> int:
        return dist.get_world_size() if self.settings.synchronize and dist.is_initialized() else 1

    def _encode(self, x: Tensor, key: str, kind: str) -> Codes | None:
        """Codes of a tensor; ``None`` if it is not finite."""
        values = self._grouped(x, kind)  # (outer, groups, inner)
        low, high = self._extremes(values)
        if _is_binary(values):
            codes = pack_codes((values != 0).to(torch.uint8), 1)
            alpha = values.amax().to(torch.float32).view(1)
            return Codes(codes, alpha, alpha.new_zeros(1), 1, (1, 1, x.numel()), x.dtype)
        if not torch.isfinite(torch.stack((low, high))).all():
            return None
        if kind == "relu":
            low = torch.zeros_like(low)
        alpha, beta = self._range(key, low, high)
        codes = encode_in_pieces(
            values,
            alpha,
            beta,
            bits=self.settings.bits,
            generator=self._generator(x.device) if self.settings.stochastic else None,
            keep_sign=kind == "relu",
        )
        packed = pack_codes(codes, self.settings.bits)
        outer, groups, inner = values.shape
        return Codes(packed, alpha, beta, self.settings.bits, (outer, groups, inner), x.dtype)

    def _grouped(self, x: Tensor, kind: str) -> Tensor:
        """The distinct elements in memory order as (outer, groups, inner)."""
        heads = self.place.operation.heads_of(x)
        if heads:
            x = x.unflatten(0, (-1, heads))  # (B, H, N, D)
        dim, groups = self._groups(x, kind)
        order = memory_order(x)
        assert order is not None
        values = in_memory_order(x, order)
        if groups == 1 or dim not in order:
            return values.reshape(1, 1, -1)
        return values.reshape(group_shape(values, order.index(dim), groups))

    def _groups(self, x: Tensor, kind: str) -> tuple[int, int]:
        """The dimension that is split into groups, and their number."""
        wanted = self.settings.groups
        if wanted == "tensor" or x.ndim < 2:
            return 0, 1
        if kind in _HEADED and x.ndim >= 4:
            dim = x.ndim - 3
            return dim, x.shape[dim] if wanted == "heads" else math.gcd(x.shape[dim], int(wanted))
        name = self.place.operation.name
        if kind in ("conv", "batch_norm") or name in ("group_norm", "instance_norm"):
            dim = 1
        elif kind in ("linear", "layer_norm") or x.ndim < 4:
            dim = x.ndim - 1
        else:
            dim = self.place.channel_dim % x.ndim
        runs = self._channel_runs() if wanted == "heads" else int(wanted)
        return dim, math.gcd(x.shape[dim], runs)

    def _channel_runs(self) -> int:
        """Attention heads of the nearest module around the running one that knows them."""
        path = self.place.module
        while path and path not in self._heads:
            path = path.rpartition(".")[0]
        return self._heads[path]

    def _extremes(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Least and greatest value of each group, (groups,) each, of all processes if asked."""
        low = values.amin(0).amin(1).to(torch.float32)  # in two steps: faster for short runs
        high = values.amax(0).amax(1).to(torch.float32)
        if self._processes() > 1:
            both = torch.stack((-low, high)).nan_to_num(nan=torch.inf)
            dist.all_reduce(both, dist.ReduceOp.MAX)
            low, high = -both[0], both[1]
        return low, high

    def _range(self, key: str, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        momentum = self.settings.momentum
        if momentum is None:
            return high - low, low
        old = self.ranges.get(key)
        if old is not None and len(old[0]) == len(low):
            old = (old[0].to(low.device), old[1].to(low.device))
        else:
            old = None
        self.ranges[key] = running(old, low, high, momentum)
        return self.ranges[key]

    def _generator(self, device: torch.device) -> torch.Generator:
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self._seed)
        return self._generators[device]


def _is_binary(values: Tensor) -> bool:
    """Whether there is only 0 and one value above it, as in the mask of a dropout."""
    flat = values.reshape(-1)
    few = flat[:: max(1, len(flat) // 64)]
    if not ((few == 0) | (few == few.amax())).all() or few.amin() < 0:
        return False
    top = flat.amax()
    return bool(((flat == 0) | (flat == top)).all())


def _heads(model: nn.Module, settings: MesaSettings) -> dict[str, int]:
    if settings.groups != "heads":
        return {}
    if settings.num_heads is not None:
        return {"": settings.num_heads}
    found = head_counts(model)
    if not found:
        raise RecipeError(
            f"Mesa's groups='heads' needs a number of heads and no module of this "
            f"{type(model).__name__} has num_heads; give num_heads or groups as a number of runs "
            "of channels."
        )
    return found


def _excluded(model: nn.Module, settings: MesaSettings) -> set[str]:
    """Names of the excluded modules and of all that is inside them; widths are checked."""
    names = [name for name, _ in model.named_modules()]
    excluded: set[str] = set()
    for pattern in settings.exclude:
        hit = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
        if not hit:
            raise RecipeError(
                f"Mesa's exclude pattern {pattern!r} matches no module; {nearest(pattern, names)}"
            )
        excluded |= {n for n in names for h in hit if n == h or n.startswith(f"{h}.") or not h}
    if isinstance(settings.groups, int):
        for name, module in model.named_modules():
            width = module.in_features if isinstance(module, nn.Linear) else settings.groups
            if width % settings.groups and name not in excluded:
                raise RecipeError(
                    f"Mesa's groups must divide the channels of every linear layer, got "
                    f"{settings.groups} and {width} at {name!r}; take "
                    f"{math.gcd(width, settings.groups)} or exclude that layer."
                )
    return excluded
