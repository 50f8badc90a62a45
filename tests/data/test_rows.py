"""Rows: each token that is not the first of its document is predicted exactly once an epoch."""

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import byte_level_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from llmkit.data.ledger import Counts
from llmkit.data.rows import TokenRows
from llmkit.data.store import write_store
from llmkit.data.streaming import cut_rows, keep_pieces
from llmkit.errors import InputError

TOKENIZER = byte_level_tokenizer()
ALL = [(on_long, pack) for on_long in ("cut", "split", "drop") for pack in (True, False)]


def make_store(folder, lengths):
    """A store of documents of these lengths; ids go round, so that a token tells where it comes from."""
    ids = np.arange(sum(lengths)) % 389
    ends = np.cumsum(lengths)
    pieces = [(ids[end - n : end], True, f"row {i}") for i, (n, end) in enumerate(zip(lengths, ends, strict=True), 1)]
    return write_store(folder, pieces, TOKENIZER, counts=Counts("a.txt", documents=len(lengths)))


def cases():
    """Row lengths, and lengths of documents around them."""
    lengths = st.integers(2, 9)
    return lengths.flatmap(
        lambda n: st.tuples(
            st.just(n), st.lists(st.sampled_from([1, 2, 3, max(1, n - 1), n, n + 1, 2 * n, 3 * n + 2]), max_size=14)
        )
    )


def expected_targets(store, max_length, on_long):
    """Every (document, place) that a row must predict, by the rule as it is told."""
    lengths = np.diff(store.starts).tolist()
    if on_long == "drop":
        lengths = [n if n <= max_length else 0 for n in lengths]
    if on_long == "cut":
        lengths = [min(n, max_length) for n in lengths]
    return Counter((d, place) for d, n in enumerate(lengths) for place in range(1, n))


def found_targets(rows):
    """Every (document, place) that the rows predict; a token's place is told by its predecessors in the row."""
    store, found = rows.store, Counter()
    for i in range(len(rows)):
        row = rows[i]
        start, stop = rows._span(i)
        documents = [int(np.searchsorted(rows._starts, p, side="right")) - 1 for p in range(start, stop)]
        for n, document in enumerate(documents):
            place = start + n - int(rows._starts[document])
            source = int(rows._sources[document])
            assert row["input_ids"][n] == store.read(source + place, 1)[0]
            if n and row["document_ids"][n] == row["document_ids"][n - 1]:
                assert documents[n - 1] == document
                found[int(np.searchsorted(store.starts, source, side="right")) - 1, place] += 1
            elif n:
                assert place == 0
                assert row["document_ids"][n] == row["document_ids"][n - 1] + 1
    return found


@settings(max_examples=60, deadline=None)
@given(case=cases(), held=st.integers(0, 5))
def test_rows_predict_each_token_once_and_the_numbers_add_up(case, held):
    max_length, lengths = case
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder, "s"), lengths)
        for on_long, pack in ALL:
            rows = TokenRows(store, max_length=max_length, on_long=on_long, pack=pack)
            wanted = expected_targets(store, max_length, on_long)
            assert found_targets(rows) == wanted, (on_long, pack)
            assert rows.num_targets == wanted.total()
            fates = rows.num_targets + rows.num_first + rows.num_cut + rows.num_dropped_tokens
            assert fates == store.num_tokens
            others, last = rows.split(held)
            assert len(last) == min(held, len(rows))
            assert found_targets(others) + found_targets(last) == wanted
            assert (others.num_targets, last.num_targets) == (
                found_targets(others).total(),
                found_targets(last).total(),
            )


@settings(max_examples=60, deadline=None)
@given(case=cases(), held=st.integers(0, 5))
def test_rows_of_documents_held_out_and_of_the_others_share_no_token(case, held):
    max_length, lengths = case
    first = max(0, len(lengths) - held)
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder, "s"), lengths)
        for on_long, pack in ALL:
            parts = [
                TokenRows(store, max_length=max_length, on_long=on_long, pack=pack, documents=documents)
                for documents in (range(first), range(first, len(lengths)))
            ]
            wanted = expected_targets(store, max_length, on_long)
            others, last = (found_targets(rows) for rows in parts)
            assert others == Counter({t: n for t, n in wanted.items() if t[0] < first}), (on_long, pack)
            assert last == Counter({t: n for t, n in wanted.items() if t[0] >= first}), (on_long, pack)
            assert [rows.num_targets for rows in parts] == [others.total(), last.total()]
            fates = sum(r.num_targets + r.num_first + r.num_cut + r.num_dropped_tokens for r in parts)
            assert fates == store.num_tokens


