"""The order of rows: permutations, mixtures, and nothing that depends on what was asked before."""

import itertools
import random
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from llmkit.data.order import BLOCK_ROWS, MixedRows, ShuffledRows, shuffle_index
from llmkit.errors import InputError

SKEWED = [3, 3, 3, 1000, 3, 30, 3, 30]  # rounding errors add up where the lightest come first


class Numbers:
    """Rows that hold their own number, above a number that names their source."""

    def __init__(self, size, first=0):
        self.size, self.first = size, first

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        assert 0 <= index < self.size
        return {"input_ids": np.array([self.first + index]), "document_ids": np.array([0])}

    def where(self, index):
        return f"row {self.first + index}"


class Endless:
    """A stream of numbers, which knows no end."""

    num_rows = None

    def __getitem__(self, position):
        return {"input_ids": np.array([-1 - position]), "document_ids": np.array([0])}

    def where(self, position):
        return f"row {position} of the stream"


def number(row):
    return int(row["input_ids"][0])


def shuffle(size, *key):
    return [shuffle_index(i, size, *key) for i in range(size)]


def mix(sizes, weights=None, seed=0):
    """A mixture of sources whose rows are numbered from 0, 1,000,000, 2,000,000, ..."""
    parts = [ShuffledRows(Numbers(size, 1_000_000 * i), seed) for i, size in enumerate(sizes)]
    return MixedRows(parts, weights, seed)


def count_sources(rows, start, stop):
    return Counter(rows.find(position)[0] for position in range(start, stop))


@pytest.mark.parametrize("sizes", [range(1, 301), [1000, 1024, 4095, 4097, 20_011]], ids=["small", "large"])
def test_shuffle_index_is_a_permutation(sizes):
    for size in sizes:
        assert sorted(shuffle(size, 7, 3)) == list(range(size))


def test_shuffle_index_never_changes():
    assert shuffle(10, 0) == [4, 7, 2, 6, 3, 0, 9, 1, 5, 8]
    assert [shuffle_index(i, 1_000_003, 7, 2, 5) for i in range(5)] == [626059, 946411, 769868, 104825, 818468]
    assert [shuffle_index(i, 10**12 + 39, 2**31 - 1, 1) for i in (0, 1, 10**12)] == [
        983312733849,
        244385139072,
        696052433075,
    ]


def test_shuffle_index_depends_on_each_part_of_its_key():
    keys = [(0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 0), (0, 0, 1), (0, 1, 0), (-1,), (2**63,)]
    assert len({tuple(shuffle(100, *key)) for key in keys}) == len(keys)


@pytest.mark.parametrize("index", [-1, 10, 11])
def test_shuffle_index_raises_when_the_index_is_outside(index):
    with pytest.raises(IndexError, match=r"is not in range\(10\)"):
        shuffle_index(index, 10, 0)


