"""Masking: BERT's rates, whole words, never a special token, and one mask for a seed and a position."""

import pickle
import unicodedata

import numpy as np
import pytest
from conftest import TEXTS, byte_level_tokenizer, fallback_tokenizer, wordpiece_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from llmkit.data import order
from llmkit.data.corrupting import EVALUATION, CorruptedDataset, CorruptedRows, draw, mix, threshold
from llmkit.data.masking import JOINED, LETTER, Masker, classify_piece
from llmkit.data.order import ShuffledRows
from llmkit.errors import InputError

IGNORED = -100


def with_mask(tokenizer):
    """The tokenizer with a mask token, which GPT-2's kind lacks."""
    tokenizer.add_special_tokens({"mask_token": "[MASK]"})
    return tokenizer


WORDPIECE = wordpiece_tokenizer()
BYTES = with_mask(byte_level_tokenizer())
SPECIAL = set(WORDPIECE.all_special_ids)
ORDINARY = np.array([i for i in range(len(WORDPIECE)) if i not in SPECIAL])


def row_of(ids):
    return {"input_ids": np.array(ids, np.int64)}


def encode(tokenizer, text):
    return row_of(tokenizer(text, add_special_tokens=False).input_ids)


def make_rows(number, length):
    """Rows of ordinary tokens between [CLS] and [SEP]. Shape of each: (length + 2,)."""
    ids = ORDINARY[np.random.default_rng(0).integers(0, len(ORDINARY), (number, length))]
    ends = np.full((number, 1), WORDPIECE.cls_token_id), np.full((number, 1), WORDPIECE.sep_token_id)
    return np.concatenate((ends[0], ids, ends[1]), axis=1)


def is_near(found, wanted, variance):
    return abs(found - wanted) <= 4 * variance**0.5


# Random numbers


def test_draw_is_splitmix64_from_a_hash_of_the_key():
    numbers = [0, 1, 2**64 - 1, 2**63, 12345]
    assert mix(np.array(numbers, np.uint64)).tolist() == [order._mix(number) for number in numbers]
    state = 3
    for part in (7, 1, 2**40):
        state = order._mix(state ^ order._mix(part))
    wanted = [order._mix((state + i * 0x9E3779B97F4A7C15) % 2**64) for i in range(5)]
    assert draw(5, 7, 1, 2**40).tolist() == wanted
    assert draw(3, 0, 1, 2).tolist() == [7562477082278084064, 13415226586072906807, 10196516585089264943]


def test_draw_differs_by_every_part_of_the_key_and_threshold_is_exact():
    keys = [(0, 1, 2), (1, 1, 2), (0, 2, 2), (0, 1, 3), (2, 1, 0), (0, 1), (0, 1, 2 + EVALUATION), (-1, 1, 2)]
    assert len({tuple(draw(2, *key).tolist()) for key in keys}) == len(keys)
    assert [int(threshold(share)) for share in (0.0, 0.25, 0.15)] == [0, 2**62, 2767011611056432640]


# What is hidden


@pytest.mark.parametrize("probability", [0.15, 0.4])
def test_mask_keeps_the_rates_over_a_million_tokens(probability):
    masker = Masker(WORDPIECE, seed=1, probability=probability)
    rows = make_rows(2000, 500)
    masked = [masker.mask({"input_ids": row}, position) for position, row in enumerate(rows)]
    inputs, labels = (np.stack([row[key] for row in masked])[:, 1:-1] for key in ("input_ids", "labels"))
    is_target, p = labels != IGNORED, probability
    n, targets = is_target.size, int(is_target.sum())
    assert n == 1_000_000
    assert is_near(targets, n * p, n * p * (1 - p))
    neighbours = (is_target[:, 1:] & is_target[:, :-1]).sum()  # independent of each other
    assert is_near(neighbours, 2000 * 499 * p * p, n * (p**2 * (1 - p**2) + 2 * (p**3 - p**4)))
    before, after = rows[:, 1:-1][is_target], inputs[is_target]
    same = 0.1 / len(ORDINARY)  # what is drawn at random may be what stood there
    shares = {"mask": 0.8, "other": 0.1 - same, "same": 0.1 + same}
    is_mask = after == WORDPIECE.mask_token_id
    found = {"mask": is_mask, "other": ~is_mask & (after != before), "same": after == before}
    for name, share in shares.items():
        assert is_near(found[name].sum(), targets * share, targets * share * (1 - share)), name
    drawn = np.searchsorted(ORDINARY, after[found["other"]])  # every ordinary token alike
    counts = np.bincount(drawn, minlength=len(ORDINARY))
    mean = len(drawn) / len(ORDINARY)
    assert ((counts - mean) ** 2 / mean).sum() < len(ORDINARY) + 4 * (2 * len(ORDINARY)) ** 0.5
    assert (counts > 0).all()


