"""What every piece of evidence promises."""

from __future__ import annotations

import io
import json
from abc import ABC, abstractmethod
from typing import Any

from rich.console import Console

__all__ = ["EvidenceContract"]


class EvidenceContract(ABC):
    """Inherit it in a class called ``Test...`` and return what ``run(quick=True)`` returned."""

    @abstractmethod
    def evidence(self) -> Any:
        """The evidence of a quick run; made once and kept, as runs take long."""

    def test_is_json(self) -> None:
        """It can be written as JSON without NaN or infinity, and says what was asked."""
        value = json.loads(json.dumps(self.evidence().to_dict(), allow_nan=False))
        assert value["slug"] and value["claim"] and value["checks"] and value["tables"]
        assert value["passed"] == all(c["passed"] for c in value["checks"] if c["decides"])
        assert value["seconds"] > 0 and value["seeds"]

    def test_shows_every_check(self) -> None:
        """The text names the claim, every check, and every place where the method loses."""
        evidence = self.evidence()
        console = Console(file=io.StringIO(), width=240, color_system=None)
        evidence.show(console)
        text = console.file.getvalue()  # type: ignore[attr-defined]
        for words in (evidence.claim, *(c.asked for c in evidence.checks), *evidence.lost):
            assert words in text, f"not shown: {words}"
