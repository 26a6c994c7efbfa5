"""Attention layers side by side: HiLo, plain attention, spatial reduction, shifted windows.

128 channels, 4 heads, random weights, eager, batch 1 and 32, maps of 14 x 14 to 56 x 56 positions,
one and two threads; all layers of a setting are timed in turn in one run. Plain attention is timm's
with torch's fused kernel, spatial reduction timm's PVTv2 layer (keys and values of 2 x 2 positions
each, as HiLo's), shifted windows timm's Swin layer (windows of 7 x 7, shifted by 3). Judged is HiLo
(alpha 0.9, window 2) against plain attention at 3136 positions: at most half the time. Writes
benchmarks/results/attention.json and the table of docs/attention-speed.md.
"""

import argparse
import json
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
from timm.layers import Attention
from timm.models.pvt_v2 import Attention as SpatialReduction
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn

from sartor.core.files import write_json, write_text
from sartor.measure import environment, latency
from sartor.nn.litv2.hilo import HiLoAttention
from sartor.nn.sources import seeded

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "attention.json"
PAGE = ROOT / "docs" / "attention-speed.md"
DIM, HEADS, SIDES, BATCHES, THREADS = 128, 4, (14, 28, 56), (1, 32), (1, 2)
PLAIN, JUDGED, LIMIT = "plain (timm, fused)", "HiLo a=0.9 s=2", 0.5
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


def layers(side: int) -> dict[str, Callable[[Tensor], object]]:
    """Each takes a map (B, H, W, C)."""
    with seeded(0):
        plain = Attention(DIM, num_heads=HEADS, qkv_bias=True)
        reduced = SpatialReduction(DIM, num_heads=HEADS, sr_ratio=2)
        shifted = SwinTransformerBlock(DIM, (side, side), HEADS, window_size=7, shift_size=3)
        hilo = {
            f"HiLo a={alpha} s={size}": HiLoAttention(
                DIM, HEADS, qkv_bias=True, alpha=alpha, window_size=size
            )
            for alpha, size in ((0.9, 2), (0.5, 2), (0.9, 4))
            if side % size == 0
        }
    for module in (plain, reduced, shifted, *hilo.values()):
        module.eval()
    return {
        PLAIN: lambda x: plain(x.flatten(1, 2)),
        "spatial reduction (timm)": lambda x: reduced(x.flatten(1, 2), (side, side)),
        "shifted windows (timm)": lambda x: shifted._attn(x),
        **hilo,
    }


def timed(batch: int, side: int, threads: int, rounds: int) -> dict[str, object]:
    torch.set_num_threads(threads)
    maps = torch.randn(batch, side, side, DIM, generator=torch.Generator().manual_seed(0))
    made = layers(side)
    with torch.inference_mode():
        times = latency(
            {name: (lambda layer=layer: layer(maps)) for name, layer in made.items()},
            rounds=rounds,
            min_seconds=0.0,
            warmup=1,
        )
    return {
        "batch": batch,
        "positions": side * side,
        "threads": threads,
        "ms": {name: one.median_ms for name, one in times.items()},
        "iqr_ms": {name: one.iqr_ms for name, one in times.items()},
        "over_plain": {name: t.median_ms / times[PLAIN].median_ms for name, t in times.items()},
    }


def shown(ms: float) -> str:
    return f"{ms:.0f} ms" if ms >= 100 else f"{ms:.3g} ms"


def table(rows: list[dict]) -> str:
    names = list(rows[0]["ms"])
    for row in rows:
        names += [name for name in row["ms"] if name not in names]
    lines = [
        f"| batch | positions | threads | {' | '.join(names)} |",
        f"| --- | --- | --- |{' --- |' * len(names)}",
    ]
    for row in rows:
        cells = [
            f"{shown(row['ms'][name])} ({row['over_plain'][name]:.2f})" if name in row["ms"] else ""
            for name in names
        ]
        settings = f"{row['batch']} | {row['positions']} | {row['threads']}"
        lines.append(f"| {settings} | {' | '.join(cells)} |")
    return "\n".join(lines)


def parameters() -> dict[str, int]:
    modules: dict[str, nn.Module] = {
        PLAIN: Attention(DIM, num_heads=HEADS, qkv_bias=True),
        JUDGED: HiLoAttention(DIM, HEADS, qkv_bias=True, alpha=0.9),
    }
    return {name: sum(p.numel() for p in m.parameters()) for name, m in modules.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="of the small maps, 2 at least")
    rounds = parser.parse_args().rounds
    rows = []
    for threads in THREADS:
        for batch in BATCHES:
            for side in SIDES:
                heavy = batch * side**4 > 32 * 28**4
                rows.append(timed(batch, side, threads, max(rounds // 3, 2) if heavy else rounds))
                print(json.dumps(rows[-1]["over_plain"]), flush=True)
    judged = [row["over_plain"][JUDGED] for row in rows if row["positions"] == 56**2]
    write_json(
        RESULTS,
        {
            "claim": f"HiLo <= {LIMIT} x the time of timm's fused attention at 3136 positions",
            "date": date.today().isoformat(),
            "seed": 0,
            "runtime": "eager",
            "channels": DIM,
            "heads": HEADS,
            "parameters": parameters(),
            "rows": rows,
            "passed": all(ratio <= LIMIT for ratio in judged),
            "environment": environment(),
        },
    )
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    write_text(PAGE, f"{before}{BEGIN}\n\n{table(rows)}\n\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