def test_mask_gives_the_ids_that_stood_there_at_targets_alone():
    masker = Masker(WORDPIECE, seed=1)
    for position, ids in enumerate(make_rows(50, 60)):
        types = np.arange(len(ids))
        masked = masker.mask({"input_ids": ids, "token_type_ids": types}, position)
        assert sorted(masked) == ["input_ids", "labels", "token_type_ids"]
        assert masked["token_type_ids"] is types
        is_target = masked["labels"] != IGNORED
        assert (masked["labels"][is_target] == ids[is_target]).all()
        assert (masked["input_ids"][~is_target] == ids[~is_target]).all()
        assert masked["input_ids"].dtype == masked["labels"].dtype == np.int64
        assert (ids == make_rows(50, 60)[position]).all()  # the row itself stays


@pytest.mark.parametrize("whole_word", [False, True])
def test_mask_never_chooses_or_draws_a_special_token(whole_word):
    masker = Masker(WORDPIECE, seed=1, probability=0.9, whole_word=whole_word)
    ids = np.array([*sorted(SPECIAL), *ORDINARY[:40], *sorted(SPECIAL), *ORDINARY[-40:]])
    is_special = np.isin(ids, list(SPECIAL))
    assert len(SPECIAL) == 5
    for position in range(300):
        masked = masker.mask({"input_ids": ids}, position)
        assert (masked["labels"][is_special] == IGNORED).all()
        assert (masked["input_ids"][is_special] == ids[is_special]).all()
        drawn = set(masked["input_ids"][~is_special].tolist())
        assert drawn & SPECIAL == {WORDPIECE.mask_token_id}


def test_mask_leaves_a_special_token_without_a_role_alone():
    tokenizer = wordpiece_tokenizer()
    tokenizer.add_tokens(["[SPEAKER]"], special_tokens=True)
    speaker = tokenizer.convert_tokens_to_ids("[SPEAKER]")
    assert speaker not in tokenizer.all_special_ids
    masker = Masker(tokenizer, seed=1, probability=0.9)
    masked = [masker.mask(row_of([speaker] * 5 + [40] * 200), position) for position in range(100)]
    assert all((row["input_ids"][:5] == speaker).all() for row in masked)
    assert not any((row["input_ids"][5:] == speaker).any() for row in masked)


def test_mask_of_a_seed_and_a_position_is_always_the_same_and_others_differ():
    ids = make_rows(1, 100)[0]

    def labels(seed, position, masker=None):
        return (masker or Masker(WORDPIECE, seed=seed)).mask({"input_ids": ids}, position)["labels"].tolist()

    kept = pickle.loads(pickle.dumps(Masker(WORDPIECE, seed=1)))
    labels(1, 3, kept)
    assert labels(1, 5, kept) == labels(1, 5)  # whatever was asked before, and in another process
    masks = [labels(seed, position) for seed in (1, 2) for position in (0, 5, 6, 10_005, EVALUATION + 5)]
    assert len({tuple(mask) for mask in masks}) == len(masks)


