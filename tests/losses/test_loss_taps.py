import pytest
import timm
import torch
from torch import nn

from sartor.core import TrainingError
from sartor.losses import FeatureTaps, feature_paths


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def hooks(net: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in net.modules())


def test_features_are_the_outputs_and_carry_gradients() -> None:
    net, inputs = model(), torch.randn(5, 3)
    with FeatureTaps(net, ["1", "0"]) as taps:
        logits = net(inputs)
        features = taps.take()
    assert list(features) == ["1", "0"]
    assert torch.equal(features["0"], net[0](inputs)) and torch.equal(logits, net(inputs))
    features["1"].sum().backward()
    assert net[0].weight.grad is not None and net[2].weight.grad is None


def test_hooks_are_removed_however_the_block_is_left() -> None:
    net = model()
    with FeatureTaps(net, ["0"]):
        assert hooks(net) == 1
    assert hooks(net) == 0
    with pytest.raises(KeyboardInterrupt), FeatureTaps(net, ["0", "2"]):
        raise KeyboardInterrupt
    assert hooks(net) == 0
    with pytest.raises(RuntimeError, match="shapes"), FeatureTaps(net, ["0"]):
        net(torch.zeros(5, 7))
    assert hooks(net) == 0


def test_each_pass_is_taken_alone() -> None:
    net = model()
    with FeatureTaps(net, ["0"]) as taps:
        for count in (2, 3):
            net(torch.zeros(count, 3))
            assert taps.take()["0"].shape == (count, 4)
        with pytest.raises(TrainingError, match="did not run"):
            taps.take()


def test_no_taps_take_nothing() -> None:
    net = model()
    with FeatureTaps(net, []) as taps:
        assert hooks(net) == 0
        net(torch.zeros(2, 3))
        assert taps.take() == {}


def test_inference_mode_is_fine() -> None:
    net = model()
    with torch.inference_mode(), FeatureTaps(net, ["0"]) as taps:
        net(torch.zeros(2, 3))
        assert taps.take()["0"].shape == (2, 4)


def test_timm_names_its_features() -> None:
    net = timm.create_model("resnet10t").eval()
    paths = feature_paths(net)
    assert paths[1:] == ("layer1", "layer2", "layer3", "layer4")
    inputs = torch.randn(1, 3, 64, 64)
    wanted = net.forward_intermediates(inputs, indices=[3, 4], intermediates_only=True)
    with FeatureTaps(net, feature_paths(net, [3, -1])) as taps, torch.no_grad():
        net(inputs)
        found = taps.take().values()
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_unknown_modules_are_refused_with_the_nearest() -> None:
    with pytest.raises(TrainingError, match=r"has no module 'layer_4' to tap.*'layer4'"):
        FeatureTaps(timm.create_model("resnet10t"), ["layer_4"])
    with pytest.raises(TrainingError, match="has no module ''"):
        FeatureTaps(model(), [""])
    with pytest.raises(TrainingError, match="tapped once, got 0, 0"):
        FeatureTaps(model(), ["0", "0"])


def test_a_module_used_twice_is_refused() -> None:
    shared = nn.Linear(3, 3)
    net = nn.Sequential(shared, nn.ReLU(), shared)
    with FeatureTaps(net, ["0"]), pytest.raises(TrainingError, match="'0' ran twice"):
        net(torch.zeros(2, 3))


def test_an_output_that_is_no_tensor_is_refused() -> None:
    net = nn.Sequential(nn.LSTM(3, 4))
    with FeatureTaps(net, ["0"]), pytest.raises(TrainingError, match="returns a tuple"):
        net(torch.zeros(2, 5, 3))


def test_an_output_that_is_overwritten_is_refused() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True))
    with FeatureTaps(net, ["0"]) as taps:
        net(torch.zeros(2, 3))
        with pytest.raises(TrainingError, match=r"follows '0' writes.*inplace=True off"):
            taps.take()


def test_models_without_named_features_are_refused() -> None:
    with pytest.raises(TrainingError, match="does not name its features"):
        feature_paths(model())
    with pytest.raises(TrainingError, match="names 5 features, so there is no number 5"):
        feature_paths(timm.create_model("resnet10t"), [5])
