"""A deepened Llama of transformers: caches of keys and values belong to layers, not to weights."""

import copy

import pytest
import torch
from torch import Tensor

from sartor.measure import count_params
from sartor.stitch.scalenet import ScaleNetConfig, scale_depth
from sartor.stitch.shared_blocks import LoraLinear, ParallelAdapter, check_tied, tied_names

transformers = pytest.importorskip("transformers")


def llama(**more: object) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            bos_token_id=1,
            eos_token_id=None,
            pad_token_id=0,
            initializer_range=0.2,
            **more,
        )
        return transformers.LlamaForCausalLM(config).eval()


def deepened(adapter: str | None = "parallel", mapping: object = "cyclic") -> torch.nn.Module:
    config = ScaleNetConfig(adapter=adapter, mapping=mapping, rank=4)
    deep = scale_depth(llama(), config)
    generator = torch.Generator().manual_seed(1)
    for module in deep.modules():
        if isinstance(module, ParallelAdapter | LoraLinear):
            for parameter in module.parameters():
                torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    return deep


def tokens(count: int = 5) -> Tensor:
    return torch.randint(2, 64, (2, count), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def generated(model: torch.nn.Module, *, use_cache: bool) -> Tensor:
    prompt = tokens()
    return model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=16,
        do_sample=False,
        use_cache=use_cache,
    )


@pytest.mark.parametrize("adapter", ["parallel", "lora", None])
@pytest.mark.parametrize("mapping", ["cyclic", "block"])
def test_tokens_are_the_same_with_and_without_cache(adapter: str | None, mapping: str) -> None:
    deep = deepened(adapter, mapping)
    first = generated(deep, use_cache=True)
    assert torch.equal(first, generated(deep, use_cache=False))
    assert first.shape == (2, 21) and len(set(first[0, 5:].tolist())) > 2
    assert not torch.equal(first, generated(llama(), use_cache=True))


@torch.no_grad()
def test_each_layer_has_a_cache_of_its_own() -> None:
    deep = deepened()
    assert [layer.self_attn.layer_idx for layer in deep.model.layers] == [0, 1, 2, 3]
    out = deep(tokens(), use_cache=True, output_hidden_states=True)
    assert len(out.past_key_values.layers) == 4 and len(out.hidden_states) == 5
    keys = [layer.keys for layer in out.past_key_values.layers]
    assert all(key.shape == (2, 2, 5, 8) for key in keys)
    assert not torch.equal(keys[0], keys[2]) and not torch.equal(keys[1], keys[3])


def test_the_depth_is_written_down_and_the_original_s_stays() -> None:
    model = llama()
    deep = scale_depth(model, ScaleNetConfig(num_layers=3))
    assert (deep.config.num_hidden_layers, model.config.num_hidden_layers) == (3, 2)
    configs = [layer.self_attn.config for layer in deep.model.layers]
    assert all(config is deep.config for config in configs)


def test_what_layers_are_of_goes_with_them() -> None:
    """Other decoders alternate kinds of attention, and their caches follow the list in the
    config.
    """
    model = llama()
    model.config.layer_types = ["full_attention", "sliding_attention"]
    deep = scale_depth(model, ScaleNetConfig(mapping="block"))
    assert deep.config.layer_types == ["full_attention"] * 2 + ["sliding_attention"] * 2


def test_it_is_the_plain_llama_of_repeated_layers() -> None:
    model = llama()
    plain = scale_depth(model, ScaleNetConfig(adapter=None))
    longer = transformers.LlamaForCausalLM(copy.deepcopy(plain.config)).eval()
    longer.load_state_dict(plain.state_dict())
    deep = scale_depth(model, ScaleNetConfig(rank=4))
    with torch.no_grad():
        wanted = longer(tokens()).logits
        assert torch.equal(plain(tokens()).logits, wanted)
        assert torch.equal(deep(tokens()).logits, wanted)
    assert count_params(plain) == count_params(model) < count_params(longer)
    # 4 adapters: 2 d r + r + d
    assert count_params(deep) - count_params(model) == 4 * (2 * 32 * 4 + 4 + 32)


def test_at_the_same_depth_it_is_the_original() -> None:
    model = llama()
    same = scale_depth(model, ScaleNetConfig(num_layers=2, private_norm=True))
    with torch.no_grad():
        assert torch.equal(same(tokens()).logits, model(tokens()).logits)


def test_tied_embeddings_stay_tied_too() -> None:
    model = llama(tie_word_embeddings=True)
    deep = scale_depth(model, ScaleNetConfig(adapter=None))
    assert deep.lm_head.weight is deep.model.embed_tokens.weight
    assert count_params(deep) == count_params(model)


def test_a_step_of_training_keeps_it_shared() -> None:
    deep = deepened().train()
    names = tied_names(deep)
    assert len(names) == 2 * 9
    optimizer = torch.optim.AdamW(deep.parameters(), lr=1e-2)
    deep(tokens(), labels=tokens()).loss.backward()
    optimizer.step()
    check_tied(deep, names)
    check_tied(copy.deepcopy(deep), names)
