"""From a data section, or the user's own objects, to rows, evaluation rows and the ledger."""

import json
import pathlib
import pickle
import shutil
import subprocess
import sys
import time
from collections import Counter

import datasets
import numpy as np
import pytest
from conftest import TEXTS, byte_level_tokenizer, change, wordpiece_tokenizer

from llmkit.data import caching, hub, overlapping, preparing
from llmkit.data.ledger import Counts
from llmkit.data.order import MixedRows, ShuffledRows
from llmkit.data.store import TokenStore, write_store
from llmkit.data.streaming import StreamedRows
from llmkit.errors import InputError
from llmkit.locating import find_cache
from llmkit.recipe.schema import DataSpec

TOKENIZER = byte_level_tokenizer()
END = TOKENIZER.eos_token_id
STORIES = [f"Story {i}: {TEXTS[i % len(TEXTS)]}" for i in range(40)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "llmkit" / "tokens"


@pytest.fixture
def write(tmp_path):
    """A function that writes texts as a jsonl file and returns its path."""

    def make(name, texts, **columns):
        lines = [json.dumps({"text": text, **columns}, ensure_ascii=False) + "\n" for text in texts]
        (tmp_path / name).write_text("".join(lines), encoding="utf-8")
        return str(tmp_path / name)

    return make


def prepare(dataset=None, eval_dataset=None, tokenizer=TOKENIZER, max_length=32, seed=3, **data):
    spec = DataSpec.model_validate(data)
    return preparing.prepare(
        spec, tokenizer, max_length=max_length, seed=seed, dataset=dataset, eval_dataset=eval_dataset
    )


def refuse(**arguments):
    with pytest.raises(InputError) as caught:
        prepare(**arguments)
    assert len(str(caught.value)) <= 300
    return str(caught.value)


def texts_of(rows):
    """The documents that rows hold, in order, each decoded; pieces of one document are joined where they overlap."""
    tokens = []
    for row in rows:
        tokens += row["input_ids"].tolist()[1 if tokens else 0 :]
    return TOKENIZER.decode(tokens).split("<|endoftext|>")[:-1]


def check_ledger(source):
    fates = source.trained_on + source.held_out + source.first + source.cut + source.dropped
    assert fates == source.counts.tokens


def texts_in(rows, pack):
    """The same of rows that are packed, or of rows that each hold a whole document."""
    return texts_of(rows) if pack else [TOKENIZER.decode(r["input_ids"]).removesuffix("<|endoftext|>") for r in rows]


def own_ids(lengths):
    """Documents of ids: no two documents share an id, so that a token tells where it comes from."""
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    return [{"input_ids": list(range(start, start + n))} for start, n in zip(starts, lengths, strict=True)]


def targets_of(rows):
    """Count the tokens that rows predict: those that follow another one of their document."""
    found = Counter()
    for row in rows:
        ids, documents = row["input_ids"], row["document_ids"]
        found.update(ids[1:][documents[1:] == documents[:-1]].tolist())
    return found


def list_ids(rows, stop):
    return [rows[i]["input_ids"].tolist() for i in range(stop)]


def test_prepare_gives_all_documents_as_rows_in_the_order_of_the_file(write):
    prepared = prepare(path=write("a.jsonl", STORIES))
    assert texts_of(prepared.train_dataset) == STORIES
    assert isinstance(prepared.train, ShuffledRows)
    assert prepared.evaluation is None
    (source,) = prepared.ledger.sources
    check_ledger(source)
    assert (source.counts.documents, source.first) == (40, 40)


def test_prepare_orders_by_the_seed(write):
    path = write("a.jsonl", STORIES)
    rows = [prepare(path=path, seed=seed).train for seed in (3, 3, 4)]
    first, again, other = (list_ids(r, r.num_rows) for r in rows)
    assert first == again != other
    assert sorted(first) == sorted(other)


def test_txt_is_one_document_and_lines_are_many(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(STORIES), encoding="utf-8")
    whole = prepare(path=str(tmp_path / "a.txt")).ledger.sources[0]
    lines = prepare(path=str(tmp_path / "a.txt"), sample_by="line").ledger.sources[0]
    assert (whole.first, lines.first > 40) == (1, True)


@pytest.mark.parametrize("on_long", ["cut", "split", "drop"])
@pytest.mark.parametrize("pack", [True, False])
def test_ledger_adds_up(write, on_long, pack):
    rows = [*STORIES, "", "  ", *(f"short {i}" for i in range(20))]
    prepared = prepare(path=write("a.jsonl", rows), on_long=on_long, pack=pack, eval_rows=3, max_length=30)
    (source,) = prepared.ledger.sources
    check_ledger(source)
    assert source.counts.empty == 2
    assert len(prepared.evaluation) == 3
    assert source.held_out > 0
    assert (source.cut > 0, source.dropped > 0) == (on_long == "cut", on_long == "drop")


def test_eval_rows_are_the_last_and_no_training_row(write):
    path = write("a.jsonl", STORIES)
    whole = [row["input_ids"].tolist() for row in prepare(path=path).train_dataset]
    prepared = prepare(path=path, eval_rows=5)
    assert [row["input_ids"].tolist() for row in prepared.evaluation] == whole[-5:]
    assert [row["input_ids"].tolist() for row in prepared.train_dataset] == whole[:-5]
    assert prepared.train.num_rows == len(whole) - 5
    assert prepared.fingerprint != prepare(path=path).fingerprint


def test_eval_rows_must_leave_some(write):
    path = write("a.jsonl", STORIES[:2])
    number = prepare(path=path).train.num_rows
    message = refuse(path=path, eval_rows=number)
    assert message == f"data.eval_rows would hold out {number} of the {number} rows of {path}, and leave none"


STORIES_ZH = [f"第{i}个故事：{'今天天气很好，我们去公园散步吧。' * (1 + i % 3)}" for i in range(12)]
LAYOUTS = [(on_long, pack) for on_long in ("cut", "split", "drop") for pack in (True, False)]


@pytest.mark.parametrize(("on_long", "pack"), LAYOUTS)
def test_eval_documents_are_predicted_once_in_evaluation_and_never_trained_on(on_long, pack):
    lengths = [5, 1, 9, 20, 2, 8, 3, 17, 8, 5, 1, 4]
    rows, max_length = own_ids(lengths), 8
    prepared = prepare(
        dataset=rows, eval_documents=5, on_long=on_long, pack=pack, end_of_text=False, max_length=max_length
    )

    def expected(documents):
        kept = [d["input_ids"][: max_length if on_long == "cut" else None] for d in documents]
        return Counter(i for ids in kept if on_long != "drop" or len(ids) <= max_length for i in ids[1:])

    seen = {i for row in prepared.train_dataset for i in row["input_ids"].tolist()}
    assert not seen & {i for row in rows[-5:] for i in row["input_ids"]}
    assert targets_of(prepared.train_dataset) == expected(rows[:-5])
    assert targets_of(prepared.evaluation) == expected(rows[-5:])
    assert targets_of(prepared.train[i] for i in range(prepared.train.num_rows)) == expected(rows[:-5])
    (source,) = prepared.ledger.sources
    check_ledger(source)
    assert (source.counts.tokens, source.counts.documents) == (sum(lengths), len(lengths))
    assert source.trained_on == expected(rows[:-5]).total()
    assert source.held_out == expected(rows[-5:]).total()
    num_long = sum(n > max_length for n in lengths)
    assert source.num_long == (num_long if on_long == "drop" else 0)
    assert source.first == len(lengths) - source.num_long
    assert source.dropped == (sum(n for n in lengths if n > max_length) if on_long == "drop" else 0)
    assert source.cut == (sum(n - max_length for n in lengths if n > max_length) if on_long == "cut" else 0)


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("texts", [STORIES, STORIES_ZH], ids=["English", "Chinese"])
def test_eval_documents_are_the_last_of_the_file(write, texts, pack):
    prepared = prepare(path=write("a.jsonl", texts), eval_documents=4, pack=pack, max_length=300)
    assert texts_in(prepared.train_dataset, pack) == texts[:-4]
    assert texts_in(prepared.evaluation, pack) == texts[-4:]


def test_eval_documents_are_counted_after_cleaning(write):
    texts = ["今天", "好", "https://example.org", "天气 https://example.org", "", "www.example.org"]
    prepared = prepare(path=write("a.jsonl", texts), eval_documents=1, clean={"urls": True})
    assert (texts_of(prepared.train_dataset), texts_of(prepared.evaluation)) == (["今天", "好"], ["天气"])
    check_ledger(prepared.ledger.sources[0])


def test_eval_documents_change_no_row_but_the_last_that_is_trained_on(write):
    path = write("a.jsonl", STORIES)
    whole = [row["input_ids"].tolist() for row in prepare(path=path).train_dataset]
    some = [row["input_ids"].tolist() for row in prepare(path=path, eval_documents=5).train_dataset]
    assert some[:-1] == whole[: len(some) - 1]
    assert some[-1] == whole[len(some) - 1][: len(some[-1])]
    assert prepare(path=path, eval_documents=5).fingerprint != prepare(path=path).fingerprint


def test_eval_documents_share_the_store_of_the_whole_source(write, cache):
    path = write("a.jsonl", STORIES)
    for number in (None, 1, 5):
        prepare(path=path, eval_documents=number)
    assert len(list(cache.glob("*/shards.json"))) == 1


@pytest.mark.parametrize("weights", [(None, None), (1, 3), (2.5, 0.5)])
@pytest.mark.parametrize("pack", [True, False])
def test_eval_documents_of_one_source_of_a_mixture_and_not_of_another(write, weights, pack):
    first, second = write("a.jsonl", STORIES), write("b.jsonl", STORIES_ZH)
    mix = [{"path": first, "weight": weights[0], "eval_documents": 6}, {"path": second, "weight": weights[1]}]
    prepared = prepare(mix=mix, pack=pack, max_length=300)
    a, b = prepared.ledger.sources
    check_ledger(a)
    check_ledger(b)
    assert (a.held_out > 0, b.held_out, a.first, b.first) == (True, 0, 40, 12)
    assert [held.origin for held in prepared.held_out] == ["a.jsonl"]
    assert texts_in(prepared.evaluation, pack) == STORIES[-6:]
    assert [texts_in(part, pack) for part in prepared.train_dataset.datasets] == [STORIES[:-6], STORIES_ZH]
    assert targets_of(prepared.evaluation).total() == a.held_out
    assert targets_of(prepared.train_dataset).total() == a.trained_on + b.trained_on
    drawn = {tuple(ids) for ids in list_ids(prepared.train, 3 * prepared.train.num_rows)}
    assert drawn <= {tuple(row["input_ids"].tolist()) for row in prepared.train_dataset}


def test_eval_documents_of_each_source_of_a_mixture(write):
    sources = [(write("a.jsonl", STORIES), 2, "英文故事"), (write("b.jsonl", STORIES_ZH), 3, None)]
    mix = [{"path": path, "eval_documents": number, "origin": origin} for path, number, origin in sources]
    prepared = prepare(mix=mix)
    assert [(held.origin, texts_of(held.rows)) for held in prepared.held_out] == [
        ("英文故事", STORIES[-2:]),
        ("b.jsonl", STORIES_ZH[-3:]),
    ]
    assert [len(part) for part in prepared.evaluation.datasets] == [len(held.rows) for held in prepared.held_out]
    found = sorted(list_ids(prepared.train, prepared.train.num_rows))
    assert found == sorted(row["input_ids"].tolist() for row in prepared.train_dataset)


def test_shares_of_a_mixture_are_those_of_its_rows(write):
    paths = [write("a.jsonl", STORIES), write("b.jsonl", STORIES_ZH)]
    assert prepare(path=paths[0]).shares == [1.0]
    assert prepare(mix=[{"path": paths[0], "weight": 1}, {"path": paths[1], "weight": 3}]).shares == [0.25, 0.75]
    prepared = prepare(mix=[{"path": path, "eval_documents": 1} for path in paths])
    sizes = [len(part) for part in prepared.train_dataset.datasets]
    assert prepared.shares == [size / sum(sizes) for size in sizes]


def test_evaluation_data_are_named_by_their_file(write, monkeypatch, tmp_path):
    path = write("a.jsonl", STORIES)
    assert prepare(path=path).held_out == []
    named = {
        "eval_rows": prepare(path=path, origin="故事", eval_rows=3),
        "eval_path": prepare(path=path, eval_path=path),
    }
    assert {key: [held.origin for held in p.held_out] for key, p in named.items()} == {
        "eval_rows": ["故事"],
        "eval_path": ["a.jsonl"],
    }
    (tmp_path / "语料").mkdir()
    write("语料/b.jsonl", STORIES_ZH)
    monkeypatch.chdir(tmp_path / "语料")
    assert [held.origin for held in prepare(path=path, eval_path=".").held_out] == ["语料"]


@pytest.mark.parametrize("number", [40, 41, 1000])
def test_eval_documents_must_leave_some(write, number):
    path = write("a.jsonl", STORIES)
    message = refuse(path=path, eval_documents=number)
    assert message == (f"data.eval_documents would hold out {number:,} of the 40 documents of {path}, and leave none")
    assert prepare(path=path, eval_documents=39).ledger.sources[0].counts.documents == 40


def test_eval_documents_that_give_no_row_are_refused(write):
    path = write("a.jsonl", ["short", STORIES[0] * 9])
    message = refuse(path=path, eval_documents=1, on_long="drop")
    assert message.startswith(f"0 rows in {path}: none of its 1 examples gives two tokens; 1 exceed 32 tokens")


def test_eval_path_is_read_as_the_data_are(write, notes):
    path, other = write("a.jsonl", STORIES[:30]), write("b.jsonl", STORIES[30:])
    prepared = prepare(path=path, eval_path=other)
    assert texts_of(prepared.evaluation) == STORIES[30:]
    assert texts_of(prepared.train_dataset) == STORIES[:30]
    assert prepared.ledger.evaluation.counts.name == other
    check_ledger(prepared.ledger.evaluation)
    assert notes == []


def test_evaluation_documents_that_are_trained_on_are_noted(write, notes):
    path, same, one = write("a.jsonl", STORIES), write("b.jsonl", STORIES), write("c.jsonl", ["new", STORIES[7]])
    prepare(path=path, eval_path=same)
    prepare(path=path, eval_path=one)
    assert notes == [
        "40 of 40 evaluation documents (100%) are training documents too",
        "1 of 2 evaluation documents (50%) are training documents too",
    ]


def test_documents_that_only_begin_alike_are_not_common(write, notes):
    path, other = write("a.jsonl", STORIES[:30]), write("b.jsonl", STORIES[30:])
    assert overlapping._hash_samples(prepare(path=other).train_dataset.store).size == 10
    prepare(path=path, eval_path=other)
    assert notes == []


def test_eval_split_needs_a_data_set_of_the_hub(write):
    path = write("a.jsonl", STORIES)
    message = refuse(path=path, eval_split="test")
    assert message == f"data.eval_split: only a hub data set has splits, got {path}"


@pytest.mark.parametrize("streaming", [True, False])
def test_eval_split_of_the_hub_is_read_as_the_training_split_is(streaming, monkeypatch, cache):
    """datasets itself gives both splits; the hub is not asked."""
    splits = {"train": STORIES[:30], "test": [f"{story} http://example.org" for story in STORIES[30:]]}
    asked = []

    def load(spec, split, *, streaming):
        asked.append((split, streaming))
        dataset = datasets.Dataset.from_dict({"text": splits[split]})
        return dataset.to_iterable_dataset() if streaming else dataset

    monkeypatch.setattr(hub, "_load", load)
    prepared = prepare(path="someone/texts", eval_split="test", clean={"urls": True}, streaming=streaming)
    assert "example.org" not in "".join(texts_of(prepared.evaluation))
    assert len(texts_of(prepared.evaluation)) == 10
    assert prepared.ledger.evaluation.counts.name == "someone/texts test"
    assert [held.origin for held in prepared.held_out] == ["someone/texts test"]
    assert len(texts_of(prepared.train_dataset)) == 30
    assert {streamed for _, streamed in asked} == {streaming}
    assert len(list(cache.glob("*/shards.json"))) == (1 if streaming else 2)


def test_no_data_is_refused():
    assert refuse() == "no data to train on; expected data.path, data.mix with a path each, or dataset="


def test_empty_data_are_refused(write):
    path = write("a.jsonl", ["", " "])
    assert refuse(path=path) == f"0 examples in {path}"
    assert refuse(path=write("b.jsonl", STORIES), eval_path=path) == f"0 examples in {path} to evaluate on"


def test_data_without_a_row_are_refused(write):
    path = write("a.jsonl", STORIES)
    message = refuse(path=path, on_long="drop", max_length=4)
    assert message == f"0 rows in {path}: none of its 40 examples gives two tokens; 40 exceed 4 tokens"


def test_long_documents_are_refused_where_on_long_is_error(write):
    message = refuse(path=write("a.jsonl", STORIES), on_long="error")
    assert "of 40 examples exceed 32 tokens (longest" in message


def test_data_that_never_end_a_text_are_refused(write):
    path = write("a.jsonl", [" ".join(STORIES)])
    assert refuse(path=path, on_long="cut") == "no training row ends a text: end-of-text is never a target"
    assert prepare(path=path, on_long="cut", end_of_text=False).train.num_rows == 1


def test_one_document_whose_end_is_held_out_is_noted(write, notes):
    path = write("a.jsonl", [" ".join(STORIES)])
    assert prepare(path=path, eval_rows=2).train.num_rows > 10
    assert notes == ["end-of-text stands in the rows held out alone: the model will not learn to end a text"]


def test_tokenizer_without_an_end_is_refused_and_sep_serves(write):
    path = write("a.jsonl", STORIES)
    bare = byte_level_tokenizer()
    bare.eos_token = None
    assert refuse(path=path, tokenizer=bare).startswith("the tokenizer has no end-of-text token and no [SEP]")
    bert = wordpiece_tokenizer()
    assert prepare(path=path, tokenizer=bert).train_dataset.has_target(bert.sep_token_id)


def test_store_is_made_once_and_again_when_a_byte_or_an_option_changes(write, cache, monkeypatch):
    made = []
    monkeypatch.setattr(caching, "write_store", lambda *a, **k: made.append(1) or write_store(*a, **k))
    path = write("a.jsonl", STORIES)
    first = prepare(path=path).fingerprint
    assert prepare(path=path, seed=9).fingerprint == first
    assert prepare(path=path, max_length=16).fingerprint != first  # rows are no part of the store
    assert len(made) == 1
    copy = write("copy.jsonl", STORIES)
    assert prepare(path=copy).ledger.sources[0].counts.name == copy
    assert len(made) == 1
    for change_ in ({"end_of_text": False}, {"on_bad": "skip"}, {"clean": {"urls": True}}):
        prepare(path=path, **change_)
    prepare(path=path, tokenizer=byte_level_tokenizer(390))
    assert len(made) == 5
    write("a.jsonl", [*STORIES[:-1], STORIES[-1] + "!"])
    prepare(path=path)
    assert len(made) == 6
    assert len(list(cache.glob("*/shards.json"))) == 6
    assert list(cache.glob("*.tmp-*")) == []


def test_damaged_store_is_made_again(write, cache, notes):
    path = write("a.jsonl", STORIES)
    first = prepare(path=path).fingerprint
    (bin_,) = cache.glob("*/*.bin")
    content = bin_.read_bytes()
    bin_.write_bytes(content[:-2])
    assert prepare(path=path).fingerprint == first
    assert bin_.read_bytes() == content
    assert notes[0].startswith("tokenizing again: ")


def test_what_a_killed_process_left_is_cleared(write, cache):
    path = write("a.jsonl", STORIES)
    prepare(path=path)
    (folder,) = (p.parent for p in cache.glob("*/shards.json"))
    (folder / "shards.json").unlink()
    left = folder.with_name(f"{folder.name}.tmp-1")
    left.mkdir()
    prepare(path=path)
    assert not left.exists()


def test_two_processes_make_one_store(write, cache, tmp_path):
    path = write("a.jsonl", STORIES)
    TOKENIZER.save_pretrained(tmp_path / "tokenizer")
    script = """
import sys, time
from llmkit.data import caching, sources
from llmkit.loading import load_tokenizer
from llmkit.recipe.schema import DataSpec
from pathlib import Path
path, tokenizer, out = sys.argv[1:]
def report(pieces, counts):
    Path(out).with_suffix(".writes").write_text("x", encoding="utf-8")
    for piece in pieces:
        time.sleep(0.02)
        yield piece
caching._report = report
spec = DataSpec(path=path)
store = caching.prepare_store(spec, load_tokenizer(Path(tokenizer)), split=None, on_bad="error", end_of_text=True)
Path(out).write_text(store.fingerprint, encoding="utf-8")
"""
    outs = [tmp_path / f"{i}.out" for i in range(2)]
    processes = [
        subprocess.Popen([sys.executable, "-c", script, path, str(tmp_path / "tokenizer"), str(out)]) for out in outs
    ]
    assert [process.wait() for process in processes] == [0, 0]
    assert outs[0].read_text(encoding="utf-8") == outs[1].read_text(encoding="utf-8")
    assert len(list(tmp_path.glob("*.writes"))) == 1
    assert len(list(cache.glob("*/shards.json"))) == 1


def test_heartbeat_says_how_far_tokenizing_is(write, notes, monkeypatch):
    clock = iter(range(0, 10**6, 4))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    counts = Counts("a.txt", num_bytes=50_000_000)
    pieces = [(np.zeros(1, np.int64), True, "")] * 7
    assert list(caching._report(pieces, counts)) == pieces
    assert notes == ["tokenizing a.txt: 50 MB read, 4.2 MB/s", "tokenizing a.txt: 50 MB read, 2.1 MB/s"]


def test_cache_that_cannot_be_written_is_one_sentence(write, tmp_path):
    from llmkit.errors import RunError

    path = write("a.jsonl", STORIES)
    (tmp_path / "cache").write_text("a file where a folder should be", encoding="utf-8")
    with pytest.raises(RunError, match=r"^the token store .* cannot be written: Not a directory"):
        prepare(path=path)


def test_shards_are_read_in_place(write, tmp_path, cache):
    pieces = [(np.array([1 + i, 2, 3, END]), True, "") for i in range(9)]
    write_store(tmp_path / "shards", pieces, TOKENIZER, counts=Counts("x", documents=9))
    prepared = prepare(path=str(tmp_path / "shards"), max_length=4, pack=False)
    assert [row["input_ids"].tolist() for row in prepared.train_dataset] == [[1 + i, 2, 3, END] for i in range(9)]
    assert not cache.exists()
    prepared.train_dataset.store.check_tokenizer(TOKENIZER)


def test_shards_of_others_must_fit_the_tokenizer(tmp_path):
    write_store(tmp_path / "s", [(np.array([1, 2, 3]), True, "")], TOKENIZER, counts=Counts("x", documents=1))
    path = str(tmp_path / "s")
    assert refuse(path=path, tokenizer=wordpiece_tokenizer()) == (
        f"the token shards of {path} were made by another tokenizer than this one"
    )
    assert refuse(path=path) == "no training row ends a text: end-of-text is never a target"
    assert prepare(path=path, end_of_text=False).train.num_rows == 1
    np.array([1, 2, 60_000], "<u2").tofile(tmp_path / "s" / "shard-00000.bin")
    change(tmp_path / "s" / "shards.json", shards=[{"num_tokens": 3, "num_documents": 1}])
    assert "holds the id 60,000; the tokenizer has" in refuse(path=path, end_of_text=False)


def test_mixture_gives_rows_by_weight_and_cleans_each_source(write):
    first = write("a.jsonl", [f"{story} http://example.org/{i}" for i, story in enumerate(STORIES)])
    second = write("b.jsonl", [f"{story} http://example.org" for story in STORIES[:10]])
    mix = [{"path": first, "weight": 1, "clean": {"urls": True}}, {"path": second, "weight": 3}]
    prepared = prepare(mix=mix)
    assert isinstance(prepared.train, MixedRows)
    assert len(prepared.train_dataset) == prepared.train.num_rows
    text = "".join(TOKENIZER.decode(row["input_ids"]) for row in prepared.train_dataset)
    assert text.count("example.org") >= 8
    a, b = prepared.ledger.sources
    check_ledger(a)
    check_ledger(b)
    sizes = [len(part) for part in prepared.train_dataset.datasets]
    assert (a.passes, b.passes) == (sum(sizes) / 4 / sizes[0], sum(sizes) * 3 / 4 / sizes[1])


def test_mixture_shares_eval_rows_out_by_weight(write):
    mix = [{"path": write("a.jsonl", STORIES), "weight": 1}, {"path": write("b.jsonl", STORIES[::-1]), "weight": 3}]
    prepared = prepare(mix=mix, eval_rows=10)
    assert [len(part) for part in prepared.evaluation.datasets] == [2, 8]
    assert len(prepared.evaluation) == 10


def test_mixture_without_weights_gives_each_row_once(write):
    mix = [{"path": write("a.jsonl", STORIES)}, {"path": write("b.jsonl", STORIES[:5])}]
    prepared = prepare(mix=mix)
    found = sorted(list_ids(prepared.train, prepared.train.num_rows))
    assert found == sorted(row["input_ids"].tolist() for row in prepared.train_dataset)
    assert [source.passes for source in prepared.ledger.sources] == [None, None]


def test_mixture_needs_all_weights_or_none(write):
    path = write("a.jsonl", STORIES)
    message = refuse(mix=[{"path": path, "weight": 1}, {"path": path}])
    assert message == "data.mix: 1 of 2 sources have a weight; expected all or none"


def test_stream_gives_the_rows_of_the_store(write, cache):
    path = write("a.jsonl", STORIES)
    prepared = prepare(path=path, streaming=True)
    assert isinstance(prepared.train, StreamedRows)
    assert not cache.exists()
    stored = [row["input_ids"].tolist() for row in prepare(path=path).train_dataset]
    assert [row["input_ids"].tolist() for row in prepared.train_dataset] == stored
    assert sorted(list_ids(prepared.train, len(stored))) == sorted(stored)
    assert prepared.ledger.sources[0].counts.documents == 40  # those of one opening


def test_stream_is_shared_by_worker_processes(write):
    from torch.utils.data import DataLoader

    dataset = prepare(path=write("a.jsonl", STORIES), streaming=True).train_dataset
    loader = DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context="fork")
    found = sorted(row["input_ids"].tolist() for row in loader)
    assert found == sorted(row["input_ids"].tolist() for row in dataset)


