"""A run that is killed and goes on sees the rows of the run that was not, in its order: from one number."""

import json

import pytest
from conftest import byte_level_tokenizer

from llmkit.data.caching import prepare_store
from llmkit.data.ledger import Counts
from llmkit.data.order import MixedRows, ShuffledRows
from llmkit.data.rows import TokenRows
from llmkit.data.sources import read_documents
from llmkit.data.streaming import StreamedRows
from llmkit.data.tokenizing import encode_documents
from llmkit.recipe.schema import SourceSpec

NUM_IDS, MAX_LENGTH = 1000, 32


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level_tokenizer()


@pytest.fixture
def files(tmp_path, monkeypatch):
    """1,000 rows in three files of unequal length."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, start, stop in (("a", 0, 250), ("b", 250, 251), ("c", 251, NUM_IDS)):
        lines = [json.dumps({"text": f"行 {i}"}, ensure_ascii=False) for i in range(start, stop)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return SourceSpec(path=str(tmp_path / "*.jsonl"))


def open_stream(spec, tokenizer, **options):
    def open_documents(epoch):
        documents = read_documents(spec, split=None, on_bad="error", streaming=True, counts=Counts("files"))
        return encode_documents(tokenizer, documents, end_of_text=True)

    return StreamedRows(open_documents, max_length=MAX_LENGTH, on_long="error", pack=False, seed=7, **options)


def open_store(spec, tokenizer):
    store = prepare_store(spec, tokenizer, split=None, on_bad="error", end_of_text=True)
    return ShuffledRows(TokenRows(store, max_length=MAX_LENGTH, on_long="error", pack=False), seed=7)


OPENERS = {
    "stream": open_stream,
    "stream in small blocks": lambda spec, tokenizer: open_stream(spec, tokenizer, block_rows=64),
    "store": open_store,
    "mixture": lambda spec, tokenizer: MixedRows([open_store(spec, tokenizer)], None, seed=7),
}


def read_ids(rows, tokenizer, start, stop):
    """The ids at these positions."""
    texts = (tokenizer.decode(rows[i]["input_ids"], skip_special_tokens=True) for i in range(start, stop))
    return [int(text.removeprefix("行 ")) for text in texts]


@pytest.mark.parametrize("opener", OPENERS.values(), ids=OPENERS)
def test_rows_come_in_the_order_of_the_run_that_was_not_killed(files, tokenizer, opener):
    whole = read_ids(opener(files, tokenizer), tokenizer, 0, 3 * NUM_IDS)
    epochs = [whole[i : i + NUM_IDS] for i in (0, NUM_IDS, 2 * NUM_IDS)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(NUM_IDS))] * 3
    assert epochs[0] != epochs[1] != epochs[2] != list(range(NUM_IDS))
    killed = []
    for saved, read in ((0, 413), (411, 1390), (1384, 3 * NUM_IDS)):  # rows after the last save are read again
        killed[saved:] = read_ids(opener(files, tokenizer), tokenizer, saved, read)
    assert killed == whole


def test_a_stream_of_files_gives_the_rows_of_their_store(files, tokenizer):
    streamed, stored = open_stream(files, tokenizer), open_store(files, tokenizer)
    assert sorted(streamed[i]["input_ids"].tolist() for i in range(NUM_IDS)) == sorted(
        stored[i]["input_ids"].tolist() for i in range(NUM_IDS)
    )


def test_a_stream_in_a_mixture_comes_in_the_order_of_the_run_that_was_not_killed(files, tokenizer):
    def open_mixture():
        parts = [open_stream(files, tokenizer, block_rows=64), open_store(files, tokenizer)]
        return MixedRows(parts, [3, 1], seed=7)

    whole, killed = read_ids(open_mixture(), tokenizer, 0, 2500), []
    for saved, read in ((0, 413), (411, 1390), (1384, 2500)):
        killed[saved:] = read_ids(open_mixture(), tokenizer, saved, read)
    assert killed == whole


def test_worker_processes_read_the_rows_that_one_process_reads(files, tokenizer):
    from torch.utils.data import DataLoader

    rows, expected = (open_stream(files, tokenizer, block_rows=64) for _ in range(2))
    rows[150]  # the parent's files are open when its workers begin
    loader = DataLoader(rows, batch_size=None, sampler=range(200, 600), num_workers=2, multiprocessing_context="fork")
    texts = [tokenizer.decode(row["input_ids"], skip_special_tokens=True) for row in loader]
    assert [int(text.removeprefix("行 ")) for text in texts] == read_ids(expected, tokenizer, 200, 600)
