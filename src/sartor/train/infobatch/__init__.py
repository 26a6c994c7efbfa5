"""InfoBatch: epochs that skip at random what the network has learned already."""

from sartor.train.infobatch.data import IndexedDataset, prune_data
from sartor.train.infobatch.draw import InfoBatchSettings
from sartor.train.infobatch.loss import PruningLoss, pruned_mean
from sartor.train.infobatch.sampler import LossPruningSampler

__all__ = [
    "IndexedDataset",
    "InfoBatchSettings",
    "LossPruningSampler",
    "PruningLoss",
    "prune_data",
    "pruned_mean",
]
