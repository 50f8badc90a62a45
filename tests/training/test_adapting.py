"""Adapters of each method: they train alone, are stored for plain peft, and say beforehand where they cannot act."""

import json
import re

import pytest
import torch
from conftest import byte_level_tokenizer, tiny_model, wordpiece_tokenizer
from peft import PeftModel
from safetensors.torch import load_file
from small_adapters import FAMILIES, METHODS, NO_MERGE, describe, difference, lay, logits, make_optimizer, store, train
from small_classifiers import SHAPES
from transformers import AutoModelForCausalLM, BertConfig, BertForMaskedLM, T5Config, T5ForConditionalGeneration

from llmkit import generate, runtime
from llmkit.conversion.merging import export_merge, merge
from llmkit.errors import InputError
from llmkit.loading import load
from llmkit.training import adapting, saving

TOLERANCE = 1e-5  # of float32, relative


def plain(base, adapter):
    """The adapter over its base in plain peft."""
    with runtime.quiet():
        return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).eval()


# each method, on Conv1D and on Linear


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_adapter_trains_alone_and_is_stored_for_llmkit_and_for_plain_peft(make_checkpoint, tmp_path, family, method):
    base = make_checkpoint(family, FAMILIES[family])
    untouched = logits(load(base, device="cpu").model)
    model = lay(base, method)
    if method not in NO_MERGE:
        assert difference(logits(model), untouched) <= TOLERANCE
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train(model, make_optimizer(model), 1)
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert changed
    assert changed <= trained
    assert [name for name in trained if not re.search("lora_|ia3_|vera_|prompt_encoder", name)] == []
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    train(model, make_optimizer(model), 2, 3)
    expected = logits(model)
    assert difference(expected, untouched) > 100 * TOLERANCE
    store(model, base, tmp_path / "ad")
    assert difference(logits(plain(base, tmp_path / "ad")), expected) <= TOLERANCE
    assert difference(logits(load(tmp_path / "ad", device="cpu").model), expected) <= TOLERANCE


@pytest.mark.parametrize("method", [name for name in METHODS if name not in NO_MERGE])
@pytest.mark.parametrize("family", FAMILIES)
def test_adapter_merges_to_what_it_and_its_base_compute(make_checkpoint, tmp_path, family, method):
    base = make_checkpoint(family, FAMILIES[family])
    model = lay(base, method)
    train(model, make_optimizer(model), 1, 2)
    expected = logits(model)
    store(model, base, tmp_path / "ad")
    export_merge(str(tmp_path / "ad"), tmp_path / "merged")
    assert difference(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()), expected) <= TOLERANCE


@pytest.mark.parametrize("method", NO_MERGE)
def test_merge_refuses_what_changes_no_weight(make_checkpoint, method):
    kind = METHODS[method]["peft_type"]
    with pytest.raises(InputError) as caught:
        merge(lay(make_checkpoint("gpt2"), method), "ad")
    assert str(caught.value) == f"ad cannot be merged: {kind} adds tokens to a text and changes no weight"


def test_olora_acts_on_linear_weights(make_checkpoint, tmp_path):
    base = make_checkpoint("llama", "fallback")
    model = lay(base, "lora", init_lora_weights="olora")
    assert difference(logits(model), logits(load(base, device="cpu").model)) <= TOLERANCE
    train(model, make_optimizer(model), 1, 2)
    store(model, base, tmp_path / "ad")
    assert difference(logits(plain(base, tmp_path / "ad")), logits(model)) <= TOLERANCE


# what cannot act

CONV1D = {
    "olora": {"peft_type": "LORA", "init_lora_weights": "olora"},
    "olora, square": {"peft_type": "LORA", "init_lora_weights": "olora", "target_modules": ["attn.c_proj"]},
    "loha": {"peft_type": "LOHA", "target_modules": ["c_attn"]},
    "lokr": {"peft_type": "LOKR", "target_modules": ["c_attn"]},
    "oft": {"peft_type": "OFT", "target_modules": ["c_attn"], "oft_block_size": 8},
    "miss": {"peft_type": "MISS", "target_modules": ["c_attn"]},
}


