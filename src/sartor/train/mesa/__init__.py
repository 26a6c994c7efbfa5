"""Mesa: exact forward passes and 8-bit activations for the backward pass."""

from sartor.train.mesa.context import Mesa, mesa_
from sartor.train.mesa.settings import MesaReport, MesaSettings

__all__ = [
    "Mesa",
    "MesaReport",
    "MesaSettings",
    "mesa_",
]
