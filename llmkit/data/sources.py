"""From a source to its documents: files by their kind, a data set of the hub, or the user's own object.

A source's path is, in this order: an existing file, folder or glob; what looks like a path, or ends like a data file,
and is missing; a hub id. A folder means all files of known kinds in it and below it, hidden ones excepted.
"""

import dataclasses
import glob
import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llmkit.data import hub
from llmkit.data.cleaning import clean
from llmkit.data.columns import Row, check_columns, check_dataset, describe, pick
from llmkit.data.formats import READERS, TEXT, check_regular, find_kind, read_rows, unwrap
from llmkit.data.ledger import Counts
from llmkit.encoding.prompts import replace_surrogates
from llmkit.errors import InputError
from llmkit.locating import suggest_near
from llmkit.recipe.schema import CleanSpec, SourceSpec
from llmkit.runfolder import hash_file

VERSION = 2  # of what reading and cleaning make of the same bytes; part of hash_source
OnBad = Literal["error", "skip"]


@dataclass(frozen=True, slots=True)
class Document:
    """Holds one document, or a part of a long one: where `ends` is False, the next one goes on with the same document.

    `where` names it in messages, as "train.jsonl row 41".
    """

    text: str
    where: str
    ends: bool = True


def read_documents(
    spec: SourceSpec, *, split: str | None = None, on_bad: OnBad = "error", streaming: bool = False, counts: Counts
) -> Iterator[Document]:
    """Read the documents of a source, cleaned, lazily and in the order of its files.

    Args:
        spec: The source.
        split: The split of a hub data set.
        on_bad: What becomes of a row that holds no text.
        streaming: Whether a hub data set is streamed rather than downloaded first.
        counts: Takes the numbers of what was read and left out, tokens excepted.

    Raises:
        InputError: A file is missing or not what its name says, a column is missing, or a row holds no text.
        HubError: The hub cannot give the data set.
    """
    assert spec.path is not None
    if hub.is_hub_id(spec.path):
        rows = hub.read_rows(spec, split, streaming=streaming)
    else:
        rows = (row for path in list_files(spec.path) for row in read_rows(path, spec))
    yield from _to_documents(rows, spec.clean, on_bad, counts)


def read_dataset(
    dataset: object, *, text_column: str, on_bad: OnBad = "error", counts: Counts, clean: CleanSpec | None = None
) -> Iterator[Document]:
    """Read the documents of the user's own data set: a datasets.Dataset, or any iterable of mappings.

    Raises:
        InputError: It is neither, lacks the column, or a row holds no text.
    """
    records = check_dataset(dataset)
    columns = getattr(dataset, "column_names", None)
    if isinstance(columns, list) and text_column not in columns:
        check_columns(columns, text_column.partition(".")[0], counts.name)
    rows = (
        pick(record, {TEXT: text_column}, f"{counts.name} row {number}", strict=number == 1)
        for number, record in enumerate(records, 1)
    )
    yield from _to_documents(unwrap(rows), clean or CleanSpec(), on_bad, counts)


def _to_documents(rows: Iterable[Row], spec: CleanSpec, on_bad: OnBad, counts: Counts) -> Iterator[Document]:
    """Clean rows and count them; a document that comes in several rows ends with its last one that holds text."""
    cleaning = spec != CleanSpec()
    held: Document | None = None  # the last part of a document that goes on, until it is known whether more comes
    emptied: str | None = None
    bad = mended = False
    for row in rows:
        text, problem = _take_text(row)
        if problem is not None:
            if on_bad == "error":
                raise InputError(f"{row.where}: {problem}", hint="data.on_bad: skip leaves such rows out")
            bad = True
            counts.problem = counts.problem or f"{row.where}: {problem}"
        try:
            text.encode()
        except UnicodeEncodeError:
            text, mended = replace_surrogates(text), True
        if cleaning and text.strip():
            text, rule = clean(text, spec)
            emptied = rule or emptied
        if text.strip():
            if held is not None:
                yield held
                text = "\n\n" + text if cleaning else text  # parts are cut at paragraphs, and cleaning strips them
            held = Document(text, row.where, False)
            counts.num_bytes += len(text.encode())
        if not row.ends:
            continue
        counts.surrogates += mended
        counts.bad_rows += bad
        if held is not None:
            counts.documents += 1
            yield dataclasses.replace(held, ends=True)
        elif emptied is not None:
            counts.drop(emptied)
        elif not bad:
            counts.empty += 1
        held, emptied, bad, mended = None, None, False, False