@pytest.mark.parametrize("way", ["pissa", "pissa_niter_4", "olora"])
def test_first_factors_of_a_base_are_not_taken_from_an_embedding(way):
    adapter = {"peft_type": "LORA", "init_lora_weights": way, "target_modules": ["embed_tokens", "q_proj"]}
    sentence = f"adapter.init_lora_weights: {way} cannot act on an embedding, and embed_tokens is one"
    assert refuse(tiny_model("llama", 400), adapter) == sentence


def refuse(model, adapter, task="generation"):
    with pytest.raises(InputError) as caught:
        adapting.wrap(model, adapter, task=task, seed=0)
    assert len(str(caught.value)) < 300
    return str(caught.value)


@pytest.mark.parametrize("name", CONV1D)
def test_method_that_cannot_act_on_conv1d_says_so(name):
    assert adapting.check_adapter(CONV1D[name], None) == []
    sentence = refuse(tiny_model("gpt2", 400), CONV1D[name])
    if name.startswith("olora"):
        assert sentence == "adapter.init_lora_weights: olora cannot act on the Conv1D weights of gpt2"
    else:
        assert sentence.startswith(f"adapter: {CONV1D[name]['peft_type']} cannot act on this gpt2: ")


@pytest.mark.parametrize(
    ("names", "meant"),
    [
        (["c_attn", "c_atn"], "gpt2 has no module 'c_atn'; did you mean 'c_attn'?"),
        (["q"], "gpt2 has no module 'q'; its linear modules are c_attn, c_fc, c_proj, lm_head"),
    ],
)
def test_target_that_no_module_has_is_named(names, meant):
    adapter = {"peft_type": "LORA", "target_modules": names}
    assert refuse(tiny_model("gpt2", 400), adapter) == f"adapter.target_modules: {meant}"


def test_pattern_that_matches_nothing_is_answered_with_the_linear_modules():
    adapter = {"peft_type": "LORA", "target_modules": "nothing.*"}
    assert refuse(tiny_model("gpt2", 400), adapter) == (
        "adapter.target_modules: nothing in gpt2 matches; its linear modules are c_attn, c_fc, c_proj, lm_head"
    )


def test_family_of_which_peft_knows_no_modules_is_answered_with_its_own():
    assert refuse(tiny_model("openai-gpt", 400), {"peft_type": "LORA"}) == (
        "adapter.target_modules: missing; peft knows none of openai-gpt for LORA; "
        "its linear modules are c_attn, c_fc, c_proj, lm_head"
    )


def test_module_to_save_that_there_is_not_is_named():
    adapter = {"peft_type": "LORA", "modules_to_save": ["scor"]}
    assert refuse(tiny_model("gpt2", 400), adapter).startswith("adapter.modules_to_save: gpt2 has no module 'scor'")


def test_value_that_peft_refuses_at_the_model_is_one_sentence():
    sentence = refuse(tiny_model("gpt2", 400), {"peft_type": "LORA", "r": 0})
    assert sentence.startswith("adapter: LORA cannot act on this gpt2: `r` should be a positive integer")


def test_virtual_tokens_are_refused_where_each_token_has_an_answer():
    assert refuse(tiny_model("gpt2", 400), METHODS["prompt"], task="question-answering") == (
        "adapter.peft_type: PROMPT_TUNING adds tokens to a text, which question-answering cannot use; expected LORA"
    )


def test_method_that_fails_at_its_first_forward_says_so():
    sentence = refuse(tiny_model("openai-gpt", 400), METHODS["prefix"])
    assert sentence.startswith(
        "adapter: PREFIX_TUNING cannot act on this openai-gpt: The size of tensor a (4) must match"
    )
    sentence = refuse(tiny_model("gpt2", 400), {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 64})
    assert sentence == "adapter: PROMPT_TUNING cannot act on this gpt2: index out of range in self"


def test_adapter_over_an_adapter_is_refused(make_checkpoint):
    sentence = refuse(lay(make_checkpoint("gpt2"), "lora"), METHODS["lora"])
    assert sentence == "model.name: it is an adapter itself"


