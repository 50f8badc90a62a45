"""A merged model computes what the adapter and its base do, also as plain transformers loads it."""

import json

import pytest
import torch
from conftest import byte_level_tokenizer, change, tiny_model
from safetensors.torch import load_file
from small_adapters import FAMILIES, difference, lay, logits, make_optimizer, store, train
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmkit import runfolder
from llmkit.conversion.merging import export_merge, merge
from llmkit.errors import InputError
from llmkit.loading import load, load_tokenizer
from llmkit.training import adapting

TOLERANCES = {"float64": 1e-12, "float32": 1e-5}
METHODS = ("lora", "rslora", "dora", "eva", "adalora", "ia3", "vera")


def adapt(base, method="lora", *, dtype="float32", steps=(1, 2, 3), **changes):
    """An adapter with an effect."""
    model = lay(base, method, dtype=dtype, **changes)
    if steps:
        train(model, make_optimizer(model), *steps)
    return model.eval()


@pytest.fixture(params=FAMILIES)
def base(request, make_checkpoint):
    return make_checkpoint(request.param, FAMILIES[request.param])


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("method", METHODS)
def test_merged_equals_base_and_adapter(base, method, dtype):
    model = adapt(base, method, dtype=dtype)
    expected, before = logits(model), logits(load(base, device="cpu", dtype=dtype).model)
    assert difference(expected, before) > 1e-3
    assert difference(logits(merge(model)), expected) <= TOLERANCES[dtype]


@pytest.mark.parametrize("kind", ["pissa", "tokens"])
def test_stored_and_merged_equals_first_factors_of_the_base_and_tokens_of_a_tied_embedding(base, tmp_path, kind):
    changes = {"trainable_token_indices": [5, 6, 7]} if kind == "tokens" else {}
    model = adapt(base, "pissa" if kind == "pissa" else "lora", **changes)
    expected = logits(model)
    store(model, base, tmp_path / "ad")
    export_merge(str(tmp_path / "ad"), tmp_path / "out")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert difference(logits(merged), expected) <= TOLERANCES["float32"]
    if kind == "tokens":
        own, now = load(base, device="cpu").model, merged
        moved = (own.get_input_embeddings().weight != now.get_input_embeddings().weight).any(dim=1)
        assert moved.nonzero().flatten().tolist() == [5, 6, 7]


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_unmerge_restores_the_base(base, dtype):
    model = adapt(base, dtype=dtype)
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    model.merge_adapter()
    assert any(not torch.equal(p, weights[name]) for name, p in model.named_parameters())
    model.unmerge_adapter()
    assert all(difference(p, weights[name]) <= TOLERANCES[dtype] for name, p in model.named_parameters())


def test_adapter_that_was_not_trained_is_the_identity(base):
    untouched = logits(load(base, device="cpu").model)
    model = adapt(base, steps=())
    assert torch.equal(logits(model), untouched)
    assert torch.equal(logits(merge(model)), untouched)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("method", METHODS)
def test_stored_loaded_and_merged_equals_the_adapter_also_in_plain_transformers(base, tmp_path, method, dtype):
    model = adapt(base, method, dtype=dtype)
    expected = logits(model)
    store(model, base, tmp_path / "ad")
    assert export_merge(str(tmp_path / "ad"), tmp_path / "out") == [tmp_path / "out" / "model.safetensors"]
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert merged.dtype == getattr(torch, dtype)
    assert difference(logits(merged), expected) <= TOLERANCES[dtype]


