"""A cheap stand-in for tuning dropout: a mixture of experts with the parameters of the dense model
and a fraction of its work.

Source: Xue et al., NeurIPS 2023, arXiv 2305.13230: how much a run overfits follows the number of
    trained parameters, not the FLOPs, so that a sparse model shows which dropout rate the dense one
needs. Deviations: the paper's proxy is a smaller T5 with experts; here each feed-forward layer of
the given model is cut into experts, so that any model with such layers has a proxy. Routing is
top-1 with the gate's probability as factor, and the balance term is that of Switch Transformer
(Fedus, Zoph, Shazeer, 2022, arXiv 2101.03961, equation 4).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from sartor.core.errors import FamilyError, NoEffectError, RecipeError

__all__ = ["Top1Experts", "balance_loss", "moe_proxy", "sweep_dropout"]

TOLERANCE = 0.05


class Top1Experts(nn.Module):
    """Experts that are narrow copies of one feed-forward layer; each token goes to one.

    With one expert it is that layer, bit for bit: the gate's softmax over one number is 1.

    Args:
        experts: modules from (N, C) to (N, C').
        in_features: C.

    Attributes:
        balance: of the last forward pass: experts * sum of (share of the tokens * mean
            probability), 1 if all experts get the same.
    """

    def __init__(self, experts: Iterable[nn.Module], in_features: int) -> None:
        super().__init__()
        self.experts = nn.ModuleList(experts)
        self.gate = nn.Linear(in_features, len(self.experts), bias=False)
        self.balance = torch.ones(())

    def __getstate__(self) -> dict[str, Any]:
        """For copies: the balance without its graph."""
        return {**self.__dict__, "balance": self.balance.detach()}

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (..., C) to (..., C')."""
        tokens = inputs.flatten(0, -2)  # (N, C)
        probabilities = self.gate(tokens).softmax(-1)  # (N, E)
        factor, chosen = probabilities.max(-1)  # (N,), (N,)
        share = torch.zeros_like(probabilities).scatter_(1, chosen.unsqueeze(1), 1.0).mean(0)
        self.balance = len(self.experts) * (share * probabilities.mean(0)).sum()
        if len(self.experts) == 1:
            mixed = self.experts[0](tokens) * factor.unsqueeze(1)
        else:
            order = chosen.argsort(stable=True)
            parts = tokens[order].split(
                torch.bincount(chosen, minlength=len(self.experts)).tolist()
            )
            done = torch.cat([run(part) for run, part in zip(self.experts, parts, strict=True)])
            mixed = done[order.argsort()] * factor.unsqueeze(1)  # (N, C')
        return mixed.unflatten(0, inputs.shape[:-1])


def balance_loss(model: nn.Module) -> Tensor:
    """Mean balance of all :class:`Top1Experts` in the last forward pass; add about 0.01 of it.

    Raises:
        NoEffectError: the model has none.
    """
    terms = [m.balance for m in model.modules() if isinstance(m, Top1Experts)]
    if not terms:
        raise NoEffectError("The model has no Top1Experts; moe_proxy(model, num_experts) makes it.")
    return torch.stack(terms).mean()


def moe_proxy(
    model: nn.Module, num_experts: int = 4, *, targets: Iterable[str] | None = None
) -> nn.Module:
    """Copy a model, each feed-forward layer cut along its hidden units into experts.

    Taken are modules that hold exactly two ``nn.Linear``, of which the second undoes the widening
    of the first. The copy has as many trained parameters as the model, within 5 %, and
    1 / ``num_experts`` of its work in these layers.

    Args:
        model: untouched.
        num_experts: at least 1; 1 copies the weights and computes the same.
        targets: paths of the modules to take; ``None`` takes all.

    Raises:
        RecipeError: ``num_experts`` is below 1 or does not divide the hidden units.
        NoEffectError: no feed-forward layer was found.
        FamilyError: the parameters differ by more than 5 %.

    Example:
        >>> model = nn.Sequential(nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64)))
        >>> proxy = moe_proxy(model, 4)
        >>> type(proxy[0]).__name__, proxy[0].experts[0][0].out_features
        ('Top1Experts', 64)
    """
    if num_experts < 1:
        raise RecipeError(f"A proxy has at least 1 expert, got {num_experts}; 4 is the default.")
    proxy, wanted = copy.deepcopy(model), None if targets is None else set(targets)
    found = {
        path: layer
        for path, layer in proxy.named_modules()
        if path and (wanted is None or path in wanted) and _ends(layer)
    }
    if not found:
        raise NoEffectError(
            "No feed-forward layer was found: a module with exactly two nn.Linear, the second of "
            "which undoes the widening of the first; give a model that has them."
        )
    for path, layer in found.items():
        parent, _, name = path.rpartition(".")
        setattr(proxy.get_submodule(parent), name, _cut(layer, num_experts, path))
    dense, sparse = _trained(model), _trained(proxy)
    if abs(sparse - dense) > TOLERANCE * dense:
        raise FamilyError(
            f"The proxy has {sparse:,} trained parameters and the model {dense:,}, more than "
            f"{TOLERANCE:.0%} apart; take fewer experts than {num_experts}."
        )
    return proxy


def _ends(layer: nn.Module) -> tuple[tuple[str, nn.Linear], tuple[str, nn.Linear]] | None:
    """The two linear layers of a feed-forward layer with their paths, or ``None``."""
    linear = [(p, m) for p, m in layer.named_modules() if p and isinstance(m, nn.Linear)]
    if len(linear) != 2 or any(p for p in layer.parameters(recurse=False)):
        return None
    (_, first), (_, second) = linear
    widens = first.in_features == second.out_features < first.out_features
    return (linear[0], linear[1]) if widens and first.out_features == second.in_features else None


def _cut(layer: nn.Module, count: int, path: str) -> Top1Experts:
    """Expert e gets the e-th part of the hidden units, with their weights."""
    ends = _ends(layer)
    assert ends is not None
    (first_path, first), (second_path, second) = ends
    if first.out_features % count:
        raise RecipeError(
            f"{path} has {first.out_features} hidden units, which {count} experts do not divide; "
            "take another number."
        )
    width = first.out_features // count
    experts = []
    for index in range(count):
        part = slice(index * width, (index + 1) * width)
        expert = copy.deepcopy(layer)
        bias = None if first.bias is None else first.bias[part]
        _replace(expert, first_path, first.weight[part], bias)
        _replace(expert, second_path, second.weight[:, part], second.bias)
        experts.append(expert)
    made = Top1Experts(experts, first.in_features)
    return made.to(first.weight).train(layer.training)


def _replace(layer: nn.Module, path: str, weight: Tensor, bias: Tensor | None) -> None:
    rows, columns = weight.shape
    made = nn.Linear(columns, rows, bias=bias is not None).to(weight)
    with torch.no_grad():
        made.weight.copy_(weight)
        if bias is not None:
            made.bias.copy_(bias)
    parent, _, name = path.rpartition(".")
    setattr(layer.get_submodule(parent), name, made)


def _trained(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def sweep_dropout(train_fn: Callable[[float], float], rates: Iterable[float]) -> dict[float, float]:
    """Train the proxy once for each rate.

    Args:
        train_fn: rate -> validation loss of a fresh proxy trained at it.
        rates: different ones in [0, 1).

    Returns:
        rate -> loss, lowest loss first: the dense model gets the first rate.

    Raises:
        RecipeError: a rate is out of range or comes twice.

    Example:
        >>> sweep_dropout(lambda rate: (rate - 0.2) ** 2, [0.0, 0.2])
        {0.2: 0.0, 0.0: 0.04000000000000001}
    """
    tried = list(rates)
    if not tried or len(set(tried)) < len(tried) or not all(0 <= rate < 1 for rate in tried):
        raise RecipeError(f"A sweep takes different rates in [0, 1), got {tried}.")
    losses = {rate: float(train_fn(rate)) for rate in tried}
    return dict(sorted(losses.items(), key=lambda item: item[1]))