@pytest.mark.parametrize("method", NO_MERGE)
def test_text_with_virtual_tokens_is_that_of_whole_forwards(make_checkpoint, tmp_path, method):
    base = make_checkpoint("gpt2")
    model = lay(base, method)
    train(model, make_optimizer(model), 1, 2, 3)
    made = generate("Once upon", model=store(model, base, tmp_path / "ad"), max_new_tokens=8, temperature=0)
    over, ids = plain(base, tmp_path / "ad"), torch.tensor([byte_level_tokenizer()("Once upon").input_ids])
    length = ids.shape[1]
    with torch.no_grad():
        for _ in made.token_ids:
            ids = torch.cat([ids, over(input_ids=ids).logits[:, -1:].argmax(-1)], dim=1)
    assert list(made.token_ids) == ids[0, length:].tolist()


# the check of a recipe, before any model


@pytest.mark.parametrize(
    ("adapter", "problem"),
    [
        ({}, "adapter.peft_type: missing; add one such as LORA"),
        ({"peft_type": "lora"}, "adapter.peft_type: peft has no such method, got 'lora'; did you mean 'LORA'?"),
        ({"peft_type": 3}, "adapter.peft_type: peft has no such method, got 3"),
        ({"peft_type": "LORA", "weights": 3}, "adapter.weights: LORA has no such key"),
        ({"peft_type": "LORA", "lora_alfa": 3}, "adapter.lora_alfa: LORA has no such key; did you mean 'lora_alpha'?"),
        ({"peft_type": "LORA", "r": "16"}, "adapter.r: expected a whole number, got '16'"),
        ({"peft_type": "LORA", "r": 2.5}, "adapter.r: expected a whole number, got 2.5"),
        ({"peft_type": "LORA", "r": True}, "adapter.r: expected a whole number, got True"),
        ({"peft_type": "LORA", "use_dora": "yes"}, "adapter.use_dora: expected true or false, got 'yes'"),
        ({"peft_type": "LORA", "lora_dropout": "a"}, "adapter.lora_dropout: expected a number, got 'a'"),
        ({"peft_type": "LORA", "task_type": "SEQ_CLS"}, "adapter.task_type: llmkit sets it itself"),
        ({"peft_type": "LORA", "inference_mode": True}, "adapter.inference_mode: llmkit sets it itself"),
        (
            {"peft_type": "LORA", "base_model_name_or_path": "a"},
            "adapter.base_model_name_or_path: llmkit sets it itself",
        ),
        ({"peft_type": "LORA", "megatron_core": "os"}, "adapter.megatron_core: llmkit sets it itself"),
        (
            {"peft_type": "LORA", "target_modules": "c_.*", "layers_to_transform": [0]},
            "adapter: LORA refuses it: `layers_to_transform` cannot be used when `target_modules` is a str.",
        ),
        (
            {"peft_type": "LORA", "init_lora_weights": "corda"},
            "adapter.init_lora_weights: corda needs a pass of its own before training; llmkit has none",
        ),
        (
            {"peft_type": "ADALORA"},
            "adapter.total_step: missing; ADALORA needs the number of steps, such as train.max_steps",
        ),
        ({**METHODS["adalora"], "target_r": 6}, "adapter.target_r: 6 must be below init_r, 6"),
        (
            {"peft_type": "PREFIX_TUNING"},
            "adapter.num_virtual_tokens: missing; PREFIX_TUNING needs a number such as 20",
        ),
    ],
    ids=lambda value: None if isinstance(value, dict) else value[:40],
)
def test_check_adapter_names_the_key(adapter, problem):
    assert adapting.check_adapter(adapter, None) == [problem]


def test_check_adapter_names_all_problems_and_keeps_the_recipe_as_it_is():
    adapter = {"peft_type": "LORA", "r": "a", "rnk": 1, "task_type": "CAUSAL_LM", "modules_to_save": ["lm_head"]}
    assert [problem.partition(":")[0] for problem in adapting.check_adapter(adapter, None)] == [
        "adapter.task_type",
        "adapter.rnk",
        "adapter.r",
    ]
    assert adapter["modules_to_save"] == ["lm_head"]


@pytest.mark.parametrize("adapter", METHODS.values(), ids=METHODS)
def test_check_adapter_passes_each_method(adapter):
    assert adapting.check_adapter(adapter, None) == []
    assert adapting.check_adapter({**adapter}, None) == []


def test_lora_alpha_may_be_a_fraction():
    assert adapting.check_adapter({"peft_type": "LORA", "lora_alpha": 0.5}, None) == []


