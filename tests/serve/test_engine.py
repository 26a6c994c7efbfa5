"""A real run behind the engine and the predictor."""

import asyncio
import shutil
import threading

import numpy as np
import pytest
import torch

from sartor.core import ArtifactError, DataError, Frontier, RecipeError
from sartor.serve import ElasticPredictor, Engine, EngineSettings, PolicySettings
from sartor.serve.engine import load_run

SETTINGS = EngineSettings(policy=PolicySettings(slo_ms=2000, max_batch=8), measure_seconds=0.0)


@pytest.fixture
def run_copy(tiny_run, tmp_path):
    return shutil.copytree(tiny_run, tmp_path / "run")


def images(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, 1, 8, 8)).astype(np.float32)


def test_answers_equal_offline_inference_whatever_they_ride_with(tiny_run):
    inputs = images(24)
    frontier = Frontier.load(tiny_run)

    async def main(point):
        engine = Engine(tiny_run, SETTINGS)
        await engine.start()
        try:
            engine.controller.pin_to(point)
            first, *rest = [engine.submit(inputs[i : i + 1]) for i in range(24)]
            return await asyncio.gather(first, *rest), engine.controller.offers[point].joins
        finally:
            await engine.close()

    for point in frontier:
        answers, joins = asyncio.run(main(point.id))
        assert {a.point for a in answers} == {point.id}
        assert max(a.batch for a in answers) > 1 or not joins
        model = point.load_model()
        with torch.inference_mode():
            for one, answer in zip(inputs, answers, strict=True):
                alone = model(torch.from_numpy(one[None])).numpy()
                np.testing.assert_allclose(answer.outputs, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backend", ["eager", "elastic"])
def test_other_backends_give_the_same_outputs(tiny_run, backend):
    inputs = images(3)
    frontier = Frontier.load(tiny_run)
    made = {p.id: p for p in frontier}
    with ElasticPredictor(tiny_run, slo_ms=2000, backend=backend, max_batch=4) as predictor:
        ids = [o.id for o in predictor._engine.controller.offers.values()]
        assert len(ids) >= 2
        for id in ids:
            predictor.pin(id)
            answer = predictor.predict(torch.from_numpy(inputs))
            assert answer.point == id
            if id in made:
                with torch.inference_mode():
                    wanted = made[id].load_model()(torch.from_numpy(inputs)).numpy()
                np.testing.assert_allclose(answer.outputs, wanted, atol=1e-5, rtol=1e-5)
        predictor.pin(None)
        assert predictor.point in ids


def test_without_its_state_a_run_has_no_stitched_net_and_its_points_serve(run_copy):
    shutil.rmtree(run_copy / "state")
    settings = EngineSettings(policy=SETTINGS.policy, backend="elastic", measure_seconds=0.0)
    loaded = load_run(run_copy, settings)
    assert loaded.backend.kind == "onnx" and "no trained stitched net" in loaded.note


def test_a_damaged_point_is_withdrawn_and_the_rest_serve(run_copy):
    best = Frontier.load(run_copy).points[-1]
    path = run_copy / "points" / best.id / "model.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    loaded = load_run(run_copy, SETTINGS)
    assert "was changed" in loaded.withdrawn[best.id]
    assert loaded.offers and best.id not in {offer.id for offer in loaded.offers}
    shutil.rmtree(run_copy / "points")
    with pytest.raises(ArtifactError, match="No point of"):
        load_run(run_copy, SETTINGS)


def test_models_are_loaded_lazily_and_the_oldest_goes(tiny_run):
    settings = EngineSettings(policy=SETTINGS.policy, keep=1, measure_seconds=0.0)
    loaded = load_run(tiny_run, settings)
    assert len(loaded.offers) > 1 and len(loaded.backend.memory()) == 1
    for offer in loaded.offers:
        loaded.backend.run(offer.id, images(1))
        assert list(loaded.backend.memory()) == [offer.id]


def test_a_reload_drops_nothing(tiny_run, run_copy):
    with ElasticPredictor(tiny_run, slo_ms=5000, max_batch=8) as predictor:
        answers, ended = [], threading.Event()

        def client():
            while not ended.is_set():
                answers.append(predictor.predict(images(1)))

        clients = [threading.Thread(target=client) for _ in range(3)]
        for one in clients:
            one.start()
        predictor.reload(run_copy)
        ended.set()
        for one in clients:
            one.join()
        assert len(answers) > 3
        assert predictor._engine.loaded.folder == run_copy
        with pytest.raises(ArtifactError):
            predictor.reload(run_copy / "missing")
        assert predictor.predict(images(2)).outputs.shape == (2, 10)


def test_a_run_of_another_task_is_not_taken(make_engine, backend):
    async def main():
        engine = make_engine()
        await engine.start()
        old = engine._load
        engine._load = make_engine(shape=(3, 2, 2))._load
        with pytest.raises(DataError, match="input_shape"):
            await engine.reload("other")
        engine._load = old
        answer = await engine.submit(np.full((1, 1, 4, 4), 7.0, np.float32))
        await engine.close()
        return answer.outputs[0, 0]

    assert asyncio.run(main()) == 7


def test_the_predictor_refuses_bad_inputs(tiny_run):
    with ElasticPredictor(tiny_run, slo_ms=2000, max_batch=2) as predictor:
        for wrong in (np.zeros((1, 8, 8)), np.zeros((0, 1, 8, 8)), np.float32(1)):
            with pytest.raises(DataError, match="shape"):
                predictor.predict(wrong)
        with pytest.raises(DataError, match="not finite"):
            predictor.predict(np.full((1, 1, 8, 8), np.nan))
        with pytest.raises(RecipeError, match="cannot be pinned"):
            predictor.pin("nothing")
    predictor.close()  # twice is once


@pytest.mark.parametrize("wrong", [{"backend": "onxx"}, {"keep": 0}])
def test_bad_settings_are_refused(wrong):
    with pytest.raises(DataError):
        EngineSettings(policy=SETTINGS.policy, **wrong)
