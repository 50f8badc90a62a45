"""From a recipe's data section to rows in order, evaluation rows, and the ledger."""

import dataclasses
import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch.utils.data import ConcatDataset, Dataset, IterableDataset, get_worker_info

from llmkit.data import hub
from llmkit.data.corrupting import Corrupt, CorruptedDataset, CorruptedRows
from llmkit.data.example_rows import ExampleRows
from llmkit.data.examples import Example
from llmkit.data.ledger import Ledger, SourceLedger
from llmkit.data.opening import Stream, open_evaluation, open_given, open_source
from llmkit.data.order import MixedRows, OrderedRows, Row, ShuffledRows
from llmkit.data.overlapping import count_common
from llmkit.data.rows import OnLong, TokenRows, check_max_length
from llmkit.data.store import TokenStore
from llmkit.data.streaming import StreamedRows, cut_rows, keep_pieces
from llmkit.data.tokenizing import find_end
from llmkit.errors import InputError
from llmkit.recipe.schema import DataSpec, MixSpec, SourceSpec

logger = logging.getLogger("llmkit")

COMMON_SHARE = 0.01  # of the evaluation documents in training, from which on a note says so


@dataclass(frozen=True)
class HeldOut:
    """Holds rows to evaluate on, and where they come from: the origin that the recipe states, else the file's name."""

    origin: str
    rows: TokenRows | ExampleRows


@dataclass(frozen=True)
class Prepared:
    """Holds what a run trains and evaluates on.

    Attributes:
        train: The training rows by position, which counts on through the epochs.
        train_dataset: The data set behind them, in the order of the files.
        evaluation: The rows to evaluate on, or None.
        held_out: The rows to evaluate on, by where they come from.
        origins: Where the texts of each source come from, and their licence or None, as the recipe states them.
        shares: Of the rows that a mixture draws, the share of each source.
        ledger: What became of each document and token.
        fingerprint: A sha256 that changes with the tokens and with what is held out; of a stream, with its name alone.
        read_held: Reads the examples behind the rows to evaluate on; None for documents.
    """

    train: OrderedRows
    train_dataset: "Dataset[Row]"
    evaluation: "Dataset[Row] | None"
    held_out: Sequence[HeldOut]
    origins: Sequence[tuple[str, str | None]]
    shares: Sequence[float]
    ledger: Ledger
    fingerprint: str
    read_held: Callable[[], Sequence[Example]] | None = None


@dataclass(frozen=True)
class Layout:
    """Holds how documents become rows."""

    max_length: int
    on_long: OnLong
    pack: bool
    overlap: int = 1
    num_special: int = 0

    def __post_init__(self) -> None:
        check_max_length(self.max_length, overlap=self.overlap, num_special=self.num_special)

    def cut(self, store: TokenStore, documents: range | None = None) -> TokenRows:
        """Cut a store, or a range of its documents, into rows.

        Raises:
            InputError: It gives none.
        """
        name, number = store.counts.name, store.num_documents
        if number == 0:
            raise InputError(f"0 examples in {name}")
        rows = TokenRows(
            store,
            max_length=self.max_length,
            on_long=self.on_long,
            pack=self.pack,
            documents=documents,
            overlap=self.overlap,
            num_special=self.num_special,
        )
        if len(rows) == 0:
            dropped = f"; {rows.num_dropped:,} exceed {self.max_length:,} tokens" if rows.num_dropped else ""
            number = len(rows.documents)
            bad = f"; the first that was left out: {store.counts.problem}" if store.counts.problem else ""
            raise InputError(f"0 rows in {name}: none of its {number:,} examples gives two tokens{dropped}{bad}")
        return rows

    def stream(self, stream: Stream, seed: int) -> StreamedRows:
        """Cut a stream into rows, in its order."""
        return StreamedRows(stream, max_length=self.max_length, on_long=self.on_long, pack=self.pack, seed=seed)


