"""sartor's backbones are known to timm, and to everything of sartor that takes a timm name."""

import pytest
import timm
import torch

from sartor.core import FamilyError
from sartor.nn import backbones
from sartor.nn.backbone import official_state
from sartor.nn.from_timm import check_timm_name, fitting_kwargs

#: what takes long to make even without memory is left to the slow tests
_LARGE = ("bamboo_large", "bamboo_huge", "ecoformer_pvt_v2_b3", "ecoformer_pvt_v2_b4")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name.startswith(_LARGE) else name
        for name in backbones.BACKBONES
    ],
)
def test_timm_makes_every_size(name: str) -> None:
    assert timm.is_model(name) and name in timm.list_models(module="backbones")
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=3)
    assert model.num_classes == 3
    assert model.default_cfg["architecture"] == name
    assert callable(getattr(backbones, name))


def test_no_name_is_timms() -> None:
    theirs = {n for n in timm.list_models() if n not in timm.list_models(module="backbones")}
    assert not theirs & set(backbones.BACKBONES)


def test_near_names_are_suggested() -> None:
    with pytest.raises(FamilyError, match="did you mean 'litv2_small'"):
        check_timm_name("litv2_smal")


def test_models_are_made_to_fit_a_task() -> None:
    """Only those that are bound to a size are told it."""
    assert fitting_kwargs("litv2_small", (1, 64, 64), 5) == {"num_classes": 5, "in_chans": 1}
    assert fitting_kwargs("lit_small", (3, 64, 96), 5) == {"num_classes": 5, "img_size": [64, 96]}


def test_official_names_must_not_collide() -> None:
    state = {"a": torch.zeros(1), "b": torch.zeros(1), "buffer": torch.zeros(1)}
    assert set(official_state(state, lambda k: None if k == "buffer" else k)) == {"a", "b"}
    with pytest.raises(FamilyError, match="'b' and another are both 'x'"):
        official_state(state, lambda _key: "x")
