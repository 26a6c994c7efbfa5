"""Language models of one family as anchors: two ``LlamaForCausalLM`` stitched at equal fractional
depth.

Source: He, Pan, Liu, Cai, Zhuang, Efficient Stitchable Task Adaptation, CVPR 2024, arXiv
2311.17352, section on large language models; where depths differ, blocks are paired by the rule of
SN-Net (arXiv 2302.06586). Blocks are those of transformers, called with the arguments that
``LlamaModel`` gives them when a whole sequence runs at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sartor.core.errors import FamilyError
from sartor.core.modes import eval_mode
from sartor.core.packages import require
from sartor.stitch.anchor import Anchor, Stage
from sartor.stitch.network import StitchableNetwork
from sartor.stitch.sn_net import StitchSettings, routes

__all__ = ["LLAMA_TARGETS", "DecoderBlock", "find_llama_anchor", "stitch_llamas"]

#: layers of a Llama's attention that ESTA adapts, as LoRA's users name them
LLAMA_TARGETS = ("self_attn.q_proj", "self_attn.v_proj", "self_attn.o_proj")


class DecoderBlock(nn.Module):
    """A decoder layer that finds positions and causal mask by itself: features (B, T, C) -> (B, T,
    C).

    Every sequence starts at position 0 and has no padding before its first token; padding behind
    the last one is harmless, as nothing looks ahead.

    Args:
        layer: of a ``LlamaModel``.
        rotary: the model's rotary embedding.
    """

    def __init__(self, layer: nn.Module, rotary: nn.Module) -> None:
        super().__init__()
        self.layer, self.rotary = layer, rotary
        self._causal_mask = require("transformers.masking_utils").create_causal_mask

    @property
    def config(self) -> Any:
        """The ``LlamaConfig`` of the layer."""
        return self.layer.self_attn.config  # type: ignore[union-attr]

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, T, C) -> (B, T, C)."""
        positions = torch.arange(features.shape[1], device=features.device)[None]  # (1, T)
        mask = self._causal_mask(
            config=self.config, inputs_embeds=features, attention_mask=None, past_key_values=None
        )
        following: Tensor = self.layer(
            features,
            attention_mask=mask,
            position_ids=positions,
            position_embeddings=self.rotary(features, positions),
        )
        return following


def find_llama_anchor(name: str, model: nn.Module, example: Tensor) -> Anchor:
    """Cut a ``LlamaForCausalLM`` into embedding, decoder layers and head, and check that nothing
    was lost.

    Args:
        name: shown in errors.
        model: its modules are used, not copied.
        example: token ids (1, T), int64.

    Raises:
        FamilyError: it is another kind of model, or gives other logits when its layers run one by
            one.
    """
    kind = require("transformers").LlamaForCausalLM
    if not isinstance(model, kind):
        raise FamilyError(
            f"The model {name!r} is a {type(model).__name__}; language models are stitched from "
            "LlamaForCausalLM of transformers."
        )
    inner: Any = model.model
    blocks = tuple(DecoderBlock(layer, inner.rotary_emb) for layer in inner.layers)
    head = nn.Sequential(inner.norm, model.lm_head)  # type: ignore[arg-type]
    anchor = Anchor(name, inner.embed_tokens, [Stage((), blocks)], head)
    with eval_mode(model, anchor), torch.no_grad():
        same = torch.equal(anchor(example), model(example, use_cache=False).logits)
    if not same:
        raise FamilyError(
            f"The model {name!r} gives other logits when its layers run one by one; give a plain "
            "LlamaForCausalLM, without wrappers or hooks that change its forward."
        )
    return anchor


def stitch_llamas(
    models: Mapping[str, nn.Module],
    example: Tensor,
    settings: StitchSettings | None = None,
    *,
    tokenizers: Sequence[Any] = (),
) -> StitchableNetwork:
    """Stitch language models that read the same tokens; call ``init_stitches`` before training.

    Args:
        models: name -> ``LlamaForCausalLM``, small to large; their modules are used, not copied.
        example: token ids (B, T), int64, without padding before the first token.
        settings: the search space; where depths differ there is one stitch for each block of the
            deeper model that the unpaired rule allows.
        tokenizers: one for each model, of transformers, to be compared; none skips that.

    Returns:
        A network from token ids (B, T) to logits (B, T, V).

    Raises:
        FamilyError: tokens, attention heads or rotary embeddings do not match.

    Example:
        >>> net = stitch_llamas({"7b": small, "13b": large}, ids)  # doctest: +SKIP
        >>> net = adapt_stitchable(net, EstaSettings(  # doctest: +SKIP
        ...     target_modules=LLAMA_TARGETS, train_head=False))
    """
    _check_match(models, tokenizers)
    anchors = [find_llama_anchor(name, model, example[:1]) for name, model in models.items()]
    return StitchableNetwork(anchors, example, routes(anchors, settings)).eval()


def _check_match(models: Mapping[str, nn.Module], tokenizers: Sequence[Any]) -> None:
    (first, reference), *others = models.items()
    for name, model in others:
        for what, value in _facts(reference).items():
            other = _facts(model)[what]
            if other != value:
                raise FamilyError(
                    f"The models {first!r} and {name!r} differ in {what} ({value} and {other}); "
                    "stitch models that agree in it."
                )
    if tokenizers and len(tokenizers) != len(models):
        raise FamilyError(
            f"There are {len(models)} models and {len(tokenizers)} tokenizers; give one for each "
            "or none."
        )
    vocabularies = [tokenizer.get_vocab() for tokenizer in tokenizers]
    for name, vocabulary in zip(models, vocabularies, strict=False):
        if vocabulary != vocabularies[0]:
            changed = {*vocabulary.items()} ^ {*vocabularies[0].items()}
            raise FamilyError(
                f"The tokenizers of {first!r} and {name!r} give other numbers to "
                f"{len({word for word, _ in changed})} tokens, such as {min(changed)[0]!r}; stitch "
                "models that were trained with one tokenizer."
            )


def _facts(model: Any) -> dict[str, Any]:
    """What two models must agree in, so that one route can run through both."""
    config = model.config
    rope = getattr(config, "rope_parameters", None)
    return {
        "vocabulary size": config.vocab_size,
        "width of an attention head": getattr(config, "head_dim", None),
        "rotary embedding": dict(rope) if rope else None,
    }
