"""The table of number formats: what is quantised, where it runs natively, what it does measurably.

Claim: AdamW's state takes at most 0.27 of its float32 bytes with 8-bit and with FP8 moments, and at
most 0.15 with 4-bit ones, counted on the evidence's network after a step. Baseline: torch's AdamW
in the same run. Beside: bits a value and relative error of every format on normal data, and the
training loss of every recipe above float32 at the same steps (one seed, emulated; three seeds are
in `sartor reproduce low-precision`). No speed is claimed. Writes
benchmarks/results/low_precision.json and docs/low-precision-formats.md.
"""

from datetime import date
from pathlib import Path
from typing import Any

import torch

from sartor.core.files import write_json, write_text
from sartor.measure import environment
from sartor.reproduce.low_precision_training import FULL, Digits, trained
from sartor.train import quantize
from sartor.train.low_precision.recipes import RECIPES

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "low_precision.json"
PAGE = ROOT / "docs" / "low-precision-formats.md"
SEED, LIMITS = 0, {"8": 0.27, "fp8": 0.27, "4": 0.15}

#: format, block, scale; name; where torch or torchao runs it natively
FORMATS: tuple[tuple[str, Any, str, str, str], ...] = (
    ("int8", None, "", "int8, one scale", "CPU, GPU 8.0 and later"),
    ("int8", "row", "", "int8, rows", "CPU, GPU 8.0 and later"),
    ("int4", 32, "", "int4, blocks of 32", "weights only"),
    ("int2", "row", "", "int2, rows", "nowhere"),
    ("ternary", None, "", "ternary, one scale", "nowhere"),
    ("binary", None, "", "binary, one scale", "nowhere"),
    ("nf4", 64, "", "NF4, blocks of 64", "weights only"),
    ("e4m3", None, "", "FP8 E4M3, one scale", "GPU 8.9 and later"),
    ("e4m3", "row", "", "FP8 E4M3, rows", "GPU 9.0 and later"),
    ("e4m3", (128, 128), "", "FP8 E4M3, tiles of 128 x 128", "GPU 9.0 and later"),
    ("e4m3", 32, "", "MXFP8 E4M3", "GPU 10.0 and later"),
    ("e5m2", 32, "", "MXFP8 E5M2", "GPU 10.0 and later"),
    ("e2m3", 32, "", "MXFP6 E2M3", "GPU 10.0 and later"),
    ("e3m2", 32, "", "MXFP6 E3M2", "GPU 10.0 and later"),
    ("e2m1", 32, "", "MXFP4", "GPU 10.0 and later"),
    ("e2m1", 16, "e4m3", "NVFP4", "GPU 10.0 and later"),
)
#: what a recipe quantises
WORDS = {
    "int8": "all three products, rows",
    "fp8_tensor": "all three products, E4M3 forward, E5M2 gradients, one scale",
    "fp8_rowwise": "all three products, E4M3 forward, E5M2 gradients, rows",
    "fp8_blockwise": "all three products, E4M3 in 1 x 128 and 128 x 128",
    "mxfp8": "all three products, E4M3 in blocks of 32",
    "mxfp8_e5m2": "the same, gradients E5M2",
    "mxfp6": "all three products, E2M3 in blocks of 32",
    "mxfp4": "all three products, E2M1 in blocks of 32",
    "mxfp4_stochastic": "the same, gradients rotated and rounded at random",
    "nvfp4": "all three products, E2M1 in blocks of 16",
    "bitnet": "ternary weights, int8 activations",
    **{f"qat_int{bits}": f"weights in {bits} bits, rows" for bits in (8, 4, 3, 2)},
}


def formats() -> list[dict[str, Any]]:
    values = torch.randn(256, 256, generator=torch.Generator().manual_seed(SEED))
    rows = []
    for form, block, scale, name, native in FORMATS:
        kept = quantize(values, form, block, scale=scale)
        error = float((kept.dequantize() - values).norm() / values.norm())
        bits = kept.bits / values.numel()
        rows.append({"format": name, "bits": bits, "error": error, "native": native})
    return rows