@pytest.mark.parametrize("weights", [(1, 3), (None, None)])
def test_streams_and_shards_are_mixed_by_weight(write, tmp_path, weights):
    folder = tmp_path / "shards"
    store = prepare(path=write("a.jsonl", [f"shards {i}" for i in range(40)])).train_dataset.store
    shutil.copytree(store.folder, folder)
    parts = [str(folder), write("b.jsonl", [f"stream {i}" for i in range(40)])]
    mix = [{"path": path, "weight": weight} for path, weight in zip(parts, weights, strict=True)]
    if None in weights:
        assert "weight" in refuse(mix=mix, streaming=True)
        return
    prepared = prepare(mix=mix, streaming=True, pack=False, eval_path=write("c.jsonl", ["other text"] * 3))
    drawn = [TOKENIZER.decode(prepared.train[i]["input_ids"]).split()[0] for i in range(1024)]
    assert Counter(drawn) == {"shards": 256, "stream": 768}
    again = prepare(mix=mix, streaming=True, pack=False)
    assert again.train[700]["input_ids"].tolist() == prepared.train[700]["input_ids"].tolist()
    whole = [TOKENIZER.decode(row["input_ids"]).split()[0] for row in prepared.train_dataset]
    assert Counter(whole) == {"shards": 40, "stream": 40}


