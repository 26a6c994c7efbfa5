import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from sartor.core import ArtifactError, FamilyError, RecipeError
from sartor.nn.sources import seeded
from sartor.stitch import AdaptedNetwork, EstaSettings, StitchableNetwork, adapt_stitchable, stitch
from sartor.stitch.llama import LLAMA_TARGETS, find_llama_anchor, stitch_llamas
from sartor.stitch.llama_route import StitchedLayer, load_llama, save_llama, to_transformers
from sartor.testing import ElasticContract, tiny_vit_family


def llama(width: int, depth: int, heads: int, **changes: Any) -> LlamaForCausalLM:
    settings = {
        "vocab_size": 40,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "head_dim": 8,
        "max_position_embeddings": 64,
        "bos_token_id": 1,
        "eos_token_id": None,
        "pad_token_id": 0,
    }
    with seeded(width):
        model = LlamaForCausalLM(LlamaConfig(**{**settings, **changes})).eval()
        for parameter in model.parameters():  # so that norms and biases matter
            with torch.no_grad():
                parameter.add_(0.1 * torch.randn(parameter.shape))
    return model


def ids(rows: int = 4, length: int = 12) -> Tensor:
    return torch.randint(3, 40, (rows, length), generator=torch.Generator().manual_seed(0))


def pair(**changes: Any) -> dict[str, nn.Module]:
    """Depths 2 and 4, widths 16 and 32; the larger one shares keys among heads."""
    return {
        "small": llama(16, 2, 2, **changes),
        "large": llama(32, 4, 4, num_key_value_heads=2, **changes),
    }


def stitched(models: dict[str, nn.Module] | None = None) -> StitchableNetwork:
    with seeded(0):
        net = stitch_llamas(models or pair(), ids())
        net.init_stitches(ids(16, 20))
    return net


def adapted(*, models: dict[str, nn.Module] | None = None, trained: bool = True) -> AdaptedNetwork:
    settings = EstaSettings(rank=2, target_modules=LLAMA_TARGETS, train_head=False)
    with seeded(1):
        net = adapt_stitchable(stitched(models), settings).eval()
        if trained:
            with torch.no_grad():
                for name, parameter in net.named_parameters():
                    if "lora_b" in name or "stitch_bias" in name:
                        parameter.normal_(std=0.1)
    return net


# --- the network --------------------------------------------------------------------------------


class Logits(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model(tokens, use_cache=False).logits


class TestStitched(ElasticContract):
    def inputs(self) -> Tensor:
        return ids()

    def elastic(self) -> StitchableNetwork:
        return stitched()

    def references(self) -> dict[int, nn.Module]:
        return {index: Logits(model) for index, model in enumerate(pair().values())}


class TestAdapted(ElasticContract):
    def inputs(self) -> Tensor:
        return ids()

    def elastic(self) -> AdaptedNetwork:
        return adapted(models=pair(attention_bias=True), trained=False)


def test_blocks_at_equal_fractional_depth_are_paired() -> None:
    assert [config.name for config in stitched().configs] == [
        *("a0", "a1"),
        *("a0-1.s0.0-1", "a0-1.s0.1-2", "a0-1.s0.1-3"),
    ]


def test_nothing_looks_ahead_whatever_the_attention() -> None:
    for implementation in ("sdpa", "eager"):
        models = pair()
        for model in models.values():
            model.set_attn_implementation(implementation)
        net, tokens = stitched(models), ids()
        for index in range(net.num_configs):
            net.set_config(index)
            with torch.no_grad():
                whole, part = net(tokens), net(tokens[:, :7])
            assert torch.allclose(whole[:, :7], part, atol=1e-5)


def test_models_are_used_and_stay_as_they_are() -> None:
    models = pair()
    before = [{k: v.clone() for k, v in m.state_dict().items()} for m in models.values()]
    net = adapted(models=models)
    net(ids()).square().mean().backward()
    torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=0.1).step()
    for model, state in zip(models.values(), before, strict=True):
        assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


