"""From a family of pretrained models to one elastic network."""

from sartor.stitch.anchor import Anchor
from sartor.stitch.dense import DenseNetwork, is_dense, stitch_dense
from sartor.stitch.discovery import find_anchor
from sartor.stitch.esta import AdaptedNetwork, EstaSettings, adapt_stitchable
from sartor.stitch.flops_groups import GroupedStitchSampler, group_by_flops
from sartor.stitch.folding import Foldable, folded
from sartor.stitch.importance import StitchImportance
from sartor.stitch.importance_sampler import ImportanceSampler
from sartor.stitch.least_squares import least_squares_affine
from sartor.stitch.low_rank import LowRankStitch
from sartor.stitch.network import Route, StitchableNetwork
from sartor.stitch.plan import StitchConfig, enumerate_configs
from sartor.stitch.sampling import draw_config
from sartor.stitch.sn_net import StitchSettings, stitch
from sartor.stitch.sn_netv2 import TwoWayNetwork, TwoWaySettings, flops_sampler, stitch_two_way
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
    "Route",
    "StitchConfig",
    "StitchImportance",
    "StitchSettings",
    "StitchableNetwork",
    "TwoWayNetwork",
    "TwoWaySettings",
    "adapt_stitchable",
    "draw_config",
    "enumerate_configs",
    "enumerate_two_way",
    "find_anchor",
    "flops_sampler",
    "folded",
    "group_by_flops",
    "is_dense",
    "least_squares_affine",
    "stitch",
    "stitch_dense",
    "stitch_two_way",
]
