"""The token store: documents as token ids on disk, written once, in order, and read by position.

    shards.json       version, dtype, num_tokens, num_documents, tokenizer_sha256, shards: [{num_tokens, num_documents,
                      sha256}], counts
    shard-00000.bin   the ids, little-endian uint16 where the vocabulary fits in 65,536, else uint32
    shard-00000.idx   where each document begins in the shard, in tokens, little-endian uint64
    tokenizer.json    the tokenizer's own files

A shard is closed after the document that passes SHARD_TOKENS: no document crosses a border, so a shard holds at most
that and one document more. Folders that others write need the keys up to tokenizer_sha256, and num_tokens and
num_documents of each shard where there are several; keys that are not known are let be.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from llmkit import runfolder
from llmkit.data.ledger import Counts
from llmkit.data.tokenizing import Ids, Piece, hash_tokenizer, hash_tokenizer_json
from llmkit.errors import DamagedError, InputError, RunError

VERSION = 1
SHARD_TOKENS = 1 << 27
DTYPES = {"uint16": "<u2", "uint32": "<u4"}


@dataclasses.dataclass(frozen=True)
class Shard:
    """Holds the size of one shard and the sha256 of its .bin, where that was written down."""

    num_tokens: int
    num_documents: int
    sha256: str | None = None


class TokenStore:
    """Reads a folder of token shards; the ids stay on disk, the starts of the documents are held in memory.

    Attributes:
        folder: The folder.
        starts: Where each document begins in the whole store, in tokens, and where the last one ends.
            Shape: (num_documents + 1,)
        counts: What was counted when it was written.
        tokenizer_sha256: The tokenizer that made the ids.
    """

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        self.folder = folder
        self.tokenizer_sha256: str = facts["tokenizer_sha256"]
        self.counts = _read_counts(folder, facts)
        self._shards: list[Shard] = facts["shards"]
        self._ids = [_map_ids(folder, i, facts["dtype"], shard) for i, shard in enumerate(self._shards)]
        self._ends = np.cumsum([shard.num_tokens for shard in self._shards], dtype=np.int64)
        self.starts = self._read_starts()

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> "TokenStore":
        """Open a folder of token shards.

        Raises:
            InputError: It is none, or of another version.
            DamagedError: A file is missing or does not have the size or the content that shards.json states.
        """
        return cls(Path(folder), _read_facts(Path(folder)))

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenStore.open, (self.folder,)  # a process that reads ahead maps the files itself

    @property
    def num_tokens(self) -> int:
        """The number of tokens, end-of-text tokens among them."""
        return int(self.starts[-1])

    @property
    def num_documents(self) -> int:
        """The number of documents."""
        return len(self.starts) - 1

    @functools.cached_property
    def fingerprint(self) -> str:
        """The sha256 of what the store holds, wherever it lies, as lower-case hexadecimal."""
        digest = hashlib.sha256(self.tokenizer_sha256.encode())
        for i, shard in enumerate(self._shards):
            digest.update((shard.sha256 or runfolder.hash_file(_path(self.folder, i, "bin"))).encode())
        digest.update(self.starts.astype("<i8").tobytes())
        return digest.hexdigest()

    def read(self, start: int, length: int) -> Ids:
        """Read `length` tokens from a position of the whole store. Shape: (length,)."""
        first = int(np.searchsorted(self._ends, start, side="right"))
        parts, stop = [], start + length
        while start < stop:
            end = int(self._ends[first])
            offset = end - self._shards[first].num_tokens
            parts.append(self._ids[first][start - offset : min(stop, end) - offset])
            start, first = min(stop, end), first + 1
        if len(parts) == 1:
            return parts[0].astype(np.int64)
        return np.concatenate([np.empty(0, np.int64), *parts]).astype(np.int64)

    def take(self, positions: npt.NDArray[np.int64]) -> Ids:
        """Read the tokens at rising positions of the whole store. Shape: (number,)."""
        bounds = np.searchsorted(positions, np.concatenate(([0], self._ends)))
        parts = [
            ids[positions[bounds[i] : bounds[i + 1]] - (self._ends[i] - len(ids))] for i, ids in enumerate(self._ids)
        ]
        return np.concatenate([np.empty(0, np.int64), *parts]).astype(np.int64)

    def check_ids(self, vocab_size: int) -> None:
        """Check that each id is one of the vocabulary; this reads all of them.

        Raises:
            InputError: One is not.
        """
        for i, ids in enumerate(self._ids):
            for start in range(0, len(ids), 1 << 24):
                if (largest := int(ids[start : start + (1 << 24)].max())) >= vocab_size:
                    path = _path(self.folder, i, "bin")
                    raise InputError(f"{path} holds the id {largest:,}; the tokenizer has {vocab_size:,} tokens")

    def check_tokenizer(self, tokenizer: Any) -> None:
        """Check that the store was made by this tokenizer.

        Raises:
            InputError: Its sha256 is another.
        """
        mine, beside = hash_tokenizer(tokenizer), self.folder / "tokenizer.json"
        if self.tokenizer_sha256 == mine:
            return
        if beside.is_file() and self.tokenizer_sha256 == runfolder.hash_file(beside):  # as others may have hashed it
            with contextlib.suppress(ValueError, AttributeError):
                if hash_tokenizer_json(beside.read_text(encoding="utf-8")) == mine:
                    return
        hint = f"model.tokenizer: {self.folder}, or leave it unset"
        raise InputError(f"the token shards of {self.folder} were made by another tokenizer than this one", hint=hint)

    def _read_starts(self) -> npt.NDArray[np.int64]:
        starts = np.empty(sum(shard.num_documents for shard in self._shards) + 1, np.int64)
        filled = 0
        for i, shard in enumerate(self._shards):
            part = _read_index(self.folder, i, shard)
            starts[filled : filled + len(part)] = part + (self._ends[i] - shard.num_tokens)
            filled += len(part)
        starts[-1] = self._ends[-1] if len(self._ends) else 0
        return starts


def _path(folder: Path, number: int, suffix: str) -> Path:
    return folder / f"shard-{number:05d}.{suffix}"


def _read_facts(folder: Path) -> dict[str, Any]:
    """Read shards.json and settle what it may leave out: the only shard, and counts."""
    path = folder / "shards.json"
    if not path.is_file():
        raise InputError(f"no token shards in {folder}; expected a folder with shards.json")
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        if facts.get("version", VERSION) != VERSION:
            raise InputError(f"{path} has version {facts['version']}, expected {VERSION}")
        if facts["dtype"] not in DTYPES:
            raise InputError(f"{path} has dtype {facts['dtype']!r}, expected {' or '.join(DTYPES)}")
        whole = {key: int(facts[key]) for key in ("num_tokens", "num_documents")}
        given = [(int(s["num_tokens"]), int(s["num_documents"]), s.get("sha256")) for s in facts.get("shards", [whole])]
        shards = [Shard(*values) for values in given]
        sums = {key: sum(getattr(shard, key) for shard in shards) for key in whole}
        sha256 = str(facts["tokenizer_sha256"])
    except KeyError as err:
        raise DamagedError(f"{path} lacks the key {err.args[0]!r}") from err
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as err:
        if isinstance(err, InputError):
            raise
        raise DamagedError(f"{path} cannot be read") from err
    if sums != whole:
        raise DamagedError(f"{path}: its shards add up to {sums}, expected {whole}")
    return {**facts, "shards": shards, "tokenizer_sha256": sha256}


def _read_counts(folder: Path, facts: dict[str, Any]) -> Counts:
    known, given = {field.name for field in dataclasses.fields(Counts)}, facts.get("counts")
    values = {key: value for key, value in given.items() if key in known} if isinstance(given, dict) else {}
    whole = {"documents": int(facts["num_documents"]), "tokens": int(facts["num_tokens"])}
    return Counts(**{"name": str(folder), **whole, **values})


def _map_ids(folder: Path, number: int, dtype: str, shard: Shard) -> npt.NDArray[Any]:
    path, kind = _path(folder, number, "bin"), np.dtype(DTYPES[dtype])
    _check_size(path, shard.num_tokens * kind.itemsize)
    # An empty file cannot be mapped; a plain view of the map is twice as fast to slice.
    return np.memmap(path, kind, "r").view(np.ndarray) if shard.num_tokens else np.empty(0, kind)


def _read_index(folder: Path, number: int, shard: Shard) -> npt.NDArray[np.int64]:
    path = _path(folder, number, "idx")
    _check_size(path, shard.num_documents * 8)
    starts = np.fromfile(path, "<u8").astype(np.int64)
    bounds = np.concatenate((starts, [shard.num_tokens]))
    if bounds[0] != 0 or (np.diff(bounds) <= 0).any():
        raise DamagedError(f"{path} does not hold rising starts of documents from 0 to below {shard.num_tokens:,}")
    return starts


def _check_size(path: Path, expected: int) -> None:
    if not path.is_file():
        raise DamagedError(f"{path} is missing")
    if path.stat().st_size != expected:
        raise DamagedError(f"{path} has {path.stat().st_size:,} bytes, expected {expected:,}")


def write_store(folder: Path, pieces: Iterable[Piece], tokenizer: Any, *, counts: Counts) -> TokenStore:
    """Write token ids as a new store, whole or not at all, and open it.

    Args:
        folder: The folder to make; what lies there is replaced.
        pieces: What `encode_documents` gives: ids, whether their document ends with them, and where it stands.
        tokenizer: The tokenizer that made the ids; it is saved beside them.
        counts: What the source counts; `tokens` is set here, and a document without a token is dropped by `no token`.

    Raises:
        InputError: An id is not one of the vocabulary.
        RunError: The disk is full, or the folder cannot be written.
    """

    def fill(writer: "_Writer") -> None:
        for ids, ends, where in pieces:
            writer.write(ids, ends, where)
        if writer.num_empty:
            counts.documents -= writer.num_empty
            counts.dropped["no token"] = counts.dropped.get("no token", 0) + writer.num_empty

    return _write_whole(folder, tokenizer, counts, fill, {})


def write_documents(
    folder: Path, documents: Iterable[tuple[Ids, Ids]], tokenizer: Any, *, counts: Counts, facts: Mapping[str, object]
) -> TokenStore:
    """Write whole documents, many at a time, as a new store, whole or not at all, and open it.

    Args:
        folder: The folder to make; what lies there is replaced.
        documents: Documents by the thousand: their ids one after the other, and the length of each, above 0.
        tokenizer: The tokenizer that the ids are of; it is saved beside them.
        counts: What the source counts; `tokens` and `documents` are set here.
        facts: Further keys of shards.json.

    Raises:
        RunError: The disk is full, or the folder cannot be written.
    """

    def fill(writer: "_Writer") -> None:
        for ids, lengths in documents:
            writer.write_many(ids, lengths)
            counts.documents += len(lengths)

    try:
        return _write_whole(folder, tokenizer, counts, fill, facts)
    except RunError as err:
        raise RunError(str(err)) from err  # its hint is for what is cached


def _write_whole(
    folder: Path, tokenizer: Any, counts: Counts, fill: Callable[["_Writer"], None], facts: Mapping[str, object]
) -> TokenStore:
    temporary = folder.with_name(f"{folder.name}.tmp-{os.getpid()}")
    try:
        with writing(folder):
            temporary.mkdir(parents=True)
            tokenizer.save_pretrained(temporary)
        writer = _Writer(temporary, folder, len(tokenizer))
        try:
            fill(writer)
        finally:
            writer.close()
        counts.tokens = writer.num_tokens
        with writing(folder):
            _finish(temporary, folder, {**writer.describe(hash_tokenizer(tokenizer), counts), **facts})
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return TokenStore.open(folder)


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn what goes wrong while a store is written into one sentence."""
    try:
        yield
    except OSError as err:
        hint = "XDG_CACHE_HOME names another place for what is cached"
        raise RunError(f"the token store {folder} cannot be written: {err.strerror or err}", hint=hint) from err


