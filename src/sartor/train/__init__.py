"""Training: the one loop, its schedule and its checkpoints, and distillation on it."""

from sartor.train.asam import ASAM, asam_perturbation
from sartor.train.came.optimizer import CAME
from sartor.train.came.state import optimizer_state_bytes
from sartor.train.cdfkd_mfs.distiller import DataFreeDistiller, DataFreeHistory, distill_data_free
from sartor.train.cdfkd_mfs.head_attention import fit_head_attention_
from sartor.train.cdfkd_mfs.settings import DataFreeSettings, DataFreeWeights
from sartor.train.checkpoint import load_checkpoint, load_tensors, save_tensors, tensor_shapes
from sartor.train.checkpointing import checkpoint_blocks_, repeated_blocks
from sartor.train.compact_recipe import (
    CompactRecipe,
    CompactTraining,
    auto_ema_decay,
    prepare_compact,
)
from sartor.train.cowclip.clip import cowclip_, norm_bound
from sartor.train.cowclip.optimizer import CowClip, cowclip_adam
from sartor.train.cowclip.scaling import (
    ScaledRates,
    cowclip_scaling,
    dense_warmup,
    linear_scaling,
    sqrt_scaling,
)
from sartor.train.distill import DistillReport, distill
from sartor.train.fixed_view import never_varies
from sartor.train.infobatch.data import IndexedDataset, prune_data
from sartor.train.infobatch.draw import InfoBatchSettings
from sartor.train.infobatch.loss import PruningLoss, pruned_mean
from sartor.train.infobatch.sampler import LossPruningSampler
from sartor.train.logit_rows import LogitFormat
from sartor.train.loop import History, TrainSettings, train
from sartor.train.low_precision.adamw import low_bit_adamw, state_bytes
from sartor.train.low_precision.formats import Format
from sartor.train.low_precision.gradients import (
    ErrorFeedback,
    quantize_gradient,
    sign_gradient,
    top_k_gradient,
)
from sartor.train.low_precision.linear import LinearPrecision, LowPrecisionLinear, hadamard_rotate
from sartor.train.low_precision.prepare import PrecisionReport, prepare_low_precision_
from sartor.train.low_precision.qat import LearnedStep, bake_steps_, learn_steps_
from sartor.train.low_precision.quantize import QTensor, Quantizer, quantize
from sartor.train.low_precision.recipes import PrecisionRecipe, low_precision_recipe
from sartor.train.low_precision.rounding import StochasticRounding, stochastic_round_bf16
from sartor.train.low_precision.schedule import PrecisionSchedule, cyclic_bits
from sartor.train.mesa.context import Mesa, mesa_
from sartor.train.mesa.settings import MesaReport, MesaSettings
from sartor.train.progressive import ProgressiveSchedule
from sartor.train.recipe.recipe import Recipe
from sartor.train.strong_recipe import STRONG_RECIPES, StrongRecipe, strong_recipe
from sartor.train.teacher_cache import TeacherCache, cache_teacher
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
    "ASAM",
    "CAME",
    "STRONG_RECIPES",
    "CompactRecipe",
    "CompactTraining",
    "CowClip",
    "DataBudget",
    "DataFreeDistiller",
    "DataFreeHistory",
    "DataFreeSettings",
    "DataFreeWeights",
    "DistillReport",
    "DropoutSchedule",
    "DropoutSite",
    "ErrorFeedback",
    "Format",
    "History",
    "IndexedDataset",
    "InfoBatchSettings",
    "LearnedStep",
    "LinearPrecision",
    "LogitFormat",
    "LossPruningSampler",
    "LowPrecisionLinear",
    "Mesa",
    "MesaReport",
    "MesaSettings",
    "OverfitMonitor",
    "OverfitReport",
    "PrecisionRecipe",
    "PrecisionReport",
    "PrecisionSchedule",
    "ProgressiveSchedule",
    "PruningLoss",
    "QTensor",
    "Quantizer",
    "Recipe",
    "RepetitionRow",
    "ScaledRates",
    "StochasticRounding",
    "StrongRecipe",
    "TeacherCache",
    "Top1Experts",
    "TrainSettings",
    "asam_perturbation",
    "auto_ema_decay",
    "bake_steps_",
    "balance_loss",
    "cache_teacher",
    "checkpoint_blocks_",
    "cowclip_",
    "cowclip_adam",
    "cowclip_scaling",
    "cyclic_bits",
    "data_budget_report",
    "dense_warmup",
    "distill",
    "distill_data_free",
    "dropout_rate",
    "dropout_sites",
    "fit_head_attention_",
    "hadamard_rotate",
    "insert_dropout_",
    "learn_steps_",
    "linear_scaling",
    "load_checkpoint",
    "load_tensors",
    "low_bit_adamw",
    "low_precision_recipe",
    "mesa_",
    "moe_proxy",
    "never_varies",
    "norm_bound",
    "optimizer_state_bytes",
    "prepare_compact",
    "prepare_low_precision_",
    "prune_data",
    "pruned_mean",
    "quantize",
    "quantize_gradient",
    "repeated_blocks",
    "repetition_sweep",
    "save_tensors",
    "sign_gradient",
    "sqrt_scaling",
    "state_bytes",
    "stochastic_round_bf16",
    "strong_recipe",
    "sweep_dropout",
    "tensor_shapes",
    "top_k_gradient",
    "train",
]
