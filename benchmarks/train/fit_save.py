"""What ``fit --save`` saves on the demo itself: the same run without it and with each word.

The demo's family, data and settings, fewer routes and moves; each run in a folder of its own.
Written down are seconds of all trainings, samples and steps, bytes of a training step, and the mean
accuracy of the stitched and of the pruned models on the validation images. Results are kept after
each run, so that a stopped benchmark goes on; ``--fresh`` forgets them. Writes
benchmarks/results/fit_save.json and a table of docs/training-for-less.md.
"""

import argparse
import json
import statistics
import tempfile
import time
from datetime import date
from pathlib import Path

from sartor.core import Frontier
from sartor.core.files import write_json, write_text
from sartor.fit import FitSettings, fit
from sartor.measure import environment

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "fit_save.json"
PAGE = ROOT / "docs" / "training-for-less.md"
BEGIN, END = "<!-- table of benchmarks/train/fit_save.py -->", "<!-- end of that table -->"
WORDS = ((), ("data",), ("memory",), ("steps",), ("data", "memory", "steps"))
SETTINGS = {
    "epochs": 10,
    "routes": 3,
    "moves": ("prune",),
    "prune_ratios": (0.6,),
    "recovery_epochs": 6,
    "recovery_lr": 3e-3,
    "costs": ("flops",),
}


def run(save: tuple[str, ...], folder: Path) -> dict:
    """One run of the demo."""
    settings, started = FitSettings(**SETTINGS, save=save), time.process_time()
    frontier = fit(target="cpu/eager", out=folder, settings=settings)
    seconds = time.process_time() - started
    journal = json.loads((folder / "state" / "journal.json").read_text())
    trainings = journal["trainings"].values()
    row = {key: sum(one[key] for one in trainings) for key in ("samples", "steps")}
    return {
        **row,
        "save": list(save),
        "cpu_seconds_of_run": seconds,
        "training_seconds": sum(one["seconds"] for one in trainings),
        "step_bytes": journal["step_bytes"],
        **accuracies(frontier),
        "notes": [note for note in frontier.notes if note.startswith("--save")],
    }


def accuracies(frontier: Frontier) -> dict[str, float]:
    """Mean over the stitched models, and over what was pruned and recovered."""
    anchors = {point.id for point in frontier.anchors}
    made = [p for p in (*frontier.points, *frontier.others) if p.id not in anchors]
    pruned = [p.accuracy for p in made if "prune" in p.recipe.moves]
    stitched = [p.accuracy for p in made if "prune" not in p.recipe.moves]
    return {"stitched": statistics.mean(stitched), "pruned": statistics.mean(pruned)}


def table(rows: list[dict]) -> str:
    """Markdown, one row a run."""
    head = ("`--save`", "training", "samples", "steps", "bytes of a step", "stitched", "pruned")
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    memory = next(row["step_bytes"] for row in rows if row["step_bytes"])
    for row in rows:
        cells = (
            ", ".join(row["save"]) or "nothing",
            f"{row['training_seconds']:.0f} s",
            f"{row['samples']:,}",
            f"{row['steps']:,}",
            f"{memory['memory' in row['save']] / 1e6:.1f} MB",
            f"{row['stitched']:.3f}",
            f"{row['pruned']:.3f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fresh", action="store_true", help="forget earlier runs")
    fresh = parser.parse_args().fresh or not RESULTS.exists()
    rows = [] if fresh else json.loads(RESULTS.read_text())["rows"]
    record = {
        "claim": "none: what each word saved on the demo",
        "baseline": "nothing saved",
        "date": date.today().isoformat(),
        "seeds": 1,
        "settings": {k: list(v) if isinstance(v, tuple) else v for k, v in SETTINGS.items()},
        "environment": environment(),
    }
    for save in WORDS[len(rows) :]:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(run(save, Path(folder) / "run"))
        print(json.dumps(rows[-1]), flush=True)
        write_json(RESULTS, {**record, "rows": rows})
    page = PAGE.read_text(encoding="utf-8")
    start, end = page.index(BEGIN) + len(BEGIN), page.index(END)
    write_text(PAGE, f"{page[:start]}\n\n{table(rows)}\n\n{page[end:]}")


if __name__ == "__main__":
    main()
