import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sartor.core import DataError, Elastic, FamilyError, RecipeError
from sartor.measure import count_flops
from sartor.nn.sources import seeded
from sartor.nn.t_stitch.ddim import DDIMSampler, DDIMSchedule, vector_sampler
from sartor.nn.t_stitch.mlp_denoiser import MLPDenoiser
from sartor.stitch.t_stitch.assignment import TrajectoryStitcher
from sartor.stitch.t_stitch.denoiser import StitchedDenoiser, check_denoisers, one_timestep
from sartor.stitch.t_stitch.sampler import StitchedSampler, stitch_samplers
from sartor.testing import ElasticContract

NUM_STEPS = 10


def samplers(*widths: int, num_steps: int = NUM_STEPS) -> dict[str, nn.Module]:
    with seeded(0):
        return {
            f"w{w}": vector_sampler(width=w, depth=1, features=6, num_steps=num_steps).eval()
            for w in widths
        }


def noise(count: int = 3) -> Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(1))


class Recorder(nn.Module):
    """Returns zeros and notes what it was called with."""

    def __init__(self, name: str, calls: list[Any]) -> None:
        super().__init__()
        self.name, self.calls = name, calls

    def forward(self, sample: Tensor, timestep: Any, **cond: Any) -> Tensor:
        self.calls.append((self.name, one_timestep(timestep), tuple(sample.shape), cond))
        return torch.zeros_like(sample)


# --- the denoiser -------------------------------------------------------------------------------


def test_each_step_calls_its_model_with_all_it_was_given() -> None:
    calls: list[Any] = []
    denoiser = StitchedDenoiser(
        [Recorder("small", calls), Recorder("large", calls)],
        (0.4, 0.6),
        timesteps=torch.tensor([9, 7, 5, 3, 1]),
    )
    both_halves = torch.zeros(4, 2)  # classifier-free guidance: one batch, one model
    for timestep in (9, 7, 5, 3, 1):
        denoiser(both_halves, torch.full((4,), timestep), labels="abcd")
    assert [name for name, *_ in calls] == ["small"] * 2 + ["large"] * 3
    assert {call[2] for call in calls} == {(4, 2)}
    assert all(call[3] == {"labels": "abcd"} for call in calls)


def test_calls_are_not_counted() -> None:
    """Guidance in two calls, a second-order solver and a second run all find their model."""
    calls: list[Any] = []
    models = [Recorder("small", calls), Recorder("large", calls)]
    denoiser = StitchedDenoiser(models, (0.5, 0.5), timesteps=[9, 5, 5, 3, 3, 1, 1], order=2)
    sample = torch.zeros(1, 2)
    for _ in range(2):
        for timestep in (9, 5, 5, 3, 3, 1, 1):
            denoiser(sample, timestep)
            denoiser(sample, torch.tensor(timestep))
    once = ["small"] * 6 + ["large"] * 8  # steps 9 and 5, then 3 and 1
    assert [name for name, *_ in calls] == once * 2


def test_functions_are_denoisers() -> None:
    denoiser = StitchedDenoiser(
        [lambda x, t, scale: x * scale, lambda x, t, scale: -x * scale],
        (0.5, 0.5),
        by="timestep",
    )
    assert float(denoiser(torch.ones(1), 900, scale=3)) == 3
    assert float(denoiser(torch.ones(1), 100, scale=3)) == -3
    assert float(denoiser(torch.ones(1), 499.5, scale=3)) == -3


def test_fractions_off_the_grid_and_another_number_of_steps() -> None:
    stitcher = TrajectoryStitcher([nn.Identity(), nn.Identity()], timesteps=[3, 2, 1, 0])
    assert stitcher.fractions == (0.0, 1.0)
    stitcher.set_fractions((0.25, 0.75))
    assert [stitcher.model_index(t) for t in (3, 2, 1, 0)] == [0, 1, 1, 1]
    stitcher.set_timesteps(range(7, -1, -1))
    assert [stitcher.model_index(t) for t in range(7, -1, -1)] == [0, 0, 1, 1, 1, 1, 1, 1]


# --- whole trajectories -------------------------------------------------------------------------


def test_pure_schedules_are_the_models_own_bit_for_bit() -> None:
    family = samplers(4, 8, 12)
    net, inputs = stitch_samplers(family, noise(1)), noise()
    with torch.no_grad():
        for k, sampler in enumerate(family.values()):
            net.stitcher.set_fractions([float(i == k) for i in range(3)])
            assert torch.equal(net(inputs), sampler(inputs))


def test_equal_models_give_one_sample_for_every_fraction() -> None:
    (one,) = samplers(8).values()
    net = stitch_samplers({name: copy.deepcopy(one) for name in "abc"}, noise(1), grid=0.2)
    with torch.no_grad():
        wanted = one(noise())
        for index in range(net.num_configs):
            net.set_config(index)
            assert torch.equal(net(noise()), wanted)


