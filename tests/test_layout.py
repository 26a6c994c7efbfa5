"""House rules that a machine can check, most of them on the syntax trees."""

import ast
import importlib
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sartor.core import registry

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "sartor"
MODULES = sorted(SOURCE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}

#: packages by height: each may import itself and what is lower, never one of its own height
HEIGHTS = (
    {"core"},
    {"runtime"},
    {"measure"},
    {"data", "nn", "losses"},
    {
        *("stitch", "compress", "search", "train", "adapt", "decode", "edge", "perception"),
        "numerics",
    },
    {"moves"},
    {"fit"},
    {"export", "serve"},
    {"testing"},
    {"reproduce", "cli"},
)
HEIGHT = {package: height for height, packages in enumerate(HEIGHTS) for package in packages}
OPTIONAL = (
    *("timm", "torchvision", "sklearn", "accelerate", "onnx", "onnxruntime", "onnxscript"),
    *("plotly", "matplotlib", "datasets", "torch_pruning", "PIL", "typer", "rich", "transformers"),
)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(tree: ast.AST) -> Iterator[tuple[ast.stmt, str]]:
    """Every imported module, dotted; of ``from a import b`` both a and a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield node, module
            yield from ((node, f"{module}.{alias.name}") for alias in node.names)


def calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


# --- imports ------------------------------------------------------------------------------------


def test_every_package_has_a_height() -> None:
    packages = {path.name for path in SOURCE.iterdir() if (path / "__init__.py").exists()}
    assert packages <= set(HEIGHT)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_down(path: Path) -> None:
    parts = path.relative_to(SOURCE).parts
    package = parts[0] if len(parts) > 1 else ""
    for node, module in imports(TREES[path]):
        assert not module.startswith("."), f"line {node.lineno}: write {module} in full"
        if not module.startswith("sartor.") or not package:
            continue
        other = module.split(".")[1]
        if other not in HEIGHT:  # a name of the top package, such as __version__
            assert other == "__version__", f"line {node.lineno}: import {other} from its package"
        elif other != package:
            assert other != "testing" and HEIGHT[other] < HEIGHT[package], (
                f"line {node.lineno}: {package} must not import {other}"
            )


# --- size and names -----------------------------------------------------------------------------


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_and_functions_are_short(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= 400, f"{lines} lines; aim at 250, split by nouns"
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = [n for n in node.body if not _is_docstring(n)] or node.body
            length = (node.end_lineno or 0) - body[0].lineno + 1
            assert length <= 60, f"{node.name} has {length} lines below its docstring"


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_are_named_after_things(path: Path) -> None:
    for word in (path.stem, path.parent.name):
        assert not {"utils", "util", "misc", "common", "helpers", "helper"} & set(word.split("_"))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_public_names_are_listed_and_documented(path: Path) -> None:
    tree = TREES[path]
    assert ast.get_docstring(tree), "the module says nothing about itself"
    listed = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    defined = {
        node.name: node
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
    }
    if not listed:
        assert not defined, f"no __all__, but {', '.join(defined)}"
        return
    if path == SOURCE / "__init__.py":  # lazy: its list is made of its table
        return
    names = set(ast.literal_eval(listed[0]))
    for name in names & set(defined):
        assert ast.get_docstring(defined[name]), f"{name} has no docstring"
    known = set(defined) | {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    known |= {module.split(".")[-1] for _, module in imports(tree)}
    known |= {
        a.asname for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names if a.asname
    }
    assert names <= known, f"__all__ lists {', '.join(sorted(names - known))}"


# --- safety -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_nothing_from_disk_runs_code(path: Path) -> None:
    for node, module in imports(TREES[path]):
        assert module.split(".")[0] not in {"pickle", "dill", "cloudpickle", "joblib", "marshal"}, (
            f"line {node.lineno}: {module}"
        )
    for node, function in calls(TREES[path]):
        assert function not in {"eval", "exec", "compile", "__import__"}, f"line {node.lineno}"
        arguments = {word.arg: ast.unparse(word.value) for word in node.keywords}
        if function in {"torch.load", "load_state_dict_from_url", "torch.hub.load"}:
            assert arguments.get("weights_only") == "True", f"line {node.lineno}: {function}"
        if function in {"np.load", "numpy.load"}:
            assert arguments.get("allow_pickle", "False") == "False", f"line {node.lineno}"
        assert arguments.get("shell") != "True", f"line {node.lineno}: a shell"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_machine_path_and_no_address_book(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for word in ("/home/", "/root/", "pypi.org", "pythonhosted", "TODO", "FIXME"):
        assert word not in text, word


# --- one method, one slug -----------------------------------------------------------------------


@pytest.mark.parametrize("row", registry.methods(), ids=lambda row: row.slug)
def test_a_method_has_its_files(row: registry.Method) -> None:
    if row.role == "moves":  # a step that is no method of its own
        return
    assert callable(registry.attribute(row.verb))
    page = ROOT / "docs" / "methods" / f"{row.slug}.md"
    assert page.is_file(), f"{page.relative_to(ROOT)} is missing"
    if row.reproduce:
        stem = row.slug.replace("-", "_")
        source, tests = SOURCE / row.role, ROOT / "tests" / row.role
        assert (source / f"{stem}.py").is_file() or (source / stem / "__init__.py").is_file()
        assert (tests / f"test_{stem}.py").is_file() or any((tests / stem).glob("test_*.py"))
        assert row.reproduce == f"sartor.reproduce.{stem}"
        assert callable(importlib.import_module(row.reproduce).run)


def test_every_page_and_evidence_belongs_to_a_method() -> None:
    slugs = {row.slug for row in registry.methods()}
    for page in (ROOT / "docs" / "methods").glob("*.md"):
        assert page.stem in slugs, f"{page.name} describes no registered method"


# --- a light import -----------------------------------------------------------------------------

PROBE = """
import json, sys, time
began = time.perf_counter()
{statement}
seconds = time.perf_counter() - began
import threading
print(json.dumps([seconds, sorted({{m.split(".")[0] for m in sys.modules}}),
threading.active_count()]))
"""


def probe(statement: str) -> tuple[float, set[str], int]:
    ran = subprocess.run(
        [sys.executable, "-c", PROBE.format(statement=statement)],
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, modules, threads = json.loads(ran.stdout)
    return seconds, set(modules), threads


def test_the_import_is_light() -> None:
    everything = (
        "import sartor, sartor.core; [getattr(sartor.core, n) for n in sartor.core.__all__]"
    )
    torch_alone, with_sartor = [], []
    for _ in range(3):
        seconds, plain, threads = probe("import torch")
        torch_alone.append(seconds)
        seconds, modules, ours = probe(everything)
        with_sartor.append(seconds)
        assert not {*OPTIONAL} & (modules - plain) and ours == threads
    ratio = statistics.median(with_sartor) / statistics.median(torch_alone)
    assert ratio < 1.5, f"import sartor.core takes {ratio:.2f} times as long as import torch"


def test_the_bare_import_does_not_even_need_torch() -> None:
    _, modules, _ = probe("import sartor; sartor.__version__; dir(sartor)")
    assert not {"torch", "numpy", *OPTIONAL} & modules
