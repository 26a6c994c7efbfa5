"""CDFKD-MFS: one small classifier from several trained ones, without an image of their data."""

from sartor.train.cdfkd_mfs.distiller import DataFreeDistiller, DataFreeHistory, distill_data_free
from sartor.train.cdfkd_mfs.head_attention import fit_head_attention_
from sartor.train.cdfkd_mfs.settings import DataFreeSettings, DataFreeWeights

__all__ = [
    "DataFreeDistiller",
    "DataFreeHistory",
    "DataFreeSettings",
    "DataFreeWeights",
    "distill_data_free",
    "fit_head_attention_",
]