# --- taken out ----------------------------------------------------------------------------------


def greedy(net: StitchableNetwork, tokens: Tensor, count: int) -> Tensor:
    """Without a cache: the whole text runs again for each token."""
    for _ in range(count):
        tokens = torch.cat([tokens, net(tokens)[:, -1].argmax(-1, keepdim=True)], dim=1)
    return tokens


@pytest.mark.parametrize("index", range(5))
@torch.no_grad()
def test_what_is_taken_out_generates_the_same(index: int, tmp_path: Path) -> None:
    net, tokens = adapted(), ids()
    net.set_config(index)
    wanted = net(tokens)
    model = to_transformers(net, index)
    assert isinstance(model, LlamaForCausalLM) and not model.training
    assert torch.allclose(model(tokens, use_cache=False).logits, wanted, atol=1e-5)
    cached = model(tokens[:, :5], use_cache=True).past_key_values
    one_by_one = [model(tokens[:, i : i + 1], past_key_values=cached).logits for i in range(5, 12)]
    assert torch.allclose(torch.cat(one_by_one, dim=1), wanted[:, 5:], atol=1e-5)
    said = greedy(net, tokens[:, :6], 8)
    for use_cache in (True, False):
        made = model.generate(
            tokens[:, :6],
            attention_mask=torch.ones_like(tokens[:, :6]),
            max_new_tokens=8,
            do_sample=False,
            use_cache=use_cache,
        )
        assert torch.equal(made, said)
    save_llama(model, tmp_path)
    again = load_llama(tmp_path)
    assert torch.equal(again(tokens).logits, model(tokens).logits)
    assert torch.equal(
        again.generate(tokens[:, :6], max_new_tokens=8, do_sample=False, pad_token_id=0), said
    )
    assert {p.name for p in tmp_path.iterdir()} == {"model.safetensors", "route.json"}


@torch.no_grad()
def test_padding_before_the_text_is_masked() -> None:
    net, tokens = adapted(), ids(2, 6)
    model = to_transformers(net, 3)
    padded = torch.cat([torch.zeros(2, 3, dtype=torch.int64), tokens], dim=1)
    mask = (padded != 0).long()
    outputs = model(padded, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp_min(0))
    net.set_config(3)
    assert torch.allclose(outputs.logits[:, 3:], net(tokens), atol=1e-5)


@torch.no_grad()
def test_a_route_through_one_model_is_an_ordinary_llama(tmp_path: Path) -> None:
    net, tokens = adapted(), ids()
    for index in (0, 1):
        model = to_transformers(net, index)
        assert not any(isinstance(m, StitchedLayer) for m in model.modules())
        model.save_pretrained(tmp_path / str(index))
        again = LlamaForCausalLM.from_pretrained(tmp_path / str(index)).eval()
        assert torch.equal(again(tokens).logits, model(tokens).logits)


def test_what_is_taken_out_has_weights_of_its_own() -> None:
    net = adapted()
    model = to_transformers(net, 3)
    mine = {p.untyped_storage().data_ptr() for p in net.parameters()}
    assert not mine & {p.untyped_storage().data_ptr() for p in model.parameters()}
    layers = model.model.layers
    assert [isinstance(layer, StitchedLayer) for layer in layers] == [False, False, True, False]
    assert layers[2].stitch.weight.shape == (32, 16)


def test_models_of_one_width_and_depth() -> None:
    models = {name: llama(16, 3, 2, rms_norm_eps=eps) for name, eps in (("a", 1e-6), ("b", 1e-5))}
    net, tokens = adapted(models=models), ids()
    assert net.num_configs == 2 + 7
    for index in range(net.num_configs):
        net.set_config(index)
        with torch.no_grad():
            logits = to_transformers(net, index)(tokens).logits
            assert torch.allclose(logits, net(tokens), atol=1e-5)


