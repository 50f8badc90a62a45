"""Denoising: T5's spans, and inputs and labels that restore the row together."""

import itertools
from collections import Counter

import numpy as np
import pytest
from conftest import TEXTS, byte_level_tokenizer, wordpiece_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from llmkit.data.corrupting import CorruptedDataset, CorruptedRows
from llmkit.data.denoising import Denoiser, cut_randomly
from llmkit.data.order import ShuffledRows
from llmkit.errors import InputError


def with_sentinels(number):
    tokenizer = byte_level_tokenizer()
    tokenizer.add_tokens([f"<extra_id_{i}>" for i in range(number)], special_tokens=True)
    return tokenizer


TOKENIZER, SHORT = with_sentinels(100), with_sentinels(3)
FIRST = TOKENIZER.convert_tokens_to_ids("<extra_id_0>")  # ids above it are sentinels
END = TOKENIZER.eos_token_id


def row_of(length):
    """A row whose ids tell their places; none is a special token."""
    return {"input_ids": np.arange(1, length + 1, dtype=np.int64)}


def split(ids):
    """What stands before each sentinel, after the last one, and the sentinels."""
    assert ids[-1] == END
    parts, sentinels = [[]], []
    for i in ids[:-1]:
        if i >= FIRST:
            parts, sentinels = [*parts, []], [*sentinels, i]
        else:
            parts[-1].append(i)
    return parts, sentinels


def restore(row):
    """The row again: each sentinel of the inputs replaced by what follows it in the labels."""
    (kept, sentinels), (gaps, others) = split(row["input_ids"].tolist()), split(row["labels"].tolist())
    assert sentinels == others == list(range(FIRST, FIRST + len(sentinels)))
    assert gaps[0] == [] and kept[-1] == []  # a row begins with what is kept, and ends with a gap
    return [i for part, gap in zip(kept[:-1], gaps[1:], strict=True) for i in (*part, *gap)], kept[:-1], gaps[1:]


@settings(max_examples=400, deadline=None)
@given(
    length=st.one_of(st.integers(1, 12), st.integers(1, 320)),
    density=st.floats(0.01, 0.99),
    mean_span=st.floats(1, 20),
    seed=st.integers(0, 2**31 - 1),
    position=st.integers(0, 2**63),
    few=st.booleans(),
)
def test_denoiser_restores_any_row_from_inputs_and_labels(length, density, mean_span, seed, position, few):
    tokenizer, most = (SHORT, 3) if few else (TOKENIZER, 100)
    denoiser = Denoiser(tokenizer, seed=seed, density=density, mean_span=mean_span)
    row = denoiser(row_of(length), position)
    whole, kept, gaps = restore(row)
    assert whole == list(range(1, length + 1))
    num_replaced, num_spans = denoiser.count(length)
    assert (sum(map(len, gaps)), len(gaps)) == (num_replaced, num_spans)
    assert 1 <= num_spans <= most
    assert all(gaps)
    assert all(kept) or length == 1
    assert (len(row["input_ids"]), len(row["labels"])) == denoiser.find_lengths(length)
    assert row["input_ids"].dtype == row["labels"].dtype == np.int64
    if length > 1:
        wanted = min(max(round(length * density), 1), length - 1)
        assert num_replaced == wanted
        if num_spans < min(most, wanted, length - wanted):
            assert num_spans == max(1, round(wanted / mean_span))


@pytest.mark.parametrize(("length", "spans"), [(1, [([], [1])]), (2, [([1], [2])]), (3, [([1, 2], [3])])])
def test_denoiser_of_a_short_row_replaces_its_last_token(length, spans):
    for position in range(20):
        _, kept, gaps = restore(Denoiser(TOKENIZER, seed=1)(row_of(length), position))
        assert list(zip(kept, gaps, strict=True)) == spans


def test_denoiser_has_the_lengths_of_t5():
    denoiser = Denoiser(TOKENIZER, seed=0)
    # random_spans_helper of T5: rows of 568 tokens fill inputs of 512, and their targets have 114
    assert denoiser.find_longest(512, 512) == 568
    assert denoiser.find_lengths(568) == (512, 114)
    assert denoiser.find_lengths(569)[0] == 513
    assert denoiser.count(512) == (77, 26)
    assert denoiser.find_longest(512, 114) == 568
    assert denoiser.find_longest(512, 113) < 568
    assert denoiser.find_longest(2, 3) == 1
    assert (denoiser.find_longest(1, 9), denoiser.find_longest(9, 2)) == (0, 0)


@settings(max_examples=60, deadline=None)
@given(density=st.floats(0.01, 0.95), mean_span=st.floats(1, 9), limits=st.tuples(*[st.integers(0, 90)] * 2))
def test_longest_row_fits_and_the_next_one_and_all_longer_do_not(density, mean_span, limits):
    denoiser = Denoiser(SHORT, seed=0, density=density, mean_span=mean_span)
    longest = denoiser.find_longest(*limits)

    def fits(length):
        return all(n <= most for n, most in zip(denoiser.find_lengths(length), limits, strict=True))

    assert all(fits(length) for length in range(1, longest + 1))
    assert not any(fits(length) for length in range(longest + 1, longest + 60))


