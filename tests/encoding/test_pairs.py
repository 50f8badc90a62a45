import types

import numpy as np
import pytest
from conftest import byte_level_tokenizer, fallback_tokenizer, wordpiece_tokenizer
from qa_models import SHAPES, chinese_tokenizer, read_questions, roberta_tokenizer, t5_tokenizer, unigram_tokenizer
from transformers import AutoConfig

from llmkit import InputError, windows
from llmkit.encoding import pairs

TOKENIZERS = {
    "wordpiece": wordpiece_tokenizer,
    "roberta": roberta_tokenizer,
    "byte-level": byte_level_tokenizer,
    "t5": t5_tokenizer,
    "unigram": unigram_tokenizer,
    "fallback": fallback_tokenizer,
}
QUESTION = "Who wrote it? 谁"
CONTEXTS = [
    "Once upon a time, 小明 😀 wrote  it.\n\n The end.\t👩‍👩‍👧 " * 6,
    "  Once",
    "人工智能的未来是什么？没有人知道。" * 9,
    "it says [CLS] and </s> and [SEP]. " * 8,
    "Ça va? ﬁne ½ é é ｆｕｌｌ " * 8,
]


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]()


def cut(tokenizer, question, text, max_length, stride):
    """The windows as (ids, token types, offsets, which tokens are the text's)."""
    frame, context = pairs.frame_question(tokenizer, question), pairs.encode_context(tokenizer, text)
    found = []
    for first, last in windows.spans(len(context.ids), max_length - frame.num_tokens, stride):
        offsets = list(zip(context.starts[first:last].tolist(), context.ends[first:last].tolist(), strict=True))
        inside = [False] * len(frame.before) + [True] * (last - first) + [False] * len(frame.after)
        ids = frame.fill(context.ids[first:last].tolist())
        found.append((ids, frame.fill_segments(last - first), offsets, inside))
    return found


def call(tokenizer, question, text, max_length, stride):
    """The same from the tokenizer's own call on the pair."""
    encoded = tokenizer(
        question, text, truncation="only_second", max_length=max_length, stride=stride,
        return_overflowing_tokens=True, return_offsets_mapping=True, return_token_type_ids=True,
    )  # fmt: skip
    found = []
    for w, ids in enumerate(encoded["input_ids"]):
        inside = [s == 1 for s in encoded.sequence_ids(w)]
        offsets = [tuple(o) for o, own in zip(encoded["offset_mapping"][w], inside, strict=True) if own]
        found.append((ids, encoded["token_type_ids"][w], offsets, inside))
    return found


@pytest.mark.parametrize("text", CONTEXTS)
@pytest.mark.parametrize(("room", "stride"), [(40, 0), (31, 10), (24, 12), (500, 100), (3, 1)])
def test_windows_are_those_of_the_tokenizers_own_call(tokenizer, text, room, stride):
    length = pairs.frame_question(tokenizer, QUESTION).num_tokens + room
    ours, theirs = (way(tokenizer, QUESTION, text, length, stride) for way in (cut, call))
    if "token_type_ids" not in tokenizer.model_input_names:
        # where a template leaves the text's type open, tokenizers 0.23 gives 0 in the first window and 1 in the others
        assert ours[0][1] == theirs[0][1]
        ours, theirs = ([(ids, *rest) for ids, _, *rest in found] for found in (ours, theirs))
    assert ours == theirs


def test_windows_of_real_questions_are_those_of_the_tokenizers_own_call(data):
    tokenizer = chinese_tokenizer(data)
    rows = read_questions(data / "qa/squad_v1.1_dev.json", 100) + read_questions(data / "qa/cmrc2018_dev.json", 50)
    for question, text in rows:
        assert cut(tokenizer, question, text, 128, 32) == call(tokenizer, question, text, 128, 32)


def test_windows_of_gpt2_have_the_offsets_of_the_tokenizers_own_call(data):
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(data / "tokenizers/gpt2/tokenizer.json"))
    for question, text in read_questions(data / "qa/squad_v1.1_dev.json", 50):
        assert cut(tokenizer, question, text, 128, 32) == call(tokenizer, question, text, 128, 32)


