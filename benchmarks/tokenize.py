"""Tokenizing and packing beside datasets.map: megabytes of text a second, the same tokenizer on both sides.

llmkit reads the file, tokenizes, adds end-of-text and writes the token store to the disk; datasets.map tokenizes what
is loaded already and writes its Arrow cache.
"""

import argparse
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.pairing import compare, describe_processor


def main(arguments: list[str]) -> None:
    """Print a table of both ways for whole books and for paragraphs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks tokenize", description=__doc__)
    parser.add_argument("file", help="a .jsonl or .jsonl.gz with a column text")
    parser.add_argument("--tokenizer", required=True, help="a folder, such as GPT-2's")
    parser.add_argument("--megabytes", type=float, default=6.0)
    parser.add_argument("--pairs", type=int, default=7)
    given = parser.parse_args(arguments)
    os.environ |= {"TOKENIZERS_PARALLELISM": "true", "RAYON_NUM_THREADS": "2", "HF_DATASETS_OFFLINE": "1"}
    print(f"{describe_processor()}; 2 threads; {given.pairs} pairs in turn")
    print("| documents | llmkit, MB/s | datasets.map, MB/s | times as fast (interval) |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HF_HOME"] = folder
        books = _read(given.file, given.megabytes)
        paragraphs = [part for book in books for part in book.split("\n\n") if part.strip()]
        for name, texts in (("whole books", books), ("paragraphs", paragraphs)):
            _measure(f"{len(texts):,} {name}", texts, given, Path(folder) / name)


def _read(path: str, megabytes: float) -> list[str]:
    from llmkit.data.ledger import Counts
    from llmkit.data.sources import read_documents
    from llmkit.recipe.schema import SourceSpec

    texts: list[str] = []
    size = 0
    for document in read_documents(SourceSpec(path=path), counts=Counts(path)):
        texts.append(document.text)
        size += len(document.text.encode())
        if size >= megabytes * 1e6:
            break
    return texts


def _measure(name: str, texts: list[str], given: Any, folder: Path) -> None:
    import datasets

    from llmkit.loading import load_tokenizer

    datasets.disable_progress_bars()
    folder.mkdir()
    data = datasets.Dataset.from_dict({"text": texts})
    data.to_json(str(folder / "texts.jsonl"))
    stored = datasets.load_dataset("json", data_files=str(folder / "texts.jsonl"), split="train")
    tokenizer = load_tokenizer(Path(given.tokenizer))
    if tokenizer.eos_token is None:
        tokenizer.eos_token = "<|endoftext|>"
    numbers = iter(range(10**6))

    def ours() -> None:
        _write_store(folder, tokenizer, next(numbers))

    def theirs() -> None:
        stored.map(
            lambda batch: tokenizer(batch["text"], add_special_tokens=False, verbose=False),
            batched=True,
            remove_columns=["text"],
            load_from_cache_file=False,
        )

    result = compare(ours, theirs, given.pairs)
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    low, high = result.interval
    rates = [megabytes / statistics.median(side) for side in (result.a, result.b)]
    print(f"| {name} | {rates[0]:.2f} | {rates[1]:.2f} | {result.ratio:.2f} ({low:.2f}-{high:.2f}) |", flush=True)


def _write_store(folder: Path, tokenizer: Any, number: int) -> None:
    from llmkit.data.ledger import Counts
    from llmkit.data.sources import read_documents
    from llmkit.data.store import write_store
    from llmkit.data.tokenizing import encode_documents
    from llmkit.recipe.schema import SourceSpec

    counts = Counts("texts")
    documents = read_documents(SourceSpec(path=str(folder / "texts.jsonl")), counts=counts)
    pieces = encode_documents(tokenizer, documents, end_of_text=True)
    write_store(folder / f"store-{number}", pieces, tokenizer, counts=counts)
