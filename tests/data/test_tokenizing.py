"""Documents to ids: what is added, what is not, and that blocks give the ids of the whole."""

import itertools

import numpy as np
import pytest
from conftest import TEXTS, byte_level_tokenizer, fallback_tokenizer, wordpiece_tokenizer

from llmkit.data import tokenizing
from llmkit.data.sources import Document
from llmkit.encoding import prompts
from llmkit.errors import InputError


def join(pieces):
    """The documents of pieces, each as a list of ids."""
    documents, current = [], []
    for ids, ends, _ in pieces:
        assert ids.dtype == np.int64
        current += ids.tolist()
        if ends:
            documents.append(current)
            current = []
    assert current == []
    return documents


def encode(tokenizer, *texts, end_of_text=True):
    documents = [Document(text, f"row {i}") for i, text in enumerate(texts, 1)]
    return join(tokenizing.encode_documents(tokenizer, documents, end_of_text=end_of_text))


@pytest.mark.parametrize("make", [byte_level_tokenizer, fallback_tokenizer, wordpiece_tokenizer])
def test_encode_documents_begins_as_a_prompt_does_and_ends_with_end_of_text(make):
    tokenizer = make()
    end = prompts.end_of_text(tokenizer)
    assert encode(tokenizer, *TEXTS) == [[*prompts.encode_text(tokenizer, text), end] for text in TEXTS]


def test_encode_documents_takes_sep_where_there_is_no_end_of_text():
    tokenizer = wordpiece_tokenizer()
    assert tokenizer.eos_token_id is None
    assert encode(tokenizer, "hello")[0][-1] == tokenizer.sep_token_id
    assert tokenizer.cls_token_id not in encode(tokenizer, "hello")[0]


def test_encode_documents_keeps_the_token_that_begins_a_text():
    tokenizer = fallback_tokenizer()
    assert [ids[0] for ids in encode(tokenizer, "the", "lo", "", end_of_text=False)] == [tokenizer.bos_token_id] * 3


def test_encode_documents_ends_nothing_when_end_of_text_is_false():
    tokenizer = byte_level_tokenizer()
    assert encode(tokenizer, "hello", end_of_text=False) == [prompts.encode_text(tokenizer, "hello")]


def test_encode_documents_refuses_a_tokenizer_without_an_end():
    tokenizer = byte_level_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(InputError, match="no end-of-text token and no"):
        encode(tokenizer, "hello")
    assert encode(tokenizer, "hello", end_of_text=False) == [prompts.encode_text(tokenizer, "hello")]


@pytest.mark.parametrize("make", [byte_level_tokenizer, fallback_tokenizer, wordpiece_tokenizer])
def test_encode_documents_keeps_the_name_of_a_special_token_as_text(make):
    tokenizer = make()
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    for name in tokenizer.all_special_tokens:
        ids = encode(tokenizer, f"a {name} b")[0]
        assert special & set(ids[1:-1]) == set(), name


def test_encode_texts_heeds_no_truncation_and_leaves_the_tokenizer_as_a_call_does():
    tokenizer = byte_level_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    short = tokenizer(["hello there", "a"], truncation=True, max_length=2, padding=True)["input_ids"]
    found = tokenizing.encode_texts(tokenizer, ["hello there", "a"])
    assert [ids.tolist() for ids in found] == [tokenizer(text)["input_ids"] for text in ("hello there", "a")]
    assert len(tokenizer("a <|endoftext|>")["input_ids"]) == 3  # a name in a prompt is the token again
    assert tokenizer(["hello there", "a"], truncation=True, max_length=2, padding=True)["input_ids"] == short


@pytest.mark.parametrize("make", [byte_level_tokenizer, wordpiece_tokenizer])
def test_long_document_gives_the_ids_of_the_whole_in_blocks(make, monkeypatch):
    tokenizer = make()
    text = "\n\n".join(TEXTS * 3)
    whole = encode(tokenizer, text, "next")
    monkeypatch.setattr(tokenizing, "BLOCK", 60)
    pieces = list(
        tokenizing.encode_documents(tokenizer, [Document(text, "a"), Document("next", "b")], end_of_text=True)
    )
    assert len(pieces) > 15
    assert join(pieces) == whole


def test_document_in_parts_gives_the_ids_of_the_whole(monkeypatch):
    tokenizer = byte_level_tokenizer()
    monkeypatch.setattr(tokenizing, "BLOCK", 60)
    text = "\n\n".join(TEXTS * 3)
    cuts = [0, 1, 30, 99, 250, len(text)]
    parts = [Document(text[a:b], "a", ends=b == len(text)) for a, b in itertools.pairwise(cuts)]
    documents = [Document("before", "0"), *parts, Document("after", "z")]
    found = join(tokenizing.encode_documents(tokenizer, documents, end_of_text=True))
    assert found == encode(tokenizer, "before", text, "after")


