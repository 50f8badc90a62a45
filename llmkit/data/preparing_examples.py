"""From a recipe's data section to rows of examples in order, evaluation rows, and the ledger."""

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from llmkit.data import hub
from llmkit.data.columns import check_repeatable
from llmkit.data.example_rows import ExampleRows, describe, keep_rows
from llmkit.data.examples import Example, list_columns, read_dataset, read_examples
from llmkit.data.formats import find_kind
from llmkit.data.ledger import Counts, Ledger
from llmkit.data.order import MixedRows, ShuffledRows
from llmkit.data.preparing import HeldOut, Prepared, find_shares, find_weights, join, name_origin, share_out
from llmkit.data.sequences import Encoder
from llmkit.data.sources import list_files
from llmkit.errors import InputError
from llmkit.recipe.schema import DataSpec, SourceSpec
from llmkit.runfolder import hash_file

logger = logging.getLogger("llmkit")

GIVEN = "the data set"
Reader = Callable[[Counts], Iterator[Example]]


@dataclass(frozen=True)
class _Source:
    """Holds where examples come from: a name, what decides them, and how they are read."""

    name: str
    facts: dict[str, object]
    read: Reader


@dataclass(frozen=True)
class _Part:
    """Holds one source as rows, those to train on apart from those held out."""

    source: _Source
    train: ExampleRows
    held: ExampleRows | None


def prepare_examples(
    spec: DataSpec, tokenizer: Any, encoder: Encoder, *, seed: int, dataset: object = None, eval_dataset: object = None
) -> Prepared:
    """Encode, hold out and put in order the examples that a recipe names, or the user's own data sets.

    Args:
        spec: The data section.
        tokenizer: The tokenizer of the model.
        encoder: Turns an example into rows.
        seed: Decides the order.
        dataset: In the place of the data that the section names: a datasets.Dataset, or mappings with its columns.
        eval_dataset: In the place of the evaluation data, the same.

    Raises:
        InputError: A source cannot be read or encoded, or holds nothing to train on.
        HubError: The hub cannot give a data set.
        RunError: The cache cannot be written.
    """
    mix = spec.mix if dataset is None and spec.mix else None
    weights = find_weights(mix) if mix else None
    named: Sequence[SourceSpec] = mix or [spec]
    if dataset is not None:
        named = [spec.model_copy(update={"origin": None, "license": None})]
        sources = [_name_given(dataset, spec, encoder)]
    else:
        sources = [_name_source(part, spec, encoder, part.train_split) for part in named]
    if any(r"\n" in (part.template or "") for part in named):
        logger.info(r"data.template holds a backslash and an n; within double quotes of YAML, \n is a line break")
    opened = [_open(source, spec, encoder, tokenizer) for source in sources]
    other = _name_evaluation(spec, encoder, eval_dataset)
    if other is not None:
        parts = [_Part(source, rows, None) for source, rows in zip(sources, opened, strict=True)]
        measured = [(other, _open(other, spec, encoder, tokenizer))]
    else:
        key, held = _count_held(spec, named, opened, weights)
        parts = [_split(*triple, key) for triple in zip(sources, opened, held, strict=True)]
        measured = [(part.source, part.held) for part in parts if part.held is not None]
    order = [ShuffledRows(part.train, seed) for part in parts]
    origins = [name_origin(part.origin, source.name) for part, source in zip(named, sources, strict=True)]
    passes: list[float | None] = [None] * len(parts)
    sizes = [len(part.train) for part in parts]
    if weights:
        passes = [w / sum(weights) * sum(sizes) / size for w, size in zip(weights, sizes, strict=True)]
    ledger = Ledger(
        [describe(part.train, part.held, p) for part, p in zip(parts, passes, strict=True)],
        describe(None, measured[0][1], None) if other is not None else None,
    )
    marks = [f"{part.train.fingerprint} {len(part.train)}" for part in parts]
    marks += [f"{rows.fingerprint} {len(rows)}" for _, rows in measured]
    return Prepared(
        train=order[0] if len(order) == 1 else MixedRows(order, weights, seed),
        train_dataset=_as_dataset([part.train for part in parts]),
        evaluation=join([rows for _, rows in measured]),
        held_out=[HeldOut(name_origin(None, source.name), rows) for source, rows in measured],
        origins=[(name, part.license) for name, part in zip(origins, named, strict=True)],
        shares=find_shares(sizes, weights),
        ledger=ledger,
        fingerprint=hashlib.sha256("\n".join(marks).encode()).hexdigest(),
        read_held=(lambda: _read_held(measured)) if measured else None,
    )