def test_merged_folder_is_a_plain_checkpoint(make_checkpoint, tmp_path):
    base = make_checkpoint("gpt2")
    folder = store(adapt(base), base, tmp_path / "ad", max_length=32, step=3)
    change(folder / "generation_config.json", max_new_tokens=5)
    (folder / "manifest.json").unlink()
    export_merge(str(folder), tmp_path / "a" / "out")
    out = tmp_path / "a" / "out"
    assert sorted(p.name for p in out.iterdir()) == [
        "config.json",
        "generation_config.json",
        "llmkit.json",
        "manifest.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert runfolder.read_facts(out) == {"task": "generation", "max_length": 32, "step": 3}
    merged = AutoModelForCausalLM.from_pretrained(out)
    assert merged.generation_config.max_new_tokens == 5
    assert AutoTokenizer.from_pretrained(out)("你好").input_ids == byte_level_tokenizer()("你好").input_ids


def test_tied_weights_are_stored_once_and_stay_tied(make_checkpoint, tmp_path):
    base = make_checkpoint("gpt2")
    export_merge(str(store(adapt(base), base, tmp_path / "ad")), tmp_path / "out")
    assert "lm_head.weight" not in load_file(tmp_path / "out" / "model.safetensors")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert merged.lm_head.weight is merged.transformer.wte.weight
    assert json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))["tie_word_embeddings"] is True


def test_base_in_bfloat16_is_merged_in_float32(base, tmp_path):
    low = tmp_path / "low"
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(low)
    load_tokenizer(base).save_pretrained(low)
    model = adapt(low)
    export_merge(str(store(model, low, tmp_path / "ad")), tmp_path / "out")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert merged.dtype == torch.float32
    assert difference(logits(merged), logits(model)) <= TOLERANCES["float32"]


SHAPES = {
    "gpt2": {"n_embd": 64, "n_layer": 4, "n_head": 4},
    "llama": {"hidden_size": 64, "num_hidden_layers": 4, "intermediate_size": 128},
}


@pytest.mark.parametrize("family", SHAPES)
def test_merge_stored_in_bfloat16_agrees_on_the_most_probable_token(family):
    base = tiny_model(family, 100, scale=0.1, **SHAPES[family]).to(torch.bfloat16).float()
    model = adapting.wrap(base, {"peft_type": "LORA", "r": 4}, task="generation", seed=0).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if ".lora_B." in name:
                p.normal_(0, 0.3, generator=torch.Generator().manual_seed(len(name)))
    ids = torch.randint(0, 100, (64, 32), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        exact = model(input_ids=ids).logits
        with model.disable_adapter():
            assert difference(exact, model(input_ids=ids).logits) > 0.1
        found = merge(model).to(torch.bfloat16).float()(input_ids=ids).logits
    assert float((found.argmax(-1) == exact.argmax(-1)).double().mean()) >= 0.99


def test_adapter_and_its_base_may_be_named_apart(make_checkpoint, tmp_path):
    base = make_checkpoint("gpt2")
    model = adapt(base)
    store(model, base, tmp_path / "ad")
    export_merge(str(base), tmp_path / "out", adapter=str(tmp_path / "ad"))
    assert difference(logits(load(tmp_path / "out", device="cpu").model), logits(model)) <= 1e-5


def refuse(checkpoint, out, **options):
    with pytest.raises(InputError) as caught:
        export_merge(str(checkpoint), out, **options)
    return str(caught.value)


def test_another_base_is_refused_and_nothing_is_written(make_checkpoint, tmp_path):
    base, other = make_checkpoint("gpt2"), make_checkpoint("gpt2", seed=1)
    store(adapt(base), base, tmp_path / "ad")
    assert refuse(other, tmp_path / "out", adapter=str(tmp_path / "ad")) == (
        f"the adapter {tmp_path / 'ad'} was made for other weights than {other} (its sha256 differs)"
    )
    assert [p.name for p in tmp_path.iterdir()] == ["ad"]


def test_checkpoint_without_an_adapter_is_refused(make_checkpoint, tmp_path):
    base = make_checkpoint("gpt2")
    assert refuse(base, tmp_path / "out") == f"{base} is no adapter; expected a run with one, or its folder"


def test_folder_that_exists_is_refused(make_checkpoint, tmp_path):
    assert refuse(make_checkpoint("gpt2"), tmp_path) == f"{tmp_path} exists already; expected a new folder"


def test_folder_that_cannot_be_made_is_refused_before_any_work(make_checkpoint, tmp_path):
    (tmp_path / "note").write_text("mine")
    sentence = f"cannot write to {tmp_path / 'note' / 'a'}: {tmp_path / 'note'} is no folder"
    assert refuse(make_checkpoint("gpt2"), tmp_path / "note" / "a" / "b") == sentence
