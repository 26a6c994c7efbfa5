import copy
from typing import Any

import pytest
import torch
from torch import nn

from sartor.compress.prune import PruneConfig
from sartor.core import Family, RecipeError, Step, Task
from sartor.moves.anchor import AnchorMove
from sartor.moves.int8 import DynamicInt8Move, StaticInt8Move
from sartor.moves.prune import PruneMove
from sartor.moves.sn_net import SnNetMove
from sartor.stitch import StitchSettings, stitch
from sartor.testing import MoveContract, tiny_resnet_family, tiny_task, tiny_vit_family


class ViTContract(MoveContract):
    def task(self) -> Task:
        return tiny_task()


class TestAnchor(ViTContract):
    def move(self) -> AnchorMove:
        return AnchorMove(index=1)

    def base(self) -> Family:
        return tiny_vit_family()

    def model(self) -> nn.Module:
        return tiny_vit_family().models[1]

    @pytest.mark.parametrize("index", [-1, 3, True, "1", None])
    def test_anchors_that_the_family_lacks(self, index: Any) -> None:
        with pytest.raises(RecipeError):
            AnchorMove.rebuild(self.base(), Step(move="anchor", plan={"index": index}), None)

    def test_it_must_come_first(self) -> None:
        with pytest.raises(RecipeError, match="anchor 0, which its family lacks"):
            AnchorMove.rebuild(self.model(), Step(move="anchor", plan={"index": 0}), None)


class TestStitch(ViTContract):
    def move(self) -> SnNetMove:
        return SnNetMove(index=6)

    def base(self) -> Family:
        return tiny_vit_family()

    def model(self) -> nn.Module:
        return stitched(tiny_vit_family(), tiny_task())

    def test_a_plain_model_is_refused(self) -> None:
        with pytest.raises(RecipeError, match="takes a stitched net, got VisionTransformer"):
            self.move().apply(tiny_vit_family().models[0], None)

    @pytest.mark.parametrize(
        ("plan", "message"),
        [
            ({"index": 99, "route": "a0"}, "configuration 99 of 11"),
            ({"index": 0, "route": "a1"}, "configuration 0 of 11 as 'a1'"),
            ({"index": 0}, "lacks the key 'route'"),
            ({"index": True, "route": "a0"}, "bool at 'index'"),
            ({"index": 0, "route": "a0", "rout": 1}, "unknown key 'rout'; did you mean 'route'"),
        ],
    )
    def test_tampered_plans(self, plan: dict, message: str) -> None:
        config = {"kernel_size": 2, "stride": 1, "nearest": True, "input_shape": [1, 8, 8]}
        with pytest.raises(RecipeError, match=message):
            SnNetMove.rebuild(self.base(), Step(move="sn-net", config=config, plan=plan), None)

    def test_it_must_come_first(self) -> None:
        config = {"kernel_size": 2, "stride": 1, "nearest": True, "input_shape": [1, 8, 8]}
        step = Step(move="sn-net", config=config, plan={"index": 0, "route": "a0"})
        with pytest.raises(RecipeError, match="must come first"):
            SnNetMove.rebuild(nn.Identity(), step, None)


class TestStitchedResNet(MoveContract):
    """Batch norms of a route are measured again: on this route alone, and the same every time."""

    def task(self) -> Task:
        return tiny_task((1, 32, 32), num_classes=4)

    def move(self) -> SnNetMove:
        return SnNetMove(index=4, settings=StitchSettings(stages=(1, 2)))

    def base(self) -> Family:
        return tiny_resnet_family()

    def model(self) -> nn.Module:
        return stitched(tiny_resnet_family(), self.task())


class TestPrune(ViTContract):
    def move(self) -> PruneMove:
        return PruneMove(config=PruneConfig(ratio=0.5))

    def base(self) -> nn.Module:
        return tiny_vit_family().models[2]

    def test_it_cannot_come_first(self) -> None:
        with pytest.raises(RecipeError, match="before any model is chosen"):
            PruneMove.rebuild(tiny_vit_family(), Step(move="prune"), None)

    def test_unknown_settings(self) -> None:
        plan = {"tensors": {}, "attributes": {}}
        step = Step(move="prune", config={"ration": 0.5}, plan=plan)
        with pytest.raises(RecipeError, match="unknown key 'ration'; did you mean 'ratio'"):
            PruneMove.rebuild(self.base(), step, None)


class TestPrunedRoute(TestPrune):
    def base(self) -> nn.Module:
        net = stitched(tiny_vit_family(), tiny_task())
        return net.extract(8)


class TestDynamicInt8(ViTContract):
    def move(self) -> DynamicInt8Move:
        return DynamicInt8Move()

    def base(self) -> nn.Module:
        return tiny_vit_family().models[2]


class TestStaticInt8(ViTContract):
    def move(self) -> StaticInt8Move:
        return StaticInt8Move(samples=16)

    def base(self) -> nn.Module:
        return tiny_vit_family().models[2]


def stitched(family: Family, task: Task) -> nn.Module:
    net = stitch(family, task.example)
    net.init_stitches(task.batch(32))
    return net


def test_recalibrated_batch_norms_do_not_depend_on_the_random_state() -> None:
    contract = TestStitchedResNet()
    net, states = contract.model(), []
    for seed in (0, 1):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        route = SnNetMove(index=4).apply(net, Context(contract.task())).model
        assert torch.equal(before, torch.get_rng_state())
        states.append(copy.deepcopy(route.state_dict()))
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    anchors = dict(net.extract(4).named_buffers())
    assert any(not torch.equal(v, anchors[k]) for k, v in route.named_buffers())


class Context:
    def __init__(self, task: Task) -> None:
        self.task = task
