"""Inputs, one a row: lines of text, or the column of a .jsonl, .csv or .tsv file, read lazily."""

import csv
import difflib
import json
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from llmkit.encodings import find_codec, has_plain_lines, lack_mark, suggest
from llmkit.errors import InputError

BLOCK = 2**20  # bytes
OPTION = "--encoding "
TABLES = (".jsonl", ".csv", ".tsv")
DIALECTS: dict[str, dict[str, Any]] = {
    ".csv": {"strict": True},
    ".tsv": {"delimiter": "\t", "quoting": csv.QUOTE_NONE, "quotechar": None},
}


def kind(path: Path) -> str:
    """Tell what a name ends in, in small letters: it decides how a file is read and written."""
    return path.suffix.lower()


@dataclass(frozen=True)
class Row:
    """Holds one input: its number from 1, its record where it has columns, and its value or what is wrong with it."""

    number: int
    value: Any
    record: dict[str, Any]
    error: str | None = None


def read_whole(text: str | None, encoding: str) -> str:
    """Return TEXT, or all of the piped input without one final line break.

    Raises:
        InputError: There is neither, or the input is not in this encoding.
    """
    if text is not None:
        return text
    if sys.stdin is None or sys.stdin.isatty():
        raise InputError("nothing to read, got no TEXT; expected TEXT, -f FILE or piped input")
    piped = decode(sys.stdin.buffer.read(), encoding, "the piped input")
    for end in ("\r\n", "\n"):
        if piped.endswith(end):
            return piped[: -len(end)]
    return piped


def decode(content: bytes, encoding: str, name: str) -> str:
    """Decode a whole text.

    Raises:
        InputError: It is not in this encoding.
    """
    try:
        return content.decode(find_codec(encoding))
    except UnicodeDecodeError as err:
        hint = suggest([content], encoding, OPTION)
        raise InputError(f"{name} is not {encoding} (byte {err.start})", hint=hint) from None


def check_regular(path: Path) -> None:
    """Check that a file is there.

    Raises:
        InputError: It is missing, or not a regular file.
    """
    if not path.exists():
        raise InputError(f"no such file: {path}")
    if not path.is_file():
        raise InputError(f"not a regular file: {path}")


def check_file(path: Path, column: str, encoding: str) -> int:
    """Read a file through once, without keeping it, and count its rows.

    Raises:
        InputError: It is missing, not a regular file, not in this encoding, empty, or lacks the column.
    """
    check_regular(path)
    line = 0
    try:
        with _open(path, encoding) as file:
            for line, _ in enumerate(file, 1):  # noqa: B007 — the last number is wanted after the loop
                pass
    except UnicodeDecodeError as err:
        with path.open("rb") as raw:
            hint = suggest(iter(lambda: raw.read(BLOCK), b""), encoding, OPTION)
        raise InputError(f"{path} is not {encoding}, from about line {line + 1}: {err.reason}", hint=hint) from None
    except UnicodeError:  # utf-16 and utf-32 alone, which begin with a mark of the order of their bytes
        raise lack_mark(path, encoding, OPTION) from None
    except OSError as err:
        raise InputError(f"{path} cannot be read: {err.strerror}") from None
    columns = read_header(path, encoding) if kind(path) in TABLES else [column]
    if columns and column not in columns:
        if kind(path) in DIALECTS:
            from llmkit.data.columns import check_separator

            check_separator(columns, [column], str(path), of_tsv=kind(path) == ".tsv")
        close = [c for c in columns if c.strip().lower() == column.lower()] or difflib.get_close_matches(
            column, columns, 1
        )
        hint = f"--column {shlex.quote(close[0])}" if close else "--column names another"
        raise InputError(f"column {column!r} is not in {path}, which has: {', '.join(columns)}", hint=hint)
    try:
        rows = sum(1 for _ in read_rows(path, column, encoding))
    except csv.Error as err:
        raise InputError(f"{path} is not a {kind(path)[1:]} file: {err}") from None
    if rows == 0:
        raise InputError(f"no rows in {path}")
    return rows


def read_header(path: Path, encoding: str) -> list[str]:
    """Read the column names of a table, in a .jsonl those of all its records; any other file has the column text.

    Raises:
        InputError: Two columns have one name.
    """
    if kind(path) == ".jsonl":
        return list(dict.fromkeys(name for row in read_rows(path, "", encoding) for name in row.record))
    if kind(path) not in DIALECTS:
        return ["text"]
    with _open(path, encoding) as file:
        names: list[str] = next(csv.reader(file, **DIALECTS[kind(path)]), [])
    twice = next((name for i, name in enumerate(names) if name and name in names[:i]), None)
    if twice is not None:
        raise InputError(f"{path} has two columns {twice!r}; expected a name for each")
    return names


def read_rows(path: Path | None, column: str, encoding: str) -> Iterator[Row]:
    """Read the rows of a file, or of standard input where path is None."""
    if path is None:
        yield from _read_input(encoding)
        return
    with _open(path, encoding) as file:
        if kind(path) == ".jsonl":
            yield from _read_jsonl(file, column)
        elif kind(path) in DIALECTS:
            csv.field_size_limit(2**31 - 1)
            for number, record in enumerate(csv.DictReader(file, **DIALECTS[kind(path)]), 1):
                yield _pick_fields(number, record, column)
        else:
            yield from _read_lines(file)


def _read_input(encoding: str) -> Iterator[Row]:
    """Read the lines of standard input, each decoded alone: one that cannot be costs itself alone."""
    if sys.stdin is None:
        raise InputError("nothing to read, standard input is closed; expected -f FILE or piped input")
    codec = find_codec(encoding)
    if not has_plain_lines(codec):
        sys.stdin.reconfigure(encoding=codec, newline="\n")  # type: ignore[union-attr]
        yield from _read_lines(sys.stdin)
        return
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            text = line.decode(codec).removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as err:
            yield Row(number, None, {}, f"not {encoding} (byte {err.start})")
        else:
            yield Row(number, text, {"text": text})
        codec = codec.removesuffix("-sig")  # of the first line alone


def _open(path: Path, encoding: str) -> TextIO:
    newline = "" if kind(path) == ".csv" else "\n"
    return path.open(encoding=find_codec(encoding), newline=newline)


def _read_lines(file: TextIO) -> Iterator[Row]:
    for number, line in enumerate(file, 1):
        text = line.removesuffix("\n").removesuffix("\r")
        yield Row(number, text, {"text": text})


def _read_jsonl(file: TextIO, column: str) -> Iterator[Row]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as err:
            yield Row(number, None, {}, f"not JSON: {getattr(err, 'msg', 'too deep')}")
            continue
        if isinstance(record, dict):
            yield _pick(number, record, column)
        else:
            yield Row(number, None, {}, f"expected a JSON object, got {type(record).__name__}")


def _pick_fields(number: int, record: dict[str | Any, Any], column: str) -> Row:
    """Take the column of a line of fields; one that has more of them than the header is not what it seems."""
    more = record.pop(None, None)
    if more is not None:
        return Row(number, None, record, f"expected {len(record)} fields, got {len(record) + len(more)}")
    return _pick(number, record, column)


def _pick(number: int, record: dict[str, Any], column: str) -> Row:
    value = record.get(column)
    if isinstance(value, str | list):
        return Row(number, value, record)
    got = "nothing" if column not in record else "null" if value is None else type(value).__name__
    return Row(number, None, record, f"expected text in column {column!r}, got {got}")
