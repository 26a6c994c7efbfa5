"""What a trained network remembers of its data: means and variances in its batch norms.

Images whose statistics match them look, to that network, like the data it was trained on.

Source: Yin et al., DeepInversion, CVPR 2020, arXiv 1912.08795, as used by Hao et al., CDFKD-MFS,
    IEEE Transactions on Multimedia 2022, arXiv 2205.11845: norms that are not squared, and a first
    layer that counts five times. Deviations: none.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from sartor.core.errors import TrainingError

__all__ = ["BatchNormStatistics", "batch_norm_distance", "tracking_norms"]

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def batch_norm_distance(inputs: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    """||var(inputs) - var|| + ||mean(inputs) - mean||, Euclidean norms over the channels.

    Args:
        inputs: of a batch norm, (B, C, ...), at least two values a channel.
        mean: that it keeps, (C,).
        var: likewise, (C,).

    Returns:
        Scalar; the variance of ``inputs`` is the biased one.

    Raises:
        TrainingError: there is one image only, or one value a channel.

    Example:
        >>> x = torch.tensor([[[[1.0, 3], [5, 7]], [[0, 2], [4, 6]]]]).repeat(2, 1, 1, 1)
        >>> round(batch_norm_distance(x, torch.zeros(2), torch.ones(2)).item(), 4)
        10.6569
    """
    if len(inputs) < 2:
        raise TrainingError(
            "Statistics of a batch need at least 2 images, got 1; take a larger batch_size."
        )
    dims = [0, *range(2, inputs.ndim)]
    found = torch.var_mean(inputs, dim=dims, correction=0)  # (C,), (C,)
    distance: Tensor = (found[0] - var).norm() + (found[1] - mean).norm()
    return distance


def tracking_norms(model: nn.Module) -> list[nn.Module]:
    """The batch norms of a model that keep statistics, in the order in which it lists them."""
    return [m for m in model.modules() if isinstance(m, _NORMS) and m.running_mean is not None]


class BatchNormStatistics:
    """Watches the batch norms of a model while it runs; hooks are gone when the block ends.

    Args:
        model: in eval mode while it is watched, or its statistics drift.

    Raises:
        TrainingError: it has no batch norm that keeps statistics.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)).eval()
        >>> images = torch.randn(8, 1, 6, 6, requires_grad=True)
        >>> with BatchNormStatistics(model) as statistics:
        ...     _ = model(images)
        ...     statistics.loss().backward()
    """

    def __init__(self, model: nn.Module) -> None:
        self._norms = tracking_norms(model)
        if not self._norms:
            raise TrainingError(
                f"{type(model).__name__} has no batch norm that keeps statistics "
                "(track_running_stats), so there is nothing to match; set the statistics weight "
                "to 0 or "
                "take another teacher."
            )
        self._distances: list[Tensor] = []
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> BatchNormStatistics:
        self._handles = [norm.register_forward_pre_hook(self._note) for norm in self._norms]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._distances.clear()

    def _note(self, norm: Any, args: tuple[Tensor, ...]) -> None:
        self._distances.append(batch_norm_distance(args[0], norm.running_mean, norm.running_var))

    def loss(self, *, first_weight: float = 5.0) -> Tensor:
        """Sum of the distances of every norm that ran since the last call, then forget them.

        Args:
            first_weight: what the norm that ran first counts.

        Raises:
            TrainingError: none ran.
        """
        if not self._distances:
            raise TrainingError("The model has not run inside the block; call it before loss().")
        first, *others = self._distances
        self._distances = []
        total = first_weight * first
        for distance in others:
            total = total + distance
        return total
