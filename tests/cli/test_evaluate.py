import json

import pytest

TEXTS = ["hello world", "once upon", "a morning", "world", "hello", "time"]


def save_classifier(folder, seed):
    """Save a tiny BERT classifier."""
    import torch
    from conftest import wordpiece_tokenizer
    from transformers import BertConfig, BertForSequenceClassification

    tokenizer = wordpiece_tokenizer()
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(tokenizer), id2label={0: "negative", 1: "positive"}, **shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny BERT classifier, saved."""
    return save_classifier(tmp_path_factory.mktemp("classifier"), 0)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Another one."""
    return save_classifier(tmp_path_factory.mktemp("other"), 1)


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
    assert list(found["intervals"]) == ["accuracy", "f1_macro"]
    assert found["confusion"]["labels"] == ["negative", "positive"]
    assert sum(map(sum, found["confusion"]["counts"])) == 4
    for key in ("metrics", "seconds", "intervals", "confusion"):
        del found[key]
    shown = {"task": "classification", "n": 4, "num_rows": 6, "seed": 3, "definition": None, "signatures": {}}
    assert found == {**shown, "failures": {}}


BROKEN = """
import datasets
import evaluate


class Broken(evaluate.Metric):
    def _info(self):
        features = datasets.Features({name: datasets.Value("int32") for name in ("predictions", "references")})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        raise ValueError("no luck")
"""


