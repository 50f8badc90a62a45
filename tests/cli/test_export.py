"""`llmkit export safetensors`: the hint of a refused checkpoint, followed."""

import os
import pathlib
import shutil

import pytest
import torch
from safetensors.torch import load_file


@pytest.fixture
def ck(make_checkpoint, tmp_path, monkeypatch):
    """A copy of a tiny GPT-2 with pickled weights, as `ck` in the working folder."""
    monkeypatch.chdir(tmp_path)
    folder = pathlib.Path(shutil.copytree(make_checkpoint("gpt2"), "ck"))
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def greedy(llmkit_cli, folder):
    return llmkit_cli("generate", "Once", "-m", folder, "-n", "8", "-t", "0", "--quiet")


def test_export_safetensors_mends_what_generate_refuses(ck, make_checkpoint, llmkit_cli):
    code, out, err = greedy(llmkit_cli, "ck")
    assert (code, out) == (2, "")
    hint = err.splitlines()[-1]
    assert hint == "hint: llmkit export safetensors ck OUT"
    assert llmkit_cli(*hint.split()[2:]) == (0, "OUT/model.safetensors\n", "")
    assert greedy(llmkit_cli, "OUT") == greedy(llmkit_cli, make_checkpoint("gpt2"))


def test_export_safetensors_refuses_a_folder_that_exists(ck, llmkit_cli):
    code, out, err = llmkit_cli("export", "safetensors", "ck", "ck")
    assert (code, out, err) == (2, "", "llmkit: error: ck exists already; expected a new folder\n")


def test_export_safetensors_refuses_what_is_safetensors_already(make_checkpoint, tmp_path, llmkit_cli):
    folder = make_checkpoint("gpt2")
    code, out, err = llmkit_cli("export", "safetensors", folder, tmp_path / "out")
    assert (code, out) == (2, "")
    assert err == (
        f"llmkit: error: {folder} has safetensors weights already; expected pytorch_model*.bin or a .gguf file\n"
    )
    assert not (tmp_path / "out").exists()


class Malicious:
    def __reduce__(self):
        return os.system, ("touch canary",)


def test_export_safetensors_ends_with_1_when_a_pickle_is_malicious(ck, llmkit_cli):
    torch.save({"a": Malicious()}, ck / "pytorch_model.bin")
    code, out, err = llmkit_cli("export", "safetensors", "ck", "out")
    assert (code, out) == (1, "")
    assert err == (
        "llmkit: error: the weights of ck cannot be read as tensors: "
        "pytorch_model.bin: it asks for posix.system, which is no tensor\n"
    )
    assert os.listdir(".") == ["ck"]


# merge


def test_export_merge_refuses_a_folder_that_exists(ck, llmkit_cli):
    assert llmkit_cli("export", "merge", "ck", "ck") == (
        2,
        "",
        "llmkit: error: ck exists already; expected a new folder\n",
    )


def test_export_merge_refuses_what_is_no_adapter(make_checkpoint, tmp_path, llmkit_cli):
    folder = make_checkpoint("gpt2")
    code, out, err = llmkit_cli("export", "merge", folder, tmp_path / "out")
    assert (code, out) == (2, "")
    assert err == f"llmkit: error: {folder} is no adapter; expected a run with one, or its folder\n"


def test_export_merge_says_what_cannot_be_merged(make_checkpoint, tmp_path, llmkit_cli):
    from conftest import byte_level_tokenizer
    from small_adapters import describe, lay

    from llmkit.training import saving

    base = make_checkpoint("gpt2")
    facts, config = describe(base)
    saving.save_checkpoint(tmp_path / "ad", lay(base, "prefix"), byte_level_tokenizer(), facts, base=config)
    code, out, err = llmkit_cli("export", "merge", tmp_path / "ad", tmp_path / "out")
    assert (code, out) == (2, "")
    assert err == (
        f"llmkit: error: {tmp_path / 'ad'} cannot be merged: "
        "PREFIX_TUNING adds tokens to a text and changes no weight\n"
    )
    assert not (tmp_path / "out").exists()
