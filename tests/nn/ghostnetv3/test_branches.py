from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from sartor.core import FamilyError, NoEffectError, TrainingError
from sartor.export import FORMATS, export
from sartor.measure import count_flops, count_params
from sartor.nn.backbone import official_state
from sartor.nn.ghostnetv3.branches import conv_bn_pairs, expand_for_training, fold, official_key
from sartor.nn.ghostnetv3.rep_conv import RepConvBN
from sartor.nn.sources import seeded

#: parameters and multiply-adds at 224, of training and folded
CARD = {
    "ghostnetv3_050": (3_395_384, 2_853_176, 117_528_000, 49_640_656),
    "ghostnetv3_100": (8_129_028, 6_147_588, 404_128_320, 167_048_288),
    "ghostnetv3_130": (12_217_720, 8_948_296, 654_842_824, 269_322_976),
    "ghostnetv3_160": (17_275_700, 12_377_778, 971_574_612, 398_607_224),
}


def trained_looking(model: nn.Module) -> nn.Module:
    """With statistics and shifts that differ from channel to channel."""
    draw = torch.Generator().manual_seed(0)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_(0, 0.1, generator=draw)
            norm.running_var.uniform_(0.8, 1.2, generator=draw)
    return model


@pytest.mark.parametrize(
    "name", ["ghostnetv3_050", *(pytest.param(n, marks=pytest.mark.slow) for n in [*CARD][1:])]
)
def test_timm_s_sizes_are_the_card_s(name: str) -> None:
    train_params, params, train_macs, macs = CARD[name]
    image = torch.zeros(1, 3, 224, 224, device="meta")
    with torch.device("meta"):
        model = timm.create_model(name)
        assert (count_params(model), count_flops(model, image) / 2) == (train_params, train_macs)
        folded = timm.utils.reparameterize_model(model)
        assert (count_params(folded), count_flops(folded, image) / 2) == (params, macs)


@pytest.mark.parametrize(
    "name", ["ghostnetv3_050", pytest.param("ghostnetv3_160", marks=pytest.mark.slow)]
)
def test_timm_s_folded_nets_do_the_same(name: str) -> None:
    with seeded(0):
        model = trained_looking(timm.create_model(name, num_classes=7)).eval()
        images = torch.randn(2, 3, 64, 64)
    folded = fold(model, images)
    with torch.no_grad():
        expected, found = model(images), folded(images)
    assert float((expected - found).abs().max()) <= 1e-5 * float(expected.abs().max())
    assert count_params(model) > count_params(folded)


def test_no_primary_convolution_keeps_its_channels_and_every_cheap_one_does() -> None:
    with torch.device("meta"):
        model = timm.create_model("ghostnetv3_100")
    ghosts = [m for m in model.modules() if type(m).__name__ == "GhostModuleV3"]
    assert len(ghosts) == 32
    for ghost in ghosts:
        conv = ghost.primary_rpr_conv[0].conv
        assert conv.in_channels != conv.out_channels
        assert isinstance(ghost.cheap_rpr_skip, nn.BatchNorm2d)


def official_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As the authors' file names them: a branch is a sequence of ``conv`` and ``bn``."""
    named = {}
    for key, value in state.items():
        in_branch = "_rpr_conv." in key or "_rpr_scale." in key
        named[key.replace(".bn1.", ".bn.") if in_branch else key] = value
    return {**named, "total_ops": torch.zeros(1), "blocks.0.0.total_params": torch.zeros(1)}


def test_official_weights_load_by_their_names() -> None:
    """The same mapping as timm's own."""
    from timm.models.ghostnet import checkpoint_filter_fn

    model = timm.create_model("ghostnetv3_050")
    own = model.state_dict()
    theirs = official_names(own)
    assert "blocks.1.0.dw_rpr_conv.2.bn.weight" in theirs and "bn1.weight" in theirs
    renamed = official_state({"state_dict": theirs}, official_key)
    assert renamed.keys() == own.keys() == checkpoint_filter_fn(theirs, model).keys()
    assert all(torch.equal(renamed[key], own[key]) for key in own)
    assert official_key("conv_stem.weight") == "conv_stem.weight"
    assert official_key("blocks.9.0.conv.bn1.running_var") == "blocks.9.0.conv.bn1.running_var"