def _take_text(row: Row) -> tuple[str, str | None]:
    """Return the text of a row, and what is wrong with the row."""
    if row.error is not None:
        return "", row.error
    if not isinstance(row.value, str):
        return "", f"expected text, got {describe(row.value)}"
    if "\0" in row.value:
        return "", "expected text, got NUL bytes; is it text in another encoding?"
    return row.value, None


def list_files(path: str) -> list[Path]:
    """List the files that a file's name, a folder or a glob means, sorted.

    Raises:
        InputError: There is none, or none of a known kind.
    """
    place = Path(os.path.expanduser(path))
    if os.path.lexists(place) and not place.is_dir():
        check_regular(place)
        return [place]
    if place.is_dir():
        saved = _list_saved(place)
        if saved is not None:
            return saved
        found = list(_walk(place))
    elif glob.has_magic(path):
        found = [p for p in map(Path, glob.glob(os.path.expanduser(path), recursive=True)) if p.is_file()]
        if not found:
            raise InputError(f"no file matches {path}")
    else:
        raise InputError(f"no such file: {path}", hint=suggest_near(place))
    known = sorted(p for p in found if find_kind(p) is not None)
    others = sorted(set(found) - set(known))
    if not known:
        raise InputError(f"no data files in {path}; expected {', '.join(READERS)}, each also as .gz")
    if others:
        logging.getLogger("llmkit").info(f"{path}: {len(others)} files of other kinds are not read: {others[0].name}")
    return known


def _list_saved(place: Path) -> list[Path] | None:
    """List the tables of a data set that `datasets.Dataset.save_to_disk` wrote; None where a folder is none.

    Caches may lie beside the tables, which state.json names.

    Raises:
        InputError: It holds several splits.
    """
    splits = _read_key(place / "dataset_dict.json", "splits")
    if splits:
        sentence = f"{place} holds the splits {', '.join(map(str, splits))}; expected one of them"
        raise InputError(sentence, hint=f"data.path: {place / str(splits[0])}")
    tables = _read_key(place / "state.json", "_data_files")
    names = [table.get("filename") if isinstance(table, dict) else None for table in tables or []]
    return [place / str(name) for name in names] if names and None not in names else None


def _read_key(path: Path, key: str) -> list[Any] | None:
    """Read a list from a JSON file that may not be there, or be another's of that name."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))[key]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return found if isinstance(found, list) else None


def _walk(place: Path) -> Iterator[Path]:
    """Give the files in a folder and below it, hidden ones excepted; a folder that links lead to too comes once."""
    tops, seen = [place], set[str]()
    for top in tops:  # which grows by the links on the way: a folder that lies there itself keeps its own name
        for folder, below, names in os.walk(top):
            real = os.path.realpath(folder)
            below[:] = sorted(name for name in below if real not in seen and not name.startswith("."))
            if real in seen:
                continue
            seen.add(real)
            tops += [path for path in (Path(folder, name) for name in below) if path.is_symlink()]
            files = (Path(folder, name) for name in names if not name.startswith("."))
            yield from (path for path in files if path.is_file())


def is_shards(path: str) -> bool:
    """Tell whether a path is a folder of token shards."""
    return os.path.isfile(os.path.join(os.path.expanduser(path), "shards.json"))


def hash_source(spec: SourceSpec, split: str | None = None) -> str:
    """Compute a sha256 that changes with a byte of a file, and with an option that changes the documents.

    A hub data set stands for itself by the fingerprint that datasets gives it.

    Raises:
        InputError: A file is missing.
        HubError: The hub cannot give the data set.
    """
    assert spec.path is not None
    chosen = ("text_column", "column_names", "sample_by", "encoding", "clean")
    facts: dict[str, object] = {"version": VERSION, **spec.model_dump(include=set(chosen))}
    if hub.is_hub_id(spec.path):
        facts["dataset"] = hub.fingerprint(spec, split)
    else:
        facts["files"] = [(find_kind(path), hash_file(path)) for path in list_files(spec.path)]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