@pytest.mark.parametrize("size", [2, 3, 5, 8, 64, 1000])
def test_shuffle_index_takes_each_index_anywhere_equally_often(size):
    cells = size if size < 100 else 50
    for index in (0, size // 2, size - 1):
        places = Counter(shuffle_index(index, size, seed) * cells // size for seed in range(4000))
        assert stats.chisquare([places[cell] for cell in range(cells)]).pvalue > 1e-4


@pytest.mark.parametrize("size", [4, 5, 6, 10])
def test_shuffle_index_takes_pairs_anywhere_equally_often(size):
    for other in (1, size - 1):
        pairs = Counter((shuffle_index(0, size, seed), shuffle_index(other, size, seed)) for seed in range(5000))
        counts = [pairs[pair] for pair in itertools.permutations(range(size), 2)]
        assert stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("lag", [1, 2, 31, 32, 100])
def test_shuffle_index_leaves_no_trace_of_the_order(lag):
    size = 10_000
    places = np.array(shuffle(size, 11))
    ahead = np.roll(places, -lag)
    assert abs(np.corrcoef(places, np.arange(size))[0, 1]) < 0.04  # four sigma
    assert abs(np.corrcoef(places, ahead)[0, 1]) < 0.04
    assert (np.abs(places - ahead) <= 1).sum() < 12  # 2 are expected


def test_shuffle_index_orders_epochs_independently():
    size = 10_000
    first, second = np.array(shuffle(size, 3, 0)), np.array(shuffle(size, 3, 1))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.04
    assert (first == second).sum() < 10  # 1 is expected


def test_shuffled_rows_gives_each_row_once_an_epoch():
    rows = ShuffledRows(Numbers(37), seed=5)
    epochs = [[number(rows[37 * epoch + i]) for i in range(37)] for epoch in range(4)]
    assert rows.num_rows == 37
    assert [sorted(epoch) for epoch in epochs] == [list(range(37))] * 4
    assert len(set(map(tuple, epochs))) == 4
    assert epochs[0] != list(range(37))


def test_shuffled_rows_gives_a_row_by_position_alone():
    rows = ShuffledRows(Numbers(37), seed=5)
    expected = [number(rows[i]) for i in range(100)]
    places = list(range(100))
    random.Random(0).shuffle(places)
    assert [number(ShuffledRows(Numbers(37), seed=5)[i]) for i in places] == [expected[i] for i in places]


def test_shuffled_rows_orders_by_seed():
    orders = {tuple(number(ShuffledRows(Numbers(37), seed)[i]) for i in range(37)) for seed in range(5)}
    assert len(orders) == 5


def test_shuffled_rows_names_the_row_that_it_gives():
    rows = ShuffledRows(Numbers(37), seed=5)
    assert [rows.where(i) for i in range(80)] == [f"row {number(rows[i])}" for i in range(80)]


def test_shuffled_rows_raises_when_there_are_no_rows():
    with pytest.raises(InputError) as caught:
        ShuffledRows(Numbers(0), seed=0)
    assert str(caught.value) == "the data hold 0 rows; expected at least one document of two tokens"


@pytest.mark.parametrize("rows", [ShuffledRows(Numbers(3), 0), mix([3, 4])], ids=["shuffled", "mixed"])
@pytest.mark.parametrize(
    ("position", "error"), [(-1, IndexError), (1.0, TypeError), ("1", TypeError), (True, TypeError), (None, TypeError)]
)
def test_position_raises_when_it_is_no_count(rows, position, error):
    with pytest.raises(error, match="a position is"):
        rows[position]
    with pytest.raises(error, match="a position is"):
        rows.where(position)


@pytest.mark.parametrize("sizes", [[5], [3, 4], [1, 5000, 300], [1024, 1024], [7, 1, 1, 1, 2300, 40]])
def test_mixed_rows_gives_each_row_once_an_epoch_when_there_are_no_weights(sizes):
    rows, total = mix(sizes), sum(sizes)
    everything = [1_000_000 * source + i for source, size in enumerate(sizes) for i in range(size)]
    assert rows.num_rows == total
    for epoch in range(3):
        assert sorted(number(rows[epoch * total + i]) for i in range(total)) == everything


@pytest.mark.parametrize(
    "weights", [[0.7, 0.3], [1, 1, 1], [0.001, 5, 2.5, 2.5], [1e-3, 1e-4, 1], [1, 2, 3, 4, 5, 6, 7, 8], SKEWED]
)
def test_mixed_rows_keeps_the_shares_in_each_block_and_in_the_long_run(weights):
    sizes = [50_000 + 1000 * i for i in range(len(weights))]
    rows, sums = mix(sizes, weights), Counter()
    assert rows.num_rows % BLOCK_ROWS
    for block in range(12):
        counts = count_sources(rows, block * BLOCK_ROWS, (block + 1) * BLOCK_ROWS)
        sums += counts
        for source, weight in enumerate(weights):
            share = BLOCK_ROWS * weight / sum(weights)
            assert abs(counts[source] - share) < (1 if len(weights) == 2 else 2)
            assert abs(sums[source] - (block + 1) * share) < 1.5


@pytest.mark.parametrize("weights", [[0.7, 0.3], [1e-3, 1e-4, 1], [3, 5, 8, 13]])
@pytest.mark.parametrize("position", [10**7, 10**9 + 12_345, 10**12])
def test_mixed_rows_keeps_the_shares_however_long_the_run(weights, position):
    rows = mix([4999 + i for i in range(len(weights))], weights)
    inner = {}
    for ahead in range(5000):  # more than an epoch's last block
        source, place = rows.find(position + ahead)
        inner.setdefault(source, (place, ahead))
    for source, (place, ahead) in inner.items():
        assert abs(place - (position + ahead) * weights[source] / sum(weights)) < 1000 * weights[source] + 40


def test_mixed_rows_takes_each_source_in_its_order():
    rows = mix([300, 200], [0.7, 0.3])
    seen = {0: [], 1: []}
    for position in range(5000):
        source, place = rows.find(position)
        seen[source].append(place)
    assert all(places == list(range(len(places))) for places in seen.values())


def test_mixed_rows_shuffles_the_sources_of_a_block():
    rows = mix([5000, 5000], [0.5, 0.5])
    sources = np.array([rows.find(i)[0] for i in range(4 * BLOCK_ROWS)])
    runs = 1 + (np.diff(sources) != 0).sum()
    assert abs(runs - 2 * BLOCK_ROWS) < 4 * np.sqrt(BLOCK_ROWS)
    assert (sources[:BLOCK_ROWS] != sources[BLOCK_ROWS : 2 * BLOCK_ROWS]).any()


def test_mixed_rows_gives_a_row_by_position_alone():
    places = [*range(0, 6000, 307), 123_456_789, 5, 10**12, 2047, 2048]
    expected = [number(mix([900, 700], [2, 1], seed=3)[i]) for i in places]
    random.Random(0).shuffle(order := list(range(len(places))))
    rows = mix([900, 700], [2, 1], seed=3)
    assert [number(rows[places[i]]) for i in order] == [expected[i] for i in order]


def test_mixed_rows_orders_by_seed():
    mixtures = [mix([900, 700], seed=seed) for seed in range(5)]
    orders = {tuple(rows.find(i)[0] for i in range(100)) for rows in mixtures}
    assert len(orders) == 5


def test_mixed_rows_names_the_row_that_it_gives():
    rows = mix([30, 20], [1, 2])
    assert [rows.where(i) for i in range(200)] == [f"row {number(rows[i])}" for i in range(200)]


def test_mixed_rows_takes_a_stream_among_its_sources():
    rows = MixedRows([ShuffledRows(Numbers(30), 0), Endless()], [1, 3], seed=0)
    numbers = [number(rows[i]) for i in range(4096)]
    assert rows.num_rows is None
    assert [-1 - n for n in numbers if n < 0] == list(range(3072))
    assert [n for n in numbers if n >= 0][:30] == [number(ShuffledRows(Numbers(30), 0)[i]) for i in range(30)]


def test_mixed_rows_keeps_decimal_weights_exact():
    rows = MixedRows([Endless(), Endless()], [0.7, 0.3], seed=0)
    assert count_sources(rows, 0, 10 * BLOCK_ROWS) == {0: 7 * BLOCK_ROWS, 1: 3 * BLOCK_ROWS}


@pytest.mark.parametrize("weights", [[1e-25, 1.0], [0.12345678901234567, 1 / 3, 2 / 7], [1e300, 1e-300], [10**30, 1]])
def test_mixed_rows_keeps_extreme_weights_exact(weights):
    rows = MixedRows([Endless() for _ in weights], weights, seed=0)
    counts = count_sources(rows, 0, 3 * BLOCK_ROWS)
    assert [counts[s] for s in range(len(weights))] == [round(3 * BLOCK_ROWS * w / sum(weights)) for w in weights]


@pytest.mark.parametrize(
    ("parts", "weights", "sentence"),
    [
        ([Endless()], None, "a mixture has no weights, and a stream has no number of rows to go by; expected weights"),
        ([Endless()] * 2, [1.0], "a mixture has 2 sources and 1 weights; expected one each"),
        ([], [], "a mixture has 0 sources and 0 weights; expected one each"),
        ([Endless()] * 2, [1.0, 0.0], "a source of a mixture has weight 0.0; expected a number above 0"),
        ([Endless()] * 2, [float("nan"), 1], "a source of a mixture has weight nan; expected a number above 0"),
        ([Endless()] * 2, [float("inf"), 1], "a source of a mixture has weight inf; expected a number above 0"),
    ],
)
def test_mixed_rows_raises_when_weights_do_not_fit(parts, weights, sentence):
    with pytest.raises(InputError) as caught:
        MixedRows(parts, weights, seed=0)
    assert str(caught.value) == sentence
