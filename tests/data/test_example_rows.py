"""Rows of examples are written once, give back what was encoded, and say what is too long."""

import pytest
from conftest import byte_level_tokenizer, wordpiece_tokenizer
from qa_models import t5_tokenizer

from llmkit.data import example_rows
from llmkit.data.example_rows import describe, keep_rows
from llmkit.data.examples import read_dataset
from llmkit.data.sequences import CompletionEncoder, LabelEncoder, PairEncoder
from llmkit.encoding.directions import Direction
from llmkit.errors import InputError
from llmkit.recipe.schema import SourceSpec

SPEC = SourceSpec(prompt_column="source", completion_column="target")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def make_encoder(kind, size):
    """An encoder that calls examples too long which have more tokens."""
    if kind == "completion":
        return CompletionEncoder(byte_level_tokenizer(), size, "drop")
    if kind == "label":
        return LabelEncoder(wordpiece_tokenizer(), ("bad", "good"), "single_label_classification", False, size, "drop")
    return PairEncoder(t5_tokenizer(), Direction(), *((size, 64) if kind == "source" else (64, size)), "drop")


def keep(lengths, kind="label", size=8, name="a", **options):
    """Rows of examples whose long side has so many tokens."""
    encoder, records = make_encoder(kind, size), []
    for number in lengths:
        short, long = "a", "hello " * (number - 2) if kind == "label" else "a" * (number - 1)
        source, target = (long, short) if kind == "source" else (short, long)
        records.append({"text": long, "label": "good", "source": source, "target": target})
    read = lambda counts: read_dataset(records, SPEC, encoder.kind, counts=counts)  # noqa: E731
    return keep_rows(name, {"lengths": lengths}, read, encoder, encoder.tokenizer, **options)


def list_lengths(rows):
    """The tokens of each row."""
    return [len(row["input_ids"]) for row in rows]


@pytest.mark.parametrize("batch", [1, 2, 5, 6, 7])
def test_rows_are_all_those_encoded_in_their_order_however_many_are_written_at_a_time(batch, monkeypatch):
    monkeypatch.setattr(example_rows, "BATCH", batch)
    rows = keep([3, 4, 5, 6, 7, 8])
    assert list_lengths(rows) == [3, 4, 5, 6, 7, 8]
    assert [rows.where(i) for i in range(6)] == [f"a row {i + 1}" for i in range(6)]


def test_another_end_of_text_of_the_same_vocabulary_makes_other_rows():
    lengths = {}
    for end in ("<|endoftext|>", "a"):
        tokenizer = byte_level_tokenizer()
        tokenizer.eos_token = end
        encoder = CompletionEncoder(tokenizer, 8, "drop")
        read = lambda counts: read_dataset([{"source": "b", "target": "c"}], SPEC, "completion", counts=counts)  # noqa: E731
        row = keep_rows("a", {}, read, encoder, tokenizer)[0]
        lengths[end] = row["labels"].tolist()[-1] == tokenizer.eos_token_id
    assert lengths == {"<|endoftext|>": True, "a": True}


def test_rows_of_a_part_end_where_the_other_part_begins():
    parts = keep([3, 4, 5, 6]).split(1)
    assert [list_lengths(part) for part in parts] == [[3, 4, 5], [6]]
    assert parts[1].where(0) == "a row 4"
    for part in parts:
        for index in (-1, len(part)):
            with pytest.raises(IndexError):
                part[index]


@pytest.mark.parametrize(
    ("kind", "key", "ways"),
    [
        ("label", "max_length", "cut|split|drop"),
        ("completion", "max_length", "cut|drop"),
        ("source", "max_length", "cut|drop"),
        ("target", "max_target_length", "cut|drop"),
    ],
)
def test_examples_that_are_too_long_are_refused_by_their_key_with_the_ways_out(kind, key, ways):
    longest = 13 if kind == "completion" else 12
    with pytest.raises(InputError) as caught:
        keep([4, 11, 12], kind)
    sentence = f"2 of 3 examples exceed 8 tokens (longest {longest}); set data.{key}: {longest} or data.on_long: {ways}"
    assert str(caught.value) == sentence


def test_examples_that_are_too_long_are_left_out_and_counted_where_they_may_be():
    rows = keep([4, 11, 5], refuse_long=False)
    assert (list_lengths(rows), rows.numbers) == ([4, 5], {0, 2})
    assert (rows.counts.documents, rows.counts.tokens) == (3, 9)
    assert rows.counts.dropped == {"longer than max_length": 1}


@pytest.mark.parametrize("lengths", [[], [11, 12]])
def test_examples_that_give_no_row_are_refused(lengths):
    with pytest.raises(InputError) as caught:
        keep(lengths, refuse_long=False)
    assert str(caught.value) == "0 rows in a"


def test_rows_that_are_kept_are_counted_under_the_name_they_are_asked_for_by():
    first, again = keep([3, 4]), keep([3, 4], name="b")
    assert (first.counts.name, again.counts.name) == ("a", "b")
    assert again.where(0) == "a row 1"
    assert first.fingerprint == again.fingerprint


@pytest.mark.parametrize(
    ("kind", "empty"),
    [("label", {"text": " \n"}), ("source", {"source": "\u3000"}), ("target", {"target": ""})],
)
def test_examples_without_text_are_left_out_and_counted(kind, empty):
    encoder = make_encoder(kind, 8)
    whole = {"text": "hello", "label": "good", "source": "a", "target": "b"}
    records = [whole, {**whole, **empty}, whole]
    read = lambda counts: read_dataset(records, SPEC, encoder.kind, counts=counts)  # noqa: E731
    rows = keep_rows("a", {}, read, encoder, encoder.tokenizer)
    assert [rows.where(i) for i in range(len(rows))] == ["a row 1", "a row 3"]
    assert (rows.counts.documents, rows.counts.empty, rows.numbers) == (2, 1, {0, 2})
    assert describe(rows, None, None).lines()[1] == "  examples   2 read, 1 without text"


def test_an_empty_completion_is_trained_on():
    encoder = make_encoder("completion", 8)
    read = lambda counts: read_dataset([{"source": "b", "target": ""}], SPEC, "completion", counts=counts)  # noqa: E731
    assert len(keep_rows("a", {}, read, encoder, encoder.tokenizer)) == 1


def test_first_problem_is_told_where_all_rows_are_left_out():
    encoder = make_encoder("label", 8)
    for records, problem in (
        ([{"text": "hello", "label": None}, {"text": 3, "label": 0}], "a row 1: expected text or a number as label, "),
        ([{"text": "hello", "label": "so"}, {"text": "hello", "label": "la"}], "a row 1: unknown label, got 'so'; "),
    ):
        read = lambda counts, rows=records: read_dataset(rows, SPEC, "label", on_bad="skip", counts=counts)  # noqa: E731
        with pytest.raises(InputError) as caught:
            keep_rows("a", {"problem": problem}, read, encoder, encoder.tokenizer, skip_bad=True)
        assert str(caught.value).startswith(f"0 rows in a; the first that was left out: {problem}")
