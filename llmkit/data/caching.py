"""Token stores that are made once: kept under a key of all that decides their content."""

import contextlib
import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock

from llmkit.data import sources
from llmkit.data.ledger import Counts
from llmkit.data.store import VERSION, TokenStore, write_store, writing
from llmkit.data.tokenizing import Piece, encode_documents, find_end, hash_tokenizer
from llmkit.errors import DamagedError
from llmkit.locating import find_cache
from llmkit.recipe.schema import SourceSpec

logger = logging.getLogger("llmkit")

NOTE_EVERY_S = 10.0


def prepare_store(
    spec: SourceSpec, tokenizer: Any, *, split: str | None, on_bad: sources.OnBad, end_of_text: bool
) -> TokenStore:
    """Tokenize a source, or take what was made of the same bytes by the same tokenizer and options before.

    Raises:
        InputError: The source cannot be read, or the tokenizer cannot end a document.
        HubError: The hub cannot give a data set.
        RunError: The cache cannot be written.
    """

    def make(counts: Counts) -> Iterator[Piece]:
        documents = sources.read_documents(spec, split=split, on_bad=on_bad, counts=counts)
        return encode_documents(tokenizer, documents, end_of_text=end_of_text)

    facts = {"source": sources.hash_source(spec, split), "on_bad": on_bad}
    return keep_store(str(spec.path), facts, make, tokenizer, end_of_text=end_of_text)


def keep_store(
    name: str,
    facts: Mapping[str, object],
    make: Callable[[Counts], Iterable[Piece]],
    tokenizer: Any,
    *,
    end_of_text: bool,
) -> TokenStore:
    """Open the store of these facts, tokenizer and option; where there is none, write what `make` gives.

    Of several processes one writes, the others wait for it.

    Raises:
        RunError: The cache cannot be written.
    """
    end = find_end(tokenizer) if end_of_text else None
    whole = {**facts, "version": VERSION, "tokenizer": hash_tokenizer(tokenizer), "end_of_text": end}
    key = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()
    folder = find_cache("tokens") / key[:32]
    store = _open(folder)
    if store is None:
        with locked(folder, name):
            store = _open(folder)
            if store is None:
                counts = Counts(name)
                store = write_store(folder, _report(make(counts), counts), tokenizer, counts=counts)
    store.counts.name = name  # the same bytes may lie under another name now
    return store


def _open(folder: Path) -> TokenStore | None:
    if not (folder / "shards.json").is_file():
        return None
    try:
        return TokenStore.open(folder)
    except DamagedError as err:
        logger.info(f"tokenizing again: {err}")
        return None


@contextlib.contextmanager
def locked(folder: Path, name: str) -> Iterator[None]:
    """Hold the lock of what is kept in a folder; what a process that was killed left behind is cleared away."""
    lock = filelock.FileLock(folder.with_name(f"{folder.name}.lock"))
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0.5)
        except filelock.Timeout:  # a TimeoutError, and so an OSError
            logger.info(f"another process is tokenizing {name}; waiting for it")
            lock.acquire()
    try:
        for left in folder.parent.glob(f"{folder.name}.tmp-*"):
            shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        lock.release()


def _report(pieces: Iterable[Piece], counts: Counts) -> Iterator[Piece]:
    """Note every 10 s how far tokenizing has come."""
    begin = last = time.monotonic()
    for piece in pieces:
        now = time.monotonic()
        if now - last >= NOTE_EVERY_S:
            size = counts.num_bytes / 1e6
            logger.info(f"tokenizing {counts.name}: {size:,.0f} MB read, {size / (now - begin):.1f} MB/s")
            last = now
        yield piece
