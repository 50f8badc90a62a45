"""The rows of a file, by its kind: txt, jsonl, csv, tsv, json, parquet and arrow, each also as .gz.

A file is read lazily, in order and in bounded memory, however large it is unpacked; .json alone is held whole. What is
wrong with one row is said in that row; what is wrong with a file is raised.
"""

import codecs
import contextlib
import csv
import dataclasses
import gzip
import json
import stat
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any, TextIO, cast

from llmkit import encodings
from llmkit.data import squad
from llmkit.data.columns import Row, check_columns, check_separator, pick
from llmkit.errors import InputError
from llmkit.recipe.schema import SourceSpec

BLOCK = 2**20  # characters of a long text that are read at a time
MAX_ROW = 2**27  # characters of a row: a gzip bomb or a file without line ends must not fill the memory
MAX_JSON = 2**28
TEXT = "text_column"
Columns = Mapping[str, str]  # the key of a recipe's section data -> the column that it names
BATCH = 64  # rows of a parquet or arrow file that are turned into Python at a time


def find_kind(path: Path) -> str | None:
    """Tell a file's kind from the end of its name, as `jsonl` for train.jsonl.gz; None for any other."""
    name = path.name.lower().removesuffix(".gz")
    kind = name.rpartition(".")[2] if "." in name else ""
    return kind if kind in READERS else None


def read_rows(path: Path, spec: SourceSpec, *, kind: str | None = None) -> Iterator[Row]:
    """Read the text of each row of a file, as the kind that its name tells where none is given.

    Raises:
        InputError: The file cannot be read as that kind, or lacks the column.
    """
    return unwrap(read_columns(path, spec, {TEXT: spec.text_column}, kind=kind))


def unwrap(rows: Iterator[Row]) -> Iterator[Row]:
    """Take the one value out of each row's tuple."""
    for row in rows:
        yield dataclasses.replace(row, value=row.value[0]) if isinstance(row.value, tuple) else row


def read_columns(path: Path, spec: SourceSpec, columns: Columns, *, kind: str | None = None) -> Iterator[Row]:
    """Read some columns of each row of a file: the row's value is a tuple of theirs.

    A .json in the form of SQuAD has a row for each question: id, title, context, question, answers (text and
    answer_start, a list each), is_impossible.

    Raises:
        InputError: The file cannot be read as that kind, or lacks a column.
    """
    kind = kind or find_kind(path)
    if kind is None:
        raise InputError(f"cannot tell what {path} holds; expected {', '.join(READERS)}, each also as .gz")
    check_regular(path)
    if kind == "txt" and list(columns) != [TEXT]:
        raise InputError(f"{path} has no columns; expected csv, tsv, jsonl, json, parquet or arrow")
    with _explaining(path, kind, spec.encoding):
        yield from READERS[kind](path, spec, columns)


def check_regular(path: Path) -> None:
    """Check that a path is a file that can be read to its end: no pipe, no device.

    Raises:
        InputError: It is not.
    """
    try:
        mode = path.stat().st_mode
    except OSError as err:
        raise InputError(f"{path} cannot be read: {err.strerror}") from None
    if not stat.S_ISREG(mode):
        raise InputError(f"not a regular file: {path}")


@contextlib.contextmanager
def _explaining(path: Path, kind: str, encoding: str) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError:
        hint = encodings.suggest(_read_blocks(path), encoding, "data.encoding: ")
        line, byte = _find_undecodable(path, encoding)
        raise InputError(f"{path} line {line} byte {byte}: not {encoding}", hint=hint) from None
    except UnicodeError:  # utf-16 and utf-32 alone, which begin with a mark of the order of their bytes
        raise encodings.lack_mark(path, encoding, "data.encoding: ") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as err:
        reason = "it is cut short" if isinstance(err, EOFError) else str(err)
        raise InputError(f"{path} is not a whole gzip file: {reason}") from None
    except OSError as err:
        if err.strerror is None:  # pyarrow's, where a table ends too early
            raise InputError(f"{path} is not a whole {kind} file: {_shorten(err)}") from None
        raise InputError(f"{path} cannot be read: {err.strerror}") from None


def _read_blocks(path: Path) -> Iterator[bytes]:
    """Read a file as far as it can be read."""
    with contextlib.suppress(EOFError, OSError, zlib.error), _open_binary(path) as file:
        while block := file.read(BLOCK):
            yield block


def _find_undecodable(path: Path, encoding: str) -> tuple[int, int]:
    """Find the line and the byte in it, both from 1, at which a file cannot be decoded."""
    decoder = codecs.getincrementaldecoder(encodings.find_codec(encoding))()
    line, start = 1, 0
    with _open_binary(path) as file:
        while True:
            block = file.readline(BLOCK)
            pending = len(decoder.getstate()[0])
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as err:
                return line, start + err.start - pending + 1
            if not block:
                return line, start  # the file has changed meanwhile
            line, start = (line + 1, 0) if block.endswith(b"\n") else (line, start + len(block))


def _open_binary(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path)) if path.name.lower().endswith(".gz") else path.open("rb")


