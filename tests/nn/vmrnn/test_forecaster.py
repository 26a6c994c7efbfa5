"""VMRNN: the authors' sizes and names, what a roll-out feeds, what is refused."""

import pytest
import torch
from torch import Tensor, nn

from sartor.core import DataError, FamilyError, RecipeError
from sartor.export import FORMATS
from sartor.nn.backbone import official_state
from sartor.nn.sources import seeded
from sartor.nn.vmrnn.forecaster import (
    VMRNN,
    VMRNNMultiScale,
    forecast_loss,
    official_vmrnn_key,
    roll_out,
    vmrnn_b_kth,
    vmrnn_b_taxibj,
    vmrnn_d_mnist,
)
from sartor.testing import LayerContract


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def unused_linear(dim: int) -> int:
    """The layer that released blocks carry for a state that only the first one gets."""
    return 2 * dim * dim + dim


def small(**kwargs) -> VMRNN:
    sizes = {"patch_size": 2, "embed_dim": 16, "depth": 2, "d_state": 4, "expand": 1, "horizon": 2}
    with seeded(0):
        return VMRNN(1, **{**sizes, **kwargs})


def frames(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


class TestContract(LayerContract):
    def layer(self) -> nn.Module:
        return VMRNN(1, patch_size=2, embed_dim=8, depth=1, d_state=2, expand=1, horizon=1)

    def inputs(self) -> Tensor:
        return frames(2, 2, 1, 4, 8)

    @pytest.mark.slow  # SS2D's suite exports its operators
    @pytest.mark.parametrize("format", FORMATS)
    def test_exports_with_equal_numbers(self, format: str) -> None:
        super().test_exports_with_equal_numbers(format)


@pytest.mark.slow
class TestMultiScaleContract(LayerContract):
    def layer(self) -> nn.Module:
        return VMRNNMultiScale(
            embed_dim=8, depths_down=(1,), depths_up=(1,), d_state=2, expand=1, horizon=1
        )

    def inputs(self) -> Tensor:
        return frames(2, 2, 1, 4, 8)


# --- sizes ---------------------------------------------------------------------------------------


def test_parameters_are_the_released_ones_without_those_never_used() -> None:
    assert count(vmrnn_b_taxibj()) == 2_579_970 - 361_856
    assert 11 * unused_linear(128) == 361_856
    assert count(vmrnn_b_kth()) == 1_214_721 - 5 * unused_linear(128)


@pytest.mark.parametrize(
    ("down", "up", "released"), [((2, 6), (6, 2), 15_267_201), ((2, 2), (2, 2), 9_674_113)]
)
def test_parameters_of_the_multi_scale_model(down, up, released: int) -> None:
    finest = sum((depth - 1) * unused_linear(128 * 2**i) for i, depth in enumerate(down))
    coarsest = sum((depth - 1) * unused_linear(256 * 2**i) for i, depth in enumerate(up))
    second_embedding = 4 * 128 + 128 + 2 * 128
    model = vmrnn_d_mnist(depths_down=down, depths_up=up)
    assert count(model) == released - finest - coarsest - second_embedding


def test_operations_of_linears_and_convolutions_are_the_card_s() -> None:
    """Weights of the scan's projections count as linears, once for each of the four ways."""
    macs = 0

    def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal macs
        if isinstance(module, nn.Linear | nn.Conv2d):
            macs += output.numel() // module.weight.shape[0] * module.weight.numel()
        elif isinstance(module, nn.ConvTranspose2d):
            macs += inputs[0].numel() // module.weight.shape[0] * module.weight.numel()

    model = vmrnn_b_taxibj().eval()
    for module in model.modules():
        module.register_forward_hook(add)
    with torch.no_grad():
        model.step(torch.zeros(1, 2, 32, 32))
    assert macs == 89_653_248


def test_the_card_s_small_net() -> None:
    model = VMRNN(1, patch_size=2, embed_dim=32, depth=2, d_state=8, expand=1)
    assert count(model) == 17_313


# --- official names ------------------------------------------------------------------------------

CELL = {
    "ln_1.weight": (None,),
    "ln_1.bias": (None,),
    "self_attention.x_proj_weight": (4, "r+2n", "e"),
    "self_attention.dt_projs_weight": (4, "e", "r"),
    "self_attention.dt_projs_bias": (4, "e"),
    "self_attention.A_logs": ("4e", "n"),
    "self_attention.Ds": ("4e",),
    "self_attention.in_proj.weight": ("2e", None),
    "self_attention.conv2d.weight": ("e", 1, 3, 3),
    "self_attention.conv2d.bias": ("e",),
    "self_attention.out_norm.weight": ("e",),
    "self_attention.out_norm.bias": ("e",),
    "self_attention.out_proj.weight": (None, "e"),
    "linear.weight": (None, "2d"),
    "linear.bias": (None,),
}


def official_cell(prefix: str, dim: int, depth: int) -> dict[str, Tensor]:
    """The released names and shapes of a cell's weights."""
    rank, n, e = -(-dim // 16), 16, 2 * dim
    sizes = {None: dim, "e": e, "2e": 2 * e, "4e": 4 * e, "n": n, "r": rank, "2d": 2 * dim}
    sizes["r+2n"] = rank + 2 * n
    return {
        f"{prefix}.VSBs.{block}.{name}": torch.rand([sizes.get(s, s) for s in shape])
        for block in range(depth)
        for name, shape in CELL.items()
    }


def embedding(prefix: str, chans: int, dim: int, patch: int) -> dict[str, Tensor]:
    return {
        f"{prefix}.proj.weight": torch.rand(dim, chans, patch, patch),
        f"{prefix}.proj.bias": torch.rand(dim),
        f"{prefix}.norm.weight": torch.rand(dim),
        f"{prefix}.norm.bias": torch.rand(dim),
    }


def test_released_weights_of_the_one_scale_model_load() -> None:
    state = {
        **embedding("ST.patch_embed", 2, 32, 4),
        **official_cell("ST.layer", 32, 3),
        "ST.patch_inflated.Conv.weight": torch.rand(32, 2, 3, 3),
        "ST.patch_inflated.Conv.bias": torch.rand(2),
        "ST.patch_inflated.Conv_.0.weight": torch.rand(32, 32, 3, 3),
        "ST.patch_inflated.Conv_.0.bias": torch.rand(32),
        "ST.patch_inflated.Conv_.1.weight": torch.rand(32),
        "ST.patch_inflated.Conv_.1.bias": torch.rand(32),
    }
    model = vmrnn_b_taxibj(embed_dim=32, depth=3)
    model.load_state_dict(official_state(state, official_vmrnn_key))
    found = model.state_dict()
    assert torch.equal(
        found["cell.blocks.2.ss2d.in_proj.weight"],
        state["ST.layer.VSBs.2.self_attention.in_proj.weight"],
    )
    assert torch.equal(found["inflate.hidden.0.weight"], state["ST.patch_inflated.Conv_.0.weight"])


def test_released_weights_of_the_multi_scale_model_load_where_their_shapes_fit() -> None:
    state = {
        **embedding("Downsample.patch_embed", 1, 16, 2),
        **embedding("Upsample.patch_embed", 1, 16, 2),
        "Upsample.Unembed.Conv.weight": torch.rand(16, 1, 3, 3),
        "Upsample.Unembed.Conv.bias": torch.rand(1),
    }
    for i, (down, up) in enumerate(((1, 2), (2, 1))):
        fine, coarse = 16 * 2**i, 64 // 2**i
        state |= official_cell(f"Downsample.layers.{i}", fine, down)
        state |= official_cell(f"Upsample.layers.{i}", coarse, up)
        state[f"Downsample.downsample.{i}.reduction.weight"] = torch.rand(2 * fine, 4 * fine)
        state[f"Upsample.upsample.{i}.expand.weight"] = torch.rand(2 * coarse, coarse)
        for end in ("weight", "bias"):
            state[f"Downsample.downsample.{i}.norm.{end}"] = torch.rand(4 * fine)
            state[f"Upsample.upsample.{i}.norm.{end}"] = torch.rand(coarse // 2)
    model = vmrnn_d_mnist(embed_dim=16, depths_down=(1, 2), depths_up=(1, 2))
    model.load_state_dict(official_state(state, official_vmrnn_key))
    name = "up.0.blocks.0.ss2d.out_proj.weight"  # the last cell of the way up
    released = state["Upsample.layers.1.VSBs.0.self_attention.out_proj.weight"]
    assert torch.equal(model.state_dict()[name], released)


def test_unknown_names_stay() -> None:
    assert official_vmrnn_key("something.else") == "something.else"


# --- rolling out ---------------------------------------------------------------------------------


def test_given_frames_are_fed_first_then_its_own() -> None:
    seen = []

    def step(frame: Tensor, state: int | None) -> tuple[Tensor, int]:
        seen.append((float(frame.mean()), state))
        return frame + 10, (state or 0) + 1

    given = torch.arange(3.0).view(1, 3, 1, 1, 1).expand(1, 3, 1, 2, 2)
    outputs = roll_out(step, given, 2)
    assert seen == [(0, None), (1, 1), (2, 2), (12, 3)]
    assert outputs[0, :, 0, 0, 0].tolist() == [10, 11, 12, 22]


@pytest.mark.parametrize(
    "model",
    [
        small(),
        VMRNNMultiScale(embed_dim=8, depths_down=(1, 1), depths_up=(1, 1), d_state=2, horizon=2),
    ],
    ids=["one scale", "two scales"],
)
def test_outputs_are_frames_of_any_size_that_fits(model: nn.Module) -> None:
    with torch.no_grad():
        for height, width in ((8, 8), (8, 16)):
            outputs = model(frames(2, 3, 1, height, width))
            assert outputs.shape == (2, 4, 1, height, width)
            assert outputs.min() > 0 and outputs.max() < 1
        first, rest = outputs[:, :2], model(frames(2, 3, 1, 8, 16), horizon=1)
        assert torch.equal(first, rest[:, :2]) and rest.shape[1] == 3


def test_states_remember() -> None:
    model = small()
    one, other = frames(1, 3, 1, 8, 8), frames(1, 3, 1, 8, 8)
    other[:, 0] = 1 - other[:, 0]
    with torch.no_grad():
        assert not torch.allclose(model(one)[:, -1], model(other)[:, -1], atol=1e-4)


def test_stochastic_depth_rises_over_each_way() -> None:
    model = VMRNNMultiScale(
        embed_dim=8, depths_down=(1, 2), depths_up=(2, 1), d_state=2, drop_path=0.2
    )

    def rates(cells: nn.ModuleList) -> list[float]:
        drops = [block.drop_path for cell in cells for block in cell.blocks]
        return [getattr(drop, "drop_prob", 0.0) for drop in drops]

    assert rates(model.down) == rates(model.up) == pytest.approx([0.0, 0.1, 0.2])


def test_decay_spares_the_rates() -> None:
    model = small()
    names = model.no_weight_decay()
    assert names == {f"cell.blocks.{i}.ss2d.{end}" for i in (0, 1) for end in ("A_logs", "Ds")}
    assert names <= {name for name, _ in model.named_parameters()}


# --- loss and bad input --------------------------------------------------------------------------


def test_the_loss_is_of_all_outputs() -> None:
    given = frames(2, 5, 1, 4, 4)
    off = given[:, 1:] + 0.5
    assert float(forecast_loss(off, given)) == pytest.approx(0.25)
    assert float(forecast_loss(off, given, "mse+l1")) == pytest.approx(0.75)


def test_bad_inputs_are_refused() -> None:
    model, given = small(), frames(1, 4, 1, 8, 8)
    for wrong in (given[:, :1], given[0]):
        with pytest.raises(DataError, match="T of at least 2"):
            model(wrong)
    with pytest.raises(DataError, match="horizon of at least 1"):
        model(given, horizon=0)
    for wrong in (given[..., :7], given.repeat(1, 1, 2, 1, 1)):
        with pytest.raises(DataError, match="multiples of 2"):
            model(wrong)
    with pytest.raises(DataError, match="multiples of 8"):
        VMRNNMultiScale(embed_dim=8, d_state=2, depths_down=(1, 1), depths_up=(1, 1))(
            frames(1, 4, 1, 12, 8)
        )
    with pytest.raises(DataError, match="scale them"):
        forecast_loss(given[:, 1:], 255 * given)
    with pytest.raises(DataError, match="one frame less"):
        forecast_loss(given, given)
    with pytest.raises(RecipeError, match="mse or mse"):
        forecast_loss(given[:, 1:], given, "l2")
    with pytest.raises(FamilyError, match="as many scales"):
        VMRNNMultiScale(depths_down=(1,), depths_up=(1, 1))
