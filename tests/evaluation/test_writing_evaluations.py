"""An evaluation as a folder: whole, readable, and never over something else."""

import itertools
import json
import re
import xml.etree.ElementTree as ElementTree

import pytest

from llmkit import Comparison, Evaluation, write_evaluation
from llmkit.errors import InputError, RunError
from llmkit.evaluation import writing
from llmkit.evaluation.outcomes import Confusion, Row
from llmkit.evaluation.resampling import Difference
from llmkit.evaluation.writing import make_page

ODD = "<b>&\"' 今天天气很好"


def some_rows(size=30):
    """Rows of which the last is the worst."""
    return [
        Row(f"data/a.tsv row {i + 1}", {"text": f"{ODD} {i}"}, "好", "坏", {"accuracy": 0.0, "score": 1 - i / size})
        for i in range(size)
    ]


def some_evaluation(**changes):
    fields = {
        "definition": None,
        "signatures": {},
        "intervals": {"accuracy": (0.25, 0.75)},
        "confusion": Confusion(("坏", "好"), ((1234, 2), (3, 4))),
        "rows": some_rows(),
        "checkpoint": "runs/<x>",
        "data": "data/*.tsv",
    }
    metrics = {"accuracy": 0.5, "f1_macro": 0.25}
    return Evaluation("classification", metrics, 30, 60, 3, 1.5, **{**fields, **changes})


def cells(page, heading):
    """The rows of the tables under a heading."""
    body = re.search(r"<body>.*</body>", page, re.DOTALL)[0]
    tree = ElementTree.fromstring(body)
    children = list(tree)
    at = next(i for i, child in enumerate(children) if child.tag == "h2" and child.text == heading)
    section = itertools.takewhile(lambda child: child.tag != "h2", children[at + 1 :])
    return [["".join(cell.itertext()) for cell in row] for child in section for row in child.iter("tr")]


def test_folder_holds_the_summary_every_row_and_a_page(tmp_path):
    result, out = some_evaluation(), tmp_path / "deep" / "out"
    assert write_evaluation(result, out) == out
    assert sorted(path.name for path in out.iterdir()) == [
        "evaluation.html",
        "evaluation.json",
        "manifest.json",
        "rows.jsonl",
    ]
    summary = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    assert summary == {"checkpoint": "runs/<x>", "data": "data/*.tsv", **json.loads(json.dumps(result.as_dict()))}
    text = (out / "rows.jsonl").read_text(encoding="utf-8")
    assert "今天天气很好" in text
    rows = [json.loads(line) for line in text.splitlines()]
    assert len(rows) == 30
    assert rows[29] == {
        "where": "data/a.tsv row 30",
        "given": {"text": f"{ODD} 29"},
        "expected": "好",
        "got": "坏",
        "scores": {"accuracy": 0.0, "score": 1 - 29 / 30},
    }
    assert (out / "evaluation.html").read_text(encoding="utf-8") == make_page(result)


def test_page_shows_metrics_confusion_and_the_worst_rows_and_asks_for_nothing():
    page = make_page(some_evaluation())
    assert cells(page, "Metrics") == [
        ["metric", "value", "95 % interval"],
        ["accuracy", "0.5000", "[0.2500, 0.7500]"],
        ["f1_macro", "0.2500", ""],
    ]
    assert cells(page, "Confusion") == [["right \\ found", "坏", "好"], ["坏", "1,234", "2"], ["好", "3", "4"]]
    worst = cells(page, "The 20 worst rows")
    assert [row for row in worst if row[0].endswith(".")] == [[f"{i}.", f"a.tsv row {31 - i}"] for i in range(1, 21)]
    assert worst[1:5] == [
        ["text", f"{ODD} 29"],
        ["expected", "好"],
        ["got", "坏"],
        ["scores", "accuracy 0, score 0.03333"],
    ]
    assert ["rows", "30 of 60, drawn by seed 3"] in cells(page, "What was measured")
    assert "<b>" not in page
    assert not re.search(r"src=|href=|url\(|<script|@import", page)


def test_page_tells_which_metric_failed():
    facts = cells(make_page(some_evaluation(failures={"mine": "the metric mine failed: <b>"})), "What was measured")
    assert ["failed", "the metric mine failed: <b>"] in facts
    assert "failed" not in [row[0] for row in cells(make_page(some_evaluation()), "What was measured")]


