"""Moves: one short adaptor for each method that composes in ``fit``."""

from sartor.moves.anchor import AnchorMove
from sartor.moves.int8 import DynamicInt8Move, StaticInt8Move
from sartor.moves.prune import PruneMove
from sartor.moves.replay import replay
from sartor.moves.stitch import StitchMove

__all__ = ["AnchorMove", "DynamicInt8Move", "PruneMove", "StaticInt8Move", "StitchMove", "replay"]
