"""DeepFM: a click-through model of embedding tables, a factorisation machine and an MLP.

Source: Guo, Tang, Ye, Li, He, DeepFM: A Factorization-Machine based Neural Network for CTR
    Prediction, IJCAI 2017, arXiv 1703.04247. Deviation: categorical fields only.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sartor.core.errors import FamilyError

__all__ = ["DeepFM", "pairwise_interactions"]


def pairwise_interactions(embedded: Tensor) -> Tensor:
    """Sum over all pairs of fields of the inner product of their vectors, in linear time.

    Args:
        embedded: (B, F, D).

    Returns:
        (B,).

    Example:
        >>> pairwise_interactions(torch.tensor([[[1.0], [2.0], [3.0]]]))  # 1*2 + 1*3 + 2*3
        tensor([11.])
    """
    of_sum = embedded.sum(dim=1).square()  # (B, D)
    sum_of = embedded.square().sum(dim=1)  # (B, D)
    return 0.5 * (of_sum - sum_of).sum(dim=1)


class DeepFM(nn.Module):
    """Predicts the logit of a click from one id in each field.

    The tables of all fields lie in one ``nn.Embedding`` after one another, and the weights of the
    ids alone in another one of width 1, so that each takes one lookup.

    Args:
        cardinalities: number of ids in each field, F of them, at least 1 each.
        embed_dim: D, length of an id's vector, at least 1.
        hidden: widths of the MLP's hidden layers; none for a factorisation machine with a linear
            layer on its vectors.
        init_std: deviation of the tables' initial entries, at least 0.
        sparse: whether the tables give sparse gradients.

    Raises:
        FamilyError: a number is out of range.

    Example:
        >>> model = DeepFM((100, 20), embed_dim=4, hidden=(8,))
        >>> sum(p.numel() for p in model.parameters())
        682
        >>> model(torch.tensor([[99, 0], [3, 19]])).shape
        torch.Size([2])
    """

    offsets: Tensor

    def __init__(
        self,
        cardinalities: Sequence[int],
        *,
        embed_dim: int = 10,
        hidden: Sequence[int] = (400, 400, 400),
        init_std: float = 1e-2,
        sparse: bool = False,
    ) -> None:
        super().__init__()
        if not cardinalities or min(*cardinalities, embed_dim, *hidden, 1) < 1 or init_std < 0:
            raise FamilyError(
                "DeepFM takes at least one field, sizes of at least 1 and init_std of at least 0, "
                f"got fields {tuple(cardinalities)}, embed_dim {embed_dim}, hidden "
                f"{tuple(hidden)} and init_std {init_std:g}."
            )
        rows = sum(cardinalities)
        starts = itertools.accumulate(cardinalities, initial=0)
        self.register_buffer("offsets", torch.tensor(list(starts)[:-1]), persistent=False)
        self.embedding = nn.Embedding(rows, embed_dim, sparse=sparse)
        self.linear = nn.Embedding(rows, 1, sparse=sparse)
        self.bias = nn.Parameter(torch.zeros(()))
        widths = (len(cardinalities) * embed_dim, *hidden)
        layers = [(nn.Linear(a, b), nn.ReLU()) for a, b in itertools.pairwise(widths)]
        self.mlp = nn.Sequential(*itertools.chain(*layers), nn.Linear(widths[-1], 1))
        for table in (self.embedding, self.linear):
            nn.init.normal_(table.weight, std=init_std)

    def forward(self, ids: Tensor) -> Tensor:
        """Ids (B, F), each of its field's 0..cardinality-1 -> logits (B,)."""
        rows = ids + self.offsets  # (B, F)
        embedded = self.embedding(rows)  # (B, F, D)
        linear = self.linear(rows).sum(dim=(1, 2))  # (B,)
        deep: Tensor = self.mlp(embedded.flatten(1)).squeeze(1)  # (B,)
        return deep + pairwise_interactions(embedded) + linear + self.bias