@settings(max_examples=40, deadline=None)
@given(case=cases(), bounds=st.tuples(st.integers(0, 14), st.integers(0, 14)))
def test_rows_of_some_documents_are_those_of_a_store_of_them(case, bounds):
    max_length, lengths = case
    start, stop = sorted(min(bound, len(lengths)) for bound in bounds)
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder, "s"), lengths)
        inner = make_store(Path(folder, "inner"), lengths[start:stop])
        for on_long, pack in ALL:
            options = {"max_length": max_length, "on_long": on_long, "pack": pack}
            some, alone = TokenRows(store, documents=range(start, stop), **options), TokenRows(inner, **options)
            assert [(row["document_ids"].tolist(), len(row["input_ids"])) for row in some] == [
                (row["document_ids"].tolist(), len(row["input_ids"])) for row in alone
            ]
            offset = int(store.starts[start])
            assert [row["input_ids"].tolist() for row in some] == [
                ((row["input_ids"] + offset) % 389).tolist() for row in alone
            ]


@settings(max_examples=40, deadline=None)
@given(case=cases())
def test_rows_of_a_stream_are_those_of_the_store(case):
    max_length, lengths = case
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder, "s"), lengths)
        documents = [(store.read(a, b - a), True, "") for a, b in zip(store.starts, store.starts[1:], strict=False)]
        for on_long, pack in ALL:
            rows = TokenRows(store, max_length=max_length, on_long=on_long, pack=pack)
            streamed = [row for row, _ in cut_rows(keep_pieces(documents, max_length, on_long), max_length, pack=pack)]
            assert [(r["input_ids"].tolist(), r["document_ids"].tolist()) for r in rows] == [
                (r["input_ids"].tolist(), r["document_ids"].tolist()) for r in streamed
            ]


def cut_slowly(lengths, max_length, on_long):
    """The rows of documents that don't overlap, each as (document, first place, end), one after the other."""
    rows = []
    for document, length in enumerate(lengths):
        if length > max_length and on_long == "drop":
            continue
        for start in range(0, length, max_length):
            if start == 0 or on_long == "split":
                rows.append((document, start, min(start + max_length, length)))
    return rows


@settings(max_examples=100, deadline=None)
@given(
    case=cases(),
    held=st.integers(0, 5),
    bounds=st.tuples(st.integers(0, 14), st.integers(0, 14)),
    num_special=st.integers(0, 3),
)
def test_rows_without_overlap_hold_each_token_once(case, held, bounds, num_special):
    max_length, lengths = case
    first, stop = sorted(min(bound, len(lengths)) for bound in bounds)
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder, "s"), lengths)
        for on_long in ("cut", "split", "drop"):
            rows = TokenRows(
                store,
                max_length=max_length - 1 + num_special,  # so rows of one token too
                on_long=on_long,
                pack=False,
                documents=range(first, stop),
                overlap=0,
                num_special=num_special,
            )
            spans = cut_slowly(lengths[first:stop], max_length - 1, on_long)
            starts = store.starts[first:]
            wanted = [store.read(int(starts[d]) + a, b - a).tolist() for d, a, b in spans]
            assert [row["input_ids"].tolist() for row in rows] == wanted, on_long
            assert all(not row["document_ids"].any() for row in rows)
            assert all(len(row["document_ids"]) == len(row["input_ids"]) for row in rows)
            assert [rows.where(i) for i in range(len(rows))] == [f"a.txt document {first + d + 1}" for d, _, _ in spans]
            assert rows.num_first == 0
            fates = rows.num_targets + rows.num_cut + rows.num_dropped_tokens
            assert (rows.num_targets, fates) == (sum(map(len, wanted)), sum(lengths[first:stop]))
            others, last = rows.split(held)
            assert (len(last), [*others, *last] == []) == (min(held, len(rows)), not wanted)
            assert [row["input_ids"].tolist() for part in (others, last) for row in part] == wanted
            assert last.num_targets == sum(map(len, wanted[len(others) :]))
            assert others.num_targets + last.num_targets == rows.num_targets
            tokens = {token for row in wanted for token in row}
            assert [rows.has_target(token) for token in range(20)] == [token in tokens for token in range(20)]