def test_document_that_goes_on_ends_once():
    tokenizer = byte_level_tokenizer()
    parts = [Document("one ", "a", ends=False), Document("two", "a"), Document("", "b")]
    found = join(tokenizing.encode_documents(tokenizer, parts, end_of_text=True))
    assert [ids.count(tokenizer.eos_token_id) for ids in found] == [1, 1]


def test_long_document_begins_once(monkeypatch):
    tokenizer = fallback_tokenizer()
    monkeypatch.setattr(tokenizing, "BATCH", 20)
    (ids,) = encode(tokenizer, "the lo " * 20)
    assert ids.count(tokenizer.bos_token_id) == 1
    assert ids[0] == tokenizer.bos_token_id


def test_tokenizer_that_begins_each_text_anew_gets_long_blocks():
    assert tokenizing._choose_block(byte_level_tokenizer()) == tokenizing.BLOCK
    assert tokenizing._choose_block(fallback_tokenizer()) == tokenizing.BATCH  # it puts ▁ before each text


@pytest.mark.parametrize("text", ["word " * 50, "天气很好。" * 50, "x" * 300, "a\n" * 120, ""])
def test_cut_text_loses_nothing_and_keeps_to_the_size(text):
    blocks, rest = tokenizing.cut_text(text, 40)
    assert "".join(blocks) + rest == text
    assert all(20 <= len(block) <= 40 for block in blocks)
    assert len(rest) <= 40


def test_cut_text_cuts_between_a_word_and_white_space():
    blocks, rest = tokenizing.cut_text("one two three four", 12)
    assert (blocks, rest) == (["one two"], " three four")


def test_batches_hold_about_a_million_characters_and_whole_order(monkeypatch):
    monkeypatch.setattr(tokenizing, "BATCH", 100)
    sizes = []
    encode_texts = tokenizing.encode_texts
    monkeypatch.setattr(tokenizing, "encode_texts", lambda t, texts: sizes.append(len(texts)) or encode_texts(t, texts))
    tokenizer = byte_level_tokenizer()
    texts = [f"document {i}" for i in range(50)] + [""] * 200
    found = encode(tokenizer, *texts)
    assert [tokenizer.decode(ids[:-1]) for ids in found] == texts
    assert max(sizes) <= 101


def test_tokenizer_that_python_runs_is_encoded_too():
    from transformers import ByT5Tokenizer

    tokenizer = ByT5Tokenizer(extra_ids=0)
    assert getattr(tokenizer, "backend_tokenizer", None) is None
    text = "Good </s> 天气"
    assert encode(tokenizer, text) == [[*(b + 3 for b in text.encode()), tokenizer.eos_token_id]]
    assert tokenizing.hash_tokenizer(tokenizer) == tokenizing.hash_tokenizer(ByT5Tokenizer(extra_ids=0))
    assert tokenizing.hash_tokenizer(tokenizer) != tokenizing.hash_tokenizer(ByT5Tokenizer(extra_ids=5))


def test_byte_level_tokens_of_real_text_round_trip(data):
    from llmkit.loading import load_tokenizer

    tokenizer = load_tokenizer(data / "tokenizers" / "gpt2")
    tokenizer.eos_token = "<|endoftext|>"
    samples = ["𠮷野家 ｆｕｌｌ　ｗｉｄｔｈ é e\u0301 👩‍👩‍👧‍👦\r\n\ufeffend", "".join(map(chr, range(0x20, 0x3000, 7)))]
    found = encode(tokenizer, *samples)
    assert [tokenizer.decode(ids[:-1], clean_up_tokenization_spaces=False) for ids in found] == samples


def test_hash_tokenizer_is_that_of_its_file_and_no_other(tmp_path):
    from llmkit.loading import load_tokenizer

    tokenizer = byte_level_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    mine = tokenizing.hash_tokenizer(tokenizer)
    tokenizer("a", truncation=True, max_length=3)
    assert tokenizing.hash_tokenizer(tokenizer) == mine
    assert tokenizing.hash_tokenizer(load_tokenizer(tmp_path)) == mine
    text = (tmp_path / "tokenizer.json").read_text(encoding="utf-8")
    assert tokenizing.hash_tokenizer_json(text) == mine
    assert tokenizing.hash_tokenizer(byte_level_tokenizer(390)) != mine
