"""Whether layers stay one tensor, whatever is done to the network."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_model, save_file, save_model
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from sartor.core import FamilyError
from sartor.measure import count_params
from sartor.nn import tiny_vit
from sartor.nn.sources import seeded
from sartor.stitch.scalenet import ScaleNetConfig, param_groups, scale_depth
from sartor.stitch.shared_blocks import (
    LoraLinear,
    ParallelAdapter,
    check_tied,
    tie_,
    tied_copy,
    tied_names,
)


def deep(**more: object) -> nn.Module:
    with seeded(0):
        base = tiny_vit(embed_dim=16, depth=3, num_heads=2)
    return scale_depth(base, ScaleNetConfig(rank=4, **more))


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def pointers(model: nn.Module, index: int) -> list[int]:
    """Where the shared tensors of a layer lie."""
    named = model.blocks[index].named_parameters()
    return [p.data_ptr() for name, p in named if "adapter" not in name]


def check(model: nn.Module, original: nn.Module) -> None:
    """Layers 0 and 3, 1 and 4, 2 and 5 have one set of weights; the adapters are apart."""
    for layer in range(3):
        assert pointers(model, layer) == pointers(model, layer + 3)
        first, second = (model.blocks[i].mlp.adapter for i in (layer, layer + 3))
        assert first.up.weight.data_ptr() != second.up.weight.data_ptr()
    assert pointers(model, 0) != pointers(model, 1)
    check_tied(model, tied_names(original))
    assert count_params(model) == count_params(original)


def stepped(model: nn.Module, *, groups: bool = True) -> nn.Module:
    given = param_groups(model, lr=1e-3) if groups else model.parameters()
    optimizer = torch.optim.AdamW(given, lr=1e-3)
    for _ in range(2):
        model(images()).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def test_two_copies_are_modules_of_their_own() -> None:
    model = deep()
    assert len({id(block) for block in model.blocks}) == 6
    assert len({id(block.attn) for block in model.blocks}) == 6
    assert len(tied_names(model)) == 3 * 12 and all(len(g) == 2 for g in tied_names(model))


def test_after_deepcopy() -> None:
    model = deep()
    copied = copy.deepcopy(model)
    check(copied, model)
    assert not set(pointers(copied, 0)) & set(pointers(model, 0))


@pytest.mark.parametrize("move", [lambda m: m.to(torch.float64), lambda m: m.half().float()])
def test_after_to(move: Callable[[nn.Module], nn.Module]) -> None:
    model = deep()
    check(move(copy.deepcopy(model)), model)


@pytest.mark.gpu
def test_after_a_device_and_back() -> None:
    model = deep()
    check(copy.deepcopy(model).to("cuda"), model)
    check(copy.deepcopy(model).to("cuda").to("cpu"), model)


@pytest.mark.parametrize("groups", [True, False])
def test_after_steps_of_an_optimiser(groups: bool) -> None:
    model = deep()
    check(stepped(copy.deepcopy(model), groups=groups), model)


def test_after_a_safetensors_file_of_the_small_model_s_size(tmp_path: Path) -> None:
    model, again = stepped(deep()).eval(), deep().eval()
    save_model(model, str(tmp_path / "deep.safetensors"))
    load_model(again, str(tmp_path / "deep.safetensors"))
    check(again, model)
    assert torch.equal(again(images()), model(images()))
    size = (tmp_path / "deep.safetensors").stat().st_size
    stored, executed = count_params(model), sum(v.numel() for v in model.state_dict().values())
    assert 4 * stored < size < 4 * stored + 20_000 < 4 * executed


def test_a_file_of_every_name_is_refused_by_safetensors(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="share memory"):
        save_file(deep().state_dict(), tmp_path / "deep.safetensors")


def test_after_a_state_dict_with_every_name() -> None:
    model, again = stepped(deep()).eval(), deep(seed=1).eval()
    again.load_state_dict(model.state_dict())
    check(again, model)
    assert torch.equal(again(images()), model(images()))


def test_after_timm_s_average() -> None:
    """Only without the state dict, which lists a shared tensor twice, is it averaged once."""
    model = deep()
    ema = ModelEmaV3(model, decay=0.9, exclude_buffers=True)
    before = ema.module.blocks[0].attn.qkv.weight.detach().clone()
    stepped(model)
    ema.update(model)
    check(ema.module, model)
    now = model.blocks[0].attn.qkv.weight
    torch.testing.assert_close(ema.module.blocks[3].attn.qkv.weight, before.lerp(now, 0.1))
    twice = ModelEmaV3(deep(), decay=0.9)
    twice.update(model)
    check(twice.module, model)
    torch.testing.assert_close(
        twice.module.blocks[0].attn.qkv.weight, before.lerp(now, 1 - 0.9**2), rtol=1e-4, atol=1e-6
    )


def test_after_torch_s_average() -> None:
    model = deep()
    average = torch.optim.swa_utils.AveragedModel(model)
    average.update_parameters(stepped(model))
    check(average.module, model)


def test_what_unties_is_found_and_mended() -> None:
    with torch.device("meta"):
        model = scale_depth(tiny_vit(embed_dim=16, depth=3, num_heads=2))
    names = tied_names(model)
    untied = model.to_empty(device="cpu")
    with pytest.raises(FamilyError, match=r"'blocks\.0\.norm1\.weight' and 'blocks\.3\.norm1\."):
        check_tied(untied, names)
    tie_(untied, names)
    check_tied(untied, names)
    assert tied_names(untied) == names
    with pytest.raises(FamilyError, match="are no longer one tensor"):
        check_tied(tiny_vit(), names)
    with pytest.raises(FamilyError, match=r"no parameter 'blocks\.4"):
        tie_(tiny_vit(), [("blocks.0.norm1.weight", "blocks.4.norm1.weight")])


class Counting(nn.Module):
    """A block that remembers what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, features: Tensor) -> Tensor:
        out = self.linear(features) + self.seen
        self.seen = self.seen + features.detach().mean(0)
        return out


