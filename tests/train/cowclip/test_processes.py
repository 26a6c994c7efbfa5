"""Two gloo processes clip as one process with the joined batch does: counts are global."""

import pytest
import torch


@pytest.mark.slow
@pytest.mark.parametrize("way", ["dense", "sparse", "loop"])
def test_two_processes_equal_one_with_the_joined_batch(one_and_two, way):
    one, first, second = one_and_two("two_processes_cowclip.py", way)
    assert 0.01 < float(one["clipped"]) < 0.99
    for key, value in one.items():
        assert torch.equal(first[key], second[key]), key
        torch.testing.assert_close(first[key], value, rtol=1e-4, atol=1e-5, msg=key)
