"""Results, one a row, to stdout or to a file that grows as FILE.part and is renamed at the end."""

import csv
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from llmkit.cli import render
from llmkit.cli.rows import DIALECTS, Row, python_name
from llmkit.errors import InputError


class Sink(Protocol):
    """Takes the results of rows in order."""

    def put(self, row: Row, line: str, columns: dict[str, Any]) -> None:
        """Take one result: as a line, and as the columns that it adds to a table."""
        ...


class Screen:
    """Writes a line a result to stdout."""

    def put(self, row: Row, line: str, columns: dict[str, Any]) -> None:
        """Write one result."""
        render.write(line + "\n")


class Table:
    """Writes results to FILE.part and renames it when all are there.

    For .jsonl, .csv and .tsv each result keeps the columns of its row and adds ours; for other names it is a line.
    """

    def __init__(self, path: Path, *, encoding: str, overwrite: bool, columns: list[str], per_row: int = 1) -> None:
        """Open the file; `columns` are all columns of a result, `per_row` the results that a row has."""
        self._path, self._part = path, path.with_name(path.name + ".part")
        self._encoding = python_name(encoding).removesuffix("-sig")
        self._columns = columns
        if path.is_dir() or not path.parent.is_dir():
            raise InputError(f"cannot write to {path}; expected a file in a folder that exists")
        if path.exists() and not overwrite:
            raise InputError(f"{path} exists already", hint="--overwrite replaces it")
        done, keep = self._measure(per_row) if self._part.exists() else (0, 0)
        self.done = done // per_row
        try:
            self._file = self._part.open("r+b" if self._part.exists() else "wb")
            self._file.truncate(keep)
            self._file.seek(keep)
        except OSError as err:
            raise InputError(f"cannot write to {self._part}: {err.strerror}") from None
        if keep == 0 and path.suffix in DIALECTS:
            self._write(self._format(columns))

    def _measure(self, per_row: int) -> tuple[int, int]:
        """Count the results in FILE.part that belong to whole rows, and the bytes that they take."""
        ends = [0, *self._ends()] if self._path.suffix not in DIALECTS else list(self._ends())
        if not ends:
            return 0, 0
        done = (len(ends) - 1) // per_row * per_row
        return done, ends[done]

    def _ends(self) -> Iterator[int]:
        """Give the byte offset after each whole record, the header's first where there is one."""
        offset = 0
        record = b""
        with self._part.open("rb") as file:
            for line in file:
                record += line
                offset += len(line)
                if line.endswith(b"\n") and self._is_whole(record):
                    record = b""
                    yield offset

    def _is_whole(self, record: bytes) -> bool:
        # A quoted field of a .csv may hold line breaks: its quotes are even in number when it is closed.
        return self._path.suffix != ".csv" or record.count(b'"') % 2 == 0

    def put(self, row: Row, line: str, columns: dict[str, Any]) -> None:
        """Write one result."""
        if self._path.suffix == ".jsonl":
            self._write(json.dumps({**row.record, **columns}, ensure_ascii=False) + "\n")
        elif self._path.suffix in DIALECTS:
            record = {**row.record, **columns}
            self._write(self._format([record.get(name, "") for name in self._columns]))
        else:
            self._write(line + "\n")

    def _format(self, values: list[Any]) -> str:
        if self._path.suffix == ".tsv":
            return (
                "\t".join(render.escape(str(v)).replace("\t", "\\t") if _breaks(v) else str(v) for v in values) + "\n"
            )
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(values)
        return text.getvalue()

    def _write(self, text: str) -> None:
        self._file.write(text.encode(self._encoding, "replace"))

    def flush(self) -> None:
        """Hand what was written to the system, so that a broken run can be taken up after it."""
        self._file.flush()

    def close(self, *, complete: bool) -> None:
        """Close the file; give it its name where all results are there."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        if complete:
            self._part.replace(self._path)


def _breaks(value: Any) -> bool:
    return isinstance(value, str) and any(c in value for c in "\n\r\t")
