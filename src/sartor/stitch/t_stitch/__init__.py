"""T-Stitch: several denoisers share the steps of one trajectory."""

from sartor.stitch.t_stitch.assignment import TrajectoryConfig, TrajectoryStitcher
from sartor.stitch.t_stitch.denoiser import StitchedDenoiser, check_denoisers
from sartor.stitch.t_stitch.pipeline import stitch_pipeline_, stitched_pipeline, unstitch_pipeline_
from sartor.stitch.t_stitch.sampler import StitchedSampler, stitch_samplers
from sartor.stitch.t_stitch.trajectory import (
    allocations_within,
    predicted_time,
    step_allocation,
    timestep_allocation,
)

__all__ = [
    "StitchedDenoiser",
    "StitchedSampler",
    "TrajectoryConfig",
    "TrajectoryStitcher",
    "allocations_within",
    "check_denoisers",
    "predicted_time",
    "step_allocation",
    "stitch_pipeline_",
    "stitch_samplers",
    "stitched_pipeline",
    "timestep_allocation",
    "unstitch_pipeline_",
]
