"""From a family of pretrained models to one elastic network."""

from sartor.stitch.anchor import Anchor
from sartor.stitch.discovery import find_anchor
from sartor.stitch.esta import AdaptedNetwork, EstaSettings, adapt_stitchable
from sartor.stitch.folding import Foldable, folded
from sartor.stitch.importance import StitchImportance
from sartor.stitch.importance_sampler import ImportanceSampler
from sartor.stitch.least_squares import least_squares_affine
from sartor.stitch.network import Route, StitchableNetwork
from sartor.stitch.plan import StitchConfig, enumerate_configs
from sartor.stitch.sampling import draw_config
from sartor.stitch.sn_net import StitchSettings, stitch

__all__ = [
    "AdaptedNetwork",
    "Anchor",
    "EstaSettings",
    "Foldable",
    "ImportanceSampler",
    "Route",
    "StitchConfig",
    "StitchImportance",
    "StitchSettings",
    "StitchableNetwork",
    "adapt_stitchable",
    "draw_config",
    "enumerate_configs",
    "find_anchor",
    "folded",
    "least_squares_affine",
    "stitch",
]
