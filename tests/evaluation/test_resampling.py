"""Intervals and p-values against scipy, sacrebleu and what must hold of them."""

import os

import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest
from scipy import stats

from llmkit import metrics
from llmkit.evaluation import resampling
from llmkit.evaluation.outcomes import Row, count_labels, sum_answers, sum_labels
from llmkit.evaluation.resampling import Sums, Texts, draw

SENTENCES = ["The cat sat on the mat.", "He said: hello, world!", "It costs 3.14 dollars.", "Nobody answered him."]


def mean_of(values):
    values = np.asarray(values, dtype=float)
    return Sums(len(values), lambda counts: {"mean": float(counts @ values / counts.sum())})


def some_texts(size, seed, error):
    """References, and copies of which a share lost a word."""
    rng = np.random.default_rng(seed)
    right = [SENTENCES[i] for i in rng.integers(0, len(SENTENCES), size)]
    words = [text.split() for text in right]
    spoiled = rng.random(size) < error
    found = [" ".join(w[1:] if bad else w) for w, bad in zip(words, spoiled, strict=True)]
    return found, right


def test_interval_of_a_mean_is_that_of_scipy():
    values = np.random.default_rng(1).gamma(2.0, size=83)
    (low, high) = mean_of(values).intervals(7)["mean"]
    options = {"n_resamples": 1000, "confidence_level": 0.95, "method": "percentile"}
    found = stats.bootstrap((values,), np.mean, rng=np.random.default_rng(7), **options).confidence_interval
    assert (low, high) == pytest.approx((found.low, found.high), rel=1e-12)


def test_interval_of_a_share_is_about_the_normal_one():
    hits = np.arange(2000) < 1600
    low, high = mean_of(hits).intervals(0)["mean"]
    half = 1.96 * np.sqrt(0.8 * 0.2 / 2000)
    assert (low, high) == pytest.approx((0.8 - half, 0.8 + half), abs=0.002)


def test_rows_are_drawn_with_replacement_as_many_as_there_are():
    drawn = np.array(list(draw(50, 3)))
    assert drawn.shape == (1000, 50)
    assert set(drawn.sum(axis=1)) == {50.0}
    assert drawn.max() > 1
    assert drawn.mean(axis=0) == pytest.approx(1, abs=0.2)


def test_same_seed_gives_the_same_intervals_and_another_one_others():
    found, right = some_texts(40, 0, 0.5)
    for scorer in (mean_of(np.arange(9.0)), Texts(found, right, "13a")):
        assert scorer.intervals(5) == scorer.intervals(5)
        assert scorer.intervals(5) != scorer.intervals(6)


def test_one_row_has_no_interval_and_no_p_value():
    assert mean_of([1.0]).intervals(0) == {}
    assert Texts(["a"], ["a"], "13a").intervals(0) == {}
    found = mean_of([1.0]).compare(mean_of([0.5]), 0)["mean"]
    assert (found.value, found.interval, found.p_value) == (0.5, None, None)
    found = Texts(["a b c d"], ["a b c d"], "13a").compare(Texts(["a"], ["a b c d"], "13a"), 0)["chrf"]
    assert (found.value > 0, found.p_value) == (True, None)


def test_difference_of_a_system_to_itself_is_chance():
    values, (found, right) = np.random.default_rng(0).random(60), some_texts(60, 0, 0.5)
    same = mean_of(values).compare(mean_of(values), 0)["mean"]
    assert (same.value, same.interval, same.p_value) == (0.0, (0.0, 0.0), 1.0)
    texts = Texts(found, right, "13a")
    for one in texts.compare(Texts(list(found), right, "13a"), 0).values():
        assert (one.value, one.interval, one.p_value) == (0.0, None, 1.0)


def test_clear_difference_is_no_chance_in_either_direction():
    rng = np.random.default_rng(0)
    good, bad = mean_of(rng.random(200) < 0.9), mean_of(rng.random(200) < 0.6)
    for one, other, sign in ((good, bad, 1), (bad, good, -1)):
        found = one.compare(other, 0)["mean"]
        assert found.p_value < 0.01
        assert sign * found.interval[0] > 0
        assert sign * found.interval[1] > 0
        assert found.interval[0] < found.value < found.interval[1]
    (near, right), (far, _) = some_texts(100, 0, 0.1), some_texts(100, 0, 0.9)
    for found in Texts(near, right, "13a").compare(Texts(far, right, "13a"), 0).values():
        assert found.value > 0
        assert found.p_value < 0.01


