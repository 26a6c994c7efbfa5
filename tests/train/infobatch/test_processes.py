"""Two gloo processes with InfoBatch train as one process with the joined batch does."""

import pytest
import torch


@pytest.mark.slow
@pytest.mark.parametrize("how", ["split", "stripes"])
def test_two_processes_equal_one_with_the_joined_batch(one_and_two, how):
    one, *ranks = one_and_two("two_processes_infobatch.py", how)
    losses = [found.pop("losses") for found in ranks]
    torch.testing.assert_close((losses[0] + losses[1]) / 2, one.pop("losses"))
    assert 0.1 < float(one["saved"]) < 0.5
    for key, value in one.items():
        assert torch.equal(ranks[0][key], ranks[1][key]), key
        torch.testing.assert_close(ranks[0][key], value, rtol=1e-4, atol=1e-6, msg=key)
