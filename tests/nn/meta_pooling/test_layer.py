import math
from collections.abc import Callable
from typing import ClassVar

import pytest
import timm
import torch
from torch import Tensor, nn

import sartor.nn.backbones  # noqa: F401 (registers)
from sartor.core import FamilyError, NoEffectError
from sartor.nn.meta_pooling.layer import (
    CANDIDATES,
    MetaPooling,
    apply_choices,
    insert_meta_pooling,
    meta_poolings,
    receptive_field,
)
from sartor.nn.sources import seeded
from sartor.testing import BackboneContract, LayerContract


class TestSearched(LayerContract):
    def layer(self) -> nn.Module:
        return MetaPooling(8)

    def inputs(self) -> Tensor:
        return torch.randn(2, 8, 5, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
class TestSplit(TestSearched):
    def layer(self) -> nn.Module:
        layer = MetaPooling(8, split_ratio=0.5)
        layer.fix(["max3", "skip"])
        return layer


class TestMobileNet(BackboneContract):
    name = "mobilenetv2_100_metapool"
    kwargs: ClassVar = {"base": "mobilenetv2_035"}
    input_shape = (3, 64, 64)


IMAGE = torch.zeros(1, 3, 32, 32)


def weights(model: nn.Module) -> int:
    """Parameters but for the mixtures."""
    return sum(p.numel() for n, p in model.named_parameters() if not n.endswith("alpha"))


@pytest.fixture(scope="module")
def mobilenet() -> nn.Module:
    with torch.device("meta"):
        return timm.create_model("mobilenetv2_100")


WITHOUT = tuple(name for name in CANDIDATES if name != "sep")


@pytest.mark.parametrize(
    ("candidates", "kwargs", "params"),
    [
        (CANDIDATES, {}, 3_964_856),
        (WITHOUT, {}, 3_519_080),
        (("skip", "max3", "max5", "max7", "sep"), {"norm": False}, 3_950_648),
        (CANDIDATES, {"split_ratio": 0.5}, 3_637_616),
        (WITHOUT, {"split_ratio": 0.5}, 3_511_976),
    ],
)
def test_parameters_are_the_card_s(
    mobilenet: nn.Module, candidates: tuple[str, ...], kwargs: dict[str, float], params: int
) -> None:
    assert weights(mobilenet) == 3_504_872
    with torch.device("meta"):
        made = insert_meta_pooling(mobilenet, IMAGE.to("meta"), candidates, **kwargs)
    assert len(meta_poolings(made)) == 16 and weights(made) == params


def test_skip_without_norm_is_the_dense_net() -> None:
    with seeded(0):
        model = timm.create_model("mobilenetv2_035", num_classes=3).eval()
        images = torch.randn(2, 3, 64, 64)
    kwargs = {"norm": False, "act": "none"}
    made = insert_meta_pooling(model, images, ("skip", "max3"), **kwargs)
    neutral = apply_choices(made, dict.fromkeys(meta_poolings(made), ("skip",)))
    with torch.no_grad():
        assert torch.equal(model(images), neutral(images))
        assert not torch.allclose(model(images), made(images))


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "mnasnet_small", "ghostnet_050"])
def test_other_light_nets(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
        made = insert_meta_pooling(model, IMAGE.to("meta"), ("skip", "max3"))
    assert len(meta_poolings(made)) >= 4 and not meta_poolings(model)


def test_a_mixture_of_equal_parts_keeps_a_constant() -> None:
    layer = MetaPooling(2, WITHOUT, norm=False, act="none")
    nn.init.zeros_(layer.alpha)
    with torch.no_grad():
        mixed = layer(torch.full((1, 2, 9, 9), 3.0))
    assert mixed[0, 0, 4, 4].item() == pytest.approx(3)
    corner = 3 * (4 + 4 / 9 + 9 / 25 + 16 / 49) / 7
    assert mixed[0, 0, 0, 0].item() == pytest.approx(corner)


def test_skip_alone_is_the_activation() -> None:
    layer = MetaPooling(1, ("skip", "max3")).eval()
    layer.fix(["skip"])
    with torch.no_grad():
        value = layer(torch.ones(1, 1, 3, 3) * math.sqrt(1 + 1e-5))
    assert value[0, 0, 1, 1].item() == pytest.approx(0.666667, abs=1e-6)


def test_the_most_probable_is_chosen() -> None:
    layer = MetaPooling(4, ("skip", "max3"))
    layer.alpha.data = torch.tensor([0.0, math.log(2)])
    assert layer.probs == pytest.approx({"max3": 2 / 3, "skip": 1 / 3})
    assert layer.decided and layer.choice == ("max3",) and not layer.fixed
    layer.fix(layer.choice)
    assert layer.fixed and layer.probs == {"max3": 1.0} and layer.receptive_field() == 3
    layer = MetaPooling(4, ("skip", "max3"), threshold=0.4)
    layer.alpha.data = torch.tensor([0.0, math.log(2)])
    assert not layer.decided


def test_two_that_are_kept_are_summed() -> None:
    layer = MetaPooling(2, ("skip", "max3", "avg3"), norm=False, act="none")
    layer.fix(["skip", "max3"])
    x = torch.randn(1, 2, 5, 5)
    assert torch.equal(layer(x), x + nn.functional.max_pool2d(x, 3, 1, 1))


def test_channels_that_pass_by_stay() -> None:
    layer = MetaPooling(4, ("max3",), split_ratio=0.5)
    x = torch.randn(2, 4, 5, 5)
    assert torch.equal(layer(x)[:, :2], x[:, :2])


def test_receptive_fields_add_up() -> None:
    assert receptive_field([3, 7]) == 9 and receptive_field([]) == 1


NAMES = ("skip", "max3")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: MetaPooling(4, ()), FamilyError, "at least one"),
        (lambda: MetaPooling(4, ("skip", "skip")), FamilyError, "each once"),
        (lambda: MetaPooling(4, NAMES, act="gelu"), FamilyError, "no activation 'gelu'"),
        (lambda: MetaPooling(4, NAMES, threshold=0), FamilyError, "threshold in"),
        (lambda: MetaPooling(4, NAMES, split_ratio=0.1), FamilyError, "both sides"),
        (lambda: MetaPooling(4, NAMES).fix(["max5"]), FamilyError, "'max5' is not among"),
        (lambda: MetaPooling(4, NAMES).fix([]), FamilyError, "at least one pooling"),
        (lambda: insert_meta_pooling(nn.Conv2d(3, 4, 1), IMAGE), NoEffectError, "No depthwise"),
        (lambda: apply_choices(MetaPooling(4, NAMES), {}), FamilyError, "differ in ''"),
    ],
)
def test_bad_calls_are_refused(
    call: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call()