def test_mask_hides_what_it_hid_when_this_was_written():
    ids = np.arange(10, 70)
    masked = Masker(WORDPIECE, seed=3).mask({"input_ids": ids}, 8)
    hidden = {int(i): int(masked["input_ids"][i]) for i in np.flatnonzero(masked["labels"] != IGNORED)}
    assert hidden == {13: 4, 23: 63, 29: 4, 48: 4, 56: 4, 57: 4, 58: 4}


@pytest.mark.parametrize("whole_word", [False, True])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_row_with_an_ordinary_token_has_a_target(whole_word, number):
    masker = Masker(WORDPIECE, seed=1, whole_word=whole_word, probability=0.01)
    cls, sep, word = WORDPIECE.cls_token_id, WORDPIECE.sep_token_id, WORDPIECE.convert_tokens_to_ids("hello")
    targets = [masker.mask(row_of([cls, *[word] * number, sep]), i)["labels"] != IGNORED for i in range(3000)]
    assert all(target.any() for target in targets)
    shares = np.mean(targets, axis=0)[1:-1]  # none is favoured
    assert all(is_near(share, 1 / number, 1 / number / 3000 + 4e-6) for share in shares)
    assert np.sum(targets) < 3000 * 1.04


def test_row_of_special_tokens_has_no_target():
    masked = Masker(WORDPIECE, seed=1).mask(row_of([2, 1, 3]), 0)
    assert masked["input_ids"].tolist() == [2, 1, 3]
    assert masked["labels"].tolist() == [IGNORED] * 3


def test_masker_sets_the_special_tokens_around_a_bare_row():
    masker = Masker(WORDPIECE, seed=1)
    bare = encode(WORDPIECE, TEXTS[0])
    framed = row_of(WORDPIECE(TEXTS[0]).input_ids)
    found = masker({**bare, "document_ids": np.zeros(len(bare["input_ids"]), np.int64)}, 4)
    wanted = masker.mask(framed, 4)
    assert {key: value.tolist() for key, value in found.items()} == {k: v.tolist() for k, v in wanted.items()}
    assert [int(found["input_ids"][i]) for i in (0, -1)] == [WORDPIECE.cls_token_id, WORDPIECE.sep_token_id]
    assert masker.frame.num_special == 2
    assert len(Masker(BYTES, seed=1)(bare, 0)["input_ids"]) == len(bare["input_ids"])  # where nothing is set around


# Whole words


def begins_of(tokenizer, text):
    """Each token that begins a word, with those that go on with it."""
    ids = encode(tokenizer, text)["input_ids"]
    begins = Masker(tokenizer, seed=0, whole_word=True)._words.find_begins(ids)
    words = []
    for token, is_begin in zip(tokenizer.convert_ids_to_tokens(ids.tolist()), begins, strict=True):
        words = [*words, [token]] if is_begin else [*words[:-1], [*words[-1], token]]
    return words


def slow_begins(text):
    """Whether each character begins a word, one after the other."""
    begins, before = [], "."
    for c in text:
        kind = "H" if "\u4e00" <= c <= "\u9fff" else unicodedata.category(c)[0]
        kind = kind if kind in ("L", "N") else " " if c == " " else "."
        begins.append(kind in " ." or before not in (kind, " "))
        before = "." if "\u4e00" <= c <= "\u9fff" else kind
    return begins


ALPHABET = "abcXYZ   019.,'_-\n\t你好今天人工智能，。“”……éüñ"


@settings(max_examples=300, deadline=None)
@given(text=st.text(st.sampled_from(ALPHABET), min_size=1, max_size=30))
def test_words_of_byte_level_pieces_are_those_of_the_text(text):
    check_words(BYTES, text)


@pytest.mark.parametrize("text", TEXTS)
def test_words_of_byte_level_pieces_are_those_of_real_texts(text):
    check_words(BYTES, text)


