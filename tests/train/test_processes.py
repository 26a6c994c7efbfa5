"""Two gloo processes on the CPU train as one process with the joined batch does."""

import pytest
import torch


def test_two_processes_equal_one_with_the_joined_batch(one_and_two):
    one, first, second = one_and_two("two_processes.py")
    assert torch.equal(first["drawn"], second["drawn"])
    assert torch.equal(first["drawn"], one["drawn"])
    assert {0, 1} < set(one["drawn"].tolist())  # anchors and stitches
    for key, value in one.items():
        assert torch.equal(first[key], second[key]), key
        torch.testing.assert_close(first[key], value, rtol=1e-4, atol=1e-5, msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("cached", [False, True], ids=["live", "cached"])
def test_two_processes_distil_as_one_does(one_and_two, tmp_path, cached):
    folder = str(tmp_path / "cache") if cached else "-"
    one, first, second = one_and_two("two_processes_distill.py", folder)
    for key, value in one.items():
        assert torch.equal(first[key], second[key]), key
        torch.testing.assert_close(first[key], value, rtol=1e-4, atol=1e-5, msg=key)
