import pytest
import torch
from torch import nn

from sartor.core import Family, RecipeError, Step, Task
from sartor.moves.esta import EstaEngine, EstaMove
from sartor.stitch import AdaptedNetwork, EstaSettings, adapt_stitchable, stitch
from sartor.testing import MoveContract, tiny_task, tiny_vit_family


def trained(net: AdaptedNetwork) -> AdaptedNetwork:
    """As after a training: updates and biases that are not zero."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "lora_b" in name or "stitch_bias" in name:
                parameter.normal_(std=0.1)
    return net.eval()


class TestEsta(MoveContract):
    def task(self) -> Task:
        return tiny_task()

    def base(self) -> Family:
        return tiny_vit_family()

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return trained(
            adapt_stitchable(stitch(self.base(), self.task().example), EstaSettings(rank=2))
        )

    def move(self) -> EstaMove:
        return EstaMove(index=6, adaptation=EstaSettings(rank=2))

    def test_a_plain_model_is_refused(self) -> None:
        with pytest.raises(RecipeError, match="esta takes a stitched net, got VisionTransformer"):
            self.move().apply(tiny_vit_family().models[0], None)

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            ({"rank": "2"}, "has a str at 'rank'"),
            ({"rank": 0}, "at least 1, got 0"),
            ({"ranks": 2}, "unknown key 'ranks'; did you mean 'rank'"),
        ],
    )
    def test_tampered_configs(self, config: dict, message: str) -> None:
        whole = {**self.move().config(), "input_shape": [1, 8, 8], **config}
        step = Step(move="esta", config=whole, plan={"index": 0, "route": "a0"})
        with pytest.raises(RecipeError, match=message):
            EstaMove.rebuild(self.base(), step, None)


# --- the engine ---------------------------------------------------------------------------------


def run(engine: EstaEngine, net: AdaptedNetwork, steps: range) -> list[int]:
    batches = list(tiny_task().train)
    drawn = []
    for step in steps:
        engine.prepare_step(net, step)
        drawn.append(net._active.index)
        inputs, labels = batches[step % len(batches)]
        nn.functional.cross_entropy(net(inputs), labels).backward()
        engine.after_backward(net, step)
        with torch.no_grad():
            for parameter in net.parameters():
                if parameter.grad is not None:
                    parameter -= 0.1 * parameter.grad
                    parameter.grad = None
    return drawn


def test_the_engine_builds_trains_and_shortlists() -> None:
    engine = EstaEngine(seed=3)
    nets = [engine.build(tiny_vit_family(), tiny_task()) for _ in range(2)]
    assert isinstance(nets[0], AdaptedNetwork)
    states = [net.state_dict() for net in nets]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert engine.shortlist(nets[0]) is None
    drawn = run(engine, nets[0], range(40))
    assert drawn == run(engine, nets[1], range(40))
    assert sorted(drawn[:11]) == list(range(11))  # rounds at first
    kept = engine.shortlist(nets[0])
    assert kept == nets[0].select(4, 3) and {0, 1, 2} < set(kept) and len(kept) < 11
    move = engine.take(kept[1])
    assert isinstance(move, EstaMove) and move.index == kept[1] and engine.id == move.id == "esta"
