import pytest
import torch
from torch import nn

from sartor.core import FamilyError, RecipeError
from sartor.nn.t_stitch.ddim import DDIMSampler, DDIMSchedule, respaced_timesteps, vector_sampler
from sartor.nn.t_stitch.mlp_denoiser import MLPDenoiser, timestep_embedding


def test_the_cards_denoisers_have_its_parameters() -> None:
    for width, depth, wanted in ((16, 1, 3_760), (256, 3, 831_808)):
        model = MLPDenoiser(width=width, depth=depth)
        assert sum(p.numel() for p in model.parameters()) == wanted


def test_one_timestep_for_all_equals_one_for_each() -> None:
    model, sample = MLPDenoiser(width=8, depth=2, features=5), torch.randn(3, 5)
    wanted = model(sample, torch.full((3,), 321))
    assert torch.allclose(model(sample, 321), wanted, atol=1e-6)
    assert torch.allclose(model(sample, torch.tensor(321)), wanted, atol=1e-6)
    assert timestep_embedding(torch.tensor([3, 4]), 8).shape == (2, 8)


def test_ddim_equals_that_of_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    model = MLPDenoiser(width=8, depth=1, features=5)
    schedule = DDIMSchedule(num_steps=2, num_train_timesteps=20, beta_end=0.3)
    scheduler = diffusers.DDIMScheduler(
        num_train_timesteps=20,
        beta_start=schedule.beta_start,
        beta_end=schedule.beta_end,
        clip_sample=True,
    )
    ours = DDIMSampler(model, schedule)
    ours.timesteps = [15, 10, 5, 0]  # equal distances, as the scheduler takes them for granted
    ours._alphas = [*(float(schedule.alphas_cumprod()[t]) for t in ours.timesteps), 1.0]
    scheduler.set_timesteps(4)
    assert scheduler.timesteps.tolist() == ours.timesteps
    noise = torch.randn(3, 5)
    with torch.no_grad():
        sample = noise
        for t in scheduler.timesteps:
            predicted = model(sample, int(t))
            step = scheduler.step(predicted, t, sample, use_clipped_model_output=True)
            sample = step.prev_sample
        assert torch.allclose(ours(noise), sample, atol=1e-5)


def test_timesteps() -> None:
    assert respaced_timesteps(1) == [999]
    assert respaced_timesteps(10) == list(range(999, -1, -111))
    assert respaced_timesteps(50)[:3] == [999, 979, 958] and len(set(respaced_timesteps(50))) == 50
    assert respaced_timesteps(5, 5) == [4, 3, 2, 1, 0]


def test_a_perfect_denoiser_finds_the_sample() -> None:
    """With the exact noise of a data set of one point, every trajectory ends in that point."""
    point = torch.linspace(-0.9, 0.9, 6)
    alphas = DDIMSchedule().alphas_cumprod()

    class Exact(nn.Module):
        def forward(self, sample: torch.Tensor, timestep: int) -> torch.Tensor:
            alpha = alphas[timestep].float()
            return (sample - alpha.sqrt() * point) / (1 - alpha).sqrt()

    for num_steps in (1, 7, 50):
        made = DDIMSampler(Exact(), DDIMSchedule(num_steps=num_steps))(torch.randn(4, 6))
        assert torch.allclose(made, point.expand(4, 6), atol=1e-3)


def test_the_sampler_exports_to_onnx(tmp_path) -> None:
    from sartor.runtime.onnx import OnnxModule, to_onnx

    torch.manual_seed(0)
    sampler = vector_sampler(width=4, depth=1, features=6, num_steps=4).eval()
    to_onnx(sampler, torch.randn(1, 6), tmp_path / "sampler.onnx")
    noise = torch.randn(3, 6)
    with torch.no_grad():
        assert torch.allclose(
            OnnxModule(tmp_path / "sampler.onnx")(noise), sampler(noise), atol=1e-4
        )


def test_refusals() -> None:
    with pytest.raises(RecipeError, match="takes 1 to 1000 steps, got 1001"):
        respaced_timesteps(1001)
    with pytest.raises(RecipeError, match="takes 1 to 1000 steps, got 0"):
        vector_sampler(width=4, depth=1, num_steps=0)
    with pytest.raises(RecipeError, match=r"betas in \(0, 1\)"):
        DDIMSchedule(beta_end=1.5)
    with pytest.raises(RecipeError, match="clip above 0"):
        DDIMSchedule(clip=0)
    with pytest.raises(FamilyError, match="at least 1, got 0, 1 and 64"):
        MLPDenoiser(width=0, depth=1)