def check_words(tokenizer, text):
    """A piece begins a word where its first character does, if that character begins with the piece."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    begins, wanted, end = slow_begins(text), [], 0
    for start, stop in encoded["offset_mapping"]:
        wanted.append(start >= end and begins[start])
        end = stop
    masker = Masker(tokenizer, seed=0, whole_word=True)
    found = masker._words.find_begins(np.array(encoded["input_ids"]))
    assert found.tolist() == [True, *wanted[1:]], tokenizer.convert_ids_to_tokens(encoded["input_ids"])


@pytest.mark.parametrize("text", [TEXTS[0], TEXTS[1], TEXTS[2], TEXTS[3], "hello morning worldly 3.14 don't"])
def test_words_of_wordpieces_are_those_of_its_own_pre_tokenizer(text):
    encoded = WORDPIECE(text, add_special_tokens=False)
    numbers = encoded.word_ids()
    masker = Masker(WORDPIECE, seed=0, whole_word=True)
    found = masker._words.find_begins(np.array(encoded["input_ids"]))
    assert found.tolist() == [i == 0 or numbers[i] != numbers[i - 1] for i in range(len(numbers))]


def test_words_are_found_in_each_kind_of_vocabulary():
    assert begins_of(WORDPIECE, "morningly 天气ab") == [["morning", "##ly"], ["天"], ["气"], ["a", "##b"]]
    ends = with_mask(fallback_tokenizer())
    assert begins_of(ends, "the lost, lo 天气你x é") == [
        ["▁the"],
        ["▁", "lo", "s", "t"],
        [","],
        ["▁", "lo"],
        ["▁"],
        ["天"],
        ["气"],
        ["你"],
        ["x"],
        ["▁", "<0xC3>", "<0xA9>"],
    ]


def test_row_that_begins_inside_a_word_begins_a_word():
    ids = np.array(WORDPIECE.convert_tokens_to_ids(["##ly", "##ing", "hello"]))
    begins = Masker(WORDPIECE, seed=0, whole_word=True)._words.find_begins(ids)
    assert begins.tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("token", "kind", "wanted"),
    [
        ("##你", "##", (3, 4)),
        ("##ing", "##", (JOINED, LETTER)),
        ("##", "##", (3, 4)),
        ("Ã", "bytes", (LETTER, LETTER)),
        ("©", "bytes", (JOINED, JOINED)),
        ("©s", "bytes", (JOINED, LETTER)),
        ("ä½", "bytes", (4, 4)),
        ("<0xE4>", "▁", (4, 4)),
        ("▁", "▁", (3, 3)),
        ("ĊĠ", "bytes", (4, 3)),
    ],
)
def test_piece_is_classified_by_its_first_and_last_character(token, kind, wanted):
    assert classify_piece(token, kind) == wanted


@pytest.mark.parametrize(
    ("tokenizer", "text"),
    [(WORDPIECE, TEXTS[0]), (WORDPIECE, TEXTS[2] + "morningly"), (BYTES, TEXTS[1]), (BYTES, TEXTS[3])],
    ids=["wordpiece-en", "wordpiece-zh", "bytes-en", "bytes-zh"],
)
def test_whole_word_chooses_all_tokens_of_a_word_together_at_the_same_rate(tokenizer, text):
    masker = Masker(tokenizer, seed=1, whole_word=True)
    row = encode(tokenizer, text * 3)
    words = masker._words.find_begins(row["input_ids"]).cumsum() - 1
    sizes, ordinary = np.bincount(words), ~np.isin(row["input_ids"], tokenizer.all_special_ids)
    assert sizes.max() > 1
    targets = np.stack([masker.mask(row, i)["labels"] != IGNORED for i in range(2000)])
    for word in range(len(sizes)):
        inside = targets[:, (words == word) & ordinary]
        assert (inside.all(axis=1) == inside.any(axis=1)).all()
    counted = np.bincount(words[ordinary], minlength=len(sizes))
    assert is_near(targets.sum(), 2000 * 0.15 * counted.sum(), 2000 * 0.15 * 0.85 * (counted**2).sum())


def test_masker_without_whole_word_chooses_tokens_of_a_word_apart():
    masker = Masker(BYTES, seed=1)
    row = encode(BYTES, TEXTS[3])
    begins = Masker(BYTES, seed=1, whole_word=True)._words.find_begins(row["input_ids"])
    targets = np.stack([masker.mask(row, i)["labels"] != IGNORED for i in range(100)])
    assert (targets[:, 1:] != targets[:, :-1])[:, ~begins[1:]].any()


# Refusals


def refused(*arguments, **options):
    with pytest.raises(InputError) as caught:
        Masker(*arguments, seed=0, **options)
    return str(caught.value), caught.value.hint


def test_masker_refuses_a_tokenizer_without_a_mask_token():
    assert refused(byte_level_tokenizer()) == (
        "the tokenizer has no mask token, which stands for what masked-lm hides; expected one such as [MASK]",
        "llmkit data tokenizer FILES --for masked-lm makes one that has it",
    )


def test_masker_refuses_whole_words_where_pieces_do_not_tell():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"[UNK]": 0, "[MASK]": 1, "a": 2, "b": 3}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", mask_token="[MASK]")
    assert Masker(tokenizer, seed=0).mask_id == 1
    assert refused(tokenizer, whole_word=True) == (
        "data.masking.whole_word: the tokenizer does not tell where words begin; expected WordPiece, byte-level BPE or "
        "SentencePiece",
        None,
    )


# Rows of a run, and of an evaluation


class Listed:
    """Rows from a list."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        if not 0 <= index < len(self.rows):
            raise IndexError(index)
        return {"input_ids": self.rows[index]}

    def where(self, index):
        return f"row {index}"