class StreamDataset(IterableDataset[Row]):  # type: ignore[misc]  # mypy does not follow torch
    """Gives the rows of one epoch of a stream in its own order; worker processes share them."""

    def __init__(self, stream: Stream, layout: Layout) -> None:
        self.stream, self.layout = stream, layout

    def __iter__(self) -> Iterator[Row]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        pieces = keep_pieces(self.stream(0), self.layout.max_length, self.layout.on_long)
        for i, (row, _) in enumerate(cut_rows(pieces, self.layout.max_length, pack=self.layout.pack)):
            if i % step == first:
                yield row


class ChainedDataset(IterableDataset[Row]):  # type: ignore[misc]  # as above
    """Gives the rows of several data sets, some of them streams, in turn; worker processes share them."""

    def __init__(self, parts: Sequence["Dataset[Row]"]) -> None:
        self.parts = parts

    def __iter__(self) -> Iterator[Row]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        for part in self.parts:
            if isinstance(part, IterableDataset):
                yield from part
            else:
                yield from (part[i] for i in range(first, len(part), step))


@dataclass(frozen=True)
class Part:
    """Holds one source of a run as rows; nothing is held out of a stream."""

    source: TokenStore | Stream
    dataset: TokenRows | StreamDataset
    held: TokenRows | None
    train: ShuffledRows | StreamedRows

    @property
    def fingerprint(self) -> str:
        """What tells the part's training rows from others."""
        if isinstance(self.dataset, StreamDataset):
            return self.source.counts.name
        return f"{self.dataset.store.fingerprint} {len(self.dataset)}"

    def describe(self, passes: float | None) -> SourceLedger:
        """Tell what becomes of the source's tokens."""
        if isinstance(self.dataset, StreamDataset):
            return SourceLedger(self.source.counts, passes=passes, is_stream=True)
        return _describe(self.dataset, self.held, passes)


def prepare(
    spec: DataSpec,
    tokenizer: Any,
    *,
    max_length: int,
    seed: int,
    dataset: object = None,
    eval_dataset: object = None,
    num_special: int = 0,
    corrupt: Corrupt | None = None,
) -> Prepared:
    """Tokenize, cut into rows, hold out and put in order what a recipe names, or the user's own data sets.

    Args:
        spec: The data section.
        tokenizer: The tokenizer of the model.
        max_length: The most tokens of a row.
        seed: Decides the order.
        dataset: In the place of the data that the section names: a datasets.Dataset or a list of mappings that hold a
            text or input_ids; or, as a stream, a datasets.IterableDataset or a function that returns an iterator.
        eval_dataset: In the place of the evaluation data, the same.
        num_special: The special tokens among them, which `corrupt` sets around a row.
        corrupt: Changes each row by its position; its rows don't overlap, as nothing is predicted from left to right.

    Raises:
        InputError: A source cannot be read, holds nothing to train on, or never ends a text.
        HubError: The hub cannot give a data set.
        RunError: The token store cannot be written.
    """
    layout = Layout(max_length, spec.on_long or "split", spec.pack is not False, int(corrupt is None), num_special)
    mix = (spec.mix or None) if dataset is None else None
    weights = find_weights(mix) if mix else None
    named: Sequence[SourceSpec] = mix or [spec]
    if dataset is not None:  # what the recipe states of its own data does not hold for them
        named = [spec.model_copy(update={"origin": None, "license": None})]
        opened = [open_given(dataset, spec, tokenizer)]
    else:
        opened = [open_source(part, spec, tokenizer) for part in named]
    other = open_evaluation(spec, tokenizer, eval_dataset)
    parts = _lay_out(spec, named, opened, layout, seed, weights, holds_out=other is None)
    _check_end(parts, tokenizer if spec.end_of_text else None)
    origins = [name_origin(own.origin, part.source.counts.name) for own, part in zip(named, parts, strict=True)]
    held_out = [HeldOut(name, part.held) for name, part in zip(origins, parts, strict=True) if part.held]
    if other is not None:
        _note_common(other, opened)
        is_split = eval_dataset is None and spec.eval_split is not None
        held_out = [HeldOut(other.counts.name if is_split else name_origin(None, other.counts.name), layout.cut(other))]
    marks = [*(part.fingerprint for part in parts), other.fingerprint if other is not None else ""]
    train: OrderedRows = parts[0].train if len(parts) == 1 else MixedRows([part.train for part in parts], weights, seed)
    found = Prepared(
        train,
        join([part.dataset for part in parts]),
        join([part.rows for part in held_out]),
        held_out,
        [(name, source.license) for name, source in zip(origins, named, strict=True)],
        find_shares([len(p.dataset) if isinstance(p.dataset, TokenRows) else 1.0 for p in parts], weights),
        _keep_ledger(parts, weights, held_out[0].rows if other is not None else None),
        hashlib.sha256("\n".join(marks).encode()).hexdigest(),
    )
    return _corrupt(found, corrupt) if corrupt else found


