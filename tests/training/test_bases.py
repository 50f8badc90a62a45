"""The base under an adapter: named so that llmkit and plain peft find it, copied where peft could not."""

import shutil

import pytest
import torch
from conftest import byte_level_tokenizer, tiny_model
from gguf_files import write_gguf
from small_adapters import difference, lay, logits
from transformers import AutoModelForCausalLM

from llmkit import checking, runfolder
from llmkit.errors import InputError
from llmkit.loading import load
from llmkit.training import bases, saving


@pytest.fixture(autouse=True)
def _forget():
    bases.find_base.cache_clear()


def store(run, base, name="final"):
    loaded = load(base.config["base_model_name_or_path"], device="cpu")
    model = lay(base.config["base_model_name_or_path"], "lora")
    facts = {"task": "generation", **base.facts}
    saving.save_checkpoint(run / name, model, loaded.tokenizer, facts, base=base.config)
    return model


def test_base_at_a_path_is_named_by_its_absolute_path(make_checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(make_checkpoint("gpt2"), "mine")
    base = bases.find_base("mine", tmp_path / "run")
    path = str(tmp_path / "mine")
    assert base.config == {"base_model_name_or_path": path, "revision": None}
    assert base.facts == {"base": path, "base_sha256": checking.hash_weights(tmp_path / "mine")}
    assert not (tmp_path / "run").exists()


def test_builtin_base_is_copied_once_and_found_by_peft_and_by_llmkit(tmp_path):
    run = tmp_path / "run"
    base = bases.find_base("builtin/tiny", run)
    assert base.config == {"base_model_name_or_path": str(run / "base")}
    assert base.facts == {"base": "builtin/tiny", "base_sha256": checking.hash_weights(run / "base")}
    assert runfolder.find_damage(run / "base") is None
    AutoModelForCausalLM.from_pretrained(run / "base")
    stamp = (run / "base" / "model.safetensors").stat().st_mtime_ns
    bases.find_base.cache_clear()
    assert bases.find_base("builtin/tiny", run) == base
    assert (run / "base" / "model.safetensors").stat().st_mtime_ns == stamp


def test_adapter_over_a_builtin_is_used_from_a_moved_run_and_without_its_copy(tmp_path):
    run = tmp_path / "run"
    model = store(run, bases.find_base("builtin/tiny", run))
    expected = logits(model)
    (tmp_path / "away").mkdir()
    moved = (tmp_path / "run").rename(tmp_path / "away" / "run")
    assert checking.name_base(moved / "final") == str(moved / "base")
    assert torch.equal(logits(load(moved / "final", device="cpu").model), expected)
    shutil.rmtree(moved / "base")
    assert checking.name_base(moved / "final") == "builtin/tiny"
    assert torch.equal(logits(load(moved / "final", device="cpu").model), expected)


def test_gguf_base_is_written_as_safetensors_and_either_form_is_its_base(tmp_path):
    file, tokenizer = tmp_path / "m.gguf", byte_level_tokenizer()
    write_gguf(file, tiny_model("llama", len(tokenizer)), tokenizer)
    run = tmp_path / "run"
    base = bases.find_base(str(file), run)
    assert base.config == {"base_model_name_or_path": str(run / "base")}
    assert base.facts == {
        "base": str(file),
        "base_sha256": checking.hash_weights(file),
        "base_copy_sha256": checking.hash_weights(run / "base"),
    }
    expected = logits(store(run, base))
    assert difference(logits(load(run / "final", device="cpu").model), expected) <= 1e-6
    assert difference(logits(load(file, adapter=run / "final", device="cpu").model), expected) <= 1e-6


def test_copy_of_a_base_that_was_changed_is_refused(tmp_path):
    run = tmp_path / "run"
    store(run, bases.find_base("builtin/tiny", run))
    copied = AutoModelForCausalLM.from_pretrained(run / "base")
    copied.transformer.ln_f.bias.data[0] += 1
    copied.save_pretrained(run / "base")
    (run / "base" / "manifest.json").unlink()
    with pytest.raises(InputError) as caught:
        load(run / "final", device="cpu")
    assert str(caught.value).endswith("(its sha256 differs)")
