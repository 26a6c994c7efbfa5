"""SN-Net's evidence, second half: one stitched net against separate models at equal total steps."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sartor.core import Family
from sartor.nn import build
from sartor.reproduce.evidence import Check, Row
from sartor.reproduce.scores import hypervolume
from sartor.reproduce.sn_net_training import Scored
from sartor.stitch import StitchableNetwork
from sartor.train import load_tensors, save_tensors

__all__ = ["CHANCE", "Rivalry", "Side", "compare", "duel_rows", "rivalry_checks", "rivalry_rows"]

#: accuracy of guessing among ten digits: what lies below has no worth
CHANCE = 0.1


@dataclass(frozen=True, kw_only=True)
class Side:
    """One way to spend the steps: its frontier, chosen on the selection split.

    Attributes:
        points: of the frontier, small to large.
        area: under it, over log10 of the FLOPs and above :data:`CHANCE`, on the validation split.
        seconds: of the CPU in training, without the anchors'; other processes do not count.
        params: held to serve all of it.
    """

    points: Sequence[Scored]
    area: float
    seconds: float
    params: int


@dataclass(frozen=True, kw_only=True)
class Rivalry:
    """The three ways, the anchors alone, and the time to change the size while serving.

    Attributes:
        stitched: one net, all configurations.
        joined: the net and the untouched anchors.
        routes: the untouched anchors and the same routes, each fine-tuned alone.
        vits: the untouched anchors and plain ViTs, each distilled alone from scratch.
        anchors: the untouched anchors alone.
        duels: (route, FLOPs, accuracy within the net, accuracy alone) on the validation split.
        switch_us: median of ``set_config``.
        load_ms: median of building another model and reading its weights from a file.
    """

    stitched: Side
    joined: Side
    routes: Side
    vits: Side
    anchors: Side
    duels: Sequence[tuple[str, int, float, float]]
    switch_us: float
    load_ms: float


def compare(
    net: StitchableNetwork,
    points: Sequence[Scored],
    seconds: float,
    family: Family,
    anchors: Sequence[Scored],
    routes: tuple[Sequence[Scored], float],
    vits: tuple[Sequence[Scored], float],
) -> Rivalry:
    """Weigh the trained net and its scored ``points`` against separately trained models.

    Args:
        net: the jointly trained net.
        points: all its configurations.
        seconds: of the CPU in its training.
        family: the untouched anchors.
        anchors: their scores.
        routes: scored fine-tuned routes and the CPU seconds of their training.
        vits: scored ViTs and the CPU seconds of their training.
    """
    cost = math.log10(max(p.flops for p in points))
    held = sum(p.params for p in anchors)
    owned = sum(p.numel() for p in net.parameters())

    def side(given: Sequence[Scored], seconds: float, params: int) -> Side:
        kept = _frontier(given)
        pairs = [(math.log10(p.flops), p.validation) for p in kept]
        area = hypervolume(pairs, cost=cost, quality=CHANCE)
        return Side(points=kept, area=area, seconds=seconds, params=params)

    alone = {p.name: p for p in routes[0]}
    duels = [
        (p.name, p.flops, p.validation, alone[p.name].validation) for p in points if p.name in alone
    ]
    return Rivalry(
        stitched=side(points, seconds, owned),
        joined=side([*anchors, *points], seconds, held + owned),
        routes=side([*anchors, *routes[0]], routes[1], held + sum(p.params for p in routes[0])),
        vits=side([*anchors, *vits[0]], vits[1], held + sum(p.params for p in vits[0])),
        anchors=side(anchors, 0.0, held),
        duels=sorted(duels, key=lambda duel: duel[1]),
        switch_us=_switch_us(net),
        load_ms=_load_ms(family),
    )


def rivalry_rows(rivalries: Sequence[Rivalry], seeds: Iterable[int]) -> list[Row]:
    """One line a seed and side."""
    rows: list[Row] = []
    for seed, rivalry in zip(seeds, rivalries, strict=True):
        for name, side in (
            ("one stitched net", rivalry.stitched),
            ("anchors + one stitched net", rivalry.joined),
            ("anchors + same routes, each alone", rivalry.routes),
            ("anchors + plain ViTs from scratch", rivalry.vits),
            ("anchors alone", rivalry.anchors),
        ):
            switch = (
                f"{rivalry.switch_us:.1f} us"
                if side is rivalry.stitched or side is rivalry.joined
                else f"{rivalry.load_ms:.1f} ms"
            )
            rows.append(
                {
                    "seed": seed,
                    "models": name,
                    "points on the frontier": len(side.points),
                    "area under it": round(side.area, 4),
                    "CPU seconds to train": round(side.seconds, 1),
                    "parameters held": side.params,
                    "to switch": switch,
                }
            )
    return rows


def duel_rows(rivalries: Sequence[Rivalry]) -> list[Row]:
    """One line a route: its accuracy within the net and alone, mean over seeds."""
    return [
        {
            "route": duels[0][0],
            "MFLOPs": round(duels[0][1] / 1e6, 3),
            "in the net": round(statistics.mean(d[2] for d in duels), 4),
            "alone": round(statistics.mean(d[3] for d in duels), 4),
            "difference": round(statistics.mean(d[2] - d[3] for d in duels), 4),
        }
        for duels in zip(*(r.duels for r in rivalries), strict=True)
    ]


def rivalry_checks(rivalries: Sequence[Rivalry]) -> tuple[Check, ...]:
    """Comparisons that are reported either way and do not decide."""

    def mean(value: Callable[[Rivalry], float]) -> float:
        return statistics.mean(map(value, rivalries))

    questions = (
        (
            "area: stitched net alone minus anchors and ViTs from scratch",
            lambda r: r.stitched.area - r.vits.area,
        ),
        (
            "area: stitched net alone minus anchors and the same routes, each alone",
            lambda r: r.stitched.area - r.routes.area,
        ),
        (
            "area: stitched net and anchors minus anchors and ViTs from scratch",
            lambda r: r.joined.area - r.vits.area,
        ),
        (
            "area: stitched net and anchors minus anchors and the same routes, each alone",
            lambda r: r.joined.area - r.routes.area,
        ),
        (
            "frontier points: stitched net alone minus anchors and the same routes, each alone",
            lambda r: len(r.stitched.points) - len(r.routes.points),
        ),
    )
    bounded = (
        (
            "CPU seconds to train: stitched net over the same routes, each alone",
            lambda r: r.stitched.seconds / r.routes.seconds,
        ),
        (
            "parameters held: stitched net over anchors and the same routes, each alone",
            lambda r: r.stitched.params / r.routes.params,
        ),
        (
            "time to switch: set_config over loading a model",
            lambda r: r.switch_us / (1e3 * r.load_ms),
        ),
    )
    return tuple(
        Check(asked=asked, measured=mean(value), limit=limit, relation=relation, decides=False)
        for group, limit, relation in ((questions, 0.0, ">="), (bounded, 1.0, "<="))
        for asked, value in group
    )


def _frontier(points: Sequence[Scored]) -> list[Scored]:
    """Points that no cheaper one equals on the selection split, small to large."""
    kept: list[Scored] = []
    for point in sorted(points, key=lambda p: (p.flops, -p.selection)):
        if not kept or point.selection > kept[-1].selection:
            kept.append(point)
    return kept


def _switch_us(net: StitchableNetwork) -> float:
    times = []
    for step in range(1000):
        started = time.perf_counter()
        net.set_config(step % net.num_configs)
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1e6


def _load_ms(family: Family) -> float:
    member = family.members[1]
    times = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_tensors(member.model.state_dict(), path)
        for _ in range(9):
            started = time.perf_counter()
            build(member.source).load_state_dict(load_tensors(path))
            times.append(time.perf_counter() - started)
    return statistics.median(times) * 1e3
