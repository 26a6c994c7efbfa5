"""Numbers that the survey's techniques are known by, of what a recipe switches on: ours, torch's,
timm's and torchao's alike.
"""

import timm.optim
import torch
import torch.nn.functional as F
from timm.layers import PatchDropout
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sartor.core import Target
from sartor.measure import peak_memory_bytes
from sartor.nn import tiny_vit
from sartor.train import checkpoint_blocks_
from sartor.train.low_precision.adamw import low_bit_adamw


def vit(**options):
    torch.manual_seed(0)
    return tiny_vit(embed_dim=64, depth=6, **options)


def step(model, inputs):
    F.cross_entropy(model(inputs), torch.arange(len(inputs)) % 10).backward()


def test_lion_steps_by_the_sign_and_remembers_a_hundredth():
    weight = nn.Parameter(torch.tensor([1.0]))
    optimizer = timm.optim.Lion([weight], lr=0.1, weight_decay=0.0)
    weight.grad = torch.tensor([2.0])
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.tensor([0.9]))
    torch.testing.assert_close(optimizer.state[weight]["exp_avg"], torch.tensor([0.02]))


def test_lars_trusts_a_layer_by_its_norm_over_its_gradient():
    weight = nn.Parameter(torch.tensor([[2.0, 0.0]]))
    optimizer = timm.optim.Lars([weight], lr=1.0, trust_coeff=0.001, always_adapt=True)
    weight.grad = torch.tensor([[0.0, 4.0]])
    optimizer.step()
    moved = torch.tensor([[2.0, -0.0005 * 4.0]])
    torch.testing.assert_close(weight.detach(), moved, rtol=1e-5, atol=1e-9)


def test_half_of_196_tokens_are_98_beside_the_class_token():
    dropped = PatchDropout(0.5, num_prefix_tokens=1).train()(torch.randn(2, 197, 4))
    assert dropped.shape == (2, 99, 4)


def operations(model):
    with FlopCounterMode(display=False) as counter:
        step(model, torch.randn(4, 1, 8, 8))
    return counter.get_total_flops()


def test_checkpointed_blocks_cost_a_third_more_operations():
    model = vit()
    plain = operations(model)
    undo = checkpoint_blocks_(model)
    # the input of the patch embedding needs no gradient, and the last layer of a block, whose
    # output nobody keeps, is not computed again
    assert 1.2 < operations(model) / plain < 4 / 3
    undo()
    assert operations(model) == plain


def test_checkpointed_blocks_take_less_than_half_the_memory():
    inputs, model = torch.randn(64, 1, 8, 8), vit()
    target = Target.parse("cpu/eager")
    step(model, inputs)
    plain = peak_memory_bytes(lambda: step(model, inputs), target)
    undo = checkpoint_blocks_(model)
    assert peak_memory_bytes(lambda: step(model, inputs), target) < plain / 2
    undo()


def test_moments_in_8_bits_take_a_quarter():
    model = nn.Linear(256, 256, bias=False)
    sizes = []
    for optimizer in (
        torch.optim.AdamW(model.parameters()),
        low_bit_adamw(model.parameters(), 8),
    ):
        model(torch.randn(2, 256)).sum().backward()
        optimizer.step()
        state = optimizer.state_dict()["state"][0].values()
        sizes.append(sum(v.numel() * v.element_size() for v in state if torch.is_tensor(v)))
    assert sizes[1] <= 0.3 * sizes[0]
