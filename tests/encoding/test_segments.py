import pytest
from conftest import byte_level_tokenizer, fallback_tokenizer, wordpiece_tokenizer

from llmkit import InputError
from llmkit.encoding import pairs, segments
from llmkit.encoding.segments import begin, encode_texts, find_frame

TEXTS = ["Once upon a time", "a", "今天天气很好，hello", "👍🏽 nice 😀", "a a a", "é\u0301 ", "hello\nworld "]


def roberta_tokenizer():
    """A byte-level tokenizer with <s> and </s>, two of them between texts."""
    from tokenizers import processors

    tokenizer = byte_level_tokenizer()
    tokenizer.add_special_tokens({"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>"})
    tokenizer.backend_tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", tokenizer.sep_token_id), ("<s>", tokenizer.cls_token_id), add_prefix_space=False
    )
    return tokenizer


def trailing_tokenizer():
    """A tokenizer that sets its special tokens at the end, with a type of their own, as XLNet's does."""
    from tokenizers import processors

    tokenizer = byte_level_tokenizer()
    tokenizer.add_special_tokens({"cls_token": "<cls>", "sep_token": "<sep>"})
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A:0 <sep>:0 <cls>:2",
        pair="$A:0 <sep>:0 $B:1 <sep>:1 <cls>:2",
        special_tokens=[("<sep>", tokenizer.sep_token_id), ("<cls>", tokenizer.cls_token_id)],
    )
    return tokenizer


def han_tokenizer(words):
    """A tokenizer that drops what it does not know."""
    from tokenizers import Tokenizer, models, processors
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE({word: i for i, word in enumerate(["[SEP]", *words])}, []))
    backend.post_processor = processors.TemplateProcessing(
        single="$A [SEP]", pair="$A [SEP] $B:1 [SEP]:1", special_tokens=[("[SEP]", 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, sep_token="[SEP]")


def test_frame_of_a_tokenizer_without_latin_letters():
    frame = find_frame(han_tokenizer("中文"), pair=True)
    assert (frame.before, frame.between, frame.after) == ([], [(0, 0)], [(0, 1)])
    with pytest.raises(InputError, match=r"^the tokenizer has no tokens for a, 中, 0; expected one of texts$"):
        find_frame(han_tokenizer("文"))


def slow_tokenizer():
    """A tokenizer without a backend: its ids are bytes."""
    from transformers import ByT5Tokenizer

    return ByT5Tokenizer()


KINDS = {
    "byte-level, nothing added": byte_level_tokenizer,
    "fallback, a beginning": fallback_tokenizer,
    "wordpiece": wordpiece_tokenizer,
    "roberta": roberta_tokenizer,
    "trailing": trailing_tokenizer,
    "slow": slow_tokenizer,
}


@pytest.mark.parametrize("kind", KINDS)
def test_frame_wraps_a_text_as_the_tokenizer_does(kind):
    tokenizer = KINDS[kind]()
    frame = find_frame(tokenizer)
    for text, ids in zip(TEXTS, encode_texts(tokenizer, TEXTS), strict=True):
        whole = tokenizer(text, return_token_type_ids=True)
        row = frame.wrap(ids)
        assert (row.ids, row.type_ids) == (whole["input_ids"], whole["token_type_ids"])


@pytest.mark.parametrize("kind", KINDS)
def test_frame_wraps_a_pair_as_the_tokenizer_does(kind):
    tokenizer = KINDS[kind]()
    frame = find_frame(tokenizer, pair=True)
    encoded = encode_texts(tokenizer, TEXTS)
    for (first, a), (second, b) in zip(
        zip(TEXTS, encoded, strict=True), zip(TEXTS[::-1], encoded[::-1], strict=True), strict=True
    ):
        whole = tokenizer(first, second, return_token_type_ids=True)
        row = frame.wrap(a, b)
        assert (row.ids, row.type_ids) == (whole["input_ids"], whole["token_type_ids"])


def test_encode_texts_replaces_lone_surrogates():
    tokenizer = byte_level_tokenizer()
    assert encode_texts(tokenizer, ["a\ud800b"]) == encode_texts(tokenizer, ["a\ufffdb"])


def test_encode_texts_cuts_nothing_off_where_the_tokenizer_was_saved_with_a_limit():
    tokenizer = wordpiece_tokenizer()
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=16)
    assert len(encode_texts(tokenizer, ["hello " * 9, "hello"])[0]) == 9


@pytest.mark.parametrize("kind", KINDS)
def test_encode_texts_reads_a_very_long_text_in_blocks_as_it_does_at_once(kind, monkeypatch):
    tokenizer = KINDS[kind]()
    long = "Once upon a time 今天天气很好，hello 👍🏽\n" * 60
    wanted = tokenizer(long, add_special_tokens=False)["input_ids"]
    monkeypatch.setattr(segments, "LONG", 500)
    monkeypatch.setattr(pairs, "BLOCK", 400)
    monkeypatch.setattr(pairs, "MARGIN", 100)
    called = []
    monkeypatch.setattr(segments, "encode_context", lambda *given: called.append(1) or pairs.encode_context(*given))
    assert [list(ids) for ids in encode_texts(tokenizer, ["a", long, " " * 600])] == [
        tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("a", long, " " * 600)
    ]
    assert len(wanted) > 400
    assert len(called) == (2 if tokenizer.is_fast else 0)


def test_encode_texts_gives_nothing_for_no_texts():
    assert encode_texts(byte_level_tokenizer(), []) == []


def test_begin_leaves_an_empty_text_to_its_special_tokens():
    tokenizer = wordpiece_tokenizer()
    assert begin(tokenizer, [], find_frame(tokenizer)) == []


def test_begin_gives_an_empty_text_a_token_to_start_from():
    tokenizer = byte_level_tokenizer()
    frame = find_frame(tokenizer)
    assert (begin(tokenizer, [], frame), begin(tokenizer, [7], frame)) == ([tokenizer.bos_token_id], [7])


def test_begin_refuses_an_empty_text_without_any_token():
    tokenizer = byte_level_tokenizer()
    tokenizer.bos_token = tokenizer.eos_token = None
    with pytest.raises(InputError, match=r"^the text is empty and the tokenizer has no token to begin a text with$"):
        begin(tokenizer, [], find_frame(tokenizer))
