"""How often each id took part in the gradients that embedding tables hold now, over micro-batches
and over processes.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = ["Counted", "IdCounts", "joined"]

#: ids, rising and each once, and how often each occurs: (N,) both
Counted = tuple[Tensor, Tensor]


class IdCounts:
    """Listens to embeddings and counts the ids whose gradient arrives.

    Ids are noted in the backward pass, so that a forward pass without one, one under ``no_grad``
    and the second one of activation checkpointing do not count. Embeddings that share a weight, and
    fields that share an embedding, add up. Listening ends with the object.

    Args:
        embeddings: ``nn.Embedding`` or ``nn.EmbeddingBag`` each.

    Attributes:
        weights: the tables, each once.

    Example:
        >>> table = nn.Embedding(4, 2)
        >>> counts = IdCounts([table])
        >>> table(torch.tensor([3, 1, 3])).sum().backward()
        >>> counts.take()
        [(tensor([1, 3]), tensor([1, 2]))]
    """

    def __init__(self, embeddings: Iterable[nn.Module]) -> None:
        modules = list(embeddings)
        self.weights = list({id(m.weight): m.weight for m in modules}.values())
        self._noted: list[list[Tensor]] = [[] for _ in self.weights]
        handles = [
            module.register_forward_hook(
                partial(_listen, weakref.ref(self), self._place(module)), with_kwargs=True
            )
            for module in modules
        ]
        weakref.finalize(self, _remove, handles)

    def take(self, group: dist.ProcessGroup | None = None) -> list[Counted]:
        """Count what was noted, joined over the processes of ``group``; every process must call.

        Args:
            group: of processes; ``None`` for all of them. Without torch.distributed there is one.

        Returns:
            One pair for each of :attr:`weights`.
        """
        counted = [
            _count(noted, weight) for noted, weight in zip(self._noted, self.weights, strict=True)
        ]
        if not counted:
            return []
        several = dist.is_available() and dist.is_initialized() and dist.get_world_size(group) > 1
        return joined(counted, group) if several else counted

    def clear(self) -> None:
        """Forget what was noted: the gradients are gone."""
        for noted in self._noted:
            noted.clear()

    def note(self, place: int, ids: Tensor) -> None:
        """Note ids (...) whose gradient went into ``weights[place]``."""
        self._noted[place].append(ids)

    def _place(self, module: nn.Module) -> int:
        return next(i for i, weight in enumerate(self.weights) if weight is module.weight)


def joined(counted: Sequence[Counted], group: dist.ProcessGroup | None = None) -> list[Counted]:
    """Sum counts over processes, with two collective calls for any number of tables.

    Args:
        counted: of each table in this process; as many tables in every process.
        group: of processes; ``None`` for all of them.
    """
    world = dist.get_world_size(group)
    sizes = torch.tensor([len(ids) for ids, _ in counted], device=counted[0][0].device)  # (T,)
    all_sizes = [torch.empty_like(sizes) for _ in range(world)]
    dist.all_gather(all_sizes, sizes, group=group)
    longest = max(int(each.sum()) for each in all_sizes)
    mine = sizes.new_zeros(2, longest)
    packed = torch.cat([torch.stack(pair).to(mine.device) for pair in counted], dim=1)  # (2, N)
    mine[:, : packed.shape[1]] = packed
    gathered = [torch.empty_like(mine) for _ in range(world)]
    dist.all_gather(gathered, mine, group=group)
    parts = [
        whole[:, : int(each.sum())].split(each.tolist(), dim=1)
        for whole, each in zip(gathered, all_sizes, strict=True)
    ]
    return [
        _sum(torch.cat(of_table, dim=1).to(ids.device))
        for of_table, (ids, _) in zip(zip(*parts, strict=True), counted, strict=True)
    ]


def _sum(pairs: Tensor) -> Counted:
    """Ids with counts (2, N), repeated -> each once, their counts added."""
    ids, place = torch.unique(pairs[0], return_inverse=True)
    return ids, torch.zeros_like(ids).index_add_(0, place, pairs[1])


def _count(noted: Sequence[Tensor], weight: Tensor) -> Counted:
    if not noted:
        none = torch.empty(0, dtype=torch.int64, device=weight.device)
        return none, none
    flat = torch.cat([ids.reshape(-1) for ids in noted]).long()  # (N,)
    ids, counts = torch.unique(flat, return_counts=True)
    return ids, counts


def _listen(
    listener: Callable[[], IdCounts | None],
    place: int,
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    output: Tensor,
) -> None:
    counts = listener()
    # a copy of the module has the hook, and a weight of its own
    if counts is None or not output.requires_grad or counts.weights[place] is not module.weight:
        return
    ids = args[0] if args else kwargs["input"]
    output.register_hook(partial(_arrived, listener, place, ids))


def _arrived(listener: Callable[[], IdCounts | None], place: int, ids: Tensor, _: Tensor) -> None:
    counts = listener()
    if counts is not None:
        counts.note(place, ids)


def _remove(handles: Iterable[Any]) -> None:
    for handle in handles:
        handle.remove()
