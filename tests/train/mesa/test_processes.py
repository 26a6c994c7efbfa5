"""Two gloo processes under Mesa train as one process with the joined batch does."""

import pytest
import torch


@pytest.mark.slow
def test_two_processes_equal_one_with_the_joined_batch(one_and_two):
    one, first, second = one_and_two("two_processes_mesa.py")
    ranges = [key for key in one if key.startswith("mesa.alpha")]
    assert len(ranges) > 10 and {len(one[key]) for key in ranges} >= {3}
    for key, value in one.items():
        assert torch.equal(first[key], second[key]), key
        if key.startswith("codes."):  # the same tensors are stored; each process has its ranges
            torch.testing.assert_close(first[key], value, rtol=0.02, atol=0, msg=key)
        else:
            torch.testing.assert_close(first[key], value, rtol=1e-4, atol=1e-5, msg=key)
