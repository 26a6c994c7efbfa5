import pytest
import timm
import torch
from torch import nn

from sartor.core import FamilyError
from sartor.nn.classifier_input import find_classifier, logits_and_features


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_mambaout"])
def test_timm_models_give_what_their_head_reads(name: str) -> None:
    model = timm.create_model(name, num_classes=7).eval()
    images = torch.randn(2, *model.default_cfg["input_size"])
    logits, features = logits_and_features(model, images)
    assert torch.equal(logits, model(images))
    expected = model.forward_head(model.forward_features(images), pre_logits=True)
    torch.testing.assert_close(features, expected)
    torch.testing.assert_close(model.get_classifier()(features), logits)


def test_the_hook_is_gone_even_if_the_model_fails() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(RuntimeError):
        logits_and_features(model, torch.zeros(2, 5))
    assert not model[1]._forward_pre_hooks


def test_models_without_one_vector_for_each_image_are_refused() -> None:
    with pytest.raises(FamilyError, match="no linear layer"):
        find_classifier(nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten()))
    with pytest.raises(FamilyError, match=r"one vector for each image.*\(2, 3, 4\)"):
        logits_and_features(nn.Sequential(nn.Linear(4, 2), nn.Flatten()), torch.zeros(2, 3, 4))