def _name_source(part: SourceSpec, spec: DataSpec, encoder: Encoder, split: str) -> _Source:
    columns = list_columns(part, encoder.kind)
    facts: dict[str, object] = {"columns": columns, "names": part.column_names, "encoding": part.encoding}
    facts |= {"template": part.template, "on_bad": spec.on_bad}
    if part.source_path is not None:
        paths = [path for name in (part.source_path, part.target_path) for path in list_files(str(name))]
        facts["files"] = [hash_file(path) for path in paths]
    elif part.path is None:
        raise InputError("no data to train on; expected data.path, data.mix with a path each, or dataset=")
    elif hub.is_hub_id(part.path):
        facts["dataset"] = hub.fingerprint(part, split)
    else:
        facts["files"] = [(find_kind(path), hash_file(path)) for path in list_files(part.path)]
    name = part.source_path or str(part.path)
    read = lambda counts: read_examples(  # noqa: E731 — a function of the counts alone is wanted
        part, encoder.kind, split=split, on_bad=spec.on_bad, counts=counts
    )
    return _Source(name, facts, read)


def _name_given(dataset: object, spec: DataSpec, encoder: Encoder) -> _Source:
    check_repeatable(dataset)

    def read(counts: Counts) -> Iterator[Example]:
        rows = dataset() if callable(dataset) else dataset
        return read_dataset(rows, spec, encoder.kind, on_bad=spec.on_bad, counts=counts)

    digest = hashlib.sha256()
    for example in read(Counts(GIVEN)):
        digest.update(repr(example).encode())
    return _Source(GIVEN, {"content": digest.hexdigest(), "on_bad": spec.on_bad}, read)


def _name_evaluation(spec: DataSpec, encoder: Encoder, dataset: object) -> _Source | None:
    """Find the evaluation data that are not the last of the training data."""
    if dataset is not None:
        return _name_given(dataset, spec, encoder)
    if spec.eval_source_path is not None:
        files = {"source_path": spec.eval_source_path, "target_path": spec.eval_target_path, "path": None}
        return _name_source(spec.model_copy(update=files), spec, encoder, spec.train_split)
    if spec.eval_path is not None:
        files = {"path": spec.eval_path, "source_path": None, "target_path": None}
        return _name_source(spec.model_copy(update=files), spec, encoder, spec.train_split)
    if spec.eval_split is None:
        return None
    if spec.path is None or not hub.is_hub_id(spec.path):
        hint = "data.eval_rows and data.eval_path serve all data"
        raise InputError(f"data.eval_split: only a hub data set has splits, got {spec.path or 'data.mix'}", hint=hint)
    return _name_source(spec, spec, encoder, spec.eval_split)


def _open(source: _Source, spec: DataSpec, encoder: Encoder, tokenizer: Any) -> ExampleRows:
    return keep_rows(
        source.name,
        source.facts,
        source.read,
        encoder,
        tokenizer,
        skip_bad=spec.on_bad == "skip",
        refuse_long=(spec.on_long or "error") == "error",
    )


def _count_held(
    spec: DataSpec, named: Sequence[SourceSpec], opened: Sequence[ExampleRows], weights: list[float] | None
) -> tuple[str, list[int]]:
    """Count the examples that are held out of each source, and name the key that says so."""
    own = [part.eval_documents or 0 for part in named]
    if any(own) or not spec.eval_rows:
        return "data.eval_documents", own
    return "data.eval_rows", share_out(spec.eval_rows, weights or [float(rows.num_examples) for rows in opened])


def _split(source: _Source, rows: ExampleRows, num_held: int, key: str) -> _Part:
    if num_held == 0:
        return _Part(source, rows, None)
    if num_held >= rows.num_examples:
        sentence = f"would hold out {num_held:,} of the {rows.num_examples:,} examples of {source.name}, and leave none"
        raise InputError(f"{key} {sentence}")
    return _Part(source, *rows.split(num_held))


def _as_dataset(parts: Sequence[ExampleRows]) -> Any:
    """Give the rows to train on as one datasets.Dataset."""
    import datasets

    found = [part.select() for part in parts]
    joined = found[0] if len(found) == 1 else datasets.concatenate_datasets(found)
    return joined.remove_columns(["example", "where"]).with_format("numpy")


def _read_held(measured: Sequence[tuple[_Source, ExampleRows]]) -> list[Example]:
    """Read the examples that are measured, in order."""
    found = []
    for source, rows in measured:
        numbers = rows.numbers
        found += [example for i, example in enumerate(source.read(Counts(source.name))) if i in numbers]
    return found