def as_lists(row):
    return {key: value.tolist() for key, value in row.items()}


def test_corrupted_rows_follow_the_order_and_mask_anew_in_each_epoch():
    rows, masker = Listed(list(make_rows(7, 40))), Masker(WORDPIECE, seed=1)
    ordered = ShuffledRows(rows, seed=4)
    corrupted = CorruptedRows(ordered, masker.mask)
    assert corrupted.num_rows == 7
    masks = set()
    for position in range(21):
        found = corrupted[position]
        assert as_lists(found) == as_lists(masker.mask(ordered[position], position))
        assert corrupted.where(position) == ordered.where(position)
        masks.add(tuple((found["labels"] != IGNORED).tolist()))
    assert len(masks) == 21
    for position in (3, 20, 0):  # as after a resume, in any order
        again = CorruptedRows(ShuffledRows(rows, seed=4), Masker(WORDPIECE, seed=1).mask)
        assert as_lists(again[position]) == as_lists(corrupted[position])
    with pytest.raises(IndexError):
        corrupted[-1]


def test_corrupted_dataset_is_the_same_at_each_evaluation_and_unlike_training():
    rows, masker = Listed(list(make_rows(7, 40))), Masker(WORDPIECE, seed=1)
    dataset = CorruptedDataset(rows, masker.mask)
    first = [as_lists(row) for row in dataset]
    assert len(first) == len(dataset) == 7
    assert first == [as_lists(row) for row in CorruptedDataset(rows, Masker(WORDPIECE, seed=1).mask)]
    assert all(first[i] != as_lists(masker.mask(rows[i], i)) for i in range(7))
    assert [dataset.where(i) for i in (0, 6)] == ["row 0", "row 6"]
    with pytest.raises(IndexError):
        dataset[7]


def test_row_that_begins_with_its_first_token_gets_it_once():
    from qa_models import roberta_tokenizer

    tokenizer = roberta_tokenizer()
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    masker = Masker(tokenizer, seed=1)
    bare = np.array(tokenizer("the sea", add_special_tokens=False)["input_ids"], np.int64)
    rows = [masker({"input_ids": ids}, 7) for ids in (bare, np.concatenate(([tokenizer.bos_token_id], bare)))]
    assert rows[0]["input_ids"].tolist() == rows[1]["input_ids"].tolist()
    assert len(rows[0]["input_ids"]) == len(bare) + 2
