import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from sartor.core import Elastic, Family, RecipeError, Step, Task
from sartor.data import shapes_task
from sartor.moves.sn_netv2 import SnNetV2Engine, SnNetV2Move
from sartor.nn import dense_tiny_vit
from sartor.nn.sources import seeded
from sartor.stitch import DenseNetwork, TwoWayNetwork, TwoWaySettings, flops_sampler
from sartor.testing import MoveContract, tiny_task, tiny_vit_family


def pair() -> Family:
    family = tiny_vit_family(depth=3)
    return Family((family.members[0], family.members[2]))


def dense_pair() -> Family:
    with seeded(0):
        return Family.of(
            {
                f"dense-{w}": dense_tiny_vit(embed_dim=w, depth=d, num_heads=2, img_size=16).eval()
                for w, d in ((8, 2), (16, 4))
            }
        )


def small_shapes() -> Task:
    return shapes_task(train=16, selection=8, validation=8, size=16, batch_size=8)


class TestMove(MoveContract):
    def task(self) -> Task:
        return tiny_task()

    def move(self) -> SnNetV2Move:
        return SnNetV2Move(index=5)

    def base(self) -> Family:
        return pair()

    def model(self) -> nn.Module:
        net = SnNetV2Engine().build(pair(), tiny_task())
        for layer in net.stitch_layers.values():
            nn.init.constant_(layer.lora_B, 0.1)
        return net.eval()


class TestDenseMove(MoveContract):
    def task(self) -> Task:
        return small_shapes()

    def move(self) -> SnNetV2Move:
        return SnNetV2Move(index=2)

    def base(self) -> Family:
        return dense_pair()

    def model(self) -> nn.Module:
        return SnNetV2Engine().build(dense_pair(), small_shapes())


def test_the_engine_joins_the_smallest_and_the_largest() -> None:
    engine = SnNetV2Engine(seed=3)
    net = engine.build(tiny_vit_family(depth=3), tiny_task())
    assert isinstance(net, TwoWayNetwork)
    assert [anchor.name for anchor in net.anchors] == ["vit-8", "vit-32"]
    assert engine.take(4) == SnNetV2Move(index=4) and engine.shortlist(net) is None
    drawn = []
    for step in range(40):
        engine.prepare_step(net, step)
        drawn.append(net._chosen)
    sampler = flops_sampler(net, seed=3)
    assert drawn == [sampler(step) for step in range(40)] and len(set(drawn)) > 4


def test_the_engine_builds_the_same_network_every_time() -> None:
    states = [SnNetV2Engine(seed=s).build(pair(), tiny_task()).state_dict() for s in (0, 0, 1)]
    assert all(torch.equal(states[0][name], value) for name, value in states[1].items())
    factor = "stitch_layers.a0-1_s0_n0.lora_A"
    assert not torch.equal(states[0][factor], states[2][factor])


def test_dense_families_become_a_backbone_under_one_head() -> None:
    net = SnNetV2Engine().build(dense_pair(), small_shapes())
    assert isinstance(net, DenseNetwork) and isinstance(net, Elastic)
    SnNetV2Engine().prepare_step(net, 0)
    assert net(torch.zeros(1, 3, 16, 16)).shape == (1, 5, 16, 16)


def test_settings_are_in_the_recipe() -> None:
    settings = TwoWaySettings(rank=0, kinds=("sl", "ls"), anchors=(0, 2))
    move = dataclasses.replace(SnNetV2Move(index=3), settings=settings)
    step = Step(move="sn-netv2", config={**move.config(), "input_shape": [1, 8, 8]})
    net = SnNetV2Move.network(tiny_vit_family(depth=3), step)
    assert net.num_configs == 2 + 2 + 2
    assert all(type(layer) is nn.Linear for layer in net.stitch_layers.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": "4"}, "str at 'rank'"),
        ({"ranks": 4}, "unknown key 'ranks'; did you mean 'rank'"),
        ({"anchors": 3}, "int at 'anchors'"),
    ],
)
def test_tampered_settings(change: dict[str, Any], message: str) -> None:
    config = {**SnNetV2Move(index=0).config(), "input_shape": [1, 8, 8], **change}
    step = Step(move="sn-netv2", config=config, plan={"index": 0, "route": "a0"})
    with pytest.raises(RecipeError, match=message):
        SnNetV2Move.rebuild(pair(), step, None)


def test_a_route_that_is_another() -> None:
    config = {**SnNetV2Move(index=0).config(), "input_shape": [1, 8, 8]}
    step = Step(move="sn-netv2", config=config, plan={"index": 2, "route": "a1"})
    with pytest.raises(RecipeError, match="configuration 2 of 8 as 'a1'"):
        SnNetV2Move.rebuild(pair(), step, None)
