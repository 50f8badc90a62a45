"""The embedded checkpoints of tasks: they weigh little, are whole, and serve the verbs without a network."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file

import llmkit
from llmkit import locating, runfolder
from llmkit.defaults import DEFAULTS

MAX_BYTES = 22_000_000  # of all but tiny
FOLDERS = sorted(path.parent for path in locating.BUILTIN.glob("*/manifest.json") if path.parent.name != "tiny")
by_folder = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


def han_count(text):
    return sum("\u4e00" <= c <= "\u9fff" for c in text)


def test_defaults_are_there_and_weigh_little():
    names = {f"builtin/{folder.name}" for folder in FOLDERS}
    assert set(DEFAULTS.values()) - {"builtin/tiny"} <= names
    assert sum(path.stat().st_size for folder in FOLDERS for path in folder.iterdir()) <= MAX_BYTES


@by_folder
def test_checkpoint_is_whole_and_in_bfloat16(folder):
    assert runfolder.find_damage(folder) is None
    (weights,) = folder.glob("*.safetensors")
    assert {tensor.dtype for tensor in load_file(weights).values()} == {torch.bfloat16}


@by_folder
def test_card_names_data_licence_and_what_was_measured(folder):
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert text.partition("\n---\n")[2].startswith(f"\n# {folder.name}\n")
    about, _, rest = text.partition("\n## Training\n")
    assert "name another model" in about
    data = rest.partition("\n## Data\n")[2].partition("\n## ")[0]
    sources = [line.strip("| ").split(" | ")[:2] for line in data.splitlines() if line.startswith("| ")][1:]
    assert sources
    assert all(licence != "not stated" and "@" in source for source, licence in sources)
    results = rest.partition("\n## Results\n")[2]
    rows = re.findall(r"^\| \S+ \| ([\d,]+) \| \w+ \| ([\d.]+) \| ([\d.]+) to ([\d.]+) \|$", results, re.MULTILINE)
    assert rows
    assert all(float(low) <= float(value) <= float(high) for _, value, low, high in rows)


def test_translation_needs_no_checkpoint_in_either_direction(llmkit_cli):
    code, out, err = llmkit_cli("translate", "I am very happy today.", "--from", "en", "--to", "zh")
    assert (code, err) == (0, "llmkit: note: builtin/translate-en-zh is a tiny model, -m names another\n")
    assert han_count(out) >= 2
    code, out, err = llmkit_cli("translate", "他是我的老师。", "--from", "zh", "--to", "en")
    assert (code, err) == (0, "llmkit: note: builtin/translate-zh-en is a tiny model, -m names another\n")
    assert re.search("[A-Za-z]{2}", out)
    assert not han_count(out)
    assert llmkit.translate("他是我的老师。", src_lang="zh", tgt_lang="en").text + "\n" == out


def test_chinese_is_read_in_both_scripts():
    pair = {"src_lang": "zh", "tgt_lang": "en"}
    assert [llmkit.translate(text, **pair).text for text in ("他是我的老師。", "他是我的老师。")] == [
        "He is my teacher."
    ] * 2


@by_folder
def test_facts_agree_with_the_recipe(folder):
    facts = json.loads((folder / "llmkit.json").read_text(encoding="utf-8"))
    recipe = llmkit.read_recipe(folder.name, own_data=True)
    assert (facts["task"], facts["languages"]) == ("translation", [recipe.data.src_lang, recipe.data.tgt_lang])
    assert (facts["num_epochs"], facts["end"]) == (recipe.train.num_epochs, "done")
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert " ".join(recipe.about.split()) in text
    assert f"| {recipe.data.origin} | {recipe.data.license} | " in text
