"""Training: the one loop, its schedule and its checkpoints, and distillation on it."""

from sartor.train.came import CAME
from sartor.train.came_state import optimizer_state_bytes
from sartor.train.cdfkd_mfs import DataFreeDistiller, DataFreeHistory, distill_data_free
from sartor.train.checkpoint import load_checkpoint, load_tensors, save_tensors
from sartor.train.compact_recipe import (
    CompactRecipe,
    CompactTraining,
    auto_ema_decay,
    prepare_compact,
)
from sartor.train.data_free_settings import DataFreeSettings, DataFreeWeights
from sartor.train.distill import DistillReport, distill
from sartor.train.head_attention import fit_head_attention_
from sartor.train.infobatch import LossPruningSampler
from sartor.train.infobatch_data import IndexedDataset, prune_data
from sartor.train.infobatch_draw import InfoBatchSettings
from sartor.train.infobatch_loss import PruningLoss, pruned_mean
from sartor.train.logit_rows import LogitFormat
from sartor.train.loop import History, TrainSettings, train
from sartor.train.strong_recipe import STRONG_RECIPES, StrongRecipe, strong_recipe
from sartor.train.teacher_cache import TeacherCache, cache_teacher
from sartor.train.token_crisis import DataBudget, data_budget_report
from sartor.train.token_crisis_dropout import DropoutSchedule, dropout_rate
from sartor.train.token_crisis_monitor import (
    OverfitMonitor,
    OverfitReport,
    RepetitionRow,
    repetition_sweep,
)
from sartor.train.token_crisis_proxy import Top1Experts, balance_loss, moe_proxy, sweep_dropout
from sartor.train.token_crisis_sites import DropoutSite, dropout_sites, insert_dropout_

__all__ = [
    "CAME",
    "STRONG_RECIPES",
    "CompactRecipe",
    "CompactTraining",
    "DataBudget",
    "DataFreeDistiller",
    "DataFreeHistory",
    "DataFreeSettings",
    "DataFreeWeights",
    "DistillReport",
    "DropoutSchedule",
    "DropoutSite",
    "History",
    "IndexedDataset",
    "InfoBatchSettings",
    "LogitFormat",
    "LossPruningSampler",
    "OverfitMonitor",
    "OverfitReport",
    "PruningLoss",
    "RepetitionRow",
    "StrongRecipe",
    "TeacherCache",
    "Top1Experts",
    "TrainSettings",
    "auto_ema_decay",
    "balance_loss",
    "cache_teacher",
    "data_budget_report",
    "distill",
    "distill_data_free",
    "dropout_rate",
    "dropout_sites",
    "fit_head_attention_",
    "insert_dropout_",
    "load_checkpoint",
    "load_tensors",
    "moe_proxy",
    "optimizer_state_bytes",
    "prepare_compact",
    "prune_data",
    "pruned_mean",
    "repetition_sweep",
    "save_tensors",
    "strong_recipe",
    "sweep_dropout",
    "train",
]
