import statistics
from types import SimpleNamespace

import pytest

from sartor.reproduce.over_seeds import columns, gain, mean

RESULTS = [
    {"new": SimpleNamespace(accuracy=0.91234, seconds=3.0), "old": SimpleNamespace(accuracy=0.5)},
    {"new": SimpleNamespace(accuracy=0.81111, seconds=4.0), "old": SimpleNamespace(accuracy=0.7)},
]


def test_means_are_of_accuracy_unless_said() -> None:
    assert mean(RESULTS, "new") == statistics.mean([0.91234, 0.81111])
    assert mean(RESULTS, "new", lambda one: one.seconds) == 3.5
    assert gain(RESULTS, "new", "old") == pytest.approx(0.26172, abs=1e-5)


def test_columns_are_named_after_the_seeds_that_were_run() -> None:
    assert columns(RESULTS, "new", (0, 7)) == {"seed 0": 0.912, "seed 7": 0.811, "mean": 0.862}
    assert columns(RESULTS, "new", (0, 7), digits=1)["mean"] == 0.9


def test_a_seed_without_results_is_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        columns(RESULTS, "new", (0, 1, 2))