@pytest.mark.parametrize("kinds", [("stream", "stream"), ("store", "stream")])
def test_a_mixture_with_streams_is_shared_by_worker_processes(write, kinds):
    from torch.utils.data import DataLoader

    parts = [
        prepare(path=write(f"{i}.jsonl", STORIES[i : i + 20]), streaming=kind == "stream").train_dataset
        for i, kind in enumerate(kinds)
    ]
    dataset = preparing.join(parts)
    loader = DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context="fork")
    found, alone = ([row["input_ids"].tolist() for row in rows] for rows in (loader, dataset))
    assert sorted(found) == sorted(alone)
    assert alone == [row["input_ids"].tolist() for part in parts for row in part]


def read_own():
    return iter(OWN)


@pytest.mark.parametrize("own", [True, False])
def test_stream_goes_to_a_process_that_is_spawned(write, own):
    named = {"dataset": read_own} if own else {"path": write("a.jsonl", STORIES), "streaming": True}
    prepared = prepare(**named)
    dataset, train = (pickle.loads(pickle.dumps(part)) for part in (prepared.train_dataset, prepared.train))
    rows = [row["input_ids"].tolist() for row in prepared.train_dataset]
    assert [row["input_ids"].tolist() for row in dataset] == rows
    assert list_ids(train, len(rows)) == list_ids(prepared.train, len(rows))


