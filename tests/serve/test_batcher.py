"""Every request gets exactly one answer, and its own."""

import asyncio
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sartor.core import ArtifactError, RecipeError
from sartor.serve import OverloadError, PolicySettings, RequestError
from sartor.serve.batcher import Batcher
from sartor.serve.controller import Controller
from sartor.serve.offer import Offer

OFFERS = {
    "small": Offer(id="small", accuracy=0.8, times=((1, 2.0), (8, 4.0))),
    "alone": Offer(id="alone", accuracy=0.85, times=((1, 3.0), (8, 5.0)), joins=False),
    "large": Offer(id="large", accuracy=0.9, times=((1, 8.0), (8, 32.0))),
}


@dataclass(frozen=True)
class Arrival:
    gap_ms: float
    images: int
    deadline_ms: float | None
    floor: float
    leaves_ms: float | None


ARRIVALS = st.lists(
    st.builds(
        Arrival,
        gap_ms=st.floats(0, 12),
        images=st.integers(1, 12),
        deadline_ms=st.none() | st.floats(0.1, 150),
        floor=st.sampled_from([0.0, 0.0, 0.0, 0.85, 0.9]),
        leaves_ms=st.none() | st.none() | st.floats(0, 60),
    ),
    min_size=1,
    max_size=40,
)
FAULTS = st.lists(st.sampled_from(["", "", "", "raise", "nan", "short"]), max_size=40)


def make(execute, slo_ms=60.0, **more):
    controller = Controller(OFFERS.values(), PolicySettings(slo_ms=slo_ms, max_batch=8))
    return Batcher(execute, controller, **more)


async def scenario(arrivals, faults):
    """Returns (arrival, tag, answer or error, milliseconds) of every request."""
    loop, left, calls = asyncio.get_running_loop(), list(faults), []

    async def execute(id, inputs):
        calls.append((id, inputs[:, 0].tolist()))
        await asyncio.sleep(OFFERS[id].ms(len(inputs)) / 1e3)
        fault = left.pop(0) if left else ""
        if fault == "raise":
            raise RuntimeError("broken")
        outputs = np.stack([inputs[:, 0], inputs[:, 0]], axis=1)
        if fault == "nan":
            outputs[0] = np.nan
        return outputs[1:] if fault == "short" else outputs

    batcher = make(execute)
    results = []

    async def request(arrival, tag):
        began = loop.time()
        inputs = np.full((arrival.images, 1), tag, np.float32)
        try:
            got = await batcher.submit(inputs, deadline_ms=arrival.deadline_ms, floor=arrival.floor)
        except (RequestError, asyncio.CancelledError) as error:
            got = error
        results.append((arrival, tag, got, (loop.time() - began) * 1e3))

    tasks = []
    for tag, arrival in enumerate(arrivals):
        await asyncio.sleep(arrival.gap_ms / 1e3)
        tasks.append(asyncio.create_task(request(arrival, float(tag))))
        if arrival.leaves_ms is not None:
            loop.call_later(arrival.leaves_ms / 1e3, tasks[-1].cancel)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert batcher.queued == 0
    await batcher.close()
    return results, calls, batcher.controller


@settings(max_examples=150, deadline=None)
@given(ARRIVALS, FAULTS)
def test_exactly_one_answer_each_and_never_anothers(arrivals, faults):
    from contextlib import closing

    with closing(_loop()) as loop:
        results, calls, _ = loop.run_until_complete(scenario(arrivals, faults))
    tags = [tag for _, tag, _, _ in results]
    left_before = sum(a.leaves_ms is not None for a in arrivals)
    assert len(tags) == len(set(tags)) >= len(arrivals) - left_before
    for arrival, tag, got, ms in results:
        if isinstance(got, BaseException):
            legal = asyncio.CancelledError if arrival.leaves_ms is not None else ()
            assert isinstance(got, (OverloadError, *((legal,) if legal else ())))
            continue
        assert got.outputs.tolist() == [[tag, tag]] * arrival.images
        assert got.accuracy >= arrival.floor
        if not faults:  # calls take what was measured: whoever is admitted is in time
            assert ms <= (arrival.deadline_ms or 60.0) + 1e-6
    for id, given_tags in calls:
        assert OFFERS[id].joins or len(set(given_tags)) == 1