def test_tied_embeddings_stay_frozen_or_are_refused() -> None:
    models = pair(tie_word_embeddings=True)
    net, tokens = adapted(models=models), ids()
    for index in range(net.num_configs):
        net.set_config(index)
        with torch.no_grad():
            logits = to_transformers(net, index)(tokens).logits
            assert torch.allclose(logits, net(tokens), atol=1e-5)
    settings = EstaSettings(rank=2, target_modules=LLAMA_TARGETS, train_head=True)
    with pytest.raises(FamilyError, match=r"anchors.0.head.1 and anchors.0.embed are tied"):
        adapt_stitchable(stitched(models), settings)


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 41}, r"'small' and 'large' differ in vocabulary size \(40 and 41\)"),
        ({"head_dim": 4}, r"differ in width of an attention head \(8 and 4\)"),
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
            r"differ in rotary embedding \(.*10000.*500000.*stitch models that agree",
        ),
    ],
)
def test_models_that_do_not_match_are_refused(changes: dict[str, Any], message: str) -> None:
    models = {"small": llama(16, 2, 2), "large": llama(32, 4, 4, **changes)}
    with pytest.raises(FamilyError, match=message):
        stitch_llamas(models, ids())


class Tokenizer:
    def __init__(self, words: str) -> None:
        self.words = words

    def get_vocab(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words)}


def test_tokenizers_that_do_not_match_are_refused() -> None:
    assert stitch_llamas(pair(), ids(), tokenizers=[Tokenizer("abc"), Tokenizer("abc")])
    with pytest.raises(
        FamilyError, match=r"'small' and 'large' give other numbers to 2 tokens.*'b'"
    ):
        stitch_llamas(pair(), ids(), tokenizers=[Tokenizer("abc"), Tokenizer("acb")])
    with pytest.raises(FamilyError, match="2 models and 1 tokenizers"):
        stitch_llamas(pair(), ids(), tokenizers=[Tokenizer("abc")])


def test_other_models_are_refused() -> None:
    with pytest.raises(FamilyError, match="'vit' is a VisionTransformer; language models"):
        find_llama_anchor("vit", tiny_vit_family().models[0], ids(1))
    changed = llama(16, 2, 2)
    changed.model.layers[0].register_forward_hook(lambda m, i, o: o if m.training else o + 1)
    changed.lm_head.register_forward_hook(lambda m, i, o: o * torch.rand(()))
    with pytest.raises(FamilyError, match="'odd' gives other logits when its layers run one by"):
        find_llama_anchor("odd", changed, ids(1))
    net = stitch(tiny_vit_family(), torch.zeros(1, 1, 8, 8))
    with pytest.raises(FamilyError, match="holds no language models; make it with stitch_llamas"):
        to_transformers(net, 4)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    save_llama(to_transformers(adapted(), 3), tmp_path)
    plan = json.loads((tmp_path / "route.json").read_text())
    with pytest.raises(ArtifactError, match="does not exist"):
        load_llama(tmp_path / "nowhere")
    for change, message in (
        ({"layers": []}, "names a layer of no model"),
        ({"layers": [0, 7]}, "names a layer of no model"),
        ({"layers": [0, 1, 1]}, "cannot be read"),
        ({"joints": []}, "cannot be read"),
    ):
        (tmp_path / "route.json").write_text(json.dumps({**plan, **change}))
        with pytest.raises(ArtifactError, match=message):
            load_llama(tmp_path)
    (tmp_path / "route.json").write_text(json.dumps({**plan, "code": "x"}))
    with pytest.raises(RecipeError, match="unknown key 'code'"):
        load_llama(tmp_path)
    (tmp_path / "route.json").write_text(json.dumps(plan))
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 64)
    with pytest.raises(ArtifactError, match="cannot be read"):
        load_llama(tmp_path)
