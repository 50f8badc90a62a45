"""Metrics of the evaluate package that the user names."""

import json
import os

import pytest

import llmkit
from llmkit.errors import HubError, InputError, RunError
from llmkit.evaluation import own
from llmkit.evaluation.outcomes import Confusion, Outcome, Row
from llmkit.evaluation.own import load_metrics

SOURCE = """
import datasets
import evaluate


class Metric(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description="", citation="", inputs_description="", features=datasets.Features({features})
        )

    def _compute(self, {names}):
        print("a line on stdout")
        {body}
"""
TEXTS = '{"predictions": datasets.Value("string"), "references": datasets.Value("string")}'
LISTS = '{"predictions": datasets.Value("string"), "references": datasets.Sequence(datasets.Value("string"))}'
NUMBERS = '{"predictions": datasets.Value("int32"), "references": datasets.Value("int32")}'
SAME = 'return {"same": sum(a == b for a, b in zip(predictions, references)), "each": [1, 2], "bad": float("nan")}'


pytestmark = pytest.mark.usefixtures("metric_modules")


def make_metric(folder, features=TEXTS, body=SAME, names="predictions, references", name="same_as"):
    place = folder / name
    place.mkdir()
    source = SOURCE.replace("{features}", features).replace("{names}", names).replace("{body}", body)
    (place / f"{name}.py").write_text(source, encoding="utf-8")
    return place


def rows_of(pairs):
    return [Row("", {}, right, found, {}) for found, right in pairs]


def test_folder_and_file_give_every_number_of_a_metric_by_its_name(tmp_path, capsys):
    place = make_metric(tmp_path)
    for path in (place, place / "same_as.py"):
        (metric,) = load_metrics([os.fspath(path)], "translation")
        assert metric.compute(Outcome(rows_of([("a", "a"), ("b", "c"), ("d", "d")]))) == {"same_as.same": 2.0}
    out, err = capsys.readouterr()
    assert (out, "a line on stdout" in err) == ("", True)


def test_answers_come_as_texts_and_lists_of_right_ones(tmp_path):
    body = 'return {"hits": sum(a in b for a, b in zip(predictions, references)), "n": len(references[1])}'
    (metric,) = load_metrics([str(make_metric(tmp_path, LISTS, body))], "question-answering")
    outcome = Outcome(rows_of([("a", ("b", "a")), ("", ())]))
    assert metric.compute(outcome) == {"same_as.hits": 1.0, "same_as.n": 0.0}


def test_labels_come_as_numbers(tmp_path):
    body = 'return {"found": predictions[0], "right": references[0]}'
    (metric,) = load_metrics([str(make_metric(tmp_path, NUMBERS, body))], "classification")
    confusion = Confusion(("no", "yes", "so"), ())
    outcome = Outcome(rows_of([("so", "yes")]), confusion=confusion)
    assert metric.compute(outcome) == {"same_as.found": 2.0, "same_as.right": 1.0}


def test_metric_stands_beside_ours(loaded, tmp_path):
    rows = [{"prompt": text, "completion": text} for text in ("hello", "world", "once")]
    data = tmp_path / "a.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    lm = loaded("gpt2", n_positions=128)
    found = llmkit.evaluate(
        lm, on="generation", data=data, max_new_tokens=2, metrics=[os.fspath(make_metric(tmp_path))]
    )
    assert list(found.metrics) == ["exact_match", "f1", "bleu", "chrf", "same_as.same"]
    assert "same_as.same" not in found.intervals
    pair = llmkit.compare(lm, lm, on="generation", data=data, max_new_tokens=2, metrics=str(tmp_path / "same_as"))
    assert (pair.differences["same_as.same"].value, pair.differences["same_as.same"].p_value) == (0.0, None)


