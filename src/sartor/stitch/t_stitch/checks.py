"""Whether denoisers of diffusers share what a trajectory needs to be one: latents, conditioning,
noise schedule, kind of prediction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sartor.core.errors import FamilyError

__all__ = ["check_configs", "check_pipelines"]

#: entries of a denoiser's config that say what it takes and gives, and what to tell who mixes them
_SHAPES = {
    "in_channels": "latent channels",
    "out_channels": "output channels (a learned variance doubles them)",
    "sample_size": "latent size",
    "cross_attention_dim": "width of the prompt's embedding",
    "joint_attention_dim": "width of the prompt's embedding",
    "caption_channels": "width of the prompt's embedding",
    "pooled_projection_dim": "width of the pooled prompt",
    "encoder_hid_dim": "width of the prompt's embedding",
    "encoder_hid_dim_type": "kind of prompt embedding",
    "num_embeds_ada_norm": "number of classes",
    "num_class_embeds": "number of classes",
    "class_embed_type": "kind of class embedding",
    "time_cond_proj_dim": "width of the guidance embedding",
    "guidance_embeds": "guidance embedding",
    "addition_embed_type": "kind of added conditioning",
    "addition_time_embed_dim": "width of the added conditioning",
    "projection_class_embeddings_input_dim": "width of the added conditioning",
}
#: entries of a scheduler's config that the training of the denoiser fixed, and diffusers' defaults
_NOISE = {"prediction_type": "epsilon", "num_train_timesteps": 1000}


def check_configs(denoisers: Sequence[nn.Module]) -> None:
    """Compare the configs and precisions of denoisers with those of the last one.

    Args:
        denoisers: smallest first; those without a ``config`` are not looked into.

    Raises:
        FamilyError: names the entry that differs and both values.
    """
    *smaller, large = denoisers
    for number, small in enumerate(smaller):
        for key, meaning in _SHAPES.items():
            values = [_entry(denoiser, key) for denoiser in (small, large)]
            _check_equal(number, f"{key} ({meaning})", *values)
        _check_equal(number, "dtype", *(_dtype(denoiser) for denoiser in (small, large)))


def check_pipelines(smaller: Sequence[Any], pipe: Any) -> None:
    """Compare noise schedules, latent scalings and text encoders of whole pipelines.

    Args:
        smaller: pipelines of the smaller denoisers, smallest first; ``None`` where there is none.
        pipe: that of the largest.

    Raises:
        FamilyError: names what differs and both values.
    """
    for number, other in enumerate(smaller):
        if other is None:
            continue
        for key, default in _NOISE.items():
            found = [p.scheduler.config.get(key, default) for p in (other, pipe)]
            _check_equal(number, key, *found)
        _check_betas(number, other.scheduler, pipe.scheduler)
        for part, keys in (
            ("vae", ("scaling_factor", "shift_factor", "latent_channels")),
            ("text_encoder", ("hidden_size", "num_hidden_layers", "vocab_size")),
            ("text_encoder_2", ("hidden_size", "num_hidden_layers", "vocab_size")),
        ):
            configs = [getattr(getattr(p, part, None), "config", None) for p in (other, pipe)]
            for key in keys if None not in configs else ():
                found = [getattr(config, key, None) for config in configs]
                _check_equal(number, f"{key} of the {part}", *found)


def _check_equal(number: int, name: str, small: Any, large: Any) -> None:
    if small != large:
        raise FamilyError(
            f"The denoiser {number} and the largest differ in {name}: {small} and {large}; a "
            "trajectory needs denoisers of one latent space, noise schedule and conditioning."
        )


def _check_betas(number: int, small: Any, large: Any) -> None:
    arrays = [getattr(scheduler, "alphas_cumprod", None) for scheduler in (small, large)]
    first, second = (a.double().cpu() if isinstance(a, Tensor) else None for a in arrays)
    if first is None or second is None:
        _check_equal(number, "noise schedule", first is not None, second is not None)
    elif first.shape != second.shape or not torch.allclose(first, second, rtol=1e-4, atol=1e-6):
        _check_equal(number, "betas", *(f"alphas_cumprod[-1]={a[-1]:.4g}" for a in (first, second)))


def _entry(denoiser: nn.Module, key: str) -> Any:
    config: Any = getattr(denoiser, "config", {})
    value = config.get(key)
    if key == "out_channels" and value is None:
        value = config.get("in_channels")
    if isinstance(value, list | tuple) and len(set(value)) == 1:
        return value[0]
    return value


def _dtype(denoiser: nn.Module) -> torch.dtype | None:
    first = next((p for p in denoiser.parameters() if p.is_floating_point()), None)
    return None if first is None else first.dtype
