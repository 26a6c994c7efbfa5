"""Few data, many epochs: how often a plan repeats its data, and what to do about it."""

from sartor.train.token_crisis.budget import DataBudget, data_budget_report
from sartor.train.token_crisis.dropout import DropoutSchedule, dropout_rate
from sartor.train.token_crisis.monitor import (
    OverfitMonitor,
    OverfitReport,
    RepetitionRow,
    repetition_sweep,
)
from sartor.train.token_crisis.proxy import Top1Experts, balance_loss, moe_proxy, sweep_dropout
from sartor.train.token_crisis.sites import DropoutSite, dropout_sites, insert_dropout_

__all__ = [
    "DataBudget",
    "DropoutSchedule",
    "DropoutSite",
    "OverfitMonitor",
    "OverfitReport",
    "RepetitionRow",
    "Top1Experts",
    "balance_loss",
    "data_budget_report",
    "dropout_rate",
    "dropout_sites",
    "insert_dropout_",
    "moe_proxy",
    "repetition_sweep",
    "sweep_dropout",
]