def _loop():
    import importlib.util
    from pathlib import Path

    spec = importlib.util.spec_from_file_location("fakes", Path(__file__).with_name("conftest.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.VirtualLoop()


def test_overload_is_refused_with_a_time_and_the_rest_is_in_time(run_virtual):
    arrivals = [Arrival(0.5, 8, None, 0.0, None)] * 200  # 16 images a ms; the best does 2
    results, _, controller = run_virtual(lambda: scenario(arrivals, []))
    refused = [got for _, _, got, _ in results if isinstance(got, OverloadError)]
    good = [(got, ms) for _, _, got, ms in results if not isinstance(got, BaseException)]
    assert refused and {error.reason for error in refused} <= {"full", "late"}
    assert all(error.retry_after_s >= 1 for error in refused)
    assert len(good) > 20 and max(ms for _, ms in good) <= 60
    assert controller.point == "small"


def test_under_light_load_the_best_point_answers(run_virtual):
    arrivals = [Arrival(100, 1, None, 0.0, None)] * 10
    results, _, _ = run_virtual(lambda: scenario(arrivals, []))
    assert {got.point for _, _, got, _ in results} == {"large"}


def test_a_point_that_fails_is_withdrawn_and_the_rest_serve_on(run_virtual):
    async def main():
        async def execute(id, inputs):
            if id == "large":
                raise RuntimeError("broken")
            return inputs

        batcher = make(execute)
        answers = [await batcher.submit(np.ones((1, 1))) for _ in range(5)]
        withdrawn = dict(batcher.controller.withdrawn)
        with pytest.raises(RecipeError, match="cannot be pinned: broken"):
            batcher.controller.pin_to("large")
        await batcher.close()
        return answers, withdrawn

    answers, withdrawn = run_virtual(main)
    assert withdrawn == {"large": "broken"}
    assert {a.point for a in answers} <= {"small", "alone"}


def test_a_damaged_file_withdraws_at_once_and_without_points_all_get_503(run_virtual):
    async def main():
        async def execute(id, inputs):
            raise ArtifactError("damaged")

        batcher = make(execute)
        reasons = []
        for _ in range(3):
            with pytest.raises(OverloadError) as caught:
                await batcher.submit(np.ones((1, 1)))
            reasons.append(caught.value.reason)
        await batcher.close()
        return reasons, batcher.controller.menu()

    reasons, menu = run_virtual(main)
    assert reasons[0] == "failed" and reasons[-1] == "full" and menu == ()


def test_a_call_that_hangs_is_given_up(run_virtual):
    async def main():
        async def execute(id, inputs):
            await asyncio.sleep(3600)

        batcher = make(execute, patience_ms=1000)
        with pytest.raises(OverloadError, match="does not end"):
            await batcher.submit(np.ones((1, 1)))
        began = asyncio.get_running_loop().time()
        await batcher.close(timeout_s=5)
        return asyncio.get_running_loop().time() - began

    assert run_virtual(main) <= 5.001


def test_closing_answers_what_waits_and_refuses_the_rest(run_virtual):
    async def main():
        async def execute(id, inputs):
            await asyncio.sleep(0.002)
            return inputs

        batcher = make(execute)
        waiting = [asyncio.create_task(batcher.submit(np.ones((1, 1)) * n)) for n in range(20)]
        await asyncio.sleep(0)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0)
        with pytest.raises(OverloadError, match="closing"):
            await batcher.submit(np.ones((1, 1)))
        await closing
        return [float(answer.outputs[0, 0]) for answer in await asyncio.gather(*waiting)]

    assert run_virtual(main) == list(range(20))


def test_what_no_point_can_do_is_refused(run_virtual):
    async def main():
        batcher = make(lambda id, inputs: None)
        with pytest.raises(RequestError, match=r"No point reaches the accuracy 0\.99") as caught:
            await batcher.submit(np.ones((1, 1)), floor=0.99)
        await batcher.close()
        return caught.value.status

    assert run_virtual(main) == 422


def test_a_delay_is_learnt_and_forgotten():
    controller = Controller(OFFERS.values(), PolicySettings(slo_ms=60, max_batch=8))
    for now in range(100):
        controller.observed(OFFERS["small"], 1, 20.0, float(now))
    assert controller.delay(100).share > 5 and controller.delay(100).ms > 5
    later = controller.delay(60_000)
    assert max(later.ms, later.share) < 1e-3  # nothing is refused for ever


def test_fixed_costs_of_short_calls_do_not_make_long_ones_look_slow():
    controller = Controller(OFFERS.values(), PolicySettings(slo_ms=60, max_batch=8))
    small, large = OFFERS["small"], OFFERS["large"]
    for now in range(200):
        controller.observed(small, 1, small.ms(1) + 2.0, float(now))
    assert controller.present(small, 200).ms(1) == pytest.approx(small.ms(1) + 2, abs=0.05)
    assert controller.present(large, 200).ms(8) == pytest.approx(large.ms(8) + 2, abs=0.05)
    for now in range(200, 400):  # a machine that is half as fast
        controller.observed(large, 8, 2 * large.ms(8), float(now))
    assert controller.present(small, 400).ms(8) == pytest.approx(2 * small.ms(8), abs=0.05)