def test_quantization_is_checked_by_its_keys_and_needs_bitsandbytes(monkeypatch):
    monkeypatch.setattr(adapting.importlib.util, "find_spec", lambda name: None)
    assert adapting.check_adapter(None, {"load_in_4bt": True}) == [
        "quantization: goes with an adapter; add adapter, or leave it out",
        "quantization.load_in_4bt: BitsAndBytesConfig has no such key; did you mean 'load_in_4bit'?",
        "quantization: bitsandbytes is not installed (pip install bitsandbytes)",
    ]


def test_quantization_values_are_checked_by_transformers(monkeypatch):
    monkeypatch.setattr(adapting.importlib.util, "find_spec", lambda name: name)
    (problem,) = adapting.check_adapter(METHODS["lora"], {"load_in_4bit": True, "load_in_8bit": True})
    assert problem.startswith(
        "quantization: BitsAndBytesConfig refuses it: load_in_4bit and load_in_8bit are both True"
    )


@pytest.mark.parametrize(("adapter", "count"), [(None, 0), (METHODS["lora"], 0), (METHODS["prefix"], 3)])
def test_virtual_tokens_are_counted(adapter, count):
    assert adapting.count_virtual_tokens(adapter) == count


# how an adapter begins


def test_adapter_is_drawn_with_the_seed(make_checkpoint):
    def draw(seed):
        model = lay(make_checkpoint("gpt2"), "lora", seed=seed)
        return torch.cat([p.detach().flatten() for name, p in model.named_parameters() if "lora_A" in name])

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_wrap_says_nothing_and_leaves_the_recipe_as_it_is(make_checkpoint, capsys):
    adapter = {**METHODS["lora"], "target_modules": ["c_attn"], "modules_to_save": ["lm_head"]}
    kept = {key: list(value) if isinstance(value, list) else value for key, value in adapter.items()}
    adapting.wrap(load(make_checkpoint("gpt2"), device="cpu").model, adapter, task="generation", seed=0)
    assert adapter == kept
    assert capsys.readouterr() == ("", "")


def test_eva_begins_with_the_directions_of_its_inputs(make_checkpoint):
    model = lay(make_checkpoint("llama", "fallback"), "eva")
    factors = [p.detach() for name, p in model.named_parameters() if ".lora_A." in name]
    for factor in factors:
        assert torch.allclose(factor @ factor.T, torch.eye(len(factor)), atol=1e-4)
    assert {len(factor) for factor in factors} != {2}  # the ranks went where the variance is


def test_eva_refuses_batches_that_are_too_small(make_checkpoint):
    model = load(make_checkpoint("gpt2"), device="cpu").model
    wrapped = adapting.wrap(model, {**METHODS["eva"], "r": 8}, task="generation", seed=0)
    with pytest.raises(InputError) as caught:
        adapting.initialize(wrapped, [{"input_ids": torch.arange(15)[None]}])
    assert str(caught.value) == "adapter: EVA needs batches of at least 16 tokens, r times rho; add rows to a batch"


# AdaLoRA


def count_ranks(model):
    return sum(int((p != 0).sum()) for name, p in model.named_parameters() if ".lora_E." in name)


def test_adalora_takes_ranks_away_down_to_its_target(make_checkpoint):
    model = lay(make_checkpoint("gpt2"), "adalora")
    optimizer = make_optimizer(model)
    train(model, optimizer, 1)
    assert count_ranks(model) == 2 * 6
    train(model, optimizer, 2, 3, 4, 5)
    assert count_ranks(model) <= 2 * 3
    train(model, optimizer, 6, 7, 8)
    assert 0 < count_ranks(model) <= 2 * 3


def test_adalora_passes_over_a_step_that_is_not_finite(make_checkpoint):
    model = lay(make_checkpoint("gpt2"), "adalora")
    train(model, make_optimizer(model), 1)
    before = {name: t.clone() for name, t in model.base_model.rankallocator.exp_avg_ipt.items()}
    for p in model.parameters():
        p.grad = torch.full_like(p, torch.nan) if p.requires_grad else None
    adapting.after_step(model, 2)
    now = model.base_model.rankallocator.exp_avg_ipt
    assert all(torch.equal(now[name], tensor) for name, tensor in before.items())


