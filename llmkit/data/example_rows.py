"""Examples as rows of tokens on disk: an Arrow file that is written once, and that datasets maps into memory."""

import copy
import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import Dataset

from llmkit import runfolder
from llmkit.data.caching import locked
from llmkit.data.examples import Example, Labelled, Pair
from llmkit.data.ledger import Counts, ExampleLedger
from llmkit.data.order import Row
from llmkit.data.rows import describe_long
from llmkit.data.sequences import IGNORED, Encoder
from llmkit.data.store import writing
from llmkit.data.tokenizing import hash_tokenizer
from llmkit.errors import InputError
from llmkit.locating import find_cache

if TYPE_CHECKING:
    import datasets

VERSION = 3  # of what encoding makes of the same examples; part of the key
# Special tokens by their role, which tokenizer.json does not state: they end a text, part it, and say "no answer".
ROLES = ("bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id", "pad_token_id", "unk_token_id")
BATCH = 1000  # rows that are written at a time


class ExampleRows(Dataset[Row]):  # type: ignore[misc]  # mypy does not follow torch
    """Gives the rows of examples by number, in the order of the examples.

    Attributes:
        dataset: The rows as a datasets.Dataset, with `example`, the number of the example that a row is of, and
            `where`, its name.
        counts: What was counted when they were made.
        fingerprint: The sha256 of the file that holds them.
    """

    def __init__(self, dataset: "datasets.Dataset", counts: Counts, fingerprint: str) -> None:
        self.dataset, self.counts, self.fingerprint = dataset, counts, fingerprint
        self._columns = [name for name in dataset.column_names if name not in ("example", "where")]
        self._arrays = dataset.select_columns(self._columns).with_format("numpy")
        self._first, self._stop = 0, len(dataset)

    def __len__(self) -> int:
        return self._stop - self._first

    def __getitem__(self, index: int) -> Row:
        if not 0 <= index < len(self):
            raise IndexError(index)
        found = self._arrays[self._first + index]
        return {name: np.asarray(found[name]) for name in self._columns}

    def where(self, index: int) -> str:
        """Name the example of a row."""
        return str(self.dataset[self._first + index]["where"])

    @functools.cached_property
    def _examples(self) -> Any:
        return np.asarray(self.dataset.with_format("numpy")["example"][:])

    @property
    def num_examples(self) -> int:
        """The examples that have rows here."""
        return len(np.unique(self._examples[self._first : self._stop]))

    @property
    def numbers(self) -> frozenset[int]:
        """The numbers of the examples that have rows here, among those read, from 0."""
        return frozenset(self._examples[self._first : self._stop].tolist())

    def split(self, num_examples: int) -> "tuple[ExampleRows, ExampleRows]":
        """Split the rows of the last examples off: (the others, the last)."""
        others, last = copy.copy(self), copy.copy(self)
        kept = np.unique(self._examples[self._first : self._stop])
        border = int(kept[-num_examples]) if 0 < num_examples <= len(kept) else int(kept[-1]) + 1
        others._stop = last._first = int(np.searchsorted(self._examples, border))
        return others, last

    def select(self) -> "datasets.Dataset":
        """Give these rows as a datasets.Dataset."""
        return self.dataset.select(range(self._first, self._stop))

    def count(self) -> tuple[int, int]:
        """Count the tokens of these rows, and their targets."""
        import pyarrow.compute as pc

        labels = "labels" if "labels" in self._columns else "start_positions"
        tokens, targets = (
            self.dataset.data.column(name).slice(self._first, len(self)) for name in ("input_ids", labels)
        )
        values = pc.list_flatten(targets) if hasattr(targets.type, "value_type") else targets
        lengths = pc.sum(pc.list_value_length(tokens)).as_py()
        return lengths or 0, pc.sum(pc.not_equal(values, IGNORED)).as_py() or 0


