"""`llmkit sentiment` and `llmkit classify` from the outside."""

import csv
import io
import json

import pytest
from small_classifiers import NLI, make

from llmkit import classify_batch, sentiment
from llmkit.cli import sentiment as command
from llmkit.cli.rows import Row
from llmkit.tasks.classification import prepare

TEXTS = ["Once upon a time", "hello hello", "今天天气很好 👍🏽", "", "It was a cold, cold morning: nobody answered"]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A function that saves a tiny checkpoint with a head and gives its folder and what is loaded of it."""
    made = {}

    def save(name="bert", **settings):
        if name not in made:
            lm, folder = make("bert", **settings), tmp_path_factory.mktemp(name)
            lm.model.save_pretrained(folder)
            lm.tokenizer.save_pretrained(folder)
            made[name] = folder, lm
        return made[name]

    return save


@pytest.fixture
def table(tmp_path):
    """A .csv with texts, one of them with a line break."""
    path = tmp_path / "in.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["id", "text"], *([i, f"{text}\n,"] for i, text in enumerate(TEXTS))])
    return path


def labels(lm, texts):
    return [result.label for result in classify_batch(texts, model=lm)]


@pytest.mark.parametrize("name", ["sentiment", "classify"])
def test_sentiment_prints_the_label_alone(llmkit_cli, checkpoint, name):
    folder, lm = checkpoint()
    assert llmkit_cli(name, TEXTS[0], "-m", folder) == (0, labels(lm, TEXTS[:1])[0] + "\n", "")


def test_sentiment_shows_all_scores_when_asked(llmkit_cli, checkpoint):
    folder, lm = checkpoint()
    scores = classify_batch(TEXTS[:1], model=lm)[0].scores
    _, out, _ = llmkit_cli("sentiment", TEXTS[0], "-m", folder, "--scores")
    assert out == "\t".join([next(iter(scores)), *(f"{k}={v:.4f}" for k, v in scores.items())]) + "\n"


def test_sentiment_prints_the_fields_of_the_result_as_json(llmkit_cli, checkpoint):
    folder, lm = checkpoint()
    wanted = classify_batch(["hello " * 100], model=lm)[0]
    got = json.loads(llmkit_cli("sentiment", "hello " * 100, "-m", folder, "--json")[1])
    assert got == {
        "label": wanted.label,
        "score": pytest.approx(wanted.score),
        "scores": pytest.approx(dict(wanted.scores)),
        "num_windows": wanted.num_windows,
    }
    assert list(got["scores"]) == list(wanted.scores)


def test_sentiment_takes_piped_input_as_one_text(llmkit_cli, checkpoint):
    folder, lm = checkpoint()
    _, out, _ = llmkit_cli("sentiment", "-m", folder, stdin="Once\nupon 今天\n")
    assert out == labels(lm, ["Once\nupon 今天"])[0] + "\n"


def test_sentiment_gives_a_line_for_each_line_of_standard_input(llmkit_cli, checkpoint):
    folder, lm = checkpoint()
    _, out, _ = llmkit_cli("sentiment", "-m", folder, "-f", "-", stdin="\n".join(TEXTS) + "\n")
    assert out.splitlines() == labels(lm, TEXTS)


def test_sentiment_keeps_every_column_of_a_table(llmkit_cli, checkpoint, table, tmp_path):
    folder, lm = checkpoint()
    code, out, _ = llmkit_cli("sentiment", "-m", folder, "-f", table, "-o", tmp_path / "out.csv", "--scores")
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    wanted = classify_batch([f"{text}\n," for text in TEXTS], model=lm)
    assert (code, out, list(rows[0])) == (0, "", ["id", "text", "label", "score", "scores"])
    assert [(r["id"], r["text"], r["label"]) for r in rows] == [
        (str(i), f"{text}\n,", result.label) for i, (text, result) in enumerate(zip(TEXTS, wanted, strict=True))
    ]
    for row, result in zip(rows, wanted, strict=True):
        assert float(row["score"]) == pytest.approx(result.score)
        assert json.loads(row["scores"]) == pytest.approx(dict(result.scores))


def test_sentiment_reads_a_tsv_and_writes_scores_as_an_object_of_a_jsonl(llmkit_cli, checkpoint, tmp_path):
    folder, lm = checkpoint()
    (tmp_path / "in.tsv").write_text('id\treview\n1\t"hello\n2\t今天\n', encoding="utf-8")
    arguments = ["-f", tmp_path / "in.tsv", "--column", "review", "-o", tmp_path / "out.jsonl", "--scores"]
    assert llmkit_cli("classify", "-m", folder, *arguments)[0] == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(r["review"], r["label"], set(r["scores"])) for r in rows] == [
        (text, label, {"negative", "neutral", "positive"})
        for text, label in zip(['"hello', "今天"], labels(lm, ['"hello', "今天"]), strict=True)
    ]


@pytest.mark.parametrize("as_json", [True, False])
def test_sentiment_reports_a_bad_row_and_does_the_rest(llmkit_cli, checkpoint, tmp_path, as_json):
    folder, lm = checkpoint()
    bad = ['{"text": ["hello"]}', '{"text": null}', "{", '{"other": 1}']
    good = [json.dumps({"text": text}, ensure_ascii=False) for text in TEXTS[:2]]
    (tmp_path / "in.jsonl").write_text("\n".join([good[0], *bad, good[1]]) + "\n", encoding="utf-8")
    code, out, err = llmkit_cli("sentiment", "-m", folder, "-f", tmp_path / "in.jsonl", *["--json"] * as_json)
    said = [
        "expected text, got list",
        "expected text in column 'text', got null",
        "not JSON: Expecting property name enclosed in double quotes",
        "expected text in column 'text', got nothing",
    ]
    wanted = labels(lm, TEXTS[:2])
    assert code == 1
    if as_json:
        rows = [json.loads(line) for line in out.splitlines()]
        assert rows[1:-1] == [{"row": i, "error": sentence} for i, sentence in enumerate(said, 2)]
        assert [rows[0]["label"], rows[-1]["label"]] == wanted
    else:
        assert out.splitlines() == [wanted[0], *[""] * len(bad), wanted[1]]
        assert err.splitlines() == [f"llmkit: error: row {i}: {sentence}" for i, sentence in enumerate(said, 2)]


def test_sentiment_asks_an_entailment_model_for_negative_and_positive(llmkit_cli, checkpoint):
    folder, lm = checkpoint("nli", **NLI)
    _, out, _ = llmkit_cli("sentiment", "hello", "-m", folder, "--json")
    assert json.loads(out)["scores"] == pytest.approx(dict(sentiment("hello", model=lm).scores))
    _, own, _ = llmkit_cli("classify", "hello", "-m", folder, "--json")
    assert set(json.loads(own)["scores"]) == {"contradiction", "neutral", "ENTAILMENT"}


def test_classify_takes_labels_and_a_hypothesis(llmkit_cli, checkpoint):
    folder, lm = checkpoint("nli", **NLI)
    _, out, _ = llmkit_cli(
        "classify", "hello", "-m", folder, "--labels", "sports, 天气", "--hypothesis", "It is {}", "--json"
    )
    wanted = classify_batch(["hello"], model=lm, labels=["sports", "天气"], hypothesis="It is {}")[0]
    assert json.loads(out)["scores"] == pytest.approx(dict(wanted.scores))


def test_classify_reads_windows_as_asked(llmkit_cli, checkpoint):
    folder, _ = checkpoint()
    _, out, _ = llmkit_cli("classify", "hello " * 20, "-m", folder, "--max-length", 12, "--stride", 5, "--json")
    assert json.loads(out)["num_windows"] == 3


ERRORS = [
    (["hello", "-m", "no/such", "--labels", "a,,b"], "labels must be there, not empty and each once, got a, , b"),
    (["hello", "-m", "no/such", "--batch-size", 0], "batch_size out of range, got 0; expected a whole number from 1"),
    (["hello", "-m", "no/such", "--max-length", 0], "max_length out of range, got 0; expected a whole number from 1"),
    (["hello", "-m", "no/such", "-f", "x"], "got both TEXT and -f; expected one of them"),
    (
        ["hello", "-m", "no/such", "--hypothesis", "{.x}"],
        "hypothesis needs a place for the label, got '{.x}'; expected such as 'This example is {}.'",
    ),
    (["hello", "-a", "x"], "an adapter needs the checkpoint that it was made for, got none; expected -m CHECKPOINT"),
]


@pytest.mark.parametrize(("arguments", "sentence"), ERRORS)
def test_sentiment_refuses_a_call_in_one_sentence(llmkit_cli, arguments, sentence):
    code, out, err = llmkit_cli("sentiment", *arguments)
    assert (code, out, err.splitlines()[0]) == (2, "", f"llmkit: error: {sentence}")


def test_sentiment_refuses_labels_that_a_head_does_not_have(llmkit_cli, checkpoint):
    folder, _ = checkpoint()
    code, out, err = llmkit_cli("sentiment", "hello", "-m", folder, "--labels", "a,b")
    assert (code, out, err) == (
        2,
        "",
        f"llmkit: error: {folder} has the labels negative, neutral, positive, got a, b\n"
        "hint: for others -m names a language model, or a model of entailment (in Python: model=)\n",
    )


def test_sentiment_refuses_a_table_that_has_our_column(llmkit_cli, checkpoint, tmp_path):
    (tmp_path / "in.csv").write_text("text,label\na,b\n", encoding="utf-8")
    code, _, err = llmkit_cli("sentiment", "-m", checkpoint()[0], "-f", tmp_path / "in.csv", "-o", tmp_path / "o.csv")
    assert (code, "has a column 'label' already" in err) == (2, True)


def test_read_chunks_are_bounded_by_rows_and_by_characters(monkeypatch):
    monkeypatch.setattr(command, "CHUNK_ROWS", 3)
    monkeypatch.setattr(command, "CHUNK_CHARACTERS", 10)
    rows = iter([Row(i, "x" * size, {}) for i, size in enumerate([1, 1, 1, 50, 4, 7, 1])])
    assert [[row.number for row in chunk] for chunk in command.read_chunks(rows)] == [[0, 1, 2], [3], [4, 5], [6]]


def test_answer_rows_reads_no_further_than_a_chunk(checkpoint, monkeypatch):
    monkeypatch.setattr(command, "CHUNK_ROWS", 2)
    taken = []

    def source():
        for i in range(6):
            taken.append(i)
            yield Row(i, "hello", {})

    next(command.answer_rows(prepare(checkpoint()[1]), source(), False))
    assert taken == [0, 1]


def test_sentiment_takes_a_broken_table_up_again(llmkit_cli, checkpoint, table, tmp_path, monkeypatch):
    folder, _ = checkpoint()
    arguments = ["sentiment", "-m", folder, "-f", table, "-o", tmp_path / "out.csv"]
    llmkit_cli(*arguments[:-1], tmp_path / "whole.csv")
    monkeypatch.setattr(command, "CHUNK_ROWS", 2)
    answer, calls = command.show, []

    def breaks(result, scores):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return answer(result, scores)

    monkeypatch.setattr(command, "show", breaks)
    assert llmkit_cli(*arguments)[0] == 130
    assert (tmp_path / "out.csv.part").read_text(encoding="utf-8").count("\n,") == 3
    assert llmkit_cli(*arguments)[0] == 0
    assert len(calls) == 4 + 2
    texts = [(tmp_path / name).read_text(encoding="utf-8") for name in ("out.csv", "whole.csv")]
    broken, whole = (list(csv.reader(io.StringIO(text, newline=""))) for text in texts)
    assert [row[:3] for row in broken] == [row[:3] for row in whole]
    assert [float(row[3]) for row in broken[1:]] == pytest.approx([float(row[3]) for row in whole[1:]])
