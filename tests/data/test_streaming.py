"""Rows of a stream: cut as a store's rows, shuffled in blocks, and found by position whatever was asked before."""

import os
import pickle
import random

import numpy as np
import pytest
from conftest import byte_level_tokenizer

from llmkit.data.ledger import Counts
from llmkit.data.order import MixedRows, ShuffledRows, shuffle_index
from llmkit.data.rows import TokenRows
from llmkit.data.store import write_store
from llmkit.data.streaming import StreamedRows, cut_rows, keep_pieces
from llmkit.errors import InputError


class Documents:
    """Documents of given lengths, in pieces of at most `size` tokens; each token has an id of its own."""

    def __init__(self, lengths, size=10**6):
        self.lengths, self.size = lengths, size
        self.opened = []

    def __call__(self, epoch):
        self.opened.append(epoch)
        first = 0
        for document, length in enumerate(self.lengths):
            for start in range(0, max(1, length), self.size):
                stop = min(start + self.size, length)
                yield np.arange(first + start, first + stop), stop == length, f"document {document}"
            first += length


def stream(lengths, size=10**6, **options):
    settings = {"max_length": 8, "on_long": "split", "pack": True, "seed": 0, "block_rows": 4, **options}
    return StreamedRows(Documents(lengths, size), **settings)


def cut(lengths, size=10**6, *, max_length=8, on_long="split", pack=True):
    return list(cut_rows(keep_pieces(Documents(lengths, size)(0), max_length, on_long), max_length, pack=pack))


def plain(row):
    return row["input_ids"].tolist(), row["document_ids"].tolist()


def first_ids(rows, start, stop):
    return [int(rows[position]["input_ids"][0]) for position in range(start, stop)]


LENGTHS = {
    "short": [3, 5, 1, 2, 9, 1, 1, 4],
    "long": [30, 2, 100, 8, 7, 9, 15],
    "of one token": [1] * 20,
    "that end a row": [8, 7, 7, 14, 1],
    "that end a row, then one token": [8, 1],
    "one": [50],
    "two tokens": [2],
    "many": random.Random(0).choices(range(1, 40), k=150),
    "some without a token": [0, 5, 0, 0, 9, 3, 0],
}


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("size", [1, 3, 10**6])
@pytest.mark.parametrize("on_long", ["cut", "drop", "split"])
@pytest.mark.parametrize("pack", [True, False], ids=["packed", "not packed"])
@pytest.mark.parametrize("max_length", [2, 3, 8])
def test_cut_rows_gives_the_rows_of_a_store(stores, lengths, size, on_long, pack, max_length):
    rows = TokenRows(stores(lengths), max_length=max_length, on_long=on_long, pack=pack)
    streamed = cut(lengths, size, max_length=max_length, on_long=on_long, pack=pack)
    assert [plain(row) for row, _ in streamed] == [plain(rows[i]) for i in range(len(rows))]


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """A function that writes documents of these lengths as a store; each is made once."""
    tokenizer, made = byte_level_tokenizer(vocab_size=4000), {}
    tokenizer.add_tokens([f"<{i}>" for i in range(4000)])

    def make(lengths):
        if (key := tuple(lengths)) not in made:
            folder = tmp_path_factory.mktemp("stores") / "store"
            made[key] = write_store(folder, Documents(lengths)(0), tokenizer, counts=Counts("documents"))
        return made[key]

    return make


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("pack", [True, False], ids=["packed", "not packed"])
def test_cut_rows_predicts_each_token_but_first_ones_once(lengths, pack):
    targets = []
    for row, _ in cut(lengths, pack=pack):
        ids, documents = row["input_ids"], row["document_ids"]
        targets += ids[1:][documents[1:] == documents[:-1]].tolist()
    starts = np.cumsum([0, *lengths])[:-1][np.array(lengths) > 0]
    assert targets == sorted(set(range(sum(lengths))) - set(starts.tolist()))


def test_cut_rows_names_the_documents_of_a_row():
    named = cut([3, 3, 0, 6, 1, 20])
    assert [where for _, where in named] == [
        "document 0 to document 3",
        "document 3 to document 5",
        "document 5",
        "document 5",
        "document 5",
    ]