def test_denoiser_of_a_seed_and_a_position_is_always_the_same_and_others_differ():
    row = row_of(200)
    kept = Denoiser(TOKENIZER, seed=1)
    kept(row, 3)
    assert kept(row, 5)["input_ids"].tolist() == Denoiser(TOKENIZER, seed=1)(row, 5)["input_ids"].tolist()
    found = [
        tuple(Denoiser(TOKENIZER, seed=seed)(row, position)["input_ids"].tolist())
        for seed in (1, 2)
        for position in (0, 5, 6, 10_005)
    ]
    assert len(set(found)) == len(found)
    assert row["input_ids"].tolist() == list(range(1, 201))  # the row itself stays


def test_denoiser_replaces_what_it_replaced_when_this_was_written():
    _, _, gaps = restore(Denoiser(TOKENIZER, seed=3)(row_of(40), 8))
    assert gaps == [[16, 17], [37, 38, 39, 40]]


@pytest.mark.parametrize(("number", "num_parts"), [(6, 3), (5, 2), (4, 4), (7, 1)])
def test_cut_randomly_takes_each_way_alike(number, num_parts):
    ways = [w for w in itertools.product(range(1, number + 1), repeat=num_parts) if sum(w) == number]
    found = Counter(tuple(cut_randomly(number, num_parts, (5, i)).tolist()) for i in range(6000))
    share = 1 / len(ways)
    assert set(found) == set(ways)
    assert all(abs(n - 6000 * share) <= 4 * (6000 * share * (1 - share)) ** 0.5 for n in found.values())


def test_gaps_and_what_is_kept_are_cut_independently():
    denoiser = Denoiser(TOKENIZER, seed=1, density=0.5, mean_span=5)
    pairs = Counter()
    for position in range(4000):
        _, kept, gaps = restore(denoiser(row_of(20), position))
        pairs[len(kept[0]), len(gaps[0])] += 1
    share = 4000 / 81  # 9 ways of each
    assert len(pairs) == 81
    assert all(abs(n - share) <= 5 * share**0.5 for n in pairs.values())


@pytest.mark.parametrize("text", [TEXTS[0], TEXTS[2]], ids=["en", "zh"])
def test_denoiser_restores_a_text(text):
    ids = np.array(TOKENIZER(text).input_ids)
    row = Denoiser(TOKENIZER, seed=1)({"input_ids": ids, "document_ids": np.zeros(len(ids), np.int64)}, 0)
    assert sorted(row) == ["input_ids", "labels"]
    assert TOKENIZER.decode(restore(row)[0]) == text
    assert TOKENIZER.decode(row["labels"]).startswith("<extra_id_0>")
    assert TOKENIZER.decode(row["input_ids"]).endswith("><|endoftext|>")


def test_sentinels_are_taken_in_the_order_of_their_numbers_wherever_they_stand():
    tokenizer = byte_level_tokenizer()
    tokenizer.add_tokens(["<extra_id_2>", "<extra_id_0>", "<extra_id_1>", "<extra_id_9>"], special_tokens=True)
    size = len(tokenizer)
    assert Denoiser(tokenizer, seed=0).sentinels.tolist() == [size - 3, size - 2, size - 4]


def refused(tokenizer):
    with pytest.raises(InputError) as caught:
        Denoiser(tokenizer, seed=0)
    return str(caught.value), caught.value.hint


def test_denoiser_refuses_a_tokenizer_without_sentinels_or_end():
    wanted = "the tokenizer has no sentinels, which stand for what denoising leaves out; expected <extra_id_0> and on"
    hint = "llmkit data tokenizer FILES --for seq2seq makes one that has them"
    assert refused(byte_level_tokenizer()) == (wanted, hint)
    assert refused(wordpiece_tokenizer()) == (wanted, hint)
    endless = with_sentinels(2)
    endless.eos_token = None
    assert refused(endless) == (
        "the tokenizer has no end-of-text token, which ends the inputs and labels of denoising",
        hint,
    )


class Listed:
    """Rows of 130 to 136 tokens."""

    def __len__(self):
        return 7

    def __getitem__(self, index):
        return row_of(130 + index)

    def where(self, index):
        return f"row {index}"


def test_rows_of_a_run_are_denoised_anew_in_each_epoch_and_those_of_an_evaluation_alike():
    denoiser = Denoiser(TOKENIZER, seed=1)
    ordered = ShuffledRows(Listed(), seed=4)
    rows = CorruptedRows(ordered, denoiser)
    found = [rows[position]["input_ids"].tolist() for position in range(21)]
    assert [len(restore(rows[p])[0]) for p in range(21)] == [len(ordered[p]["input_ids"]) for p in range(21)]
    assert len(set(map(tuple, found))) == 21
    dataset = CorruptedDataset(Listed(), denoiser)
    first, second = ([dataset[i]["input_ids"].tolist() for i in range(7)] for _ in range(2))
    assert first == second
    assert not {*map(tuple, first)} & {*map(tuple, found)}