@pytest.mark.parametrize(
    ("make", "null"),
    [(wordpiece_tokenizer, 0), (roberta_tokenizer, 0), (byte_level_tokenizer, None), (t5_tokenizer, None)],
)
def test_frame_finds_the_token_that_means_no_answer(make, null):
    assert pairs.frame_question(make(), QUESTION).null == null


def test_frame_takes_no_word_of_the_question_for_the_token_that_means_no_answer():
    from tokenizers import processors

    tokenizer = wordpiece_tokenizer()
    ids = [(word, tokenizer.convert_tokens_to_ids(word)) for word in ("[CLS]", "[SEP]")]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A [SEP] [CLS]", pair="$A [SEP] $B:1 [SEP]:1 [CLS]:2", special_tokens=ids
    )
    frame = pairs.frame_question(tokenizer, "what is [CLS]?")
    row = frame.fill([7, 8, 9])
    assert (frame.null, row[frame.null], row.count(tokenizer.cls_token_id)) == (-1, tokenizer.cls_token_id, 2)
    assert frame.fill_segments(2)[-4:] == [1, 1, 1, 2]


@pytest.mark.parametrize("text", CONTEXTS)
def test_context_is_the_same_in_blocks(tokenizer, text, monkeypatch):
    whole = pairs.encode_context(tokenizer, text * 3)
    monkeypatch.setattr(pairs, "BLOCK", 64)
    monkeypatch.setattr(pairs, "MARGIN", 40)
    calls, encode = [], pairs._encode_at_once
    monkeypatch.setattr(pairs, "_encode_at_once", lambda *given: calls.append(given) or encode(*given))
    blocks = pairs.encode_context(tokenizer, text * 3)
    for name in ("ids", "starts", "ends"):
        assert np.array_equal(getattr(blocks, name), getattr(whole, name))
    assert len(calls) > 2 or len(text) < 20


def test_context_is_encoded_at_once_where_blocks_do_not_agree(monkeypatch):
    tokenizer, text = wordpiece_tokenizer(), "once upon " * 20 + "a" * 150 + " time" * 60
    whole = pairs.encode_context(tokenizer, text)
    monkeypatch.setattr(pairs, "BLOCK", 256)
    monkeypatch.setattr(pairs, "MARGIN", 40)
    assert np.array_equal(pairs.encode_context(tokenizer, text).ids, whole.ids)
    assert tokenizer.unk_token_id in whole.ids


@pytest.mark.parametrize("text", ["a \ud83d b", "a \ud83d\ude00 b"])
def test_context_keeps_the_places_of_characters_behind_a_surrogate(text):
    context = pairs.encode_context(roberta_tokenizer(), text)
    assert text[context.starts[-1] : context.ends[-1]].strip() == "b"
    assert context.text == text


def test_context_and_question_leave_the_tokenizer_as_it_was():
    tokenizer = roberta_tokenizer()
    before = tokenizer.backend_tokenizer.to_str()
    pairs.encode_context(tokenizer, CONTEXTS[0])
    pairs.frame_question(tokenizer, QUESTION)
    assert tokenizer.backend_tokenizer.to_str() == before


def test_context_is_whole_though_the_tokenizer_cuts_by_itself():
    tokenizer = wordpiece_tokenizer()
    whole = pairs.encode_context(tokenizer, CONTEXTS[0])
    tokenizer.backend_tokenizer.enable_truncation(8)
    tokenizer.backend_tokenizer.enable_padding(length=900)
    assert np.array_equal(pairs.encode_context(tokenizer, CONTEXTS[0]).ids, whole.ids)
    assert len(pairs.frame_question(tokenizer, QUESTION * 4).before) > 8