def test_metric_that_fails_costs_itself_alone(loaded, tmp_path, caplog):
    data = tmp_path / "a.jsonl"
    data.write_text('{"prompt": "hello", "completion": "world"}\n' * 2, encoding="utf-8")
    lm = loaded("gpt2", n_positions=128)
    places = [make_metric(tmp_path, body="1 / 0", name="broken"), make_metric(tmp_path)]
    reason = f"the metric {places[0]} failed: division by zero"
    given = {"on": "generation", "data": data, "max_new_tokens": 2, "metrics": [str(place) for place in places]}
    found = llmkit.evaluate(lm, **given)
    assert list(found.metrics) == ["exact_match", "f1", "bleu", "chrf", "same_as.same"]
    assert (found.failures, found.as_dict()["failures"]) == ({"broken": reason}, {"broken": reason})
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [reason]
    caplog.clear()
    pair = llmkit.compare(lm, lm, **given)
    assert (pair.first.failures, list(pair.differences)) == ({"broken": reason}, list(found.metrics))
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [reason]


@pytest.mark.parametrize("exists", [True, False])
def test_missing_metric_is_refused_before_the_checkpoint_is_looked_for(tmp_path, exists):
    data = tmp_path / "a.jsonl"
    data.write_text('{"text": "a", "label": 0}\n', encoding="utf-8")
    place = tmp_path / "same_bs"
    if exists:
        place.mkdir()
    sentence = f"{place} is no metric: it holds no same_bs.py" if exists else f"no such metric: {place}"
    with pytest.raises(InputError) as caught:
        llmkit.evaluate("no/such/checkpoint", on="sentiment", data=data, metrics=[str(place)])
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("import no_such_module_anywhere\n", "no_such_module_anywhere"),
        ("def (:\n", "invalid syntax"),
        ("x = 1\n", "cannot be loaded: "),
    ],
)
def test_metric_that_cannot_be_imported_is_one_sentence(tmp_path, source, sentence):
    place = make_metric(tmp_path)
    (place / "same_as.py").write_text(source, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load_metrics([str(place)], "translation")
    assert str(caught.value).startswith(f"the metric {place} cannot be loaded: ")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("task", "features", "reason"),
    [
        ("translation", NUMBERS, "invalid literal"),
        ("question-answering", TEXTS, "it takes no lists as references"),
        ("translation", LISTS, "it takes lists as references"),
        ("translation", '{"sources": datasets.Value("string"), ' + TEXTS[1:], "it takes sources, predictions, ref"),
    ],
)
def test_metric_that_takes_something_else_is_refused_before_any_work(tmp_path, task, features, reason):
    place = make_metric(tmp_path, features)
    with pytest.raises(InputError) as caught:
        load_metrics([str(place)], task)
    assert str(caught.value).startswith(f"the metric {place} does not go with {task}, which gives predictions such as ")
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ('raise RuntimeError("it\\nbroke")', "the metric {} failed: it broke"),
        ("1 / 0", "the metric {} failed: division by zero"),
        ('return {"each": [1]}', "the metric {} gave no number; expected a mapping of names to numbers"),
        ('return "x"', "the metric {} gave no number; expected a mapping of names to numbers"),
    ],
)
def test_metric_that_fails_is_one_sentence(tmp_path, body, sentence):
    place = make_metric(tmp_path, body=body)
    (metric,) = load_metrics([str(place)], "translation")
    with pytest.raises(RunError) as caught:
        metric.compute(Outcome(rows_of([("a", "a")])))
    assert str(caught.value) == sentence.format(place)


def test_metric_of_the_hub_is_not_waited_for_without_a_network(monkeypatch):
    import evaluate

    before = evaluate.config.HF_EVALUATE_OFFLINE
    with pytest.raises(HubError) as caught:
        load_metrics(["no_such_metric"], "translation", offline=True)
    problem = "neither a folder here nor in the local cache, and the hub cannot be asked: offline"
    assert str(caught.value) == f"the metric no_such_metric is {problem}"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(own, "reach", lambda endpoint: "no answer")
    with pytest.raises(HubError, match=r"and the hub cannot be asked: no answer$"):
        load_metrics(["some/metric"], "translation")
    assert before == evaluate.config.HF_EVALUATE_OFFLINE


def test_perplexity_takes_none_and_two_of_one_name_are_refused(tmp_path):
    place = str(make_metric(tmp_path))
    with pytest.raises(InputError, match=r"^--metric \(in Python: metrics=\) cannot act with perplexity$"):
        load_metrics([place], "perplexity")
    with pytest.raises(InputError, match=r"^two metrics are called same_as; expected one of them$"):
        load_metrics([place, place], "translation")