def test_rows_without_overlap_are_cut_side_by_side(tmp_path):
    store = make_store(tmp_path / "s", [3, 1, 9])
    rows = TokenRows(store, max_length=4, on_long="split", pack=False, overlap=0)
    assert [row["input_ids"].tolist() for row in rows] == [[0, 1, 2], [3], [4, 5, 6, 7], [8, 9, 10, 11], [12]]
    assert rows.num_targets == 13
    roomy = TokenRows(store, max_length=6, on_long="split", pack=False, overlap=0, num_special=2)
    assert (roomy.max_length, [row["input_ids"].tolist() for row in roomy]) == (
        4,
        [row["input_ids"].tolist() for row in rows],
    )


def test_packed_rows_without_overlap_are_not_made(tmp_path):
    with pytest.raises(AssertionError, match="packed rows without an overlap"):
        TokenRows(make_store(tmp_path / "s", [3]), max_length=4, on_long="split", pack=True, overlap=0)


def test_packed_rows_overlap_by_one_token(tmp_path):
    rows = TokenRows(make_store(tmp_path / "s", [3, 6]), max_length=4, on_long="split", pack=True)
    assert [row["input_ids"].tolist() for row in rows] == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8]]
    assert [row["document_ids"].tolist() for row in rows] == [[0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0]]
    assert all(row["input_ids"].dtype == row["document_ids"].dtype == np.int64 for row in rows)


def test_packed_rows_of_some_documents_begin_with_the_first_of_them(tmp_path):
    store = make_store(tmp_path / "s", [3, 6, 2, 5])
    rows = TokenRows(store, max_length=4, on_long="split", pack=True, documents=range(2, 4))
    assert [row["input_ids"].tolist() for row in rows] == [[9, 10, 11, 12], [12, 13, 14, 15]]
    assert [row["document_ids"].tolist() for row in rows] == [[0, 0, 1, 1], [0, 0, 0, 0]]
    assert [rows.where(i) for i in range(2)] == ["a.txt documents 3 to 4", "a.txt document 4"]


def test_rows_of_no_document_are_none(tmp_path):
    store = make_store(tmp_path / "s", [3, 6])
    for documents in (range(0), range(2, 2)):
        rows = TokenRows(store, max_length=4, on_long="error", pack=True, documents=documents)
        assert (len(rows), rows.num_targets, rows.num_first) == (0, 0, 0)


def test_unpacked_rows_hold_one_document(tmp_path):
    rows = TokenRows(make_store(tmp_path / "s", [3, 1, 6]), max_length=4, on_long="split", pack=False)
    assert [row["input_ids"].tolist() for row in rows] == [[0, 1, 2], [4, 5, 6, 7], [7, 8, 9]]


def test_last_row_that_would_predict_nothing_is_left_out(tmp_path):
    rows = TokenRows(make_store(tmp_path / "s", [4, 1]), max_length=4, on_long="split", pack=True)
    assert [row["input_ids"].tolist() for row in rows] == [[0, 1, 2, 3]]


@pytest.mark.parametrize("pack", [True, False])
def test_store_without_a_target_has_no_rows(tmp_path, pack):
    for name, lengths in (("none", []), ("one", [1]), ("ones", [1, 1])):
        rows = TokenRows(make_store(tmp_path / name, lengths), max_length=2, on_long="split", pack=pack)
        assert sum(len(row["input_ids"]) for row in rows) == (0 if name != "ones" or not pack else len(rows) * 2)
        assert rows.num_targets == 0


def test_row_outside_is_an_index_error(tmp_path):
    rows = TokenRows(make_store(tmp_path / "s", [9]), max_length=4, on_long="split", pack=True)
    for index in (-1, 3):
        with pytest.raises(IndexError):
            rows[index]