def _open_text(path: Path, encoding: str, newline: str | None) -> TextIO:
    codec = encodings.find_codec(encoding)
    return TextIOWrapper(_open_binary(path), encoding=codec, newline=newline)


def _read_lines(file: TextIO, path: Path) -> Iterator[str]:
    number = 1
    while line := file.readline(MAX_ROW):
        if len(line) == MAX_ROW:
            raise InputError(f"{path} line {number} is longer than {MAX_ROW:,} characters; expected shorter rows")
        yield line
        number += 1


def _read_txt(path: Path, spec: SourceSpec, columns: Columns) -> Iterator[Row]:
    """Read a text; every line end becomes a line feed, and a text longer than a block comes in several rows.

    Rows that are lines end where `wc -l` counts one: a carriage return within is no end, else files whose lines belong
    together would not go together.
    """
    with _open_text(path, spec.encoding, newline="\n" if spec.sample_by == "line" else None) as file:
        if spec.sample_by == "document":
            rows = _cut_document(file, str(path), fences=spec.clean.markdown or spec.clean.code)
        elif spec.sample_by == "paragraph":
            rows = _cut_paragraphs(file, path)
        else:
            lines = _cut_lines(file)
            rows = (Row(f"{path} line {number}", _drop_end(line), ends=ends) for number, ends, line in lines)
        rows = (dataclasses.replace(row, value=(row.value,)) for row in rows)
        last = None  # is known to end its document only when nothing follows: it may fill its block to the last place
        for row in rows:
            if last is not None:
                yield last
            last = row
        if last is not None:
            yield dataclasses.replace(last, ends=True)


def _cut_document(file: TextIO, where: str, *, fences: bool) -> Iterator[Row]:
    text = ""
    while block := file.read(BLOCK):
        text += block
        if len(text) >= 2 * BLOCK:
            end = _find_cut(text, fences=fences)
            yield Row(where, text[:end], ends=False)
            text = text[end:]
    if text:
        yield Row(where, text)


