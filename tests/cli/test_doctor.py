"""`llmkit doctor`: the facts of a checkpoint without torch, and of the machine without a network."""

import importlib.metadata
import json
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import byte_level_tokenizer, tiny_model
from gguf_files import write_gguf
from safetensors.numpy import save_file

from llmkit.cli import doctor

RUN = """
import json, sys
from llmkit.cli import main
code = main.run(sys.argv[1:])
heavy = {"torch", "transformers", "peft", "accelerate", "datasets"}
print(json.dumps({"code": code, "heavy": sorted(heavy & sys.modules.keys())}))
"""


@pytest.fixture
def ck(make_checkpoint, tmp_path, monkeypatch):
    """A copy of a tiny GPT-2, as `ck` in the working folder."""
    monkeypatch.chdir(tmp_path)
    return pathlib.Path(shutil.copytree(make_checkpoint("gpt2"), "ck"))


def facts(out):
    return {line.split("  ", 1)[0]: line.split("  ", 1)[1].strip() for line in out.splitlines()}


def test_doctor_gives_the_facts_of_a_checkpoint(ck, llmkit_cli):
    code, out, err = llmkit_cli("doctor", "ck")
    assert (code, err) == (0, "")
    assert facts(out) == {
        "checkpoint": "ck",
        "form": "safetensors, gpt2, GPT2LMHeadModel",
        "parameters": "40,320 in 28 tensors (F32)",
        "context": "64 tokens",
        "tokenizer": "tokenizer.json, 400 tokens",
        "wrong": "nothing found",
    }