@pytest.mark.parametrize(
    "name", ["mobilenetv2_050", pytest.param("resnet18", marks=pytest.mark.slow)]
)
def test_any_net_gets_branches_and_loses_them_again(name: str) -> None:
    with seeded(0):
        model = trained_looking(timm.create_model(name, num_classes=3)).eval()
        images = torch.randn(2, 3, 64, 64)
        wide = expand_for_training(model, images)
        assert count_params(wide) > 2.9 * count_params(model)
        for layer in wide.modules():
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.normal_(layer.weight, 0.3, 0.1)
    folded = fold(wide, images)
    with torch.no_grad():
        expected, found = wide(images), folded(images)
    assert float((expected - found).abs().max()) <= 1e-5 * float(expected.abs().max())
    assert count_flops(folded, images) == count_flops(model, images)
    biases = sum(b.numel() for n, b in folded.named_parameters() if n.endswith("bias"))
    kept = sum(m.num_features for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    assert count_params(model) - count_params(folded) == kept and biases >= kept


def small() -> nn.Sequential:
    with seeded(0):
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 4, 1),
            nn.BatchNorm2d(4),
        ).eval()


IMAGE = torch.randn(1, 3, 5, 5, generator=torch.Generator().manual_seed(0))


def test_pairs_are_those_that_run_after_one_another() -> None:
    assert conv_bn_pairs(small(), IMAGE) == {"0": "1"}, "the other has a bias"
    net = timm.create_model("mobilenetv2_050")
    pairs = conv_bn_pairs(net, torch.zeros(1, 3, 32, 32))
    convs = [n for n, m in net.named_modules() if isinstance(m, nn.Conv2d)]
    assert [*pairs] == convs and pairs["blocks.1.0.conv_dw"] == "blocks.1.0.bn2"


def test_wildcards_choose() -> None:
    net = timm.create_model("mobilenetv2_050")
    wide = expand_for_training(net, torch.zeros(1, 3, 32, 32), match="*conv_dw")
    expanded = [n for n, m in wide.named_modules() if isinstance(m, RepConvBN)]
    assert len(expanded) == 17 and all(name.endswith("conv_dw") for name in expanded)


def test_branches_of_a_training_from_scratch_have_a_gain_of_1() -> None:
    wide = expand_for_training(small(), IMAGE, keep_function=False)
    assert all(bool((norm.weight == 1).all()) for norm in wide[0].added_norms)


class Shared(nn.Module):
    """Something else reads the convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3)
        nn.init.constant_(self.norm.bias, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y + self.norm(y)


def test_what_would_change_the_function_is_refused() -> None:
    with pytest.raises(FamilyError, match="something else reads"):
        expand_for_training(Shared().eval(), IMAGE)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: fold(small(), IMAGE), NoEffectError, "no branches to fold"),
        (lambda: fold(small().train(), IMAGE), TrainingError, r"eval\(\)"),
        (lambda: expand_for_training(small(), IMAGE, match="x*"), NoEffectError, "there are 0"),
        (lambda: expand_for_training(nn.Flatten(), IMAGE), NoEffectError, "there are none"),
        (lambda: expand_for_training(small(), IMAGE, num_branches=0), FamilyError, "and 0"),
    ],
)
def test_bad_calls_are_refused(
    call: Callable[[], nn.Module], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call()


def test_folding_twice_is_refused() -> None:
    folded = fold(expand_for_training(small(), IMAGE), IMAGE)
    with pytest.raises(NoEffectError, match="fold it once"):
        fold(folded, IMAGE)


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_a_folded_net_exports_with_equal_numbers(format: str, tmp_path: Path) -> None:
    with seeded(0):
        model = trained_looking(timm.create_model("ghostnetv3_050", num_classes=3)).eval()
        image = torch.randn(2, 3, 64, 64)
    report = export(fold(model, image), image, tmp_path / f"net.{format}", format=format)
    assert report.verified