def test_cut_rows_gives_arrays_that_do_not_share_memory():
    (first, _), (second, _) = cut([15])
    first["input_ids"][-1] = -1
    assert second["input_ids"][0] == 7
    assert {array.dtype for array in (*first.values(), *second.values())} == {np.dtype(np.int64)}


def test_keep_pieces_raises_at_a_long_document_when_that_is_an_error():
    pieces = keep_pieces(Documents([4, 8, 1210, 3], size=500)(0), 8, "error")
    assert [len(next(pieces)[0]) for _ in range(2)] == [4, 8]
    with pytest.raises(InputError) as caught:
        next(pieces)
    assert str(caught.value) == (
        "document 2 exceeds 8 tokens, got 1,210; set data.max_length: 1210 or data.on_long: cut|split|drop"
    )


@pytest.mark.parametrize("on_long", ["cut", "drop"])
def test_keep_pieces_holds_no_more_than_a_row_of_a_long_document(on_long):
    held = []

    def pieces():
        for _ in range(1000):
            held.append(np.zeros(1000, np.int64))
            yield held[-1], False, "document 0"
        yield np.zeros(0, np.int64), True, "document 0"

    kept = [len(ids) for ids, _, _ in keep_pieces(pieces(), 1500, on_long)]
    assert kept == ([1500] if on_long == "cut" else [])
    assert len(held) == 1000


@pytest.mark.parametrize("pack", [True, False], ids=["packed", "not packed"])
@pytest.mark.parametrize("block_rows", [1, 4, 1000])
def test_streamed_rows_gives_each_row_once_an_epoch(block_rows, pack):
    rows = stream(LENGTHS["many"], block_rows=block_rows, pack=pack)
    expected = [plain(row) for row, _ in cut(LENGTHS["many"], pack=pack)]
    size, orders = len(expected), []
    for epoch in range(3):
        orders.append([plain(rows[epoch * size + i]) for i in range(size)])
    assert [sorted(order) for order in orders] == [sorted(expected)] * 3
    assert (orders[0] == orders[1]) == (block_rows == 1)
    assert rows.open_documents.opened == [0, 1, 2]