@pytest.mark.parametrize("blank", ["", " ", "\n\t　"])
def test_pairs_refuse_what_is_blank(blank):
    tokenizer = wordpiece_tokenizer()
    with pytest.raises(InputError, match=r"^the question is empty; expected at least one word$"):
        pairs.frame_question(tokenizer, blank)
    with pytest.raises(InputError, match=r"^the text to answer from is empty; expected at least one word$"):
        pairs.encode_context(tokenizer, blank)


def test_pairs_refuse_a_question_of_which_no_token_is_left():
    with pytest.raises(InputError, match=r"^the tokenizer keeps nothing of the question, got '\\x01'$"):
        pairs.frame_question(wordpiece_tokenizer(), "\x01")


def test_pairs_refuse_a_tokenizer_without_places():
    class Slow:
        is_fast = False

    sentence = (
        r"^the tokenizer does not say where its tokens stand in a text, got Slow; expected one with a tokenizer\.json$"
    )
    with pytest.raises(InputError, match=sentence):
        pairs.encode_context(Slow(), "text")
    with pytest.raises(InputError, match=sentence):
        pairs.frame_question(Slow(), "question")


def settle(limit=None, own=1e30, **given):
    config = AutoConfig.for_model("gpt2", n_positions=limit) if limit else AutoConfig.for_model("t5")
    tokenizer = byte_level_tokenizer()
    tokenizer.model_max_length = own
    return pairs.settle_length(config, tokenizer, **given)


@pytest.mark.parametrize(
    ("arguments", "length"),
    [
        ({"limit": 128}, 128),
        ({"limit": 1024}, 384),
        ({"limit": 1024, "own": 256}, 256),
        ({}, 384),
        ({"limit": 1024, "asked": 1024}, 1024),
        ({"asked": 5000}, 5000),
        ({"limit": 1024, "stated": 500}, 500),
        ({"limit": 128, "stated": 500}, 128),
        ({"limit": 1024, "stated": 500, "asked": 200}, 200),
    ],
)
def test_length_comes_from_the_call_then_the_checkpoint_then_us(arguments, length):
    assert settle(**arguments) == length


def test_length_counts_the_positions_of_roberta():
    config = AutoConfig.for_model("roberta", **SHAPES["roberta"])
    assert pairs.settle_length(config, roberta_tokenizer()) == 128


def test_length_above_the_models_context_is_refused():
    with pytest.raises(InputError, match=r"^max_length too large, got 129; expected at most 128, the model's context$"):
        settle(128, asked=129)


def frame(words=4):
    return pairs.frame_question(wordpiece_tokenizer(), "hello " * words)


@pytest.mark.parametrize(
    ("length", "given", "stride"),
    [
        (384, {}, 128),
        (107, {}, 50),
        (8, {}, 0),
        (107, {"asked": 99}, 99),
        (107, {"asked": 0, "stated": 20}, 0),
        (107, {"stated": 70}, 70),
        (107, {"stated": 100}, 50),
    ],
)
def test_stride_comes_from_the_call_then_the_checkpoint_then_us(length, given, stride):
    assert frame().num_tokens == 7
    assert pairs.settle_stride(pairs.find_room(frame(), length), **given) == stride


def test_stride_that_fills_the_window_is_refused():
    with pytest.raises(InputError) as caught:
        pairs.settle_stride(pairs.find_room(frame(), 107), 100)
    assert str(caught.value) == (
        "stride too large, got 100; expected at most 99, since the question leaves room for 100 tokens of the text"
    )


@pytest.mark.parametrize("length", [16, 17, 24])
def test_question_that_fills_the_window_is_refused(length):
    with pytest.raises(InputError) as caught:
        pairs.find_room(frame(21), length)
    sentence = f"the question is too long, got 21 tokens; expected at most {length - 4} in windows of {length}"
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("family", "takes"), [("bert", True), ("roberta", False), ("gpt2", False), ("t5", False), ("xlnet", True)]
)
def test_segments_are_for_models_that_were_made_with_them(family, takes):
    config = AutoConfig.for_model(family, **SHAPES.get(family, {}))
    assert pairs.takes_segments(types.SimpleNamespace(config=config)) is takes
