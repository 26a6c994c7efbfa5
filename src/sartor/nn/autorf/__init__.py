"""AutoRF: searched cells of poolings that widen a net's receptive field."""

from sartor.nn.autorf.cell import RFCell, insert_rf_cells
from sartor.nn.autorf.resnet import cifar_resnet, rf_resnet
from sartor.nn.autorf.search import DifferentiableSearch

__all__ = [
    "DifferentiableSearch",
    "RFCell",
    "cifar_resnet",
    "insert_rf_cells",
    "rf_resnet",
]