def test_stream_has_no_last_rows(write):
    message = refuse(path=write("a.jsonl", STORIES), streaming=True, eval_rows=5)
    assert message == "data.eval_rows: a stream has no last rows to hold out"


def test_stream_has_no_last_documents(write):
    path, message = write("a.jsonl", STORIES), "data.eval_documents: a stream has no last documents to hold out"
    assert refuse(path=path, streaming=True, eval_documents=5) == message
    assert refuse(mix=[{"path": path, "eval_documents": 5, "weight": 1}], streaming=True) == message
    assert refuse(dataset=lambda: iter(OWN), eval_documents=5) == message


def test_stream_is_evaluated_on_a_store(write):
    path, other = write("a.jsonl", STORIES[:30]), write("b.jsonl", STORIES[30:])
    assert texts_of(prepare(path=path, streaming=True, eval_path=other).evaluation) == STORIES[30:]


OWN = [{"text": text} for text in STORIES]


@pytest.mark.parametrize("make", [lambda: OWN, lambda: datasets.Dataset.from_list(OWN)])
def test_own_data_set_serves_in_the_place_of_a_path(make, cache):
    prepared = prepare(dataset=make(), eval_dataset=[{"text": "new"}], path="missing.jsonl", eval_rows=3)
    assert texts_of(prepared.train_dataset) == STORIES
    assert texts_of(prepared.evaluation) == ["new"]
    check_ledger(prepared.ledger.sources[0])
    assert len(list(cache.glob("*/shards.json"))) == 2
    prepare(dataset=make())
    assert len(list(cache.glob("*/shards.json"))) == 2


