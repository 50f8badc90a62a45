"""Perplexity in sliding windows, beside a loop that is written out."""

import json
import math

import pytest
import torch
from conftest import TEXTS, wordpiece_tokenizer
from small_classifiers import SHAPES, make
from transformers import BertConfig, BertLMHeadModel

import llmkit
from llmkit.errors import InputError
from llmkit.evaluation.perplexity import cut_windows

STORIES = [f"A {' '.join(TEXTS[i % len(TEXTS)].split())} Once upon a time the sea was grey. {i}" for i in range(6)]


@pytest.fixture(scope="module")
def lm(make_checkpoint):
    return llmkit.load(make_checkpoint("gpt2"), dtype="float64", device="cpu")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in STORIES), "utf-8")
    return path


def slide(lm, texts, max_length, stride):
    """The loop of the documentation of transformers, token by token: nll in nats, and the number of tokens."""
    nll, number = 0.0, 0
    for text in texts:
        ids = lm.tokenizer(text, add_special_tokens=False)["input_ids"]
        reached = 1
        for begin in range(0, len(ids), stride):
            end = min(begin + max_length, len(ids))
            with torch.no_grad():
                logits = lm.model(torch.tensor([ids[begin:end]])).logits[0].log_softmax(-1)
            for place in range(reached, end):
                nll -= float(logits[place - 1 - begin, ids[place]])
                number += 1
            reached = max(reached, end)
            if end == len(ids):
                break
    return nll, number


@pytest.mark.parametrize(("max_length", "stride"), [(16, 8), (16, 15), (8, 1), (64, 32)])
def test_sliding_windows_equal_a_loop_that_is_written_out(lm, rows, max_length, stride):
    nll, number = slide(lm, STORIES, max_length, stride)
    data = {"path": rows, "max_length": max_length, "stride": stride}
    found = llmkit.evaluate(lm, on="perplexity", data=data).metrics
    assert found["loss"] == pytest.approx(nll / number, rel=1e-10)
    assert found["perplexity"] == pytest.approx(math.exp(nll / number), rel=1e-10)
    first = [lm.tokenizer.decode([lm.tokenizer(text)["input_ids"][0]]) for text in STORIES]  # which nothing predicts
    size = sum(len(text.encode()) for text in STORIES) - sum(len(text.encode()) for text in first)
    assert found["bits_per_byte"] == pytest.approx(nll / math.log(2) / size, rel=1e-10)


@pytest.mark.parametrize("kind", ["wordpiece", "fallback"])
def test_bits_are_a_byte_of_the_text_whatever_the_tokenizer(loaded, tmp_path, kind):
    lm = loaded("gpt2", kind)
    text = "hello  cold morning 今天天气 unknown☃ a"
    (tmp_path / "a.txt").write_text(text, "utf-8")
    found = llmkit.evaluate(lm, on="perplexity", data=tmp_path / "a.txt")
    ids = lm.tokenizer(text, add_special_tokens=False)["input_ids"]
    begins = kind == "fallback"  # with <s>: all of the text is predicted
    size = len(text.encode()) - (0 if begins else len(lm.tokenizer.decode(ids[:1]).encode()))
    assert found.rows[0].scores["num_tokens"] == len(ids) - (not begins)
    nll = found.metrics["loss"] * found.rows[0].scores["num_tokens"]
    assert found.metrics["bits_per_byte"] == pytest.approx(nll / math.log(2) / size, rel=1e-6)


def test_a_window_as_long_as_the_text_is_a_plain_forward(lm, tmp_path):
    path = tmp_path / "short.jsonl"
    path.write_text("".join(json.dumps({"text": text[:16]}) + "\n" for text in STORIES), "utf-8")
    nll, number = slide(lm, [text[:16] for text in STORIES], 64, 64)
    found = llmkit.evaluate(lm, on="perplexity", data=path)
    assert found.metrics["loss"] == pytest.approx(nll / number, rel=1e-12)
    assert found.n == len(STORIES)


@pytest.mark.parametrize("length", [0, 1, 2, 7, 8, 9, 31])
@pytest.mark.parametrize(("max_length", "stride"), [(8, 4), (8, 7), (3, 1), (2, 1)])
def test_every_token_but_the_first_is_predicted_once(length, max_length, stride):
    ids = list(range(length))
    windows = list(cut_windows(ids, max_length, stride))
    assert [i for window in windows for i in window.ids[window.num_context :]] == ids[1:]
    assert all(len(window.ids) <= max_length for window in windows)
    for window in windows[1:]:
        assert window.num_context >= max_length - stride


