"""Tokenizers: any text comes back, the same files give the same bytes, and a folder is never overwritten unasked."""

import itertools
import json
import re

import numpy as np
import pytest

from llmkit.data import tokenizers
from llmkit.data.denoising import Denoiser
from llmkit.data.ledger import Counts
from llmkit.data.masking import Masker
from llmkit.data.sources import Document, read_documents
from llmkit.data.tokenizers import PIECE, _begin_mixture, _leave_last, _mix, _read_pieces, train_tokenizer
from llmkit.encoding.segments import find_frame
from llmkit.errors import InputError, RunError
from llmkit.recipe.schema import DataSpec, SourceSpec

TEXTS = [
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park.",
    "人工智能的未来是什么？没有人知道。今天天气很好，我们去公园散步吧。",
]


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text((TEXTS[0] + "\n") * 3, encoding="utf-8")
    (tmp_path / "b.jsonl").write_text((json.dumps({"text": TEXTS[1]}) + "\n") * 3, encoding="utf-8")
    return ["a.txt", "b.jsonl"]


def test_train_tokenizer_gives_a_fast_tokenizer_that_round_trips_any_text(files, tmp_path):
    from transformers import AutoTokenizer

    out = train_tokenizer(files, tmp_path / "tok", 300)
    assert out == tmp_path / "tok"
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.is_fast
    assert len(tokenizer) == 300
    for text in [
        *TEXTS,
        " two  spaces ",
        "\r\n\ttab\r",
        "🤖👩‍👩‍👧 e\u0301 ﬁ \u3000全角ＡＢ",
        "a<|endoftext|>b",
        "don't . , ? x",
    ]:
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    end = tokenizer("<|endoftext|>").input_ids
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<|endoftext|>", "<|endoftext|>", None)
    assert [tokenizer.bos_token_id, tokenizer.eos_token_id] == [0, 0] == end * 2
    assert len(tokenizer("upon").input_ids) < 4