@pytest.mark.parametrize("make", [lambda: OWN, lambda: datasets.Dataset.from_list(OWN)])
def test_own_data_set_gives_its_last_documents(make):
    prepared = prepare(dataset=make(), eval_documents=7)
    assert texts_of(prepared.train_dataset) == STORIES[:-7]
    assert texts_of(prepared.evaluation) == STORIES[-7:]
    assert [held.origin for held in prepared.held_out] == ["the data set"]
    check_ledger(prepared.ledger.sources[0])


def test_own_evaluation_data_set_stands_in_the_place_of_eval_documents():
    prepared = prepare(dataset=OWN, eval_dataset=[{"text": "新的"}], eval_documents=7)
    assert texts_of(prepared.train_dataset) == STORIES
    assert texts_of(prepared.evaluation) == ["新的"]
    assert prepared.ledger.sources[0].held_out == 0


def test_own_data_set_of_ids_is_taken_as_it_is():
    rows = [{"input_ids": [5, 6, 7], "text": "unused"}, {"input_ids": [8, 9, END]}, {"input_ids": []}]
    prepared = prepare(dataset=rows, pack=False)
    assert [row["input_ids"].tolist() for row in prepared.train_dataset] == [[5, 6, 7, END], [8, 9, END]]
    assert prepared.ledger.sources[0].counts.empty == 1
    (row,) = prepare(dataset=rows[:1], pack=False, end_of_text=False).train_dataset
    assert row["input_ids"].tolist() == [5, 6, 7]