def test_systems_that_do_not_differ_are_told_apart_as_often_as_the_level_says():
    rng = np.random.default_rng(3)
    values = [mean_of(rng.random(100) < 0.5).compare(mean_of(rng.random(100) < 0.5), i)["mean"] for i in range(200)]
    assert 2 <= sum(one.p_value < 0.05 for one in values) <= 20


def test_both_systems_count_the_same_rows():
    values = np.random.default_rng(2).random(80)
    found = mean_of(values + 0.01).compare(mean_of(values), 0)["mean"]
    assert found.interval == pytest.approx((0.01, 0.01), abs=1e-12)
    assert found.p_value < 0.01


def test_draws_without_a_value_are_left_out():
    def score(counts):
        return {"mean": float(counts[0] / counts[:2].sum()) if counts[:2].sum() else float("nan")}

    low, high = Sums(4, score).intervals(0)["mean"]
    assert 0 <= low < high <= 1


@pytest.mark.parametrize("seed", [0, 4])
@pytest.mark.parametrize("environment", [None, "77"])
def test_texts_are_resampled_as_sacrebleu_does(monkeypatch, seed, environment):
    (first, right), (second, _) = some_texts(60, 1, 0.4), some_texts(60, 1, 0.5)
    monkeypatch.setenv("SACREBLEU_SEED", str(12345 + seed))
    scorers = {"bleu": BLEU(), "chrf": CHRF()}
    wanted = {name: one.corpus_score(first, [right], n_bootstrap=1000) for name, one in scorers.items()}
    systems = [("second", second), ("first", first)]
    _, tested = PairedTest(systems, {"bleu": BLEU(), "chrf": CHRF()}, [right], test_type="bs", n_samples=1000)()
    if environment is None:
        monkeypatch.delenv("SACREBLEU_SEED")
    else:
        monkeypatch.setenv("SACREBLEU_SEED", environment)

    texts = Texts(first, right, "13a")
    for name, (low, high) in texts.intervals(seed).items():
        mean, half = wanted[name]._mean, wanted[name]._ci
        assert (low, high) == pytest.approx((mean - half, mean + half), rel=1e-5)
        assert high > low
    found = texts.compare(Texts(second, right, "13a"), seed)
    assert {name: one.p_value for name, one in found.items()} == {
        "bleu": tested["BLEU"][1].p_value,
        "chrf": tested["chrF2"][1].p_value,
    }
    assert os.environ.get("SACREBLEU_SEED") == environment


def test_texts_without_a_right_piece_have_an_interval():
    texts = Texts(["x", "y", "cat"], ["dog", "hen", "cat"], "13a")
    assert set(texts.intervals(0)) == {"bleu", "chrf"}


def test_very_many_texts_are_not_resampled(monkeypatch, notes):
    monkeypatch.setattr(resampling, "MOST_TEXTS", 3)
    found, right = some_texts(4, 0, 0.5)
    assert Texts(found, right, "13a").intervals(0) == {}
    assert notes == ["bleu and chrf of more than 3 rows are given without resampling, got 4"]


def test_bleu_by_two_tokenizers_is_not_compared(notes):
    found, right = some_texts(9, 0, 0.5)
    differences = Texts(found, right, "13a").compare(Texts(right, right, "zh"), 0)
    assert list(differences) == ["chrf"]
    assert notes[0].startswith("bleu is not compared: one counts by 13a, the other by zh; --to ")


def test_labels_and_answers_of_drawn_rows_are_those_of_the_rows_written_out():
    rng = np.random.default_rng(5)
    found, right = rng.integers(0, 4, 60), rng.integers(0, 4, 60)
    each = [{"exact_match": 100.0 * (i % 3 == 0), "f1": float(i)} for i in range(60)]
    labels = sum_labels(found.tolist(), right.tolist(), 5)
    answers = sum_answers([Row("", {}, "", "", scores) for scores in each])
    for counts in list(draw(60, 1))[:20]:
        rows = np.repeat(np.arange(60), counts.astype(int))
        a, b = found[rows].tolist(), right[rows].tolist()
        wanted = {"accuracy": metrics.accuracy(a, b), "f1_macro": metrics.f1_macro(a, b)}
        assert labels.score(counts) == pytest.approx(wanted, rel=1e-12)
        wanted = {name: np.mean([each[i][name] for i in rows]) for name in ("exact_match", "f1")}
        assert answers.score(counts) == pytest.approx(wanted, rel=1e-12)


def test_confusion_has_right_labels_down_and_found_ones_across():
    confusion = count_labels([1, 1, 0, 2], [0, 0, 0, 2], ["a", "b", "c"])
    assert confusion.labels == ("a", "b", "c")
    assert confusion.counts == ((1, 2, 0), (0, 0, 0), (0, 0, 1))
