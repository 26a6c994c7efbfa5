"""From a family of pretrained models to one elastic network."""

from sartor.stitch.anchor import Anchor, find_anchor
from sartor.stitch.least_squares import least_squares_affine
from sartor.stitch.plan import StitchConfig, enumerate_configs
from sartor.stitch.sampling import draw_config
from sartor.stitch.sn_net import Route, StitchableNetwork, StitchSettings, stitch

__all__ = [
    "Anchor",
    "Route",
    "StitchConfig",
    "StitchSettings",
    "StitchableNetwork",
    "draw_config",
    "enumerate_configs",
    "find_anchor",
    "least_squares_affine",
    "stitch",
]