def _corrupt(found: Prepared, corrupt: Corrupt) -> Prepared:
    return dataclasses.replace(
        found,
        train=CorruptedRows(found.train, corrupt),
        train_dataset=CorruptedDataset(found.train_dataset, corrupt),
        evaluation=None if found.evaluation is None else CorruptedDataset(found.evaluation, corrupt),
    )


def find_weights(mix: Sequence[MixSpec]) -> list[float] | None:
    """Find the weights of a mixture; None where it states none.

    Raises:
        InputError: Only some sources have one.
    """
    weights = [part.weight for part in mix if part.weight is not None]
    if weights and len(weights) < len(mix):
        raise InputError(f"data.mix: {len(weights)} of {len(mix)} sources have a weight; expected all or none")
    return weights or None


def _lay_out(
    spec: DataSpec,
    named: Sequence[SourceSpec],
    opened: Sequence[TokenStore | Stream],
    layout: Layout,
    seed: int,
    weights: list[float] | None,
    *,
    holds_out: bool,
) -> list[Part]:
    """Cut each source into rows; `holds_out` where evaluation rows come from them."""
    held = [part.eval_documents or 0 if holds_out else 0 for part in named]
    if any(held):
        return [_hold_documents(*pair, layout, seed) for pair in zip(opened, held, strict=True)]
    return _make_parts(opened, layout, seed, weights, (spec.eval_rows or 0) if holds_out else 0)


def _make_parts(
    opened: Sequence[TokenStore | Stream], layout: Layout, seed: int, weights: list[float] | None, num_held: int
) -> list[Part]:
    """Cut each source into rows and hold the last ones out, of a mixture by weight."""
    streams = [Part(s, StreamDataset(s, layout), None, layout.stream(s, seed)) for s in opened if isinstance(s, Stream)]
    if streams and num_held:
        hint = "data.eval_path or data.eval_split names other data"
        raise InputError("data.eval_rows: a stream has no last rows to hold out", hint=hint)
    rows = [layout.cut(source) for source in opened if isinstance(source, TokenStore)]
    parts = []
    held_of_each = share_out(num_held, weights or [len(part) for part in rows]) if num_held else [0] * len(rows)
    for part, number in zip(rows, held_of_each, strict=True):
        if number >= len(part):
            name, whole = part.store.counts.name, len(part)
            raise InputError(
                f"data.eval_rows would hold out {number:,} of the {whole:,} rows of {name}, and leave none"
            )
        others, held = part.split(number)
        parts.append(Part(part.store, others, held if number else None, ShuffledRows(others, seed)))
    order = {id(source): i for i, source in enumerate(opened)}
    return sorted([*streams, *parts], key=lambda part: order[id(part.source)])