def _find_cut(text: str, *, fences: bool) -> int:
    """Find where a block may end: at a blank line, outside fenced code if asked; else at a line; else anywhere."""
    end = _find_blank(text) if fences else text.rfind("\n\n", BLOCK // 2, 2 * BLOCK)
    if end >= 0:
        return end + 2
    return text.rfind("\n", BLOCK // 2) + 1 or len(text)


def _find_blank(text: str) -> int:
    """Find the last blank line outside fenced code, in one pass from fence to fence; -1 where there is none."""
    found, start, inside = -1, 0, text.startswith("```")
    while True:
        fence = text.find("\n```", start, 2 * BLOCK)
        if not inside:
            end = 2 * BLOCK if fence < 0 else fence + 1  # the line feed of a fence may end a blank line
            found = max(found, text.rfind("\n\n", max(start, BLOCK // 2), end))
        if fence < 0:
            return found
        start, inside = fence + 4, not inside


def _drop_end(line: str) -> str:
    return line.removesuffix("\n").removesuffix("\r") if line.endswith("\n") else line


def _cut_lines(file: TextIO) -> Iterator[tuple[int, bool, str]]:
    number = 1
    while line := file.readline(BLOCK):
        if line.endswith("\r") and len(line) == BLOCK:
            line += file.read(1)  # its line feed
        ends = line.endswith("\n") or len(line) < BLOCK
        yield number, ends, line
        number += ends


def _cut_paragraphs(file: TextIO, path: Path) -> Iterator[Row]:
    lines: list[str] = []
    first, size = 0, 0
    for number, _, line in _cut_lines(file):
        if line.strip():
            first = first or number
            if size >= BLOCK:
                yield Row(f"{path} line {first}", "".join(lines), ends=False)
                lines, size = [], 0
            lines.append(line)
            size += len(line)
        elif lines:
            yield Row(f"{path} line {first}", "".join(lines).removesuffix("\n"))
            lines, first, size = [], 0, 0
    if lines:
        yield Row(f"{path} line {first}", "".join(lines).removesuffix("\n"))


def _read_jsonl(path: Path, spec: SourceSpec, columns: Columns) -> Iterator[Row]:
    first = True
    with _open_text(path, spec.encoding, newline="\n") as file:
        for number, line in enumerate(_read_lines(file, path), 1):
            if not line.strip():
                continue
            where = f"{path} row {number}"
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as err:
                yield Row(where, None, f"not JSON ({getattr(err, 'msg', None) or 'too deep or too long a number'})")
                continue
            if first and isinstance(record, list):
                raise InputError(f"{where}: expected one object a line, got a list", hint="is it a .json file?")
            yield pick(record, columns, where, strict=first)
            first = False


def _read_json(path: Path, spec: SourceSpec, columns: Columns) -> Iterator[Row]:
    with _open_text(path, spec.encoding, newline="\n") as file:
        text = file.read(MAX_JSON)
    if len(text) == MAX_JSON:
        raise InputError(f"{path} is longer than {MAX_JSON:,} characters; expected a .jsonl for so much")
    if not text.strip():
        return
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as err:
        line = f" line {err.lineno}" if isinstance(err, json.JSONDecodeError) else ""
        raise InputError(f"{path}{line}: not JSON ({getattr(err, 'msg', 'too deep or too long a number')})") from None
    if isinstance(found, dict):
        lists = [value for value in found.values() if isinstance(value, list)]
        found = lists[0] if len(lists) == 1 else None
    if not isinstance(found, list):
        raise InputError(f"{path}: expected a list of objects, or an object with one such list")
    if found and isinstance(found[0], dict) and "paragraphs" in found[0] and "paragraphs" not in columns.values():
        if list(columns) == [TEXT] and columns[TEXT] not in squad.COLUMNS:
            raise InputError(f"{path} is in SQuAD's form, for question answering; expected a list of objects with text")
        records = squad.list_questions(found, path)
    else:
        records = ((f"{path} row {number}", record) for number, record in enumerate(found, 1))
    first = True
    for where, record in records:
        yield record if isinstance(record, Row) else pick(record, columns, where, strict=first)
        first = False


def _read_csv(path: Path, spec: SourceSpec, columns: Columns) -> Iterator[Row]:
    csv.field_size_limit(MAX_ROW)
    with _open_text(path, spec.encoding, newline="") as file:
        reader = csv.reader(_read_lines(file, path), strict=True)
        try:
            yield from _read_fields((fields for fields in reader if fields), path, spec.column_names, columns)
        except csv.Error as err:
            raise InputError(f"{path} line {reader.line_num}: not csv ({err})") from None


def _read_tsv(path: Path, spec: SourceSpec, columns: Columns) -> Iterator[Row]:
    """Read a tsv without quoting: a quote is a character like all others, a line is a row."""
    with _open_text(path, spec.encoding, newline="\n") as file:
        lines = (line.removesuffix("\n").removesuffix("\r") for line in _read_lines(file, path))
        yield from _read_fields((line.split("\t") for line in lines if line), path, spec.column_names, columns)


def _read_fields(
    records: Iterator[list[str]], path: Path, names: Sequence[str] | None, columns: Columns
) -> Iterator[Row]:
    header = list(names) if names else next(records, None)
    if header is None:
        return
    check_separator(header, columns.values(), str(path), of_tsv=find_kind(path) == "tsv")
    for key, column in columns.items():
        check_columns(header, column, str(path), key=key)
    indices = [header.index(column) for column in columns.values()]
    for number, fields in enumerate(records, 1):
        where = f"{path} row {number}"
        if len(fields) == len(header):
            yield Row(where, tuple(fields[i] for i in indices))
        else:
            yield Row(where, None, f"expected {len(header)} fields, got {len(fields)}")


def _read_parquet(path: Path, spec: SourceSpec, columns: Columns) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with _open_binary(path) as file:
            table = pq.ParquetFile(file)
            tops = find_tops(table.schema_arrow.names, columns, str(path))
            yield from _read_batches(table.iter_batches(BATCH, columns=tops), columns, path)
    except pa.ArrowException as err:
        raise InputError(f"{path} is not a whole parquet file: {_shorten(err)}") from None


def _read_arrow(path: Path, spec: SourceSpec, columns: Columns) -> Iterator[Row]:
    """Read an arrow file in either form: the stream, which datasets writes, or the file with its footer."""
    import pyarrow as pa

    try:
        with _open_binary(path) as file:
            is_file = file.read(6) == b"ARROW1"
            file.seek(0)
            if is_file:
                table = pa.ipc.open_file(file)
                batches = (table.get_batch(i) for i in range(table.num_record_batches))
            else:
                table = pa.ipc.open_stream(file)
                batches = iter(table)
            tops = find_tops(table.schema.names, columns, str(path))
            yield from _read_batches((batch.select(tops) for batch in batches), columns, path)
    except pa.ArrowException as err:
        raise InputError(f"{path} is not a whole arrow file: {_shorten(err)}") from None


def _shorten(err: Exception) -> str:
    return " ".join(str(err).split())[:120]


def find_tops(names: Sequence[str], columns: Columns, where: str) -> list[str]:
    """Find the columns of a table that hold the wanted ones, which may be nested in them.

    Raises:
        InputError: One is missing, or two have its name.
    """
    tops = []
    for key, column in columns.items():
        top = column if column in names else column.partition(".")[0]
        check_columns(list(names), top if top in names else column, where, key=key)
        tops.append(top)
    return list(dict.fromkeys(tops))


def _read_batches(batches: Iterator[Any], columns: Columns, path: Path) -> Iterator[Row]:
    number = 0
    for batch in batches:
        for i in range(batch.num_rows):
            number += 1
            where = f"{path} row {number}"
            try:
                record = {name: batch.column(name)[i].as_py() for name in batch.schema.names}
            except UnicodeDecodeError:
                yield Row(where, None, "not utf-8")
                continue
            yield pick(record, columns, where, strict=number == 1)


READERS: dict[str, Callable[[Path, SourceSpec, Columns], Iterator[Row]]] = {
    "txt": _read_txt,
    "jsonl": _read_jsonl,
    "csv": _read_csv,
    "tsv": _read_tsv,
    "json": _read_json,
    "parquet": _read_parquet,
    "arrow": _read_arrow,
}
