"""From a family of pretrained models to one elastic network."""

from sartor.stitch.anchor import Anchor
from sartor.stitch.dense import DenseNetwork, is_dense, stitch_dense
from sartor.stitch.discovery import find_anchor
from sartor.stitch.esta import AdaptedNetwork, EstaSettings, adapt_stitchable
from sartor.stitch.flops_groups import GroupedStitchSampler, group_by_flops
from sartor.stitch.folding import Foldable, folded
from sartor.stitch.importance import StitchImportance
from sartor.stitch.importance_sampler import ImportanceSampler
from sartor.stitch.layer_map import ScaleNetConfig, layer_map
from sartor.stitch.least_squares import least_squares_affine
from sartor.stitch.low_rank import LowRankStitch
from sartor.stitch.network import Route, StitchableNetwork
from sartor.stitch.plan import StitchConfig, enumerate_configs
from sartor.stitch.sampling import draw_config
from sartor.stitch.scalenet import count_executed_params, param_groups, scale_depth
from sartor.stitch.shared_blocks import ParallelAdapter, check_tied, tie_, tied_names
from sartor.stitch.sn_net import StitchSettings, stitch
from sartor.stitch.sn_netv2 import TwoWayNetwork, TwoWaySettings, flops_sampler, stitch_two_way
from sartor.stitch.t_stitch.assignment import TrajectoryConfig, TrajectoryStitcher
from sartor.stitch.t_stitch.denoiser import StitchedDenoiser, check_denoisers
from sartor.stitch.t_stitch.pipeline import (
    stitch_pipeline_,
    stitched_pipeline,
    unstitch_pipeline_,
)
from sartor.stitch.t_stitch.sampler import StitchedSampler, stitch_samplers
from sartor.stitch.t_stitch.trajectory import (
    allocations_within,
    predicted_time,
    step_allocation,
    timestep_allocation,
)
from sartor.stitch.two_way import enumerate_two_way

__all__ = [
    "AdaptedNetwork",
    "Anchor",
    "DenseNetwork",
    "EstaSettings",
    "Foldable",
    "GroupedStitchSampler",
    "ImportanceSampler",
    "LowRankStitch",
    "ParallelAdapter",
    "Route",
    "ScaleNetConfig",
    "StitchConfig",
    "StitchImportance",
    "StitchSettings",
    "StitchableNetwork",
    "StitchedDenoiser",
    "StitchedSampler",
    "TrajectoryConfig",
    "TrajectoryStitcher",
    "TwoWayNetwork",
    "TwoWaySettings",
    "adapt_stitchable",
    "allocations_within",
    "check_denoisers",
    "check_tied",
    "count_executed_params",
    "draw_config",
    "enumerate_configs",
    "enumerate_two_way",
    "find_anchor",
    "flops_sampler",
    "folded",
    "group_by_flops",
    "is_dense",
    "layer_map",
    "least_squares_affine",
    "param_groups",
    "predicted_time",
    "scale_depth",
    "step_allocation",
    "stitch",
    "stitch_dense",
    "stitch_pipeline_",
    "stitch_samplers",
    "stitch_two_way",
    "stitched_pipeline",
    "tie_",
    "tied_names",
    "timestep_allocation",
    "unstitch_pipeline_",
]
