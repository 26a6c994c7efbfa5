import copy

import pytest
import torch
from torch import Tensor, nn

from sartor.core import Family, FamilyError
from sartor.measure import count_flops, count_params
from sartor.nn.dense_vit import dense_tiny_vit
from sartor.nn.sources import seeded
from sartor.stitch.dense import DenseNetwork, is_dense, stitch_dense
from sartor.stitch.low_rank import LowRankStitch
from sartor.stitch.sn_netv2 import TwoWaySettings
from sartor.testing import ElasticContract, tiny_vit_family


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pair() -> Family:
    with seeded(0):
        return Family.of(
            {
                f"dense-{w}": dense_tiny_vit(
                    embed_dim=w, depth=d, num_heads=2, img_size=16, num_classes=3
                ).eval()
                for w, d in ((8, 2), (16, 4))
            }
        )


def made() -> DenseNetwork:
    with seeded(1):
        net = stitch_dense(pair(), noise(1, 3, 16, 16), TwoWaySettings(rank=2))
        for layer in net.backbone.stitch_layers.values():
            assert isinstance(layer, LowRankStitch)
            nn.init.normal_(layer.lora_B)
    net.eval()
    return net


class TestContract(ElasticContract):
    def elastic(self) -> DenseNetwork:
        return made()

    def inputs(self) -> Tensor:
        return noise(2, 3, 16, 16)

    def references(self) -> dict[int, nn.Module]:
        return {1: pair().models[1]}


def test_every_route_labels_every_pixel_through_one_head() -> None:
    net, inputs = made(), noise(2, 3, 16, 16)
    net.init_stitches(noise(8, 3, 16, 16, seed=1))
    outputs = []
    for index in range(net.num_configs):
        net.set_config(index)
        outputs.append(net(inputs))
        features = net.backbone.forward_features(inputs, net.out_indices)
        assert torch.equal(outputs[-1], net.head(features))
    assert net.num_configs == 4 and {tuple(y.shape) for y in outputs} == {(2, 3, 16, 16)}
    assert not torch.allclose(outputs[0], outputs[1], atol=1e-2)
    assert type(net.head) is type(pair().models[1].head)


def test_cost_and_size_are_those_of_the_plain_module() -> None:
    net, example = made(), noise(1, 3, 16, 16)
    plain = [net.extract(index) for index in range(4)]
    assert [net.flops(i) for i in range(4)] == [count_flops(p, example) for p in plain]
    assert copy.deepcopy(made()).to("meta").flops(2) == net.flops(2)  # on whatever device
    large = pair().models[1]
    # no final norm, as the head reads the blocks themselves
    assert net.num_params(1) == count_params(large) - count_params(large.backbone.norm)
    # two factors for each layer in use, which folding takes away
    assert net.num_params(2) == count_params(plain[2]) + 2 * (8 + 16)


def test_the_family_stays_as_it_was() -> None:
    family = pair()
    before = copy.deepcopy([m.state_dict() for m in family.models])
    net = stitch_dense(family, noise(1, 3, 16, 16), TwoWaySettings(rank=2))
    for parameter in net.parameters():
        parameter.data.zero_()
    for model, state in zip(family.models, before, strict=True):
        assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())


def test_it_trains_route_and_head() -> None:
    net = made().train()
    net.set_config(0)
    net(noise(2, 3, 16, 16)).square().mean().backward()
    graded = {name for name, p in net.named_parameters() if p.grad is not None}
    assert {n for n, _ in net.head.named_parameters(prefix="head")} <= graded
    # the small anchor alone learns its own layers, with the one of its last block
    assert {n.split(".")[2] for n in graded if "stitch_layers" in n} == {
        "a0-1_s0_n0",
        "a0-1_s0_n1",
    }
    assert not any("base_layer.weight" in n or n.startswith("backbone.anchors.1") for n in graded)


def test_what_is_dense() -> None:
    assert is_dense(pair()) and not is_dense(tiny_vit_family())
    with pytest.raises(FamilyError, match=r"'vit-8' \(VisionTransformer\) has no backbone"):
        stitch_dense(tiny_vit_family(), noise(1, 1, 8, 8), TwoWaySettings(anchors=(0, -1)))


def test_refusals() -> None:
    net = made()
    for verb in (net.set_config, net.extract, net.flops, net.num_params):
        with pytest.raises(FamilyError, match="no configuration 4; choose among 0 to 3"):
            verb(4)
    example = noise(1, 3, 16, 16)
    for out_indices, message in (((3, 1), "increasing"), ((0, 4), "0 to 3")):
        with pytest.raises(FamilyError, match=message):
            DenseNetwork(net.backbone, out_indices, net.head, example)
