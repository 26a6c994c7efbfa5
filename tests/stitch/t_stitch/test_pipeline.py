"""Real diffusers pipelines with random weights of a few thousand parameters, made from configs."""

import functools
import warnings
from typing import Any

import pytest
import torch
from torch import nn

from sartor.core import FamilyError, RecipeError
from sartor.nn.sources import seeded
from sartor.stitch.t_stitch.pipeline import (
    PipelineDenoiser,
    stitch_pipeline_,
    stitched_pipeline,
    unstitch_pipeline_,
)

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

#: of diffusers with this numpy
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning"),
]

SOLVERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {"steps_offset": 1, "clip_sample": False}),
    "dpm-multistep": ("DPMSolverMultistepScheduler", {}),
    "dpm-karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "dpm-singlestep": ("DPMSolverSinglestepScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler-ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "kdpm2": ("KDPM2DiscreteScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True, "steps_offset": 1}),
    "lcm": ("LCMScheduler", {"beta_schedule": "linear"}),
}
NOISE = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02}


def scheduler(name: str = "ddim", **changed: Any) -> Any:
    kind, settings = SOLVERS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(diffusers, kind)(**{**NOISE, **settings, **changed})


def vae(**changed: Any) -> nn.Module:
    shape = {"block_out_channels": (4,), "latent_channels": 4, "norm_num_groups": 2}
    return diffusers.AutoencoderKL(**{**shape, **changed}).eval()


def dit(heads: int, **changed: Any) -> nn.Module:
    shape = {"attention_head_dim": 4, "in_channels": 4, "out_channels": 8, "sample_size": 4}
    shape |= {"num_layers": 1, "patch_size": 2, "num_embeds_ada_norm": 1000}
    model = diffusers.DiTTransformer2DModel(num_attention_heads=heads, **{**shape, **changed})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.1)
    return model.eval()


def unet(width: int, **changed: Any) -> nn.Module:
    shape = {"block_out_channels": (width,), "down_block_types": ("CrossAttnDownBlock2D",)}
    shape |= {"up_block_types": ("CrossAttnUpBlock2D",), "mid_block_type": None}
    shape |= {"layers_per_block": 1, "cross_attention_dim": 8, "attention_head_dim": 2}
    shape |= {"norm_num_groups": 2, "sample_size": 8}
    return diffusers.UNet2DConditionModel(**{**shape, **changed}).eval()


def text_encoder() -> nn.Module:
    config = transformers.CLIPTextConfig(
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        vocab_size=20,
        max_position_embeddings=5,
    )
    return transformers.CLIPTextModel(config).eval()


