"""Two gloo processes train with a recipe as one process with the joined batch does."""

import pytest
import torch


@pytest.mark.slow
def test_two_processes_equal_one_with_the_joined_batch(one_and_two):
    one, first, second = one_and_two("two_processes_recipe.py")
    assert one["infobatch_came.steps"].min() < one["infobatch_came.steps"][0] == 8
    assert one["large_batch_checkpointing.steps"].tolist() == [4] * 4
    for key, value in one.items():
        assert torch.equal(first[key], second[key]), key
        # weights without influence, as the bias of keys, are moved by rounding errors alone
        if key.endswith(("logits", "losses", "steps")):
            torch.testing.assert_close(first[key], value, rtol=1e-3, atol=1e-3, msg=key)
