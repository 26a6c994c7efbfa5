"""The commands, as a user types them."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from sartor.cli import main as cli
from sartor.core import Frontier


def load_tiny():
    path = Path(__file__).parents[1] / "fit" / "tiny_fit.py"
    spec = importlib.util.spec_from_file_location("tiny_fit", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "run"
    load_tiny().run(folder)
    return folder


@pytest.fixture
def sartor(monkeypatch, capsys):
    """Run a command in this process: (exit code, standard output, standard error)."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["sartor", *map(str, words)])
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = stop.code
        said = capsys.readouterr()
        return code, " ".join(said.out.split()), " ".join(said.err.split())

    return run


def test_options_take_several_words():
    words = ["fit", "--models", "a", "b", "c", "--seed", "1", "--budget", "x<=1", "y<=2"]
    assert cli.spread(words, ["--models", "--budget"]) == [
        "fit", "--models", "a", "--models", "b", "--models", "c", "--seed", "1",
        "--budget", "x<=1", "--budget", "y<=2",
    ]  # fmt: skip


def test_methods_lists_the_registry(sartor):
    code, out, _ = sartor("methods", "stitch")
    assert code == 0 and "sn-net" in out and "int8" not in out


def test_show_prints_every_point(sartor, finished):
    code, out, _ = sartor("show", finished)
    assert code == 0 and "report.html" in out
    code, out, _ = sartor("show", finished, "--json")
    assert json.loads(out) == json.loads((finished / "frontier.json").read_text())


def test_pick_names_the_best_point_within_a_budget(sartor, finished):
    frontier = Frontier.load(finished)
    cheapest = frontier.points[0]
    code, out, _ = sartor(
        "pick", finished, "--budget", f"flops<={cheapest.measurement.flops}", "--json"
    )
    assert code == 0 and json.loads(out)["id"] == cheapest.id
    code, out, _ = sartor("pick", finished)
    assert code == 0 and out.startswith(f"{frontier.best().id}: accuracy")


def test_an_unsatisfiable_budget_is_one_sentence_and_exit_code_one(sartor, finished):
    code, _, err = sartor("pick", finished, "--budget", "params<=10")
    assert code == 1 and err.startswith("Error: No point satisfies 'params<=10': params<=10 binds")
    assert "Traceback" not in err


@pytest.mark.parametrize(("format", "suffix"), [("onnx", "onnx"), ("torch_export", "pt2")])
def test_export_writes_and_compares(sartor, finished, tmp_path, format, suffix):
    path = tmp_path / f"model.{suffix}"
    code, out, _ = sartor("export", finished, "--format", format, "--out", path)
    assert code == 0 and "equal to the eager model" in out and path.stat().st_size > 1000


def test_unknown_format_is_refused(sartor, finished, tmp_path):
    code, _, err = sartor("export", finished, "--format", "tflite", "--out", tmp_path / "m")
    assert code == 1 and "onnx" in err and not (tmp_path / "m").exists()


def test_measure_shows_targets_side_by_side(sartor):
    words = ["measure", "resnet18", "--target", "cpu/eager", "--input-shape", "3,32,32", "--json"]
    code, out, _ = sartor(*words)
    rows = json.loads(out)
    assert code == 0 and list(rows) == ["cpu/eager, 1 thread, batch 1"]
    assert rows["cpu/eager, 1 thread, batch 1"]["resnet18"]["params"] == 11689512


def test_dry_run_writes_nothing(sartor, tmp_path):
    words = ["fit", "--out", tmp_path / "run", "--dry-run", "--target", "cpu/eager"]
    code, out, _ = sartor(*words)
    plan = json.loads(out)
    assert code == 0 and plan["configurations"] == 35
    assert [m["name"] for m in plan["models"]] == ["vit-16", "vit-32", "vit-64"]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["fit", "--models", "deit_tinny_patch16_224", "--data", "digits"],
            "deit_tiny_patch16_224",
        ),
        (["fit", "--models", "resnet18"], "name data too"),
        (["fit", "--data", "digitz"], "'digits'"),
        (["fit", "--budget", "latencie<=1ms"], "did you mean 'latency'"),
        (["fit", "--target", "cpu/onnx"], "did you mean 'cpu/onnxruntime'"),
        (["fit", "--moves", "prun"], "did you mean 'prune'"),
        (["show", "no/such/run"], "does not exist"),
        (["reproduce", "sn-nett"], "did you mean 'sn-net'"),
        (["reproduce", "prune"], "no published system of the line"),
    ],
    ids=str,
)
def test_bad_words_end_in_one_sentence(sartor, words, said):
    code, _, err = sartor(*words)
    assert code == 1 and err.startswith("Error: ") and said in err and "Traceback" not in err


def test_the_command_is_installed():
    command = [str(Path(sys.executable).with_name("sartor")), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert all(
        word in done.stdout for word in ("fit", "show", "pick", "export", "measure", "reproduce")
    )