def test_adalora_gradient_has_the_regularisation_that_peft_adds_to_a_loss(make_checkpoint):
    mine, theirs = (lay(make_checkpoint("gpt2"), "adalora", dtype="float64").eval() for _ in range(2))
    ids = torch.arange(12)[None]
    theirs(input_ids=ids, labels=ids).loss.backward()  # peft's own way
    found = mine.get_base_model()(input_ids=ids, labels=ids).loss
    found.backward()
    adapting.before_step(mine)
    for (name, one), other in zip(mine.named_parameters(), theirs.parameters(), strict=True):
        if one.requires_grad:
            assert torch.allclose(one.grad, other.grad, rtol=1e-12, atol=1e-12), name


def test_steps_of_other_adapters_and_of_no_adapter_change_nothing(make_checkpoint):
    model = load(make_checkpoint("gpt2"), device="cpu").model
    adapting.initialize(model, [])
    adapting.before_step(model)
    adapting.after_step(model, 1)
    assert all(p.grad is None for p in model.parameters())


# heads and embeddings


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A tiny BERT with a masked-LM head and no pooler."""
    folder, tokenizer = tmp_path_factory.mktemp("encoder"), wordpiece_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BertForMaskedLM(BertConfig(**SHAPES["bert"], vocab_size=len(tokenizer), max_position_embeddings=64))
        for p in model.parameters():
            torch.nn.init.normal_(p, std=0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


LABELS = ["bad", "fair", "good"]
HEAD = {"num_labels": 3, "id2label": dict(enumerate(LABELS)), "label2id": {label: i for i, label in enumerate(LABELS)}}


@pytest.mark.parametrize("method", ["lora", "dora", "pissa", "eva", "adalora", "ia3", "vera"])
def test_head_that_the_base_lacks_is_trained_stored_and_brought(encoder, tmp_path, method):
    torch.manual_seed(3)
    loaded = load(encoder, task="classification", device="cpu", new_head=True, kwargs=HEAD)
    model = adapting.wrap(loaded.model, METHODS[method], task="classification", seed=0)
    ids = torch.arange(5, 29).reshape(3, 8)
    adapting.initialize(model, [{"input_ids": ids, "labels": torch.tensor([0, 1, 2])}])
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    heads = {name.partition("base_model.model.")[2] for name in trained if "modules_to_save" in name}
    assert heads == {
        "bert.pooler.modules_to_save.default.dense.weight",
        "bert.pooler.modules_to_save.default.dense.bias",
        "classifier.modules_to_save.default.weight",
        "classifier.modules_to_save.default.bias",
    }
    optimizer = make_optimizer(model)
    for _ in range(3):
        torch.nn.functional.cross_entropy(model(input_ids=ids).logits, torch.tensor([0, 1, 2])).backward()
        optimizer.step()
        optimizer.zero_grad()
    facts = {"task": "classification", "labels": LABELS, "problem_type": "single_label_classification"}
    store(model, encoder, tmp_path / "ad", **facts)
    with torch.no_grad():
        expected = model.eval()(input_ids=ids).logits
        for call in ({"checkpoint": tmp_path / "ad"}, {"checkpoint": encoder, "adapter": tmp_path / "ad"}):
            again = load(**call, device="cpu").model
            assert difference(again(input_ids=ids).logits, expected) <= TOLERANCE
            assert again.config.id2label == dict(enumerate(LABELS))
            assert again.config.problem_type == "single_label_classification"
    export_merge(str(tmp_path / "ad"), tmp_path / "merged")
    merged = load(tmp_path / "merged", device="cpu")
    with torch.no_grad():
        assert difference(merged.model(input_ids=ids).logits, expected) <= TOLERANCE
    assert merged.model.config.id2label == dict(enumerate(LABELS))
    assert merged.facts == facts


def test_head_of_an_adapter_without_llmkit_json_decides_the_number_of_labels(encoder, tmp_path):
    loaded = load(encoder, task="classification", device="cpu", new_head=True, kwargs=HEAD)
    model = adapting.wrap(loaded.model, METHODS["lora"], task="classification", seed=0)
    saving.save_checkpoint(tmp_path / "ad", model, loaded.tokenizer, {}, base=describe(encoder)[1])
    (tmp_path / "ad" / "llmkit.json").unlink()
    (tmp_path / "ad" / "manifest.json").unlink()
    assert load(tmp_path / "ad", device="cpu").model.config.num_labels == 3


def test_question_answering_trains_its_head(encoder, tmp_path):
    loaded = load(encoder, task="question-answering", device="cpu", new_head=True)
    model = adapting.wrap(loaded.model, METHODS["lora"], task="question-answering", seed=0)
    store(model, encoder, tmp_path / "ad", task="question-answering")
    ids = torch.arange(5, 13)[None]
    again = load(tmp_path / "ad", device="cpu").model
    with torch.no_grad():
        assert torch.equal(again(input_ids=ids).start_logits, model.eval()(input_ids=ids).start_logits)


def test_masked_lm_takes_an_adapter_without_a_task_of_peft(encoder, tmp_path):
    loaded = load(encoder, task="masked-lm", device="cpu")
    model = adapting.wrap(loaded.model, METHODS["lora"], task="masked-lm", seed=0)
    store(model, encoder, tmp_path / "ad", task="masked-lm")
    ids = torch.arange(5, 13)[None]
    with torch.no_grad():
        again = load(tmp_path / "ad", device="cpu").model(input_ids=ids).logits
        assert torch.equal(again, model.eval()(input_ids=ids).logits)


@pytest.mark.parametrize("method", ["lora", "adalora", "ia3"])
def test_encoder_decoder_takes_an_adapter(method):
    config = T5Config(vocab_size=100, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0)
    model = adapting.wrap(T5ForConditionalGeneration(config), METHODS[method], task="translation", seed=0)
    assert type(model).__name__ == "PeftModelForSeq2SeqLM"


@pytest.mark.parametrize(
    "changes", [{"modules_to_save": ["wte"]}, {"modules_to_save": ["lm_head"]}, {"target_modules": ["wte", "c_fc"]}]
)
def test_embeddings_that_are_trained_stay_tied(make_checkpoint, tmp_path, changes):
    base = make_checkpoint("gpt2")
    model = lay(base, "lora", **changes)
    train(model, make_optimizer(model), 1, 2)
    store(model, base, tmp_path / "ad")
    assert difference(logits(plain(base, tmp_path / "ad")), logits(model)) <= TOLERANCE
    export_merge(str(tmp_path / "ad"), tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    assert merged.lm_head.weight is merged.transformer.wte.weight
    assert "lm_head.weight" not in load_file(tmp_path / "merged" / "model.safetensors")
    assert difference(logits(merged), logits(model)) <= TOLERANCE


def test_adapter_over_embeddings_is_stored_without_them(make_checkpoint, tmp_path):
    base = make_checkpoint("llama", "fallback")
    model = lay(base, "lora", target_modules=["embed_tokens", "q_proj"])
    train(model, make_optimizer(model), 1, 2)
    store(model, base, tmp_path / "ad")
    stored = load_file(tmp_path / "ad" / "adapter_model.safetensors")
    assert [name for name in stored if "lora" not in name] == []
    assert difference(logits(load(tmp_path / "ad", device="cpu").model), logits(model)) <= TOLERANCE


def test_adapter_that_cannot_keep_embeddings_tied_is_refused():
    sentence = refuse(tiny_model("gpt2", 400), {"peft_type": "VERA", "r": 4, "modules_to_save": ["wte"]})
    assert sentence == (
        "adapter: VERA cannot train transformer.wte here: wte, lm_head are one weight, which LORA keeps one in a list"
    )


def test_stored_adapter_names_what_it_was_given(make_checkpoint, tmp_path):
    model = lay(make_checkpoint("gpt2"), "pissa")
    config = {"base_model_name_or_path": "user/model", "revision": "v1"}
    saving.save_checkpoint(tmp_path / "ad", model, byte_level_tokenizer(), {}, base=config)
    assert sorted(p.name for p in (tmp_path / "ad").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "llmkit.json",
        "manifest.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    stored = json.loads((tmp_path / "ad" / "adapter_config.json").read_text(encoding="utf-8"))
    chosen = (
        "base_model_name_or_path",
        "revision",
        "init_lora_weights",
        "r",
        "lora_alpha",
        "task_type",
        "inference_mode",
    )
    assert {key: stored[key] for key in chosen} == {
        **config,
        "init_lora_weights": True,
        "r": 8,
        "lora_alpha": 16,
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
    }