def _finish(temporary: Path, folder: Path, facts: dict[str, Any]) -> None:
    text = json.dumps(facts, ensure_ascii=False, indent=2) + "\n"
    (temporary / "shards.json").write_text(text, encoding="utf-8")
    for path in [*temporary.iterdir(), temporary]:
        _sync(path)
    if folder.exists():
        shutil.rmtree(folder)
    temporary.rename(folder)
    _sync(folder.parent)


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


class _Writer:
    """Writes the files of the shards one after the other."""

    def __init__(self, temporary: Path, folder: Path, vocab_size: int) -> None:
        self._temporary, self._folder, self._vocab_size = temporary, folder, vocab_size
        self._dtype = "uint16" if vocab_size <= 1 << 16 else "uint32"
        self._shards: list[Shard] = []
        self._starts: list[int] = []
        self._size = self._length = self.num_tokens = self.num_empty = 0
        self._file: IO[bytes] | None = None
        self._digest = hashlib.sha256()

    def write(self, ids: Ids, ends: bool, where: str) -> None:
        if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < self._vocab_size:
            wrong = int(ids.min()) if ids.min() < 0 else int(ids.max())
            raise InputError(f"{where} holds the id {wrong:,}; the tokenizer has {self._vocab_size:,} tokens")
        if ids.size:
            if not self._length:
                self._starts.append(self._size)
            content = ids.astype(DTYPES[self._dtype]).tobytes()
            with writing(self._folder):
                self._open().write(content)
            self._digest.update(content)
            self._length += len(ids)
            self._size += len(ids)
            self.num_tokens += len(ids)
        if ends:
            self.num_empty += not self._length
            self._length = 0
            if self._size >= SHARD_TOKENS:
                self.close()

    def write_many(self, ids: Ids, lengths: Ids) -> None:
        content = ids.astype(DTYPES[self._dtype]).tobytes()
        with writing(self._folder):
            self._open().write(content)
        self._digest.update(content)
        self._starts.extend((self._size + np.cumsum(lengths) - lengths).tolist())
        self._size += len(ids)
        self.num_tokens += len(ids)
        if self._size >= SHARD_TOKENS:
            self.close()

    def _open(self) -> IO[bytes]:
        if self._file is None:
            self._file = _path(self._temporary, len(self._shards), "bin").open("wb")
        return self._file

    def close(self) -> None:
        """Close the shard that is being written, if any."""
        if self._file is None:
            return
        file, self._file = self._file, None
        with writing(self._folder):
            file.close()
            np.array(self._starts, "<u8").tofile(_path(self._temporary, len(self._shards), "idx"))
        self._shards.append(Shard(self._size, len(self._starts), self._digest.hexdigest()))
        self._starts, self._size, self._digest = [], 0, hashlib.sha256()

    def describe(self, tokenizer_sha256: str, counts: Counts) -> dict[str, Any]:
        return {
            "version": VERSION,
            "dtype": self._dtype,
            "num_tokens": self.num_tokens,
            "num_documents": sum(shard.num_documents for shard in self._shards),
            "tokenizer_sha256": tokenizer_sha256,
            "shards": [dataclasses.asdict(shard) for shard in self._shards],
            "counts": dataclasses.asdict(counts),
        }