@pytest.mark.parametrize("bad", [None, 7, [[1, 2]], [0.5], "ids"])
def test_own_rows_of_other_things_are_refused_or_skipped(bad):
    rows = [{"input_ids": [5, 6, END]}, {"input_ids": bad}]
    assert refuse(dataset=rows).startswith("the data set row 2: expected a list of ids as input_ids, got ")
    prepared = prepare(dataset=rows, on_bad="skip")
    assert prepared.ledger.sources[0].counts.bad_rows == 1


def test_own_ids_beyond_the_vocabulary_are_refused():
    message = refuse(dataset=[{"input_ids": [5, 60_000]}])
    assert message == f"the data set row 1 holds the id 60,000; the tokenizer has {len(TOKENIZER)} tokens"


@pytest.mark.parametrize(
    "make",
    [
        lambda: lambda: iter(OWN),
        lambda: lambda: iter([{"input_ids": TOKENIZER(row["text"])["input_ids"]} for row in OWN]),
        lambda: datasets.IterableDataset.from_generator(lambda: iter(OWN)),
    ],
)
def test_own_stream_is_read_from_its_start_each_epoch(make, cache):
    prepared = prepare(dataset=make())
    assert isinstance(prepared.train, StreamedRows)
    stored = sorted(row["input_ids"].tolist() for row in prepare(dataset=OWN).train_dataset)
    assert sorted(list_ids(prepared.train, len(stored))) == stored
    positions = range(len(stored), 2 * len(stored))
    assert sorted(prepared.train[i]["input_ids"].tolist() for i in positions) == stored
    assert sorted(row["input_ids"].tolist() for row in prepared.train_dataset) == stored


