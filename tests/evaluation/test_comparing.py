"""Two checkpoints on the same rows."""

import gc
import json
import weakref

import pytest
from small_classifiers import make

import llmkit
from llmkit.errors import DamagedError, InputError
from llmkit.evaluation import comparing
from llmkit.evaluation.comparing import compare_opened
from llmkit.evaluation.planning import make_plan

TEXTS = ["hello world", "once upon", "a morning", "world", "hello", "time", "the cold sea", "grey"]


@pytest.fixture
def reviews(tmp_path):
    path = tmp_path / "reviews.jsonl"
    rows = [{"text": f"{text} {i}", "label": i % 2} for i, text in enumerate(TEXTS * 5)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def classifier(**changes):
    return make("bert", labels=("negative", "positive"), **changes)


@pytest.fixture
def pair(reviews):
    first, second = classifier(), classifier(scale=1.5)
    return first, second, llmkit.compare(first, second, on="sentiment", data=reviews)


def test_comparison_holds_both_evaluations_and_their_difference(pair, reviews):
    first, second, found = pair
    one, other = (llmkit.evaluate(lm, on="sentiment", data=reviews) for lm in (first, second))
    assert (found.first.metrics, found.second.metrics) == (one.metrics, other.metrics)
    assert (found.first.intervals, found.second.intervals) == (one.intervals, other.intervals)
    assert one.metrics != other.metrics
    for name, difference in found.differences.items():
        assert difference.value == one.metrics[name] - other.metrics[name]
        assert difference.interval[0] <= difference.value <= difference.interval[1]
        assert 0 < difference.p_value <= 1
    assert list(found.differences) == ["accuracy", "f1_macro"]


def test_comparison_is_shown_as_lines_that_begin_like_no_metric(pair):
    *_, found = pair
    lines = str(found).splitlines()
    assert "\n".join(lines[:3]) == str(found.first)
    assert [line.split(":")[0] for line in lines[3:]] == [
        "against accuracy",
        "against f1_macro",
        "difference accuracy",
        "difference f1_macro",
    ]
    one = found.differences["accuracy"]
    low, high = one.interval
    assert lines[5] == f"difference accuracy: {one.value:.4f}  [{low:.4f}, {high:.4f}]  p {one.p_value:.4f}"


def test_comparison_as_a_mapping_is_the_first_evaluation_and_the_other_as_against(pair):
    *_, found = pair
    shown = found.as_dict()
    against = shown.pop("against")
    assert shown == found.first.as_dict()
    differences = against.pop("differences")
    assert against == {"checkpoint": "tiny", **found.second.as_dict()}
    assert differences["accuracy"] == {
        "value": found.differences["accuracy"].value,
        "interval": found.differences["accuracy"].interval,
        "p_value": found.differences["accuracy"].p_value,
    }
    assert json.loads(json.dumps(found.as_dict()))["n"] == 40


def test_checkpoint_against_itself_differs_by_nothing(reviews):
    lm = classifier()
    found = llmkit.compare(lm, lm, on="sentiment", data=reviews)
    for one in found.differences.values():
        assert (one.value, one.interval, one.p_value) == (0.0, (0.0, 0.0), 1.0)


def test_only_one_model_is_held_at_a_time(reviews):
    held, done = [], []

    def open_one():
        gc.collect()
        assert [one() for one in held] == [None] * len(held)
        lm = classifier()
        held.append(weakref.ref(lm.model))
        return lm

    compare_opened(make_plan("sentiment", reviews), [open_one, open_one], progress=done.append)
    assert len(held) == 2
    assert done == [40, 80]


def test_texts_are_compared_by_sacrebleu(loaded, tmp_path):
    data = tmp_path / "a.jsonl"
    lm, other = loaded("gpt2", n_positions=128), loaded("llama", max_position_embeddings=128)
    right = [llmkit.generate(text, model=lm, temperature=0, max_new_tokens=8).text for text in TEXTS]
    rows = [{"prompt": text, "completion": wanted} for text, wanted in zip(TEXTS, right, strict=True)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = llmkit.compare(lm, other, on="generation", data=data, max_new_tokens=8)
    assert list(found.differences) == ["exact_match", "f1", "bleu", "chrf"]
    assert found.first.metrics["chrf"] == pytest.approx(100)
    assert found.differences["chrf"].value == found.first.metrics["chrf"] - found.second.metrics["chrf"] > 0
    assert found.differences["chrf"].interval is None
    assert found.differences["chrf"].p_value < 0.05


def test_second_checkpoint_is_looked_for_before_the_first_is_loaded(reviews, monkeypatch):
    monkeypatch.setattr(comparing, "load", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(InputError, match=r"^no such checkpoint: \./nowhere$"):
        llmkit.compare("builtin/tiny", "./nowhere", on="sentiment", data=reviews)


def test_files_and_context_of_the_second_are_looked_at_before_the_first_is_loaded(
    reviews, monkeypatch, tmp_path, make_checkpoint
):
    monkeypatch.setattr(comparing, "load", lambda *_, **__: pytest.fail("loaded"))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "config.json").write_text('{"model_type": "gpt2"}', encoding="utf-8")
    with pytest.raises(InputError, match="no tokenizer in"):
        llmkit.compare("builtin/tiny", tmp_path / "bad", on="sentiment", data=reviews)
    (tmp_path / "cut.gguf").write_bytes(b"GGUF")
    with pytest.raises(DamagedError, match="is not in the GGUF format"):
        llmkit.compare("builtin/tiny", tmp_path / "cut.gguf", on="sentiment", data=reviews)
    small = make_checkpoint("gpt2")
    (tmp_path / "a.txt").write_text("hello world", encoding="utf-8")
    data = {"path": tmp_path / "a.txt", "max_length": 4000}
    with pytest.raises(InputError, match=r"^data.max_length: 4000 exceeds the context of .*, 64$"):
        llmkit.compare("builtin/tiny", small, on="perplexity", data=data)


def test_second_model_without_the_head_is_refused_before_the_first_answers(reviews, loaded, tmp_path):
    data = tmp_path / "a.jsonl"
    data.write_text('{"question": "a", "context": "b", "answers": "b"}\n', encoding="utf-8")
    with pytest.raises(InputError, match="tiny has a head for classification, this call needs one for question-answer"):
        llmkit.compare("builtin/tiny", classifier(), on="question-answering", data=data)


def test_perplexity_pairs_the_same_texts(loaded, tmp_path):
    data = tmp_path / "a.jsonl"
    texts = [f"Once upon a time, {text} was {i}." for i, text in enumerate(TEXTS)]
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    found = llmkit.compare(loaded("gpt2"), loaded("llama"), on="perplexity", data=data)
    assert list(found.differences) == ["loss", "perplexity", "bits_per_byte"]
    assert found.differences["loss"].interval[0] < found.differences["loss"].value
