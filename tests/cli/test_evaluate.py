import json

import pytest

TEXTS = ["hello world", "once upon", "a morning", "world", "hello", "time"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny BERT classifier, saved."""
    import torch
    from conftest import wordpiece_tokenizer
    from transformers import BertConfig, BertForSequenceClassification

    folder, tokenizer = tmp_path_factory.mktemp("classifier"), wordpiece_tokenizer()
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(tokenizer), id2label={0: "negative", 1: "positive"}, **shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def reviews(tmp_path):
    path = tmp_path / "test.tsv"
    path.write_text("".join(f"{text}\t{i % 2}\n" for i, text in enumerate(TEXTS)), encoding="utf-8")
    return path


NAMES = "data.column_names=[text, label]"


def test_evaluate_prints_the_metrics_and_n(llmkit_cli, checkpoint, reviews):
    import llmkit

    code, out, err = llmkit_cli("evaluate", checkpoint, "--on", "sentiment", "--data", reviews, NAMES)
    data = {"path": reviews, "column_names": ["text", "label"]}
    assert (code, out, err) == (0, f"{llmkit.evaluate(checkpoint, on='sentiment', data=data)}\n", "")
    assert [line.split(": ")[0] for line in out.splitlines()] == ["accuracy", "f1_macro", "n"]


def test_evaluate_prints_one_object_with_json(llmkit_cli, checkpoint, reviews):
    arguments = ("--num-examples", "4", "--seed", "3", "--json", "--quiet")
    code, out, err = llmkit_cli("evaluate", checkpoint, "--on", "classification", "--data", reviews, NAMES, *arguments)
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert list(found["metrics"]) == ["accuracy", "f1_macro"]
    del found["metrics"], found["seconds"]
    shown = {"task": "classification", "n": 4, "num_rows": 6, "seed": 3, "definition": None, "signatures": {}}
    assert found == shown


def test_evaluate_tells_how_far_it_is(llmkit_cli, checkpoint, reviews, monkeypatch):
    from llmkit.cli import render
    from llmkit.evaluation import planning

    monkeypatch.setitem(planning.CHUNKS, "classification", 2)
    monkeypatch.setattr(render.Line, "EVERY_S", 0.0)
    code, _, err = llmkit_cli("evaluate", checkpoint, "--on", "sentiment", "--data", reviews, NAMES)
    assert code == 0
    assert [line.split(",")[0] for line in err.splitlines()] == [f"llmkit: note: {n} of 6 rows" for n in (0, 2)]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--on", "sentimet"],
            "unknown task, got 'sentimet'; expected translation, question-answering, classification, sentiment, "
            "perplexity",
        ),
        (["--on", "sentiment"], "no data to evaluate on; expected --data FILE (in Python: data=)"),
        (
            ["--on", "sentiment", "--data", "test.tsv", "data.label_colum=x"],
            "command line: data.label_colum=x: unknown key 'label_colum'; did you mean 'label_column'?",
        ),
        (["--on", "sentiment", "--data", "no.tsv"], "no such file: no.tsv"),
        (["--on", "sentiment", "--data", "test.tsv"], "test.tsv: column 'text' not in [hello world, 0]"),
        (
            ["--on", "question-answering", "--data", "test.tsv", "--labels", "a,b"],
            "--labels (in Python: labels=) cannot act with question-answering",
        ),
        (
            ["--on", "sentiment", "--data", "test.tsv", "--num-examples", "0"],
            "max_examples out of range, got 0; expected a whole number from 1",
        ),
    ],
)
def test_evaluate_refuses_a_bad_call_before_it_loads(llmkit_cli, reviews, monkeypatch, arguments, sentence):
    monkeypatch.chdir(reviews.parent)
    code, out, err = llmkit_cli("evaluate", "no/such/checkpoint", *arguments)
    assert (code, out) == (2, "")
    assert err.splitlines()[0] == f"llmkit: error: {sentence}"


def test_evaluate_names_labels_that_are_not_the_checkpoints(llmkit_cli, checkpoint, reviews):
    reviews.write_text("hello\tpositive\nworld\tneutral\n", encoding="utf-8")
    code, out, err = llmkit_cli("evaluate", checkpoint, "--on", "sentiment", "--data", reviews, NAMES)
    sentence = f"{reviews} row 2: unknown label, got 'neutral'; expected negative, positive, or 0 to 1"
    assert (code, out, err) == (2, "", f"llmkit: error: {sentence}\n")