def test_long_document_is_refused_by_one_sentence(tmp_path):
    store = make_store(tmp_path / "s", [3, 9, 5, 4])
    with pytest.raises(InputError) as caught:
        TokenRows(store, max_length=4, on_long="error", pack=True)
    message = "2 of 4 examples exceed 4 tokens (longest 9); set data.max_length: 9 or data.on_long: cut|split|drop"
    assert str(caught.value) == message
    assert len(TokenRows(store, max_length=9, on_long="error", pack=False)) == 4


def test_long_document_is_looked_for_among_the_documents_that_are_laid_out(tmp_path):
    store = make_store(tmp_path / "s", [3, 9, 5, 4])
    assert len(TokenRows(store, max_length=5, on_long="error", pack=False, documents=range(2, 4))) == 2
    with pytest.raises(InputError) as caught:
        TokenRows(store, max_length=5, on_long="error", pack=False, documents=range(2))
    assert str(caught.value).startswith("1 of 2 examples exceed 5 tokens (longest 9); ")


def test_max_length_of_one_is_refused(tmp_path):
    with pytest.raises(InputError) as caught:
        TokenRows(make_store(tmp_path / "s", [3]), max_length=1, on_long="split", pack=True)
    assert str(caught.value).startswith("data.max_length: a row needs a token and the next one, got 1")


@pytest.mark.parametrize(
    ("max_length", "num_special", "message"),
    [
        (0, 0, "a row needs a token, got 0; expected 1 or more"),
        (2, 2, "a row needs a token beside 2 special ones, got 2; expected 3 or more"),
    ],
)
def test_max_length_that_leaves_no_room_is_refused(tmp_path, max_length, num_special, message):
    store, options = make_store(tmp_path / "s", [3]), {"on_long": "split", "pack": False, "overlap": 0}
    with pytest.raises(InputError) as caught:
        TokenRows(store, max_length=max_length, num_special=num_special, **options)
    assert str(caught.value) == f"data.max_length: {message}"
    rows = TokenRows(store, max_length=max_length + 1, num_special=num_special, **options)
    assert [row["input_ids"].tolist() for row in rows] == [[0], [1], [2]]


def test_long_document_is_told_with_its_special_tokens(tmp_path):
    store = make_store(tmp_path / "s", [3, 9, 5, 4])
    options = {"on_long": "error", "pack": False, "overlap": 0, "num_special": 2}
    with pytest.raises(InputError) as caught:
        TokenRows(store, max_length=6, **options)
    message = "2 of 4 examples exceed 6 tokens (longest 11); set data.max_length: 11 or data.on_long: cut|split|drop"
    assert str(caught.value) == message
    assert len(TokenRows(store, max_length=11, **options)) == 4


def test_where_names_source_and_documents(tmp_path):
    store = make_store(tmp_path / "s", [3, 9, 2, 2, 4])
    assert TokenRows(store, max_length=4, on_long="split", pack=True).where(0) == "a.txt documents 1 to 2"
    rows = TokenRows(store, max_length=4, on_long="drop", pack=True)
    assert [rows.where(i) for i in range(len(rows))] == [
        "a.txt documents 1 to 3",
        "a.txt documents 3 to 4",
        "a.txt documents 4 to 5",
        "a.txt document 5",
    ]
    assert TokenRows(store, max_length=4, on_long="split", pack=False).where(4) == "a.txt document 3"


def test_has_target_asks_for_a_token_that_is_predicted(tmp_path):
    rows = TokenRows(make_store(tmp_path / "s", [3, 6]), max_length=4, on_long="split", pack=True)
    assert [rows.has_target(token) for token in (0, 2, 3, 8, 9)] == [False, True, False, True, False]
    train, held = rows.split(1)
    assert (train.has_target(8), held.has_target(8), held.has_target(6), train.has_target(6)) == (
        False,
        True,
        False,
        True,
    )


def test_rows_read_only_what_they_hold(tmp_path, monkeypatch):
    store = make_store(tmp_path / "s", [50] * 40)
    read, asked = store.read, []
    monkeypatch.setattr(store, "read", lambda start, length: asked.append((start, length)) or read(start, length))
    rows = TokenRows(store, max_length=16, on_long="split", pack=True)
    assert asked == []
    rows[7]
    assert asked == [(7 * 15, 16)]
