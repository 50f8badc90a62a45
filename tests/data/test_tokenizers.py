"""Tokenizers: any text comes back, the same files give the same bytes, and a folder is never overwritten unasked."""

import json

import pytest

from llmkit.data.ledger import Counts
from llmkit.data.sources import read_documents
from llmkit.data.tokenizers import PIECE, _read_pieces, train_tokenizer
from llmkit.errors import InputError, RunError
from llmkit.recipe.schema import SourceSpec

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


def test_read_pieces_gives_the_whole_text_in_bounded_pieces(tmp_path):
    text = "x" * (2 * PIECE + 5) + "\n" + "a line of words\n" * 20_000
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    pieces = list(_read_pieces([tmp_path / "a.txt"], "text", "utf-8", Counts("a")))
    assert "".join(pieces) == text
    assert max(map(len, pieces)) == PIECE
    assert all(piece.endswith("\n") for piece in pieces[2:])
    assert "".join(d.text for d in read_documents(SourceSpec(path=str(tmp_path / "a.txt")), counts=Counts("a"))) == text


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