def test_a_file_of_text_is_one_document_or_a_document_a_line(lm, tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(STORIES), "utf-8")
    whole = llmkit.evaluate(lm, on="perplexity", data=path)
    lines = llmkit.evaluate(lm, on="perplexity", data={"path": path, "sample_by": "line"})
    assert (whole.n, lines.n) == (1, 6)
    nll, number = slide(lm, STORIES, 64, 32)
    assert lines.metrics["loss"] == pytest.approx(nll / number, rel=1e-10)
    nll, number = slide(lm, ["\n".join(STORIES)], 64, 32)
    assert whole.metrics["loss"] == pytest.approx(nll / number, rel=1e-10)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"max_length": 100_000}, r"data.max_length: 100000 exceeds the model's context of \d+"),
        ({"max_length": 8, "stride": 8}, "data.stride: expected a number from 1 to 7, below data.max_length, got 8"),
        ({"stride": 0}, "data.stride=0: expected a whole number from 1, got 0"),
        ({"stride": "x"}, "data.stride='x': expected a whole number from 1, got 'x'"),
        ({"label_column": "x"}, "data.label_column cannot act with perplexity"),
    ],
)
def test_what_cannot_be_measured_is_refused(lm, rows, data, sentence):
    with pytest.raises(InputError, match=sentence):
        llmkit.evaluate(lm, on="perplexity", data={"path": rows, **data})


def test_windows_cannot_act_with_other_tasks(lm, rows):
    with pytest.raises(InputError, match=r"data\.stride cannot act with classification"):
        llmkit.evaluate(lm, on="sentiment", data={"path": rows, "stride": 4})


def test_a_model_that_is_no_causal_language_model_is_refused(rows):
    with pytest.raises(InputError, match="tiny has a head for classification, this call needs one for generation"):
        llmkit.evaluate(make("bert"), on="perplexity", data=rows)


def test_a_model_that_sees_ahead_is_refused(rows):
    tokenizer = wordpiece_tokenizer()
    model = BertLMHeadModel(BertConfig(vocab_size=len(tokenizer), **SHAPES["bert"]))
    with pytest.raises(InputError, match="tiny sees the tokens it should predict; expected a causal language model"):
        llmkit.evaluate(llmkit.Loaded(model.eval(), tokenizer, "tiny"), on="perplexity", data=rows)


def test_texts_of_a_token_are_refused(lm, tmp_path):
    path = tmp_path / "one.jsonl"
    path.write_text('{"text": "a"}\n', "utf-8")
    with pytest.raises(InputError, match="no text has two tokens"):
        llmkit.evaluate(lm, on="perplexity", data=path)


def test_each_text_is_kept_and_drawn_anew_as_a_whole(lm, rows):
    result = llmkit.evaluate(lm, on="perplexity", data=rows)
    tokens = sum(row.scores["num_tokens"] for row in result.rows)
    nll = sum(row.scores["num_tokens"] * row.scores["loss"] for row in result.rows)
    assert nll / tokens == pytest.approx(result.metrics["loss"], rel=1e-12)
    assert [row.given["text"] for row in result.rows] == [text[:500] for text in STORIES]
    assert {(row.expected, row.got) for row in result.rows} == {(None, None)}
    for name, (low, high) in result.intervals.items():
        assert low < result.metrics[name] < high
    assert result.intervals["perplexity"] == pytest.approx(
        [math.exp(loss) for loss in result.intervals["loss"]], rel=1e-2
    )


def test_one_document_has_no_interval(lm, tmp_path, notes):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(STORIES), "utf-8")
    result = llmkit.evaluate(lm, on="perplexity", data=path)
    assert result.intervals == {}
    more = "; data.sample_by=paragraph or line makes more texts of a txt file"
    assert notes == [f"no intervals: rows are drawn anew for them, and there is only one{more}"]


@pytest.mark.parametrize("size", [40_000, pytest.param(None, marks=pytest.mark.slow)])
def test_wikitext_2_equals_a_loop_over_one_long_row(size, data, tmp_path, record_property):
    """Labels are -100 at what a window was given to read. (transformers' own loss is one of float32 logits.)"""
    text = (data / "lm" / "wikitext-2" / "test.txt").read_text(encoding="utf-8")[:size]
    path = tmp_path / "test.txt"
    path.write_text(text, encoding="utf-8", newline="")
    lm = llmkit.load("builtin/tiny", dtype="float64", device="cpu")
    found = llmkit.evaluate(lm, on="perplexity", data={"path": path}).metrics
    ids = torch.tensor([lm.tokenizer(text)["input_ids"]])
    nll, reached = 0.0, 1
    for begin in range(0, ids.shape[1], 128):
        window = ids[:, begin : begin + 256]
        labels = window.clone()
        labels[:, : reached - begin] = -100
        with torch.no_grad():
            logits = lm.model(window, use_cache=False).logits
        nll += float(torch.nn.functional.cross_entropy(logits[0, :-1], labels[0, 1:], reduction="sum"))
        reached = max(reached, begin + window.shape[1])
        if reached == ids.shape[1]:
            break
    assert found["loss"] == pytest.approx(nll / (ids.shape[1] - 1), rel=1e-10)
    size_read = len(text.encode()) - len(lm.tokenizer.decode(ids[0, :1]).encode())
    assert found["bits_per_byte"] == pytest.approx(nll / math.log(2) / size_read, rel=1e-10)
    record_property("summary", f"{found['loss']:.4f} nats, {found['bits_per_byte']:.4f} bits a byte of {size_read:,}")