def test_doctor_checks_a_checkpoint_without_the_heavy_libraries(ck):
    done = subprocess.run([sys.executable, "-c", RUN, "doctor", "ck"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == {"code": 0, "heavy": []}


def test_doctor_says_which_part_of_a_run_it_looked_at(ck, llmkit_cli):
    pathlib.Path("runs/x").mkdir(parents=True)
    pathlib.Path("runs/x/recipe.yaml").touch()
    ck.rename("runs/x/final")
    code, out, _ = llmkit_cli("doctor", "runs/x")
    assert code == 0
    assert facts(out)["part"] == "runs/x is a run, using its final"


def test_doctor_gives_the_facts_of_an_adapter(tmp_path, monkeypatch, llmkit_cli):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("ad").mkdir()
    pathlib.Path("ad/adapter_config.json").write_text('{"peft_type": "LORA"}', encoding="utf-8")
    save_file({"x.lora_A.weight": np.zeros((2, 4), np.float32)}, "ad/adapter_model.safetensors")
    code, out, err = llmkit_cli("doctor", "ad")
    assert (code, err) == (0, "")
    assert facts(out) == {
        "checkpoint": "ad",
        "form": "peft adapter, LORA",
        "base": "not named",
        "tensors": "1",
        "wrong": "nothing found",
    }


def test_doctor_gives_the_facts_of_a_gguf_file(tmp_path, llmkit_cli):
    path, tokenizer = tmp_path / "m.gguf", byte_level_tokenizer()
    write_gguf(path, tiny_model("llama", len(tokenizer)), tokenizer)
    code, out, err = llmkit_cli("doctor", path)
    assert (code, err) == (0, "")
    size = f"{path.stat().st_size / 1e6:.1f} MB"
    shown = {"checkpoint": str(path), "form": "GGUF", "size": size, "tensors": "21", "wrong": "nothing found"}
    assert facts(out) == shown
    whole = path.read_bytes()
    for kept in (len(whole) // 2, len(whole) - 100, 2000):
        path.write_bytes(whole[:kept])
        code, out, err = llmkit_cli("doctor", path)
        assert (code, out) == (1, "")
        assert err.startswith(f"llmkit: error: {path} is cut off: ")


def test_doctor_says_that_the_base_of_an_adapter_is_not_at_hand(tmp_path, monkeypatch, llmkit_cli):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("ad").mkdir()
    config = '{"peft_type": "LORA", "base_model_name_or_path": "./no/base"}'
    pathlib.Path("ad/adapter_config.json").write_text(config, encoding="utf-8")
    save_file({"x.lora_A.weight": np.zeros((2, 4), np.float32)}, "ad/adapter_model.safetensors")
    code, out, err = llmkit_cli("doctor", "ad")
    sentence = "the base of the adapter ad is not at hand: no such checkpoint: ./no/base"
    assert (code, out, err) == (2, "", f"llmkit: error: {sentence}\nhint: -m BASE -a ADAPTER names both\n")


def test_doctor_takes_the_tokenizer_from_another_folder(ck, llmkit_cli):
    pathlib.Path("words").mkdir()
    (ck / "tokenizer.json").unlink()
    pathlib.Path("words/vocab.txt").write_text("[UNK]\na\n", encoding="utf-8")
    code, out, _ = llmkit_cli("doctor", "ck", "--tokenizer", "words")
    assert code == 0
    assert facts(out)["tokenizer"] == "WordPiece (vocab.txt), 2 tokens"


@pytest.mark.parametrize("architectures", [5, None, "GPT2LMHeadModel"])
def test_doctor_takes_a_config_with_odd_architectures(ck, llmkit_cli, architectures):
    config = json.loads((ck / "config.json").read_text(encoding="utf-8"))
    (ck / "config.json").write_text(json.dumps({**config, "architectures": architectures}), encoding="utf-8")
    code, out, _ = llmkit_cli("doctor", "ck")
    assert (code, facts(out)["form"]) == (0, "safetensors, gpt2")


@pytest.mark.parametrize(
    ("name", "code", "sentence"),
    [
        ("tokenizer.json", 2, "no tokenizer in ck"),
        ("model.safetensors", 2, "no model.safetensors in ck"),
        ("config.json", 2, "no config.json in ck"),
    ],
)
def test_doctor_says_what_is_wrong_with_a_checkpoint(ck, llmkit_cli, name, code, sentence):
    (ck / name).unlink()
    got, out, err = llmkit_cli("doctor", "ck")
    assert (got, out, err.splitlines()[0]) == (code, "", f"llmkit: error: {sentence}")


# the machine


def test_doctor_gives_versions_and_devices_offline(llmkit_cli):
    code, out, _ = llmkit_cli("doctor", "--offline")
    assert code == 0
    found = facts(out)
    assert found["transformers"] == importlib.metadata.version("transformers")
    assert found["network"] == "not asked (offline)"
    assert re.fullmatch(r".* \([\d,.]+ GB free\)", found["cache"])
    assert list(found)[-3:] == ["cache", "hub", "network"]


def test_doctor_says_that_the_hub_does_not_answer(monkeypatch, llmkit_cli):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(doctor, "reach", lambda endpoint: f"no connection to {endpoint}")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    code, out, err = llmkit_cli("doctor")
    assert code == 0
    assert facts(out)["network"] == "no connection to http://127.0.0.1:9"
    assert "llmkit: note: hub ids load from the local cache only; HF_ENDPOINT names a mirror" in err.splitlines()


def test_doctor_says_that_the_hub_answers(monkeypatch, llmkit_cli):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(doctor, "reach", lambda endpoint: None)
    code, out, err = llmkit_cli("doctor")
    assert (code, facts(out)["network"], err) == (0, "the hub's host answers", "")


def test_doctor_says_that_the_cache_cannot_be_written_to(monkeypatch, llmkit_cli):
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    assert "cannot be written to; HF_HOME names another place" in llmkit_cli("doctor")[2]


def test_doctor_says_which_packages_are_too_old_or_missing(monkeypatch, llmkit_cli):
    stated = ["torch>=999", "no-such-package>=1", 'typer>=0.1; extra == "dev"', "typer>=999; extra == 'dev'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: stated)
    lines = llmkit_cli("doctor")[2].splitlines()
    assert lines == [
        f"llmkit: note: torch is {importlib.metadata.version('torch')}; expected >=999",
        "llmkit: note: no-such-package is not installed",
    ]


def test_doctor_finds_nothing_wrong_with_what_llmkit_needs(llmkit_cli):
    assert doctor._find_old_packages() == []