def keep_rows(
    name: str,
    facts: Mapping[str, object],
    read: Callable[[Counts], Iterator[Example]],
    encoder: Encoder,
    tokenizer: Any,
    *,
    skip_bad: bool = False,
    refuse_long: bool = True,
) -> ExampleRows:
    """Open the rows of these facts, tokenizer and encoder; where there are none, write what the examples give.

    Of several processes one writes, the others wait for it.

    Args:
        name: What the examples are called.
        facts: What decides the examples, as JSON.
        read: Reads the examples.
        encoder: Encodes each.
        tokenizer: What the encoder uses.
        skip_bad: Whether an example that cannot be encoded is left out, rather than an error.
        refuse_long: Whether an example that is too long is an error, rather than left out.

    Raises:
        InputError: An example cannot be read or encoded, or is too long, or there is none.
        RunError: The cache cannot be written.
    """
    whole = {
        **facts,
        "version": VERSION,
        "tokenizer": [hash_tokenizer(tokenizer), *(getattr(tokenizer, role) for role in ROLES)],
        "encoder": [type(encoder).__name__, encoder.facts],
        "skip_bad": skip_bad,
    }
    key = hashlib.sha256(json.dumps(whole, sort_keys=True, ensure_ascii=True).encode()).hexdigest()
    folder = find_cache("tokens") / f"rows-{key[:32]}"
    if not _is_whole(folder):
        with locked(folder, name):
            if not _is_whole(folder):
                _write(folder, name, read, encoder, skip_bad=skip_bad)
    stored = json.loads((folder / "rows.json").read_text(encoding="utf-8"))
    if stored["long"] and refuse_long:
        num_long, longest, states = stored["long"]
        most = encoder.facts["lengths"] if "lengths" in encoder.facts else [encoder.facts["max_length"]]
        limit = most[1 if states == "max_target_length" else 0]  # type: ignore[index]
        ways = "cut|split|drop" if encoder.kind == "label" else "cut|drop"
        raise InputError(describe_long(num_long, stored["counts"]["documents"], limit, longest, key=states, ways=ways))
    if not stored["rows"]:
        first = stored["counts"]["problem"]
        raise InputError(f"0 rows in {name}" + (f"; the first that was left out: {first}" if first else ""))
    import datasets

    dataset = datasets.Dataset.from_file(str(folder / "rows.arrow"))
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    counts = Counts(**{**stored["counts"], "name": name})
    return ExampleRows(dataset, counts, manifest["files"]["rows.arrow"]["sha256"])


def _is_whole(folder: Path) -> bool:
    return folder.is_dir() and runfolder.find_damage(folder) is None


def _write(
    folder: Path, name: str, read: Callable[[Counts], Iterator[Example]], encoder: Encoder, *, skip_bad: bool
) -> None:
    def fill(place: Path) -> None:
        counts = Counts(name)
        long: list[tuple[str, int]] = []
        number = _write_arrow(place / "rows.arrow", _encode(read(counts), encoder, counts, long, skip_bad=skip_bad))
        told = [len(long), max(length for _, length in long), max(long, key=lambda pair: pair[1])[0]] if long else None
        facts = {"counts": dataclasses.asdict(counts), "rows": number, "long": told}
        (place / "rows.json").write_text(json.dumps(facts, ensure_ascii=False), encoding="utf-8")

    with writing(folder):
        runfolder.publish(folder, fill)


def _encode(
    examples: Iterable[Example], encoder: Encoder, counts: Counts, long: list[tuple[str, int]], *, skip_bad: bool
) -> Iterator[tuple[int, str, Row]]:
    for number, example in enumerate(examples):
        if is_empty(example):
            counts.empty += 1
            counts.documents -= 1
            continue
        try:
            encoded = encoder.encode(example)
        except InputError as err:
            if not skip_bad:
                raise
            counts.skip(err)
            counts.documents -= 1
            continue
        if encoded.long is not None:
            long.append(encoded.long)
            counts.drop(f"longer than {encoded.long[0]}")
        for row in encoded.rows:
            counts.tokens += len(row["input_ids"])
            yield number, example.where, row


def is_empty(example: Example) -> bool:
    """Tell whether an example lacks a text that it cannot be trained on without: white space is none."""
    texts = {Pair: ("source", "target"), Labelled: ("text",)}.get(type(example), ())
    return not all(getattr(example, name).strip() for name in texts)


def _write_arrow(path: Path, rows: Iterator[tuple[int, str, Row]]) -> int:
    """Write rows with their example's number and name as an arrow stream, the form of datasets; return their number."""
    import pyarrow as pa

    first = next(rows, None)
    if first is None:
        path.touch()
        return 0
    fields = [(name, _arrow_type(pa, value)) for name, value in first[2].items()]
    schema = pa.schema([("example", pa.int64()), ("where", pa.string()), *fields])
    number, batch = 0, [first]
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as stream:
        while batch:
            records = [{"example": n, "where": w, **{k: v.tolist() for k, v in row.items()}} for n, w, row in batch]
            stream.write_batch(pa.RecordBatch.from_pylist(records, schema=schema))
            number += len(batch)
            batch = [row for _, row in zip(range(BATCH), rows, strict=False)]
    return number


def _arrow_type(pa: Any, value: Any) -> Any:
    kind = pa.from_numpy_dtype(value.dtype)
    return pa.list_(kind) if value.ndim else kind


def describe(train: ExampleRows | None, held: ExampleRows | None, passes: float | None) -> ExampleLedger:
    """Tell what became of the examples of a source: those trained on, and those held out."""
    rows = train if train is not None else held
    assert rows is not None
    trained = (len(train), *train.count()) if train is not None else (0, 0, 0)
    return ExampleLedger(
        rows.counts, *trained, *((len(held), held.count()[1]) if held is not None else (0, 0)), passes=passes
    )
