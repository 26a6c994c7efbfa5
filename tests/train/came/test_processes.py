"""Two gloo processes with CAME train as one process with the joined batch does."""

import pytest
import torch


@pytest.mark.slow
def test_two_processes_equal_one_with_the_joined_batch(one_and_two):
    one, first, second = one_and_two("two_processes_came.py")
    assert {"0.weight", "0.exp_avg_res_row", "1.exp_avg_sq"} <= set(one)
    for key, value in one.items():
        assert torch.equal(first[key], second[key]), key
        # the sum of two halves is rounded otherwise than the whole sum
        torch.testing.assert_close(first[key], value, rtol=1e-4, atol=1e-5, msg=key)