def test_what_a_block_remembers_is_each_layer_s_own() -> None:
    first, second = Counting(), Counting()
    second.load_state_dict(first.state_dict())
    shared, apart = nn.Sequential(first, tied_copy(first)), nn.Sequential(Counting(), second)
    apart[0].load_state_dict(first.state_dict())
    for seed in range(3):
        inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(shared(inputs), apart(inputs), rtol=0, atol=0)
    assert not torch.equal(shared[0].seen, shared[1].seen)


def test_batch_norms_measure_each_layer() -> None:
    norm = nn.BatchNorm1d(4)
    layers = nn.Sequential(norm, tied_copy(norm)).train()
    layers(torch.randn(64, 4, generator=torch.Generator().manual_seed(0)) * 5 + 3)
    assert not torch.equal(layers[0].running_mean, layers[1].running_mean)
    assert layers[0].weight is layers[1].weight


@pytest.mark.parametrize(("dim", "rank"), [(24, 4), (384, 16), (8, 1)])
def test_a_parallel_adapter_is_the_card_s_formula(dim: int, rank: int) -> None:
    adapter = ParallelAdapter(dim, rank, scale=0.5)
    assert count_params(adapter) == 2 * dim * rank + rank + dim
    features = torch.randn(2, 3, dim, generator=torch.Generator().manual_seed(0))
    assert not adapter(features).any()
    with torch.no_grad():
        for parameter in adapter.parameters():
            nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
    down, up = adapter.down, adapter.up
    hidden = torch.relu(features @ down.weight.T + down.bias)
    torch.testing.assert_close(adapter(features), 0.5 * (hidden @ up.weight.T + up.bias))


def test_lora_is_the_layer_with_a_low_rank_update() -> None:
    linear = nn.Linear(6, 10)
    lora = LoraLinear(linear, rank=2, scale=0.5)
    features = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(lora(features), linear(features))
    nn.init.normal_(lora.lora_b.weight, generator=torch.Generator().manual_seed(1))
    update = 0.5 * lora.lora_b.weight @ lora.lora_a.weight  # (out, in)
    assert torch.linalg.matrix_rank(update) == 2
    wanted = features @ (linear.weight + update).T + linear.bias
    torch.testing.assert_close(lora(features), wanted)
