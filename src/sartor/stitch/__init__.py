"""From a family of pretrained models to one elastic network."""

from sartor.stitch.anchor import Anchor
from sartor.stitch.discovery import find_anchor
from sartor.stitch.folding import Foldable, folded
from sartor.stitch.least_squares import least_squares_affine
from sartor.stitch.network import Route, StitchableNetwork
from sartor.stitch.plan import StitchConfig, enumerate_configs
from sartor.stitch.sampling import draw_config
from sartor.stitch.sn_net import StitchSettings, stitch

__all__ = [
    "Anchor",
    "Foldable",
    "Route",
    "StitchConfig",
    "StitchSettings",
    "StitchableNetwork",
    "draw_config",
    "enumerate_configs",
    "find_anchor",
    "folded",
    "least_squares_affine",
    "stitch",
]
