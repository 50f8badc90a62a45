"""How a model keeps documents apart is found by asking it, whatever its weights, dtype and size."""

import types

import numpy as np
import pytest
import torch
from conftest import SHAPES, tiny_model
from transformers import AutoConfig, AutoModelForCausalLM

from llmkit.data.collating import Collator
from llmkit.data.isolating import find_isolation

EXPECTED = {
    **dict.fromkeys(("gpt2", "distilgpt2", "gpt_neo", "gptj", "gpt_neox", "llama"), "position_ids"),
    "opt": "mask",
    **dict.fromkeys(("openai-gpt", "bloom")),
}


def fresh_model(family, **overrides):
    """A model with the weights that its family begins with."""
    shape = {
        **SHAPES[family],
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": None,
        "vocab_size": 400,
        **overrides,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        kind = "gpt2" if family == "distilgpt2" else family
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **shape))


def test_expected_names_each_family():
    assert set(EXPECTED) == set(SHAPES)


@pytest.mark.parametrize("make", [fresh_model, lambda family: tiny_model(family, 400)], ids=["fresh", "large weights"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("family", SHAPES)
def test_find_isolation_tells_the_families_apart(family, dtype, make):
    assert find_isolation(make(family).to(dtype)) == EXPECTED[family]


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama", "opt"])
def test_find_isolation_holds_for_each_attention(family, implementation):
    assert find_isolation(fresh_model(family, attn_implementation=implementation)) == EXPECTED[family]


@pytest.mark.parametrize("family", sorted(set(SHAPES) - {"bloom"}))
@pytest.mark.parametrize("length", [2, 3, 5, 8])
def test_find_isolation_keeps_within_a_short_context(family, length):
    key = "n_positions" if "n_positions" in SHAPES[family] else "max_position_embeddings"
    lengths = []
    model = fresh_model(family, **{key: length})
    model.get_input_embeddings().register_forward_hook(lambda module, args, out: lengths.append(args[0].shape[-1]))
    assert find_isolation(model) == EXPECTED[family]
    assert max(lengths) <= length


@pytest.mark.parametrize("vocab_size", [2, 3, 5, 11])
def test_find_isolation_keeps_within_a_small_vocabulary(vocab_size):
    assert find_isolation(fresh_model("gpt2", vocab_size=vocab_size)) == "position_ids"
    assert find_isolation(fresh_model("opt", vocab_size=vocab_size)) == "mask"


@pytest.mark.parametrize("family", SHAPES)
def test_find_isolation_leaves_the_model_as_it_was(family):
    model = fresh_model(family).train()
    frozen = next(iter(model.children())).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes, state = [m.training for m in model.modules()], torch.get_rng_state()
    find_isolation(model)
    assert [m.training for m in model.modules()] == modes
    assert model.training and not frozen.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_find_isolation_is_not_misled_by_dropout():
    model = fresh_model("gpt2", resid_pdrop=0.5, attn_pdrop=0.5, embd_pdrop=0.5).train()
    assert find_isolation(model) == "position_ids"


def test_find_isolation_restores_the_mode_when_the_model_fails():
    model = fresh_model("gpt2").train()
    model.lm_head.register_forward_hook(lambda *_: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(MemoryError):
        find_isolation(model)
    assert all(module.training for module in model.modules())


def change_call(model, change):
    """Let a change go over the arguments of each call of a model."""
    forward = model.forward
    model.forward = types.MethodType(lambda self, **kwargs: forward(**change(kwargs)), model)
    return model


def without(key):
    return lambda kwargs: {k: v for k, v in kwargs.items() if k != key}


def refuse(key):
    def check(kwargs):
        if key in kwargs:
            raise TypeError(f"forward() got an unexpected keyword argument {key!r}")
        return kwargs

    return check


def with_ones(kwargs):
    return {**kwargs, "attention_mask": torch.ones_like(kwargs["input_ids"])}


CHANGES = {
    "gpt2 that refuses use_cache": (refuse("use_cache"), "gpt2", None),
    "gpt2 that refuses position_ids": (refuse("position_ids"), "gpt2", None),
    "opt that refuses position_ids": (refuse("position_ids"), "opt", None),
    "gpt2 with a cache, where a mask still isolates": (without("use_cache"), "gpt2", "mask"),
    "gpt2 with the positions of the row": (without("position_ids"), "gpt2", None),
    "opt with the positions of the row": (without("position_ids"), "opt", None),
    "llama, whose positions are relative": (without("position_ids"), "llama", "mask"),
    "opt without a mask": (without("attention_mask"), "opt", None),
    "gpt2 with a mask of ones": (with_ones, "gpt2", None),
}


@pytest.mark.parametrize(("change", "family", "found"), CHANGES.values(), ids=CHANGES)
def test_find_isolation_believes_only_what_the_model_does(change, family, found):
    assert find_isolation(change_call(fresh_model(family), change)) == found


@pytest.mark.parametrize("family", SHAPES)
def test_find_isolation_gives_none_when_no_token_sees_another(family):
    model = fresh_model(family)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert find_isolation(model) is None


def test_find_isolation_finds_a_leak_in_one_layer_of_many():
    model = fresh_model("gpt2", n_layer=6)
    attention = model.transformer.h[3].attn
    forward = attention.forward
    attention.forward = lambda hidden, *args, attention_mask=None, **kwargs: forward(hidden, *args, **kwargs)
    assert find_isolation(model) is None


@pytest.mark.parametrize("mixed", [False, True], ids=["float32", "bfloat16 by autocast"])
@pytest.mark.parametrize("family", [family for family, found in EXPECTED.items() if found])
def test_find_isolation_finds_what_isolates_in_a_batch(family, mixed):
    model = tiny_model(family, 400)

    def logits(first):
        row = {"input_ids": np.array([first, 7, 9, 11, 13, 15]), "document_ids": np.array([0, 0, 0, 1, 1, 1])}
        short = {key: value[:2] for key, value in row.items()}
        batch = Collator(0, EXPECTED[family])([row, short])
        del batch["labels"]
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            return model(**batch).logits[0, 3:]

    seen = logits(5)
    assert torch.equal(seen, logits(300))
    assert seen.isfinite().all()
