"""ASAM: each step follows the gradient from a worse point near by, so that flat minima are found.

Source: Kwon, Kim, Park, Choi, ASAM: Adaptive Sharpness-Aware Minimization for Scale-Invariant
    Learning of Deep Neural Networks, ICML 2021, arXiv 2102.11600; SAM: Foret et al., ICLR 2021,
    arXiv 2010.01412. Deviation: where gradients vanish the climb is none, instead of a division
    by 1e-16.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sartor.core.errors import TrainingError

__all__ = ["ASAM", "asam_perturbation"]


def asam_perturbation(
    weights: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    *,
    rho: float,
    eta: float = 0.0,
    adaptive: bool = True,
) -> dict[str, Tensor]:
    """Where the loss rises most: rho T^2 g / |T g|, where T is |w| + eta of each weight.

    Args:
        weights: by dotted name; T is 1 for those whose name does not end in ``weight``, such as
            biases.
        gradients: g, of the same names.
        rho: length of the climb, measured in T.
        eta: at least 0.
        adaptive: T as above; else 1 for all, which is SAM.

    Example:
        >>> w, g = {"weight": torch.tensor([2.0, 0.0])}, {"weight": torch.tensor([3.0, 4.0])}
        >>> asam_perturbation(w, g, rho=0.5), asam_perturbation(w, g, rho=0.5, adaptive=False)
        ({'weight': tensor([1., 0.])}, {'weight': tensor([0.3000, 0.4000])})
    """
    scales = {
        name: w.abs() + eta if adaptive and name.endswith("weight") else torch.ones_like(w)
        for name, w in weights.items()
    }
    scaled = {name: scales[name] * g for name, g in gradients.items()}
    length = torch.stack([s.norm() for s in scaled.values()]).norm()
    factor = torch.where(length > 0, rho / length, 0.0)
    return {name: factor * scales[name] * s for name, s in scaled.items()}


class ASAM:
    """Two passes a step around any optimiser.

    Norms with running statistics learn them in both passes. With ``rho=0`` a step is the
    optimiser's own.

    Args:
        model: its parameters with gradients climb; the optimiser holds the same ones.
        optimizer: goes the step from where the weights were.
        rho: length of the climb, at least 0.
        eta: added to the size of each weight, at least 0.
        adaptive: whether large weights climb further; else it is SAM.

    Raises:
        TrainingError: a number is out of range.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> asam = ASAM(model, torch.optim.SGD(model.parameters(), lr=0.1), rho=0.5)
        >>> for half in (asam.ascend, asam.descend):
        ...     model(torch.ones(3, 2)).square().mean().backward()
        ...     half()
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        rho: float = 1.0,
        eta: float = 0.0,
        adaptive: bool = True,
    ) -> None:
        if not (rho >= 0 and eta >= 0):
            raise TrainingError(f"ASAM takes rho and eta of at least 0, got {rho} and {eta}.")
        self.model, self.optimizer = model, optimizer
        self.rho, self.eta, self.adaptive = rho, eta, adaptive
        self._kept: dict[str, Tensor] | None = None

    @torch.no_grad()
    def ascend(self) -> None:
        """After the first backward pass: climb, and clear the gradients.

        Raises:
            TrainingError: the weights are up already, or there are no gradients.
        """
        parameters = {n: p for n, p in self.model.named_parameters() if p.grad is not None}
        if self._kept is not None or not parameters:
            raise TrainingError(
                "ASAM ascends once after a backward pass, then descends after another one."
            )
        gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
        climbs = asam_perturbation(
            parameters, gradients, rho=self.rho, eta=self.eta, adaptive=self.adaptive
        )
        self._kept = {name: p.detach().clone() for name, p in parameters.items()}
        for name, parameter in parameters.items():
            parameter.add_(climbs[name])
        self.optimizer.zero_grad()

    @torch.no_grad()
    def descend(self) -> None:
        """After the second backward pass: come back, step by its gradients, and clear them.

        Raises:
            TrainingError: the weights are not up.
        """
        if self._kept is None:
            raise TrainingError("ASAM descends after it ascended; call ascend() first.")
        parameters = dict(self.model.named_parameters())
        for name, weight in self._kept.items():
            parameters[name].copy_(weight)
        self._kept = None
        self.optimizer.step()
        self.optimizer.zero_grad()