def test_own_data_that_can_be_read_once_only_are_refused():
    message = "a generator can be read once, a data set is read again"
    assert refuse(dataset=(row for row in OWN)) == message
    assert refuse(dataset=OWN, eval_dataset=(row for row in OWN)) == message


def test_own_data_set_that_is_none_is_refused():
    assert refuse(dataset=7) == "expected a data set or an iterable of mappings, got a number"
    assert refuse(dataset=datasets.DatasetDict(train=datasets.Dataset.from_list(OWN))).startswith(
        "expected one data set"
    )
    assert refuse(dataset=[]) == "0 examples in the data set"


def test_fingerprint_does_not_depend_on_where_the_data_lie(write):
    path, copy = write("a.jsonl", STORIES), write("b.jsonl", STORIES)
    assert prepare(path=path).fingerprint == prepare(path=copy).fingerprint == prepare(dataset=OWN).fingerprint
    assert prepare(path=write("c.jsonl", STORIES[1:])).fingerprint != prepare(path=path).fingerprint


def test_stores_lie_where_the_user_keeps_caches(monkeypatch, tmp_path):
    assert find_cache("tokens") == tmp_path / "cache" / "llmkit" / "tokens"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert find_cache("tokens") == pathlib.Path("/home/someone/.cache/llmkit/tokens")


def test_chinese_text_goes_through_whole(write):
    texts = ["人工智能的未来是什么？没有人知道。" * 20, "今天天气很好。"]
    assert texts_of(prepare(path=write("zh.jsonl", texts)).train_dataset) == texts


def test_store_holds_the_documents_of_real_data(data):
    from llmkit.loading import load_tokenizer

    tokenizer = load_tokenizer(data / "checkpoints" / "stories260K")
    spec = DataSpec(path=str(data / "lm" / "tinystories.jsonl"))
    store = caching.prepare_store(spec, tokenizer, split=None, on_bad="error", end_of_text=True)
    assert store.num_documents == 5511
    assert isinstance(store, TokenStore)
    ends = store.take(store.starts[1:] - 1)
    assert set(ends.tolist()) == {tokenizer.eos_token_id}
