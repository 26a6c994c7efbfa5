"""VMRNN: forecasts of frames by recurrent cells of selective scans."""

from sartor.nn.vmrnn.cell import VMRNNCell
from sartor.nn.vmrnn.forecaster import (
    VMRNN,
    VMRNNMultiScale,
    forecast_loss,
    official_vmrnn_key,
    vmrnn_b_kth,
    vmrnn_b_taxibj,
    vmrnn_d_mnist,
)
from sartor.nn.vmrnn.scan import selective_scan
from sartor.nn.vmrnn.ss2d import SS2D

__all__ = [
    "SS2D",
    "VMRNN",
    "VMRNNCell",
    "VMRNNMultiScale",
    "forecast_loss",
    "official_vmrnn_key",
    "selective_scan",
    "vmrnn_b_kth",
    "vmrnn_b_taxibj",
    "vmrnn_d_mnist",
]
