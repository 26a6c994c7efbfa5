"""What a recipe can switch on: who provides it, what it saves, what it cannot be combined with."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CONFLICTS", "OPTIONS", "Option", "option_name"]


@dataclass(frozen=True)
class Option:
    """One switch.

    Attributes:
        provider: who does it.
        saves: ``data`` (samples that go through the model), ``memory``, ``steps`` or ``seconds``.
        how: in a few words.
    """

    provider: str
    saves: str
    how: str


#: field=value, or the field alone where a number switches it on -> what that is
OPTIONS = {
    "precision=bf16": Option("torch.autocast", "memory", "forward pass in bfloat16"),
    "precision=fp16": Option("torch.autocast", "memory", "forward pass in float16, scaled loss"),
    "compile": Option("torch.compile", "seconds", "kernels fused"),
    "checkpointing=blocks": Option(
        "torch.utils.checkpoint", "memory", "blocks computed again in the backward pass"
    ),
    "checkpointing=selective": Option(
        "torch.utils.checkpoint", "memory", "blocks computed again, matrix products kept"
    ),
    "activations=mesa": Option("sartor", "memory", "activations kept in 8 bits"),
    "activations=offload": Option(
        "torch.autograd.graph", "memory", "activations kept in the CPU's memory"
    ),
    "optimizer=came": Option("sartor", "memory", "second moments of matrices as rows and columns"),
    "optimizer=adafactor": Option("torch.optim", "memory", "no momentum, factored second moments"),
    "optimizer=lion": Option("timm.optim", "memory", "one moment, steps by sign"),
    "optimizer=muon": Option("timm.optim", "steps", "orthogonal steps of matrices"),
    "optimizer=lamb": Option("timm.optim", "steps", "trust ratio of each layer, on Adam"),
    "optimizer=lars": Option("timm.optim", "steps", "trust ratio of each layer, on SGD"),
    "optimizer=adamw8bit": Option("torchao.optim", "memory", "moments in 8 bits"),
    "optimizer=adamw4bit": Option("torchao.optim", "memory", "moments in 4 bits"),
    "optimizer=adamwfp8": Option("torchao.optim", "memory", "moments in 8-bit floats"),
    "data_pruning=infobatch": Option("sartor", "data", "learned samples left out at random"),
    "batch_factor": Option("sartor", "steps", "larger batches, scaled learning rate, warm-up"),
    "embeddings=cowclip": Option("sartor", "steps", "gradients of embedding tables clipped by id"),
    "token_drop": Option("timm.layers", "seconds", "patch tokens dropped, all of them at the end"),
    "late_dropout": Option("sartor", "data", "dropout once the data repeat"),
    "progressive": Option("sartor", "seconds", "small inputs first"),
}

#: one, other, why not both; a name stands for all options that begin with it
CONFLICTS = (
    (
        "activations=mesa",
        "compile",
        "what is kept for the backward pass is decided inside the compiled graph, where nothing of "
        "ours is asked",
    ),
    (
        "activations=offload",
        "compile",
        "what is kept for the backward pass is decided inside the compiled graph, where nothing of "
        "ours is asked",
    ),
    (
        "activations",
        "checkpointing",
        "a block that is computed again keeps no activations that could be compressed or moved",
    ),
    (
        "data_pruning=infobatch",
        "embeddings=cowclip",
        "CowClip counts every sample once, and InfoBatch's kept samples weigh more than that, so "
        "that its thresholds would be too low for them",
    ),
    (
        "embeddings=cowclip",
        "optimizer",
        "its penalty and its scaling rule are made for Adam's steps",
    ),
    (
        "progressive",
        "compile",
        "every new size of the inputs would be compiled anew",
    ),
    (
        "progressive",
        "token_drop",
        "both shorten the sequence, and a size would then mean something else at each step",
    ),
    (
        "progressive",
        "data_pruning=infobatch",
        "losses of small and of large inputs would be compared as one score",
    ),
)


def option_name(field: str, value: object) -> str:
    """The name in :data:`OPTIONS` of a field with a value.

    Example:
        >>> option_name("optimizer", "came"), option_name("token_drop", 0.5)
        ('optimizer=came', 'token_drop')
    """
    return f"{field}={value}" if isinstance(value, str) else field
