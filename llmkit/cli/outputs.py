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
from llmkit.errors import InputError, RunError


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
    A FILE.part that is there already is continued: `done` is the number of rows whose results are whole in it.
    """

    def __init__(self, path: Path, *, encoding: str, overwrite: bool, columns: list[str], per_row: int = 1) -> None:
        """Check the place; `columns` are all columns of a result, `per_row` the results that a row has."""
        self._path, self._part = path, path.with_name(path.name + ".part")
        self._encoding = python_name(encoding).removesuffix("-sig")
        self._columns = columns
        self._file: io.FileIO | None = None
        if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
            raise InputError(f"cannot write to {path}; expected a file in a folder that exists and can be written to")
        if path.exists() and not overwrite:
            raise InputError(f"{path} exists already", hint="--overwrite replaces it")
        self.done, self._keep = self._measure(per_row) if self._part.exists() else (0, 0)

    def _measure(self, per_row: int) -> tuple[int, int]:
        """Count the rows whose results are whole in FILE.part, and the bytes that they take."""
        has_header = self._path.suffix in DIALECTS
        ends = list(self._ends()) if has_header else [0, *self._ends()]
        if not ends:
            return 0, 0
        rows = (len(ends) - 1) // per_row
        return rows, ends[rows * per_row]

    def _ends(self) -> Iterator[int]:
        """Give the byte offset after each whole record, the header's first where there is one."""
        offset = quotes = 0
        with self._part.open("rb") as file:
            for line in file:
                offset += len(line)
                # A quoted field of a .csv may hold line breaks: its quotes are even in number once it is closed.
                quotes += line.count(b'"') if self._path.suffix == ".csv" else 0
                if line.endswith(b"\n") and quotes % 2 == 0:
                    yield offset

    def open(self) -> None:
        """Begin FILE.part, or go on after its last whole row."""
        # Without a buffer, so that each row is the system's at once and closing never fails.
        self._file = self._part.open("r+b" if self._part.exists() else "wb", buffering=0)
        self._file.truncate(self._keep)
        self._file.seek(self._keep)
        if self._keep == 0 and self._path.suffix in DIALECTS:
            self._write(self._format(self._columns))

    def put(self, row: Row, line: str, columns: dict[str, Any]) -> None:
        """Write one result.

        Raises:
            RunError: The disk is full, or cannot be written to any more.
        """
        if self._path.suffix == ".jsonl":
            line = json.dumps({**row.record, **columns}, ensure_ascii=False) + "\n"
        elif self._path.suffix in DIALECTS:
            record = {**row.record, **columns}
            line = self._format([record.get(name, "") for name in self._columns])
        else:
            line += "\n"
        self._write(line)

    def _format(self, values: list[Any]) -> str:
        if self._path.suffix == ".tsv":
            return "\t".join(_escape_cell("" if value is None else str(value)) for value in values) + "\n"
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(values)
        return text.getvalue()

    def _write(self, text: str) -> None:
        assert self._file is not None
        left = text.encode(self._encoding, "replace")
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as err:
            raise RunError(f"{self._part} cannot be written any further: {err.strerror}") from err

    def close(self, *, complete: bool) -> None:
        """Close the file, and give it its name where all results are there."""
        if self._file is None:
            return
        if complete:
            os.fsync(self._file.fileno())
        self._file.close()
        if complete:
            self._part.replace(self._path)
        else:
            render.note(f"what is done is kept in {self._part}; the same call goes on after it")


def _escape_cell(value: str) -> str:
    """Write a value into one cell of a .tsv, which has no quotes: a line break or tab in it is escaped."""
    if not any(c in value for c in "\n\r\t"):
        return value
    return render.escape(value).replace("\t", "\\t")