def recipes(digits: Digits) -> list[dict[str, Any]]:
    plain = trained(FULL, digits, SEED, {})
    rows = []
    for name, recipe in RECIPES.items():
        if recipe.multiple > 64:  # its blocks are larger than the network's layers
            continue
        made = trained(FULL, digits, SEED, {"recipe": name})
        need = ".".join(map(str, recipe.capability))
        rows.append(
            {
                "recipe": name,
                "quantised": WORDS[name],
                "here": f"{recipe.native}, GPU {need}" if recipe.native else "emulated",
                "loss_above": made.loss - plain.loss,
                "accuracy": made.accuracy,
                "plain_accuracy": plain.accuracy,
                "cpu_seconds_ratio": made.seconds / plain.seconds,
            }
        )
    return rows


def moments(digits: Digits) -> list[dict[str, Any]]:
    one = type(FULL)(steps=1, qat_steps=0)
    plain = trained(one, digits, SEED, {}).state_bytes
    rows = []
    for bits in (8, "fp8", 4):
        taken = trained(one, digits, SEED, {"bits": bits}).state_bytes
        rows.append(
            {"moments": str(bits), "bytes": taken, "share": taken / plain, "plain_bytes": plain}
        )
    return rows


def page(found: dict[str, list[dict[str, Any]]]) -> str:
    lines = [
        "# Low precision: formats, hardware, effects",
        "",
        "Made by `python benchmarks/train/low_precision.py`; see",
        "[low-precision](methods/low-precision.md) for how to use it. Native is what torch or",
        "torchao have kernels for, by compute capability of NVIDIA's GPUs; it was not run here, as",
        "no GPU was at hand. Errors are relative, of 256 x 256 standard normal numbers; bits count",
        "the scales.",
        "",
        "| format | bits a value | relative error | native |",
        "| --- | --- | --- | --- |",
        *(
            f"| {r['format']} | {r['bits']:.2f} | {r['error']:.4f} | {r['native']} |"
            for r in found["formats"]
        ),
        "",
        "Recipes of `prepare_low_precision_`, on the evidence's network (400 steps, one seed):",
        "",
        "| recipe | what is quantised | run by sartor | training loss above float32 | accuracy | "
        "CPU "
        "time of the emulation |",
        "| --- | --- | --- | --- | --- | --- |",
        *(
            f"| `{r['recipe']}` | {r['quantised']} | {r['here']} | {r['loss_above']:+.4f} | "
            f"{r['accuracy']:.3f} ({r['plain_accuracy']:.3f}) | {r['cpu_seconds_ratio']:.1f} x |"
            for r in found["recipes"]
        ),
        "",
        "In brackets: float32. Emulations are slower than float32, always. `fp8_blockwise` needs",
        "layers of 128 features and more, which this network does not have throughout.",
        "",
        "State of `low_bit_adamw` on the same network, real bytes on any device:",
        "",
        "| moments | bytes | share of float32 |",
        "| --- | --- | --- |",
        *(f"| {r['moments']} | {r['bytes']:,} | {r['share']:.3f} |" for r in found["moments"]),
        "",
        "Others: bfloat16 and float16 products are `TrainSettings(precision=...)` (torch.amp);",
        "bfloat16 weights without a copy `StochasticRounding`; learned steps of 2 to 8 bits",
        "`learn_steps_`; gradients on the wire `ErrorFeedback` (dense tensors, no bytes saved) or",
        "torch's own hooks.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    torch.set_num_threads(1)
    digits = Digits.of(SEED)
    found = {"formats": formats(), "moments": moments(digits), "recipes": recipes(digits)}
    write_json(
        RESULTS,
        {
            "claim": "state of AdamW in at most 0.27 (8 bits, FP8) and 0.15 (4 bits) of the bytes",
            "baseline": "torch.optim.AdamW in the same run",
            "date": date.today().isoformat(),
            "threads": 1,
            "seed": SEED,
            "runtime": "eager",
            **found,
            "passed": all(row["share"] <= LIMITS[row["moments"]] for row in found["moments"]),
            "environment": environment(),
        },
    )
    write_text(PAGE, page(found))
    print(page(found))


if __name__ == "__main__":
    main()