def test_train_tokenizer_learns_from_every_file(files, tmp_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(train_tokenizer(files, tmp_path / "tok", 400))
    assert len(tokenizer.tokenize("人工智能的未来是什么")) == 1
    assert len(tokenizer.tokenize(" little")) == 1


def test_train_tokenizer_gives_the_same_bytes_for_the_same_files(files, tmp_path):
    written = []
    for name in ("one", "two"):
        out = train_tokenizer(files, tmp_path / name, 300)
        written.append({p.name: p.read_bytes() for p in out.iterdir()})
    assert written[0] == written[1]
    assert set(written[0]) == {"tokenizer.json", "tokenizer_config.json"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.txt", "b.jsonl", "one", "two"]


def test_train_tokenizer_notes_that_the_files_give_fewer_tokens(files, tmp_path, notes):
    train_tokenizer(files, tmp_path / "tok", 5000)
    tokens = len(json.loads((tmp_path / "tok/tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"])
    assert notes == [f"the files give {tokens} tokens, not 5,000"]


ANY_TEXT = [
    *TEXTS,
    " two  spaces ",
    "\r\n\ttab\r",
    "🤖👩‍👩‍👧 e\u0301 ﬁ \u3000全角ＡＢ",
    "a<|endoftext|>b[MASK] [CLS]c <extra_id_7>x [sep]",
    "don't . , ? x",
    "",
]
SENTINELS = [f"<extra_id_{i}>" for i in range(100)]


def load_tokenizer(files, out, objective, vocab_size=500):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(train_tokenizer(files, out, vocab_size, objective=objective))


@pytest.mark.parametrize("objective", ["causal-lm", "masked-lm", "seq2seq"])
def test_tokenizer_of_each_objective_round_trips_any_text(files, tmp_path, objective):
    tokenizer = load_tokenizer(files, tmp_path / "tok", objective)
    for text in ANY_TEXT:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert tokenizer.decode(ids) == text
        before, after = {"masked-lm": ("[CLS]", "[SEP]"), "seq2seq": ("", "<|endoftext|>")}.get(objective, ("", ""))
        framed = tokenizer(text).input_ids
        assert tokenizer.decode(framed) == before + text + after
        if text not in (ANY_TEXT[-3], ""):
            assert tokenizer.decode(framed, skip_special_tokens=True) == text
    assert len(tokenizer) == len(set(tokenizer.get_vocab().values())) == max(tokenizer.get_vocab().values()) + 1
    assert len(tokenizer.tokenize("人工智能的未来是什么")) == 1
    assert len(tokenizer.tokenize(" little")) == 1


def test_tokenizer_for_masked_lm_frames_texts_and_is_masked(files, tmp_path):
    tokenizer = load_tokenizer(files, tmp_path / "tok", "masked-lm")
    roles = (tokenizer.pad_token, tokenizer.unk_token, tokenizer.cls_token, tokenizer.sep_token, tokenizer.mask_token)
    assert roles == ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    assert tokenizer.convert_tokens_to_ids(roles) == [0, 1, 2, 3, 4]
    assert (tokenizer.bos_token, tokenizer.eos_token) == (None, None)
    frame = find_frame(tokenizer)
    assert (frame.before, frame.after, frame.types) == ([(2, 0)], [(3, 0)], (0, 0))
    pair = find_frame(tokenizer, pair=True)
    assert (pair.before, pair.between, pair.after, pair.types) == ([(2, 0)], [(3, 0)], [(3, 0)], (0, 0))
    assert sorted(tokenizer(TEXTS[0])) == ["attention_mask", "input_ids"]
    for whole_word, text in itertools.product((False, True), TEXTS):
        masker = Masker(tokenizer, seed=0, whole_word=whole_word, probability=0.5)
        ids = np.array(tokenizer(text, add_special_tokens=False).input_ids)
        masked = masker({"input_ids": ids}, 0)
        restored = np.where(masked["labels"] == -100, masked["input_ids"], masked["labels"])
        assert tokenizer.decode(restored) == f"[CLS]{text}[SEP]"
        assert 4 in masked["input_ids"]


def test_tokenizer_for_seq2seq_ends_texts_and_has_sentinels(files, tmp_path):
    tokenizer = load_tokenizer(files, tmp_path / "tok", "seq2seq")
    assert (tokenizer.pad_token, tokenizer.eos_token, tokenizer.bos_token) == ("<pad>", "<|endoftext|>", None)
    assert tokenizer.convert_tokens_to_ids(["<pad>", "<|endoftext|>", *SENTINELS]) == list(range(102))
    assert tokenizer.extra_special_tokens == SENTINELS
    assert tokenizer("<extra_id_42>", add_special_tokens=False).input_ids == [44]
    frame = find_frame(tokenizer)
    assert (frame.before, frame.after, frame.types) == ([], [(1, 0)], (0, 0))
    assert find_frame(tokenizer, pair=True).between == [(1, 0)]
    assert sorted(tokenizer(TEXTS[0])) == ["attention_mask", "input_ids"]
    denoiser = Denoiser(tokenizer, seed=0)
    assert (denoiser.sentinels.tolist(), denoiser.end) == (list(range(2, 102)), 1)
    for text in TEXTS:
        row = denoiser({"input_ids": np.array(tokenizer(text, add_special_tokens=False).input_ids)}, 0)
        parts = [
            re.split(r"<extra_id_\d+>", tokenizer.decode(row[key]).removesuffix("<|endoftext|>"))
            for key in ("input_ids", "labels")
        ]
        assert "".join(a + b for a, b in zip(parts[0], [*parts[1][1:], ""], strict=True)) == text


def test_tokenizer_for_causal_lm_is_the_default_and_frames_nothing(files, tmp_path):
    written = []
    for name, options in (("one", {}), ("two", {"objective": "causal-lm"})):
        out = train_tokenizer(files, tmp_path / name, 300, **options)
        written.append({p.name: p.read_bytes() for p in out.iterdir()})
    assert written[0] == written[1]
    content = json.loads(written[0]["tokenizer.json"])
    assert content["post_processor"]["special_tokens"] == {}
    assert [token["content"] for token in content["added_tokens"]] == ["<|endoftext|>"]
    config = json.loads(written[0]["tokenizer_config.json"])
    assert {"extra_special_tokens", "model_input_names", "pad_token"} & set(config) == set()


@pytest.mark.parametrize("objective", ["masked-lm", "seq2seq"])
def test_tokenizer_of_each_objective_is_the_same_bytes_for_the_same_files(files, tmp_path, objective):
    written = []
    for name in ("one", "two"):
        out = train_tokenizer(files, tmp_path / name, 400, objective=objective)
        written.append({p.name: p.read_bytes() for p in out.iterdir()})
    assert written[0] == written[1]
    assert set(written[0]) == {"tokenizer.json", "tokenizer_config.json"}


@pytest.mark.parametrize(("objective", "number"), [("masked-lm", 5), ("seq2seq", 102)])
def test_vocabulary_counts_the_special_tokens_of_its_objective(files, tmp_path, objective, number):
    least = 256 + number
    assert refused(InputError, files, tmp_path / "tok", least - 1, objective=objective) == (
        f"vocab_size must hold 256 bytes and {number} special tokens, got {least - 1}; expected {least} or more"
    )
    assert len(load_tokenizer(files, tmp_path / "tok", objective, least)) == least


def test_train_tokenizer_refuses_another_objective(files, tmp_path):
    assert refused(InputError, files, tmp_path / "tok", 500, objective="masked") == (
        "no tokenizer is made for objective 'masked'; expected causal-lm, masked-lm or seq2seq"
    )


def special_tokens(folder):
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    return [token["content"] for token in content["added_tokens"]]


def test_data_tokenizer_takes_the_objective(files, tmp_path, llmkit_cli):
    call = ("data", "tokenizer", "a.txt", "--vocab-size", "400", "--quiet", "-o")
    assert llmkit_cli(*call, "tok", "--for", "masked-lm") == (0, "tok\n", "")
    assert special_tokens(tmp_path / "tok") == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert llmkit_cli(*call, "other", "--for", "seq2seq") == (0, "other\n", "")
    assert special_tokens(tmp_path / "other") == ["<pad>", "<|endoftext|>", *SENTINELS]
    assert llmkit_cli(*call, "third", "--for", "gpt") == (
        2,
        "",
        "llmkit: error: no tokenizer is made for objective 'gpt'; expected causal-lm, masked-lm or seq2seq\n",
    )
    assert not (tmp_path / "third").exists()


@pytest.mark.parametrize(
    ("objective", "options", "tokens"),
    [
        ("masked-lm", (), ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]),
        ("masked-lm", ("--for", "causal-lm"), ["<|endoftext|>"]),
        ("causal-lm", (), ["<|endoftext|>"]),
        ("classification", (), ["<|endoftext|>"]),
    ],
)
def test_data_tokenizer_of_a_recipe_takes_its_objective(files, tmp_path, llmkit_cli, objective, options, tokens):
    lines = ["version: 1", f"objective: {objective}", "model: {config: {model_type: bert}, tokenizer: tok}"]
    lines += ["data: {path: a.txt}", "train: {max_steps: 2}"]
    (tmp_path / "r.yaml").write_text("\n".join(lines), encoding="utf-8")
    call = ("data", "tokenizer", "r.yaml", "--vocab-size", "400", "--quiet", "-o", "tok", *options)
    assert llmkit_cli(*call) == (0, "tok\n", "")
    assert special_tokens(tmp_path / "tok") == tokens


def test_read_pieces_gives_the_whole_text_in_bounded_pieces(tmp_path):
    text = "x" * (2 * PIECE + 5) + "\n" + "a line of words\n" * 20_000
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    pieces = list(_read_pieces(SourceSpec(path=str(tmp_path / "a.txt")), Counts("a")))
    assert "".join(pieces) == text
    assert max(map(len, pieces)) == PIECE
    assert all(piece.endswith("\n") for piece in pieces[2:])
    assert "".join(d.text for d in read_documents(SourceSpec(path=str(tmp_path / "a.txt")), counts=Counts("a"))) == text


LINES = {
    "en": [f"Story {i}: the little girl with the **red** coat went to https://example.org/{i}" for i in range(18)]
    + [f"Story {i}: an **elephant** never forgets https://example.org/{i}" for i in range(18, 30)],
    "zh": [f"第{i}个故事：人工智能的**未来**是什么？见 https://example.org/{i} 。" for i in range(18)]
    + [f"第{i}个故事：**大象**从不忘记。https://example.org/{i}" for i in range(18, 30)],
}
CLEANED = {
    "en": [f"Story {i}: the little girl with the red coat went to" for i in range(18)]
    + [f"Story {i}: an elephant never forgets" for i in range(18, 30)],
    "zh": [f"第{i}个故事：人工智能的未来是什么？见。" for i in range(18)]
    + [f"第{i}个故事：大象从不忘记。" for i in range(18, 30)],
}
CLEAN = {"markdown": True, "urls": True}


@pytest.fixture
def corpora(tmp_path, monkeypatch):
    """`en.jsonl` and `zh.jsonl` in the working folder, with marks and URLs."""
    monkeypatch.chdir(tmp_path)
    for name, texts in LINES.items():
        lines = [json.dumps({"body": text}, ensure_ascii=False) + "\n" for text in texts]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return tmp_path


def spec_of(**data):
    return DataSpec.model_validate(data)


def source(name, **keys):
    return {"path": f"{name}.jsonl", "text_column": "body", "clean": CLEAN, **keys}


def write_clean(folder, name, number=30):
    """A file of what cleaning leaves of the first texts, one a line."""
    path = folder / f"clean-{name}.jsonl"
    lines = [json.dumps({"text": text}) + "\n" for text in CLEANED[name][:number]]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def tokenizer_of(texts, out, **options):
    return (train_tokenizer(texts, out, 330, **options) / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("name", ["en", "zh"])
def test_train_tokenizer_of_a_recipe_is_that_of_the_cleaned_texts(corpora, name):
    made = tokenizer_of(spec_of(**source(name)), corpora / "one")
    assert made == tokenizer_of([write_clean(corpora, name)], corpora / "two")
    assert made != tokenizer_of([f"{name}.jsonl"], corpora / "three", text_column="body")


@pytest.mark.parametrize("name", ["en", "zh"])
def test_train_tokenizer_of_a_recipe_never_sees_the_documents_held_out(corpora, name):
    made = tokenizer_of(spec_of(**source(name, eval_documents=12)), corpora / "one")
    assert made == tokenizer_of([write_clean(corpora, name, 18)], corpora / "two")
    assert made != tokenizer_of(spec_of(**source(name)), corpora / "three")


@pytest.mark.parametrize(("held", "left"), [((10, None), (20, 30)), ((None, 25), (30, 5)), ((29, 1), (1, 29))])
def test_train_tokenizer_of_a_mixture_never_sees_the_documents_held_out_of_a_source(corpora, monkeypatch, held, left):
    seen = []
    train = tokenizers._train
    monkeypatch.setattr(tokenizers, "_train", lambda pieces, *rest: train(iter(seen.extend(pieces) or seen), *rest))
    mix = [source(name, eval_documents=number) for name, number in zip(("en", "zh"), held, strict=True)]
    tokenizer_of(spec_of(mix=mix), corpora / "tok")
    found = [[piece for piece in seen if piece[0] == letter] for letter in "S第"]
    wanted = [CLEANED[name][:number] for name, number in zip(("en", "zh"), left, strict=True)]
    assert [pieces == texts[: len(pieces)] for pieces, texts in zip(found, wanted, strict=True)] == [True, True]
    assert any(pieces == texts for pieces, texts in zip(found, wanted, strict=True))  # until one has no more


def count_bytes(pieces):
    sizes = {"S": 0, "第": 0}
    for piece in pieces:
        sizes[piece[0]] += len(piece.encode())
    return list(sizes.values())


@pytest.mark.parametrize(
    ("weights", "share"), [((None, None), 0.5), ((1, 1), 0.5), ((3, 1), 0.75), ((0.2, 0.8), 0.2), ((1, 19), 0.05)]
)
def test_train_tokenizer_takes_bytes_of_a_mixture_by_weight(corpora, weights, share):
    for name in ("en", "zh"):
        texts = [json.dumps({"body": text}) + "\n" for text in LINES[name] * 20]
        (corpora / f"{name}.jsonl").write_text("".join(texts), encoding="utf-8")
    mix = [source(name, weight=weight) for name, weight in zip(("en", "zh"), weights, strict=True)]
    _, pieces = _begin_mixture(spec_of(mix=mix))
    english, chinese = count_bytes(pieces)
    total = english + chinese
    assert total > 30_000
    assert abs(english - share * total) < 100  # a piece, which is a document here


def test_mixture_of_a_tokenizer_ends_with_the_first_source_that_has_no_more():
    assert list(_mix([iter("abcdef"), iter(["你", "好"])], [1, 1])) == ["a", "你", "b", "c", "d", "好", "e", "f"]
    assert list(_mix([iter("ab"), iter("xyz")], [1, 1])) == ["a", "x", "b", "y"]
    assert list(_mix([iter("abcd"), iter("xyz")], [2, 1])) == ["a", "x", "b", "c", "y", "d"]
    assert list(_mix([iter("abc")], [1.0])) == ["a", "b", "c"]


def test_train_tokenizer_of_a_recipe_leaves_bad_rows_out_where_it_says_so(corpora):
    with (corpora / "en.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"body": null}\n')
    assert refused(InputError, spec_of(**source("en")), corpora / "tok", 330) == (
        "en.jsonl row 31: expected text, got null"
    )
    made = tokenizer_of(spec_of(**source("en"), on_bad="skip"), corpora / "one")
    assert made == tokenizer_of([write_clean(corpora, "en")], corpora / "two")


def test_train_tokenizer_of_a_recipe_refuses_what_gives_no_text(corpora):
    out = corpora / "tok"
    (corpora / "shards").mkdir()
    (corpora / "shards" / "shards.json").write_text("{}", encoding="utf-8")
    missing = "no data to train on; expected data.path, or data.mix with a path each"
    assert refused(InputError, spec_of(), out, 330) == missing
    assert refused(InputError, spec_of(mix=[source("en"), {}]), out, 330) == missing
    assert refused(InputError, spec_of(path="shards"), out, 330) == (
        "shards holds token shards; a tokenizer is made from texts"
    )
    for number in (30, 31):
        for data in (source("zh"), {"mix": [source("en"), source("zh")]}):
            (data.get("mix") or [data])[-1]["eval_documents"] = number
            assert refused(InputError, spec_of(**data), out, 330) == (
                f"data.eval_documents would hold out {number} of the 30 documents of zh.jsonl, and leave none"
            )
    assert not out.exists()


def documents_of(*parts):
    """Documents, each of so many parts."""
    return [Document(f"{d}.{p}", "", p == n - 1) for d, n in enumerate(parts) for p in range(n)]


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_documents_held_out_are_the_last_whole_ones(number):
    documents = documents_of(1, 3, 1, 2, 4)
    left = [document.text for document in _leave_last(iter(documents), number, "a")]
    assert left == [document.text for document in documents if int(document.text[0]) < 5 - number]


@pytest.mark.parametrize("number", [0, 1])
def test_parts_of_a_long_document_do_not_wait_for_its_end(number):
    asked = []
    documents = (asked.append(d.text) or d for d in documents_of(50, 50))
    next(_leave_last(documents, number, "a"))
    assert asked == [f"0.{p}" for p in range(50 if number else 1)] + ["1.0"] * number


def refused(error, *arguments, **options):
    with pytest.raises(error) as caught:
        train_tokenizer(*arguments, **options)
    return str(caught.value)


def test_train_tokenizer_refuses_bad_input_and_writes_nothing(files, tmp_path):
    out = tmp_path / "tok"
    (tmp_path / "empty.txt").write_text("\n\n", encoding="utf-8")
    assert refused(InputError, files, out, 256) == (
        "vocab_size must hold 256 bytes and end-of-text, got 256; expected 257 or more"
    )
    assert refused(InputError, ["empty.txt"], out, 300) == "0 examples in empty.txt"
    assert refused(InputError, ["c.txt"], out, 300) == "no such file: c.txt"
    assert refused(InputError, files, out, 300, text_column="t") == "b.jsonl row 1: column 't' not in [text]"
    assert refused(InputError, files, tmp_path / "a.txt" / "tok", 300) == (
        f"cannot write to {tmp_path}/a.txt/tok; expected a folder in a place that can be written to"
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.txt", "b.jsonl", "empty.txt"]


def test_train_tokenizer_replaces_a_tokenizer_alone_and_only_when_asked(files, tmp_path):
    out = train_tokenizer(files, tmp_path / "tok", 280)
    before = (out / "tokenizer.json").read_bytes()
    assert refused(InputError, files, out, 300) == f"{out} exists already"
    train_tokenizer(files, out, 300, overwrite=True)
    assert (out / "tokenizer.json").read_bytes() != before
    (out / "model.safetensors").write_bytes(b"dear")
    assert refused(InputError, files, out, 300, overwrite=True) == (
        f"{out} holds more than a tokenizer, such as model.safetensors; expected a new folder"
    )
    assert (out / "model.safetensors").read_bytes() == b"dear"
    assert refused(InputError, files, tmp_path / "a.txt", 300, overwrite=True) == (
        f"{tmp_path / 'a.txt'} is not a folder; expected a new one"
    )


def test_train_tokenizer_leaves_the_old_one_when_the_disk_is_full(files, tmp_path, monkeypatch):
    from transformers import PreTrainedTokenizerFast

    out = train_tokenizer(files, tmp_path / "tok", 280)
    before = (out / "tokenizer.json").read_bytes()

    def fail(self, folder):
        (folder / "half").write_text("", encoding="utf-8")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PreTrainedTokenizerFast, "save_pretrained", fail)
    message = refused(RunError, files, out, 300, overwrite=True)
    assert message == f"{out} cannot be written: No space left on device"
    assert (out / "tokenizer.json").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.txt", "b.jsonl", "tok"]


def test_lowercase_reads_capitals_as_small_letters(tmp_path):
    from transformers import AutoTokenizer

    (tmp_path / "a.txt").write_text("The Sea was Cold. THE SEA was cold. 天气 Weather\n" * 20, encoding="utf-8")
    files = [str(tmp_path / "a.txt")]
    for name, lowercase in (("cased", False), ("uncased", True)):
        out = train_tokenizer(files, tmp_path / name, 330, objective="masked-lm", lowercase=lowercase)
        tokenizer = AutoTokenizer.from_pretrained(out)
        ids = [tokenizer(text)["input_ids"] for text in ("The SEA 天气", "the sea 天气")]
        assert (ids[0] == ids[1]) == lowercase
        assert tokenizer.decode(ids[0], skip_special_tokens=True) == ("the sea 天气" if lowercase else "The SEA 天气")