def _hold_documents(source: TokenStore | Stream, number: int, layout: Layout, seed: int) -> Part:
    """Cut a source into rows, its last documents apart from the others."""
    if isinstance(source, Stream):
        hint = "data.eval_path or data.eval_split names other data"
        raise InputError("data.eval_documents: a stream has no last documents to hold out", hint=hint)
    first = source.num_documents - number
    if number and first <= 0:
        sentence = f"data.eval_documents would hold out {number:,} of the {source.num_documents:,} documents of"
        raise InputError(f"{sentence} {source.counts.name}, and leave none")
    others = layout.cut(source, range(first))
    held = layout.cut(source, range(first, source.num_documents)) if number else None
    return Part(source, others, held, ShuffledRows(others, seed))


def share_out(total: int, weights: Sequence[float]) -> list[int]:
    """Share a number out by weight, in whole numbers that add up to it."""
    ends = [round(total * sum(weights[: i + 1]) / sum(weights)) for i in range(len(weights))]
    return [end - begin for begin, end in pairwise([0, *ends])]


def _check_end(parts: Sequence[Part], tokenizer: Any) -> None:
    """Check that a row predicts end-of-text, where there is one; a stream, read later, ends each document with it."""
    if tokenizer is None:
        return
    end = find_end(tokenizer)
    for part in parts:
        if isinstance(part.dataset, StreamDataset) or part.dataset.has_target(end):
            return
    if any(part.held is not None and part.held.has_target(end) for part in parts):
        # one long document, as a book in a txt file is: its end lies in the rows held out
        logger.info("end-of-text stands in the rows held out alone: the model will not learn to end a text")
        return
    hint = "data.end_of_text: false trains without it; data.sample_by: paragraph makes a txt file many documents"
    raise InputError("no training row ends a text: end-of-text is never a target", hint=hint)


def _note_common(store: TokenStore, opened: Sequence[TokenStore | Stream]) -> None:
    number = count_common(store, [source for source in opened if isinstance(source, TokenStore)])
    if number >= COMMON_SHARE * store.num_documents:
        share = f"{number:,} of {store.num_documents:,} evaluation documents ({number / store.num_documents:.0%})"
        logger.info(f"{share} are training documents too")


def name_origin(origin: str | None, name: str) -> str:
    """Name a source without the folders of this machine."""
    return origin or (name if hub.is_hub_id(name) else Path(os.path.abspath(name)).name)


def find_shares(sizes: Sequence[float], weights: list[float] | None) -> list[float]:
    """Find the share of each source among the rows that are drawn."""
    drawn = weights or sizes
    return [size / sum(drawn) for size in drawn]


def join(parts: Sequence["Dataset[Row]"]) -> Any:
    """Join data sets to one; there may be none."""
    if len(parts) > 1:
        is_stream = any(isinstance(part, IterableDataset) for part in parts)
        return ChainedDataset(parts) if is_stream else ConcatDataset(parts)
    return parts[0] if parts else None


def _keep_ledger(parts: Sequence[Part], weights: list[float] | None, evaluated: TokenRows | None) -> Ledger:
    passes: list[float | None] = [None] * len(parts)
    sizes = [len(part.dataset) for part in parts if isinstance(part.dataset, TokenRows)]
    if weights and len(sizes) == len(parts):
        passes = [w / sum(weights) * sum(sizes) / size for w, size in zip(weights, sizes, strict=True)]
    return Ledger(
        [part.describe(p) for part, p in zip(parts, passes, strict=True)],
        None if evaluated is None else _describe(None, evaluated, None),
    )


def _describe(train: TokenRows | None, held: TokenRows | None, passes: float | None) -> SourceLedger:
    apart = {rows.documents: rows for rows in (held, train) if rows is not None}.values()
    return SourceLedger(
        next(iter(apart)).store.counts,
        trained_on=train.num_targets if train is not None else 0,
        held_out=held.num_targets if held is not None else 0,
        first=sum(rows.num_first for rows in apart),
        cut=sum(rows.num_cut for rows in apart),
        dropped=sum(rows.num_dropped_tokens for rows in apart),
        num_long=sum(rows.num_dropped for rows in apart),
        passes=passes,
    )