def test_streamed_rows_shuffles_within_blocks_and_the_last_one_too():
    rows = stream([2] * 83, pack=False, block_rows=20)
    numbers = [i // 2 for i in first_ids(rows, 0, 166)]
    blocks = [numbers[i : i + 20] for i in (0, 20, 40, 60, 83, 103, 123, 143)]
    assert [sorted(block) for block in blocks] == [list(range(i, i + 20)) for i in (0, 20, 40, 60)] * 2
    assert [sorted(numbers[80:83]), sorted(numbers[163:])] == [[80, 81, 82]] * 2
    assert len({tuple(n % 20 for n in block) for block in blocks}) == 8  # each block has an order of its own


def test_streamed_rows_keeps_the_order_that_seed_epoch_and_block_give():
    rows = stream([2] * 10, pack=False, seed=3)
    blocks = [(epoch, block, size) for epoch in (0, 1) for block, size in ((0, 4), (1, 4), (2, 2))]
    order = [4 * block + shuffle_index(i, size, 3, epoch, block) for epoch, block, size in blocks for i in range(size)]
    assert first_ids(rows, 0, 20) == [2 * number for number in order]


def test_streamed_rows_shuffles_a_small_epoch():
    rows = stream([2] * 7, pack=False, block_rows=1024)
    orders = [first_ids(rows, 7 * epoch, 7 * epoch + 7) for epoch in range(6)]
    assert [sorted(order) for order in orders] == [[0, 2, 4, 6, 8, 10, 12]] * 6
    assert len(set(map(tuple, orders))) == 6


def test_streamed_rows_orders_by_seed():
    assert len({tuple(first_ids(stream([2] * 50, pack=False, seed=seed), 0, 50)) for seed in range(5)}) == 5


def test_streamed_rows_gives_a_row_by_position_alone():
    expected = first_ids(stream(LENGTHS["many"]), 0, 1000)
    rows, places = stream(LENGTHS["many"]), random.Random(0).choices(range(1000), k=60)
    assert [int(rows[i]["input_ids"][0]) for i in places] == [expected[i] for i in places]


def test_streamed_rows_reads_no_further_than_the_block_of_a_row():
    rows = stream([2] * 100, pack=False)
    pieces, taken = rows.open_documents, []
    rows.open_documents = lambda epoch: (taken.append(piece[2]) or piece for piece in pieces(epoch))
    assert taken == []
    rows[5]
    assert taken[-1] in ("document 7", "document 8")
    assert rows[4] is not None
    assert pieces.opened == [0]


def test_streamed_rows_begins_again_when_a_row_lies_behind():
    rows = stream([2] * 100, pack=False)
    expected = first_ids(rows, 0, 10)
    rows[50]
    assert first_ids(rows, 0, 10) == expected
    assert rows.open_documents.opened == [0, 0]


def test_streamed_rows_notes_once_that_it_reads_again(notes):
    rows = stream([2] * 3000, pack=False)
    first_ids(rows, 0, 100)
    assert notes == []
    rows[2345]
    rows[2999]
    rows[5]
    rows[1500]
    assert notes == ["reading the stream again up to row 2,345"]


def test_streamed_rows_names_the_row_that_it_gives():
    rows = stream([2] * 30, pack=False)
    assert [rows.where(i) for i in range(70)] == [f"document {i // 2}" for i in first_ids(rows, 0, 70)]


@pytest.mark.parametrize("lengths", [[], [0], [1], [1, 1, 1], [9, 9]], ids=str)
def test_streamed_rows_raises_when_the_stream_holds_no_row(lengths):
    rows = stream(lengths, on_long="drop")
    for _ in range(2):
        with pytest.raises(InputError) as caught:
            rows[0]
        assert str(caught.value) == "the stream holds 0 rows; expected at least one document of two tokens"


def test_streamed_rows_raises_when_a_row_is_too_short_for_a_target():
    with pytest.raises(InputError, match="a row needs a token and the next one, got 1; expected 2 or more"):
        stream([5], max_length=1)


def test_streamed_rows_raises_again_when_a_document_is_too_long():
    rows = stream([2] * 10 + [9] + [2] * 10, on_long="error", pack=False)
    first_ids(rows, 0, 8)
    for _ in range(3):  # and never takes the broken stream for one that ended
        with pytest.raises(InputError, match="document 10 exceeds 8 tokens, got 9"):
            rows[8]
    assert rows[0]["input_ids"].tolist() == stream([2] * 10, pack=False)[0]["input_ids"].tolist()


@pytest.mark.parametrize(("position", "error"), [(-1, IndexError), (1.0, TypeError), (True, TypeError)])
def test_streamed_rows_raises_when_a_position_is_no_count(position, error):
    with pytest.raises(error, match="a position is"):
        stream([5])[position]


def test_streamed_rows_reads_for_itself_in_a_process_that_was_forked_off(monkeypatch):
    rows, expected = stream([2] * 100, pack=False), first_ids(stream([2] * 100, pack=False), 0, 40)
    first_ids(rows, 0, 20)
    here = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: here + 1)
    assert first_ids(rows, 20, 40) == expected[20:]
    assert rows.open_documents.opened == [0, 0]  # the parent's files stand where the parent left them


def test_streamed_rows_can_be_sent_to_another_process():
    rows, expected = stream([2] * 100, pack=False), first_ids(stream([2] * 100, pack=False), 0, 60)
    first_ids(rows, 0, 20)
    sent = pickle.loads(pickle.dumps(rows))
    assert first_ids(sent, 20, 60) == expected[20:]
    assert first_ids(sent, 0, 60) == expected


def test_streamed_rows_takes_its_place_in_a_mixture(stores):
    rows = ShuffledRows(TokenRows(stores([2] * 40), max_length=8, on_long="split", pack=False), seed=1)
    mixture = MixedRows([rows, stream([2] * 500, pack=False, block_rows=64)], [1, 3], seed=1)
    drawn = {0: [], 1: []}
    for position in range(600):
        drawn[mixture.find(position)[0]].append(int(mixture[position]["input_ids"][0]))
    alone = stream([2] * 500, pack=False, block_rows=64, seed=0)
    assert drawn[1] == first_ids(alone, 0, len(drawn[1]))
    assert drawn[0] == first_ids(rows, 0, len(drawn[0]))
    assert abs(len(drawn[1]) - 450) < 60