def dit_pipe(heads: int = 3, seed: int = 0, **changed: Any) -> Any:
    with seeded(seed):
        pipe = diffusers.DiTPipeline(dit(heads, **changed), vae(), scheduler())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sd_pipe(width: int = 8, seed: int = 0, **changed: Any) -> Any:
    with seeded(seed):
        pipe = diffusers.StableDiffusionPipeline(
            vae=vae(),
            text_encoder=text_encoder(),
            tokenizer=None,
            unet=unet(width, **changed),
            scheduler=scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sample(pipe: Any, *, steps: int = 6, guidance: float = 3.0, seed: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    given: dict[str, Any] = {"num_inference_steps": steps, "guidance_scale": guidance}
    if hasattr(pipe, "transformer"):
        given |= {"class_labels": [1, 2], "output_type": "pt"}
    else:
        prompts = torch.randn(2, 2, 5, 8, generator=torch.Generator().manual_seed(0))
        given |= {"prompt_embeds": prompts[0], "negative_prompt_embeds": prompts[1]}
        given |= {"output_type": "latent", "height": 8, "width": 8}
    with torch.no_grad(), seeded(seed):  # DiTPipeline gives schedulers no generator
        return pipe(generator=generator, **given).images


class Turns:
    """Notes which denoiser of a stitched pipeline is called, and with how many inputs."""

    def __init__(self, proxy: PipelineDenoiser) -> None:
        self.numbers: list[int] = []
        self.batches: list[int] = []
        for number, model in enumerate(proxy.denoisers):
            model.register_forward_pre_hook(functools.partial(self.note, number))

    def note(self, number: int, _model: nn.Module, args: Any) -> None:
        self.numbers.append(number)
        self.batches.append(len(args[0]))


# --- pure schedules -----------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("make", [dit_pipe, sd_pipe])
def test_pure_schedules_are_the_pipelines_own_bit_for_bit(make: Any, solver: str) -> None:
    large, small = make(3 if make is dit_pipe else 8), make(2 if make is dit_pipe else 4, seed=1)
    for pipe in (large, small):
        pipe.scheduler = scheduler(solver)
    alone = [sample(pipe) for pipe in (large, small)]
    assert not torch.equal(*alone)
    small.vae = large.vae
    alone[1] = sample(small)
    proxy = stitch_pipeline_(large, small, 0.0)
    assert torch.equal(sample(large), alone[0])
    proxy.set_fractions((1.0, 0.0))
    assert torch.equal(sample(large), alone[1])
    proxy.set_fractions((0.5, 0.5))
    mixed = sample(large)
    assert not torch.equal(mixed, alone[0]) and not torch.equal(mixed, alone[1])
    assert torch.equal(sample(large), mixed), "a second run is the same"


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_guidance_goes_through_one_model(guidance: float) -> None:
    pipe = dit_pipe()
    proxy = stitch_pipeline_(pipe, dit_pipe(2, seed=1), 0.5)
    turns = Turns(proxy)
    sample(pipe, guidance=guidance)
    assert turns.numbers == [0, 0, 0, 1, 1, 1]
    assert set(turns.batches) == {4 if guidance > 1 else 2}


# --- allocation ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("solver", "wanted"),
    [
        ("ddim", [0, 0, 1, 1, 1]),
        ("dpm-multistep", [0, 0, 1, 1, 1]),
        ("dpm-singlestep", [0, 0, 1, 1, 1]),
        ("euler", [0, 0, 1, 1, 1]),
        ("lcm", [0, 0, 1, 1, 1]),
        ("pndm", [0, 0, 0, 1, 1, 1]),  # calls the model twice at the second timestep
        ("heun", [0, 0, 0, 1, 1, 1, 1, 1, 1]),  # two calls at every timestep but the first
        ("kdpm2", [0, 0, 0, 0, 1, 1, 1, 1, 1]),  # two calls in every step but the last
    ],
)
def test_calls_by_solver(solver: str, wanted: list[int]) -> None:
    pipe = sd_pipe()
    pipe.scheduler = scheduler(solver)
    turns = Turns(stitch_pipeline_(pipe, sd_pipe(4), 0.4))
    sample(pipe, steps=5)
    assert turns.numbers == wanted


def test_the_number_of_steps_and_the_scheduler_may_change() -> None:
    pipe = sd_pipe()
    turns = Turns(stitch_pipeline_(pipe, sd_pipe(4), 0.5))
    for steps in (4, 10):
        sample(pipe, steps=steps)
    pipe.scheduler = scheduler("euler")
    sample(pipe, steps=2)
    assert turns.numbers == [0] * 2 + [1] * 2 + [0] * 5 + [1] * 5 + [0, 1]


def test_by_timestep_on_uneven_timesteps() -> None:
    pipe = sd_pipe()
    pipe.scheduler = scheduler("dpm-karras")
    proxy = stitch_pipeline_(pipe, sd_pipe(4), 0.3, by="timestep")
    turns = Turns(proxy)
    sample(pipe, steps=10)
    wanted = [0 if t >= 700 else 1 for t in pipe.scheduler.timesteps.tolist()]
    assert turns.numbers == wanted and wanted.count(0) != 3


def test_three_models() -> None:
    pipe = dit_pipe(4)
    smaller = [dit_pipe(2, seed=1), dit(3)]  # pipelines and denoisers mix
    turns = Turns(stitch_pipeline_(pipe, smaller, [0.4, 0.2, 0.4]))
    sample(pipe, steps=10)
    assert turns.numbers == [0, 0, 0, 0, 1, 1, 2, 2, 2, 2]


# --- the proxy ----------------------------------------------------------------------------------


def test_the_proxy_stands_in_for_the_large_model() -> None:
    pipe = sd_pipe()
    large, small = pipe.unet, unet(4)
    proxy = stitch_pipeline_(pipe, small, 0.4)
    assert pipe.unet is proxy and proxy.config is large.config
    assert proxy.dtype is torch.float32 and proxy.device == torch.device("cpu")
    assert proxy.conv_in is large.conv_in
    with pytest.raises(AttributeError):
        _ = proxy.no_such_thing
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe.to(torch.float64)
    assert proxy.dtype is torch.float64 and small.dtype is torch.float64
    unstitch_pipeline_(pipe)
    assert pipe.unet is large


def test_the_context_restores_the_pipeline() -> None:
    pipe = dit_pipe()
    before, large = sample(pipe), pipe.transformer
    config = dict(pipe.config)
    with stitched_pipeline(pipe, dit(2), 0.5) as faster:
        assert faster is pipe and isinstance(pipe.transformer, PipelineDenoiser)
        assert not torch.equal(sample(pipe), before)
    with pytest.raises(ZeroDivisionError), stitched_pipeline(pipe, dit(2), 0.5):
        _ = 1 / 0
    assert pipe.transformer is large and dict(pipe.config) == config
    assert torch.equal(sample(pipe), before)


@pytest.mark.parametrize("first", ["offload", "stitch"])
def test_offloading_on_and_off(first: str) -> None:
    """On the CPU as its own accelerator: hooks are put on, outputs stay."""
    wanted_pipe = sd_pipe()
    stitch_pipeline_(wanted_pipe, sd_pipe(4, seed=1), 0.5)
    wanted, alone = sample(wanted_pipe), sample(sd_pipe())
    pipe = sd_pipe()
    if first == "offload":
        pipe.enable_model_cpu_offload(device="cpu:0")
    proxy = stitch_pipeline_(pipe, sd_pipe(4, seed=1).unet, 0.5)
    if first == "stitch":
        pipe.enable_model_cpu_offload(device="cpu:0")
    assert [m for m in proxy.modules() if hasattr(m, "_hf_hook")] == [proxy]
    for _ in range(2):  # diffusers sets its hooks anew after each run
        assert torch.equal(sample(pipe), wanted)
    unstitch_pipeline_(pipe)
    assert torch.equal(sample(pipe), alone)
    pipe.remove_all_hooks()
    assert not [m for m in proxy.modules() if hasattr(m, "_hf_hook")]


class Movable(nn.Linear):
    """A denoiser that notes where it is moved and stays."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.moves: list[str] = []

    def to(self, device: Any) -> "Movable":
        self.moves.append(str(device))
        return self

    def forward(self, sample: torch.Tensor, timestep: int) -> torch.Tensor:
        return super().forward(sample)


def test_offloading_moves_only_the_denoiser_in_use() -> None:
    hooks = pytest.importorskip("accelerate.hooks")
    small, large = Movable(), Movable()
    steps = scheduler()
    steps.set_timesteps(4)
    proxy = PipelineDenoiser([small, large], (0.5, 0.5), lambda: steps)
    hooks.add_hook_to_module(proxy, hooks.CpuOffload("cpu:0"))
    for timestep in steps.timesteps:
        proxy(torch.zeros(1, 2), timestep)
    assert small.moves == ["cpu:0", "cpu"] and large.moves == ["cpu:0"]
    assert next(proxy.parameters()) is large.weight  # what accelerate looks at to offload it
    assert len(list(proxy.parameters())) == 4


@pytest.mark.gpu
def test_offloading_on_a_gpu() -> None:
    pipe = sd_pipe()
    proxy = stitch_pipeline_(pipe, sd_pipe(4, seed=1), 0.5)
    pipe.enable_model_cpu_offload()
    turns: list[list[str]] = []
    for model in proxy.denoisers:
        model.register_forward_pre_hook(
            lambda *_: turns.append([next(m.parameters()).device.type for m in proxy.denoisers])
        )
    sample(pipe, steps=4)
    assert turns == [["cuda", "cpu"]] * 2 + [["cpu", "cuda"]] * 2
    assert proxy.device.type == "cpu"


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"in_channels": 3}, r"in_channels \(latent channels\): 3 and 4"),
        ({"out_channels": 4}, r"learned variance doubles them\)\): 4 and 8"),
        ({"sample_size": 8}, r"sample_size \(latent size\): 8 and 4"),
        ({"num_embeds_ada_norm": 10}, r"number of classes\): 10 and 1000"),
    ],
)
def test_transformers_that_do_not_match(changed: dict[str, Any], words: str) -> None:
    pipe = dit_pipe()
    with pytest.raises(FamilyError, match=words):
        stitch_pipeline_(pipe, dit(2, **changed), 0.4)
    assert not isinstance(pipe.transformer, PipelineDenoiser)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"cross_attention_dim": 16}, "prompt's embedding.: 16 and 8"),
        ({"time_cond_proj_dim": 16}, "guidance embedding.: 16 and None"),
    ],
)
def test_unets_that_do_not_match(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(FamilyError, match=words):
        stitch_pipeline_(sd_pipe(), unet(4, **changed), 0.4)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"prediction_type": "v_prediction"}, "prediction_type: v_prediction and epsilon"),
        ({"num_train_timesteps": 500}, "num_train_timesteps: 500 and 1000"),
        ({"beta_end": 0.03}, "betas: alphas_cumprod"),
        ({"beta_schedule": "scaled_linear"}, "betas: alphas_cumprod"),
    ],
)
def test_noise_schedules_that_do_not_match(changed: dict[str, Any], words: str) -> None:
    small = dit_pipe(2)
    small.scheduler = scheduler(**changed)
    with pytest.raises(FamilyError, match=words):
        stitch_pipeline_(dit_pipe(), small, 0.4)


def test_latent_scalings_and_precisions_that_do_not_match() -> None:
    small = dit_pipe(2)
    small.vae = vae(scaling_factor=0.5)
    with pytest.raises(FamilyError, match=r"scaling_factor of the vae: 0\.5 and 0\.18215"):
        stitch_pipeline_(dit_pipe(), small, 0.4)
    with pytest.raises(FamilyError, match=r"dtype: torch\.float16 and torch\.float32"):
        stitch_pipeline_(dit_pipe(), dit(2).half(), 0.4)


def test_schedulers_of_another_kind_may_share_a_noise_schedule() -> None:
    small = dit_pipe(2)
    small.scheduler = scheduler("euler")
    assert stitch_pipeline_(dit_pipe(), small, 0.4).fractions == (0.4, 0.6)


@pytest.mark.parametrize("fractions", [1.5, -0.1, [0.5, 0.6], [1.0], [0.2, 0.3, 0.5]])
def test_illegal_fractions(fractions: Any) -> None:
    with pytest.raises(RecipeError, match="ractions"):
        stitch_pipeline_(dit_pipe(), dit(2), fractions)


def test_hooks_of_others() -> None:
    hooks, pipe = pytest.importorskip("accelerate.hooks"), dit_pipe()
    hooks.add_hook_to_module(pipe.transformer.pos_embed, hooks.ModelHook())
    with pytest.raises(FamilyError, match=r"call pipe\.remove_all_hooks\(\) first"):
        stitch_pipeline_(pipe, dit(2), 0.4)
    assert not isinstance(pipe.transformer, PipelineDenoiser)


def test_wrong_pipelines() -> None:
    pipe = dit_pipe()
    with pytest.raises(FamilyError, match="is not stitched"):
        unstitch_pipeline_(pipe)
    stitch_pipeline_(pipe, dit(2), 0.4)
    with pytest.raises(FamilyError, match="stitched already"):
        stitch_pipeline_(pipe, dit(2), 0.4)
    with pytest.raises(FamilyError, match="A object has no unet and no transformer"):
        stitch_pipeline_(object(), dit(2), 0.4)
