"""Serving: a run's frontier answers live traffic, and bends instead of breaking."""

from sartor.serve.engine import Engine, EngineSettings
from sartor.serve.errors import OverloadError, RequestError
from sartor.serve.policy import PolicySettings
from sartor.serve.predictor import ElasticPredictor
from sartor.serve.ticket import Answer

__all__ = [
    "Answer",
    "ElasticPredictor",
    "Engine",
    "EngineSettings",
    "OverloadError",
    "PolicySettings",
    "RequestError",
]
