"""Entry point of ``sartor``: commands, and errors as one sentence."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer
from rich.console import Console
from rich.markup import escape

from sartor.cli import evidence, fit, loadtest, ruler, runs, serve
from sartor.core import SartorError

__all__ = ["app", "main"]

app = typer.Typer(
    name="sartor",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Cuts a family of pretrained networks to the budget you have.",
)
app.command("fit")(fit.fit_command)
app.command("show")(runs.show_command)
app.command("pick")(runs.pick_command)
app.command("export")(runs.export_command)
app.command("measure")(ruler.measure_command)
app.command("serve")(serve.serve_command)
app.command("loadtest")(loadtest.loadtest_command)
app.command("methods")(evidence.methods_command)
app.command("reproduce")(evidence.reproduce_command)


def spread(arguments: Sequence[str], options: Sequence[str]) -> list[str]:
    """Let an option take several words: ``--models a b`` becomes ``--models a --models b``.

    Example:
        >>> spread(["fit", "--models", "a", "b", "--seed", "1"], ["--models"])
        ['fit', '--models', 'a', '--models', 'b', '--seed', '1']
    """
    result: list[str] = []
    current = ""
    for word in arguments:
        if word.startswith("-"):
            current = word if word in options else ""
            result.append(word)
        elif current and result[-1] != current:
            result += [current, word]
        else:
            result.append(word)
    return result


def main() -> None:
    """Run a command; a :class:`~sartor.core.SartorError` ends in its sentence and exit code 1."""
    sys.argv[1:] = spread(sys.argv[1:], ["--models", "--budget", "--target"])
    try:
        app()
    except SartorError as error:
        Console(stderr=True, soft_wrap=True, highlight=False).print(
            f"[red]Error:[/red] {escape(str(error))}"
        )
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        Console(stderr=True).print("Interrupted; what was finished is kept.")
        raise SystemExit(130) from None