@pytest.mark.parametrize("against", [False, True])
def test_evaluate_keeps_all_else_where_a_metric_fails(
    llmkit_cli, checkpoint, other, reviews, tmp_path, metric_modules, against
):
    (tmp_path / "broken.py").write_text(BROKEN, encoding="utf-8")
    arguments = ["--metric", tmp_path / "broken.py", "-o", tmp_path / "out", "--quiet"]
    arguments += ["--against", other] if against else []
    code, out, err = llmkit_cli("evaluate", checkpoint, "--on", "sentiment", "--data", reviews, NAMES, *arguments)
    assert (code, err) == (1, f"llmkit: error: the metric {tmp_path / 'broken.py'} failed: no luck\n")
    assert out.startswith("accuracy: ")
    assert len((tmp_path / "out" / "rows.jsonl").read_text(encoding="utf-8").splitlines()) == len(TEXTS)


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
        ([], "nothing to measure, got neither --on nor --harness; expected one of them"),
        (
            ["--harness", "hellaswag", "--data", "test.tsv"],
            "--data cannot act with --harness, whose tasks say what is measured",
        ),
        (
            ["--harness", "hellaswag", "--against", "b"],
            "--against cannot act with --harness, whose tasks say what is measured",
        ),
        (
            ["--harness", "./mine.yaml"],
            "no task of the harness, got './mine.yaml'; expected a YAML file or a folder that is there",
        ),
        (
            ["--on", "sentimet"],
            "unknown task, got 'sentimet'; expected translation, question-answering, classification, sentiment, "
            "generation, perplexity",
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


def test_evaluate_prints_each_interval_after_its_metric(llmkit_cli, checkpoint, reviews):
    import re

    arguments = ("evaluate", checkpoint, "--on", "sentiment", "--data", reviews, NAMES)
    _, out, _ = llmkit_cli(*arguments)
    form = r"accuracy: 0\.\d{4}  \[\d\.\d{4}, \d\.\d{4}\]\nf1_macro: 0\.\d{4}  \[\d\.\d{4}, \d\.\d{4}\]\nn: 6\n"
    assert re.fullmatch(form, out)
    assert llmkit_cli(*arguments)[1] == out
    assert llmkit_cli(*arguments, "--seed", "1", "--num-examples", "5")[1] != out


def test_evaluate_says_why_one_row_has_no_interval(llmkit_cli, checkpoint, reviews):
    arguments = ("--data", reviews, NAMES, "--num-examples", "1")
    code, out, err = llmkit_cli("evaluate", checkpoint, "--on", "sentiment", *arguments)
    assert (code, "[" in out) == (0, False)
    assert err == "llmkit: note: no intervals: rows are drawn anew for them, and there is only one\n"


def test_evaluate_tells_how_one_text_becomes_several(llmkit_cli, tmp_path):
    (tmp_path / "a.txt").write_text("Once upon a time.\nThe end.\n", encoding="utf-8")
    arguments = ("--on", "perplexity", "--data", tmp_path / "a.txt")
    code, out, err = llmkit_cli("evaluate", "builtin/tiny", *arguments)
    assert (code, "[" in out, [line.split(":")[0] for line in out.splitlines()]) == (
        0,
        False,
        ["loss", "perplexity", "bits_per_byte", "n"],
    )
    assert err.endswith("there is only one; data.sample_by=paragraph or line makes more texts of a txt file\n")
    _, out, err = llmkit_cli("evaluate", "builtin/tiny", *arguments, "data.sample_by=line")
    assert (out.count("["), err) == (3, "")


def test_evaluate_writes_a_folder_once(llmkit_cli, checkpoint, reviews, tmp_path):
    arguments = ("--on", "sentiment", "--data", reviews, NAMES, "-o", tmp_path / "out", "--json")
    code, out, err = llmkit_cli("evaluate", checkpoint, *arguments)
    assert (code, err, out.count("\n")) == (0, "", 1)
    written = json.loads((tmp_path / "out" / "evaluation.json").read_text(encoding="utf-8"))
    assert written == {"checkpoint": str(checkpoint), "data": str(reviews), **json.loads(out)}
    assert len((tmp_path / "out" / "rows.jsonl").read_text(encoding="utf-8").splitlines()) == 6
    assert (tmp_path / "out" / "evaluation.html").is_file()
    code, out, err = llmkit_cli("evaluate", "no/such/checkpoint", *arguments)
    assert (code, out) == (2, "")
    assert err.splitlines()[0] == f"llmkit: error: {tmp_path / 'out'} exists already"
    assert llmkit_cli("evaluate", checkpoint, *arguments, "--overwrite")[0] == 0


def test_evaluate_compares_with_another_checkpoint(llmkit_cli, checkpoint, other, reviews):
    import llmkit

    arguments = ("--on", "sentiment", "--data", reviews, NAMES, "--against", other)
    code, out, err = llmkit_cli("evaluate", checkpoint, *arguments)
    data = {"path": reviews, "column_names": ["text", "label"]}
    wanted = llmkit.compare(checkpoint, other, on="sentiment", data=data)
    assert (code, out, err) == (0, f"{wanted}\n", "")
    assert [line for line in out.splitlines() if line.startswith("accuracy: ")] == out.splitlines()[:1]
    _, out, _ = llmkit_cli("evaluate", checkpoint, *arguments, "--json")
    against = json.loads(out)["against"]
    assert (against["checkpoint"], out.count("\n")) == (str(other), 1)
    assert list(against["differences"]["accuracy"]) == ["value", "interval", "p_value"]


def test_evaluate_continues_prompts(llmkit_cli, tmp_path):
    rows = [{"question": text, "completion": "a"} for text in ("Once", "The sea")]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    arguments = ("--data", tmp_path / "a.jsonl", "data.prompt_column=question", "--max-new-tokens", "2")
    code, out, err = llmkit_cli("evaluate", "builtin/tiny", "--on", "generation", *arguments)
    assert (code, err) == (0, "")
    assert [line.split(": ")[0] for line in out.splitlines()] == ["exact_match", "f1", "bleu", "chrf", "n"]


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--metric", "./nowhere"], 2, "no such metric: ./nowhere"),
        (["--against", "./nowhere"], 2, "no such checkpoint: ./nowhere"),
        (["-o", "test.tsv"], 2, "test.tsv exists already"),
        (
            ["--max-new-tokens", "3"],
            2,
            "--max-new-tokens (in Python: max_new_tokens=) cannot act with classification",
        ),
        (
            ["--metric", "accuracy", "--offline"],
            1,
            "the metric accuracy is neither a folder here nor in the local cache, and the hub cannot be asked: offline",
        ),
    ],
)
def test_evaluate_refuses_what_stands_beside_before_it_loads(
    llmkit_cli, reviews, monkeypatch, metric_modules, arguments, code, sentence
):
    monkeypatch.chdir(reviews.parent)
    call = ("evaluate", "no/such/checkpoint", "--on", "sentiment", "--data", "test.tsv", NAMES)
    found, out, err = llmkit_cli(*call, *arguments)
    assert (found, out) == (code, "")
    assert err.splitlines()[0] == f"llmkit: error: {sentence}"
