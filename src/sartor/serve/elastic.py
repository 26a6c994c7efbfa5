"""The elastic backend: one stitched net, one set of weights, every route a setting away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from sartor.core import ArtifactError, Family, Frontier, Member, Point, Split, Target
from sartor.core.registry import attribute, engines, moves
from sartor.moves.route import RouteMove
from sartor.nn import build
from sartor.runtime import target_threads
from sartor.serve.backend import Array, resident_bytes
from sartor.stitch import StitchableNetwork
from sartor.train import load_checkpoint

__all__ = ["ElasticBackend", "open_elastic"]


class ElasticBackend:
    """Runs routes of a stitched net; a switch copies and loads nothing.

    Args:
        net: trained, in eval mode, on the target's device.
        routes: configuration of the net, by id of the point.
        accuracies: of the same points.
        target: gives threads and device.
        memory_bytes: resident memory that the net took.
    """

    kind = "elastic"

    def __init__(
        self,
        net: StitchableNetwork,
        routes: Mapping[str, int],
        accuracies: Mapping[str, float],
        target: Target,
        *,
        memory_bytes: int = 0,
    ) -> None:
        self.accuracies = accuracies
        self.keep = max(1, len(routes))
        self._net, self._routes, self._target = net, dict(routes), target
        self._memory_bytes = memory_bytes

    def run(self, id: str, inputs: Array) -> Array:
        """See :class:`~sartor.serve.backend.Backend`."""
        self._net.set_config(self._routes[id])
        with torch.inference_mode(), target_threads(self._target):
            outputs = self._net(torch.from_numpy(inputs).to(self._target.device))
            result: Array = outputs.float().cpu().numpy()
        return result

    def memory(self) -> dict[str, int]:
        """See :class:`~sartor.serve.backend.Backend`; the points share one net."""
        return {"stitched net": self._memory_bytes}


def open_elastic(run: Path, frontier: Frontier, *, factories: Sequence[str] = ()) -> ElasticBackend:
    """Build the stitched net of a run, with the weights that its training left.

    Its points are the routes that the run made and validated, on the frontier or not.

    Args:
        run: the run's folder, with ``state/``.
        frontier: of the run.
        factories: ``package.module:function`` names that may be imported.

    Raises:
        ArtifactError: the run has no stitched net any more, or one whose batch norms differ from
            route to route.
    """
    folder = run / "state" / "training"
    everything = (*frontier.points, *frontier.anchors, *frontier.others)
    made = [p for p in everything if len(p.recipe.steps) == 1 and p.recipe.moves[0] in engines()]
    if not made or not (folder / "checkpoint.json").exists():
        raise ArtifactError(
            f"{run} has no trained stitched net (state/training); serve its points with --backend "
            "onnx or eager, or copy the whole folder of the run."
        )
    before = resident_bytes()
    net = _net_of(made[0], factories)
    load_checkpoint(folder, net)
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in net.modules()):
        raise ArtifactError(
            f"The stitched net of {run} has batch norms, whose statistics belong to single routes; "
            "serve its points with --backend onnx or eager."
        )
    target = Target(device=frontier.target.device, runtime="eager", threads=frontier.target.threads)
    net = net.to(target.device).eval().requires_grad_(False)
    return ElasticBackend(
        net,
        {p.id: int(p.recipe.steps[0].plan["index"]) for p in made},
        {p.id: p.accuracy for p in made},
        target,
        memory_bytes=max(0, resident_bytes() - before),
    )


def _net_of(point: Point, factories: Sequence[str]) -> StitchableNetwork:
    """Stitch the family of a route's recipe again; weights are still random."""
    members = []
    for entry in point.recipe.base:
        split = Split.from_dict(entry["split"]) if entry.get("split") else None
        model = build(entry["source"], factories=tuple(factories))
        members.append(Member(name=entry["name"], model=model, source=entry["source"], split=split))
    step = point.recipe.steps[0]
    kind: type[RouteMove] = attribute(moves()[step.move].move)
    with torch.random.fork_rng():
        return kind.network(Family(tuple(members)), step)