def test_page_of_a_comparison_shows_both(tmp_path):
    other = some_evaluation(checkpoint="other")
    found = Comparison(some_evaluation(), other, {"accuracy": Difference(-0.1, (-0.2, 0.0), 0.04)})
    page = make_page(found)
    assert cells(page, "Metrics")[1:] == [
        ["accuracy", "0.5000 [0.2500, 0.7500]", "0.5000 [0.2500, 0.7500]", "-0.1000 [-0.2000, 0.0000], p 0.0400"],
        ["f1_macro", "0.2500 ", "0.2500 ", ""],
    ]
    other.metrics["mine"] = 1.0  # an own metric that failed for one of the two
    assert cells(make_page(found), "Metrics")[-1] == ["mine", "", "1.0000 ", ""]
    del other.metrics["f1_macro"]
    assert cells(make_page(found), "Metrics")[2] == ["f1_macro", "0.2500 ", "", ""]
    worst = cells(page, "The 20 worst rows")
    assert worst[5:7] == [["got by the other", "坏"], ["scores by the other", "accuracy 0, score 0.03333"]]
    write_evaluation(found, tmp_path / "out")
    row = json.loads((tmp_path / "out" / "rows.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert row["against"] == {"got": "坏", "scores": {"accuracy": 0.0, "score": 1.0}}


def test_long_texts_are_cut_on_the_page_alone(tmp_path):
    talk = [{"role": "user", "content": "长" * 5000}]
    rows = [Row("r", {"prompt": talk}, "好", "坏", {"f1": 0.0})]
    result = Evaluation("generation", {"f1": 0.0}, 1, 1, None, 0.1, rows=rows)
    write_evaluation(result, tmp_path / "out")
    page = (tmp_path / "out" / "evaluation.html").read_text(encoding="utf-8")
    assert f"user: {'长' * 394}…" in page
    assert "长" * 395 not in page
    row = json.loads((tmp_path / "out" / "rows.jsonl").read_text(encoding="utf-8"))
    assert row["given"] == {"prompt": talk}


def test_many_labels_are_listed_by_what_is_confused_most():
    labels = tuple(f"l{i}" for i in range(30))
    counts = [[0] * 30 for _ in range(30)]
    counts[3][4], counts[5][6], counts[7][7] = 2, 9, 50
    confusion = Confusion(labels, tuple(map(tuple, counts)))
    page = make_page(some_evaluation(confusion=confusion))
    assert cells(page, "Confusion") == [["right", "found", "rows"], ["l5", "l6", "9"], ["l3", "l4", "2"]]


def test_worst_texts_of_perplexity_are_those_of_the_greatest_loss():
    losses = [1.0, 3.0, 2.0]
    rows = [Row(f"r{i}", {"text": "a"}, None, None, {"loss": loss}) for i, loss in enumerate(losses)]
    rows.append(Row("short", {"text": "a"}, None, None, {"num_tokens": 0.0}))
    page = make_page(Evaluation("perplexity", {"loss": 2.0}, 4, 4, None, 0.1, rows=rows))
    worst = cells(page, "The 4 worst rows")
    assert [row[1] for row in worst if row[0].endswith(".")] == ["r1", "r2", "r0"]
    assert worst[:3] == [["1.", "r1"], ["text", "a"], ["scores", "loss 3"]]


def test_existing_folder_is_kept_unless_an_evaluation_is_replaced(tmp_path):
    out = tmp_path / "out"
    write_evaluation(some_evaluation(), out)
    with pytest.raises(InputError) as caught:
        write_evaluation(some_evaluation(checkpoint="new"), out)
    assert str(caught.value) == f"{out} exists already"
    assert caught.value.hint == "--overwrite (in Python: overwrite=True) replaces it"
    write_evaluation(some_evaluation(checkpoint="new"), out, overwrite=True)
    assert json.loads((out / "evaluation.json").read_text(encoding="utf-8"))["checkpoint"] == "new"


def test_what_is_no_evaluation_is_never_replaced(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years", encoding="utf-8")
    (tmp_path / "file").write_text("x", encoding="utf-8")
    for place in (tmp_path / "out", tmp_path / "file"):
        with pytest.raises(InputError) as caught:
            write_evaluation(some_evaluation(), place, overwrite=True)
        assert str(caught.value) == f"{place} holds no evaluation, and is not replaced; expected a new folder"
    assert (tmp_path / "out" / "thesis.txt").read_text(encoding="utf-8") == "years"
    with pytest.raises(InputError, match=r"file/out cannot be made: .*file is no folder that can be written to$"):
        write_evaluation(some_evaluation(), tmp_path / "file" / "out")


def test_full_disk_leaves_the_evaluation_that_was_there(tmp_path, monkeypatch):
    out = tmp_path / "out"
    write_evaluation(some_evaluation(), out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def fail(result):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing, "make_page", fail)
    with pytest.raises(RunError, match="out cannot be written: No space left on device"):
        write_evaluation(some_evaluation(checkpoint="new"), out, overwrite=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