def test_three_models_against_a_loop_by_hand() -> None:
    family = samplers(4, 8, 12)
    net = stitch_samplers(family, noise(1))
    net.stitcher.set_fractions([0.4, 0.2, 0.4])

    class ByHand(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.turns = iter([0, 0, 0, 0, 1, 1, 2, 2, 2, 2])  # the card's allocation

        def forward(self, sample: Tensor, timestep: int) -> Tensor:
            return list(family.values())[next(self.turns)].denoiser(sample, timestep)

    by_hand = DDIMSampler(ByHand(), DDIMSchedule(num_steps=NUM_STEPS))
    with torch.no_grad():
        assert torch.equal(net(noise()), by_hand(noise()))


@pytest.mark.parametrize("by", ["step", "timestep"])
def test_flops_are_linear_in_the_fractions(by: str) -> None:
    family = samplers(4, 8)
    net = stitch_samplers(family, noise(1))
    net.stitcher.by = by
    small, large = (count_flops(s, noise(1)) for s in family.values())
    for index, config in enumerate(net.configs):
        share = config.fractions[0]
        assert net.flops(index) == round(share * small + (1 - share) * large)
        assert net.flops(index) == count_flops(net.extract(index), noise(1))


class TestStitchedSampler(ElasticContract):
    def elastic(self) -> Elastic:
        return stitch_samplers(samplers(4, 8, 12), noise(1), grid=0.25)

    def inputs(self) -> Tensor:
        return noise()

    def references(self) -> dict[int, nn.Module]:
        net = self.elastic()
        family = list(samplers(4, 8, 12).values())
        pure = {(1.0, 0.0, 0.0): 0, (0.0, 1.0, 0.0): 1, (0.0, 0.0, 1.0): 2}
        return {
            i: family[pure[c.fractions]] for i, c in enumerate(net.configs) if c.fractions in pure
        }


def test_extracted_denoisers_have_only_what_they_need() -> None:
    denoisers = [MLPDenoiser(width=4, depth=d, features=2) for d in (1, 2, 3)]
    stitcher = TrajectoryStitcher(denoisers, timesteps=[9, 5, 1], grid=0.5)
    names = [config.name for config in stitcher.configs]
    alone = stitcher.extract(names.index("t0-1-0"))
    assert type(alone) is MLPDenoiser and len(alone.blocks) == 2
    assert torch.equal(alone.head.weight, denoisers[1].head.weight)
    pair = stitcher.extract(names.index("t0.5-0-0.5"))
    assert len(pair.denoisers) == 2 and not isinstance(pair, Elastic)
    stitcher.set_fractions((0.5, 0, 0.5))
    sample = torch.ones(1, 2)
    assert all(torch.equal(pair(sample, t), stitcher(sample, t)) for t in (9, 5, 1))
    pair.set_timesteps([4, 3, 2, 1])
    assert pair.model_index(3) == 0 and pair.model_index(2) == 1


# --- refusals -----------------------------------------------------------------------------------


def test_mixed_timesteps() -> None:
    for by in ("step", "timestep"):
        denoiser = StitchedDenoiser([nn.Identity()], [1.0], timesteps=[9, 5], by=by)
        with pytest.raises(DataError, match=r"mixes the 2 timesteps \[5, 9\]"):
            denoiser(torch.zeros(2, 1), torch.tensor([9, 5]))


def test_timesteps_that_are_not_the_trajectorys() -> None:
    denoiser = StitchedDenoiser([nn.Identity()], [1.0], timesteps=[9, 5])
    with pytest.raises(DataError, match="timestep 7 is none of the 2 steps"):
        denoiser(torch.zeros(1), 7)
    with pytest.raises(DataError, match="call set_timesteps"):
        StitchedDenoiser([nn.Identity()], [1.0])(torch.zeros(1), 7)


def test_illegal_settings() -> None:
    with pytest.raises(RecipeError, match="by step or by timestep, got 'time'"):
        StitchedDenoiser([nn.Identity()], [1.0], by="time")
    with pytest.raises(RecipeError, match="2 models and 1 fractions"):
        StitchedDenoiser([nn.Identity(), nn.Identity()], [1.0])
    stitcher = TrajectoryStitcher([nn.Identity(), nn.Identity()], timesteps=[1])
    for index in (-1, 11):
        with pytest.raises(FamilyError, match=f"no configuration {index}; choose among 0 to 10"):
            stitcher.set_config(index)
    with pytest.raises(RecipeError, match="call count_costs"):
        stitcher.flops(0)


def test_denoisers_of_other_shapes() -> None:
    sample = torch.zeros(2, 4)
    check_denoisers([lambda x, t: x, lambda x, t: 2 * x], sample, 9)
    with pytest.raises(FamilyError, match=r"0 and 1 predict shapes \(2, 4\) and \(2, 8\)"):
        check_denoisers([lambda x, t: x, lambda x, t: x.repeat(1, 2)], sample, 9)
    layer = nn.Linear(3, 3)
    wrong = type("Wrong", (nn.Module,), {"forward": lambda self, x, t: layer(x)})()
    with pytest.raises(FamilyError, match="denoiser 1 does not take a sample of shape"):
        check_denoisers([lambda x, t: x, wrong], sample, 9)


def test_samplers_that_do_not_match() -> None:
    with pytest.raises(FamilyError, match="at least one"):
        stitch_samplers({}, noise(1))
    good = samplers(4, 8)
    with pytest.raises(FamilyError, match=r"'plain' .Identity. is no sampler"):
        stitch_samplers({"plain": nn.Identity(), **good}, noise(1))
    with pytest.raises(FamilyError, match="'short' and 'w8' visit other timesteps"):
        stitch_samplers({"short": samplers(4, num_steps=5)["w4"], **good}, noise(1))
    schedule = DDIMSchedule(num_steps=NUM_STEPS, beta_end=0.01)
    steep = DDIMSampler(good["w4"].denoiser, schedule)
    with pytest.raises(FamilyError, match="'steep' and 'w8' have the noise schedules"):
        stitch_samplers({"steep": steep, **good}, noise(1))
    with pytest.raises(FamilyError, match="denoiser 0 does not take"):
        stitch_samplers(good, torch.zeros(1, 5))


def test_a_stitched_sampler_is_elastic() -> None:
    assert isinstance(stitch_samplers(samplers(4, 8), noise(1)), StitchedSampler)
