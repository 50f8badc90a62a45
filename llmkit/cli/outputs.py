"""Results, one a row, to stdout or to a file that grows as FILE.part and is renamed at the end."""

import contextlib
import csv
import io
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from llmkit.cli import render
from llmkit.cli.rows import DIALECTS, Row, kind
from llmkit.encodings import find_codec, has_plain_lines
from llmkit.errors import InputError, RunError

SURROGATE = re.compile("[\ud800-\udfff]")  # half a character, which JSON can hold and no encoding


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
    A FILE.part that is there already is continued: `done` is the number of rows whose results are whole in it. Beside
    it FILE.part.json tells of which call it is, and how many rows `failed`; one of another call is refused,
    or begun anew to overwrite it.
    """

    def __init__(
        self,
        path: Path,
        *,
        encoding: str,
        overwrite: bool,
        columns: list[str],
        per_row: int = 1,
        call: Mapping[str, Any] | None = None,
    ) -> None:
        """Check the place.

        Args:
            path: The file.
            encoding: Its encoding.
            overwrite: Whether it may replace one, and a FILE.part of another call.
            columns: All columns of a result.
            per_row: The results that a row has.
            call: What decides the results.

        Raises:
            InputError: It cannot be written there, or not row by row in this encoding.
        """
        self._encoding = find_codec(encoding).removesuffix("-sig")
        if not has_plain_lines(self._encoding):
            sentence = f"-o cannot be written row by row in {encoding}, which it keeps; expected one such as utf-8"
            raise InputError(sentence, hint="without -o the results are printed, in UTF-8")
        if not path.name or path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
            raise InputError(f"cannot write to {path}; expected a file in a folder that exists and can be written to")
        if path.exists() and not overwrite:
            raise InputError(f"{path} exists already", hint="--overwrite replaces it")
        self.kind, self._path, self._part = kind(path), path, path.with_name(path.name + ".part")
        self._label = path.with_name(path.name + ".part.json")
        self._call, self._columns = dict(call or {}), columns
        self._file: io.FileIO | None = None
        self.done = self.failed = self._keep = 0
        before = self._read_label() if self._part.exists() else {}
        differing = self._compare_call(before)
        if differing and not overwrite:
            sentence = f"{self._part} is of another call: {', '.join(differing)} differ"
            raise InputError(sentence, hint="--overwrite begins anew")
        if self._part.exists() and not differing:
            self.done, self._keep = self._measure(per_row)
            self.failed = int(before.get("failed", 0))

    def _read_label(self) -> dict[str, Any]:
        """Read of which call FILE.part is, and how many rows failed; nothing where that is not known."""
        try:
            before = json.loads(self._label.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return before if isinstance(before, dict) else {}

    def _compare_call(self, before: dict[str, Any]) -> list[str]:
        """List what is different in the call that began FILE.part."""
        names = dict.fromkeys([*before, *self._call]) if before else {}
        different = [name for name in names if name != "failed" and before.get(name) != self._call.get(name)]
        return ["the files read" if name == "sha256" else name for name in different]

    def _measure(self, per_row: int) -> tuple[int, int]:
        """Count the rows whose results are whole in FILE.part, and the bytes that they take."""
        has_header = self.kind in DIALECTS
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
                quotes += line.count(b'"') if self.kind == ".csv" else 0
                if line.endswith(b"\n") and quotes % 2 == 0:
                    yield offset

    def open(self) -> None:
        """Begin FILE.part, or go on after its last whole row."""
        # Without a buffer, so that each row is the system's at once and closing never fails.
        self._file = self._part.open("r+b" if self._part.exists() else "wb", buffering=0)
        self._file.truncate(self._keep)
        self._file.seek(self._keep)
        if self._keep == 0:
            self.failed = 0
            self._write_label()
            if self.kind in DIALECTS:
                self._write(self._format(self._columns), "the header")
        elif self.done:
            render.note(f"{self._part} goes on after row {self.done:,}")

    def put(self, row: Row, line: str, columns: dict[str, Any]) -> None:
        """Write one result.

        Raises:
            RunError: The disk is full, or cannot be written to any more, or the encoding has no such character.
        """
        if self.kind == ".jsonl":
            line = json.dumps({**row.record, **columns}, ensure_ascii=not self._is_unicode) + "\n"
        elif self.kind in DIALECTS:
            record = {**row.record, **columns}
            line = self._format([record.get(name, "") for name in self._columns])
        else:
            line += "\n"
        self._write(line, f"row {row.number}")

    def count_failure(self) -> None:
        """Count a row that failed, before its place is written: the first at once, for a process that is killed.

        Raises:
            RunError: FILE.part.json cannot be written.
        """
        self.failed += 1
        if self.failed == 1:
            self._write_label()

    def _write_label(self) -> None:
        """Write FILE.part.json whole or not at all."""
        made = self._label.with_name(self._label.name + ".new")
        told = json.dumps({**self._call, "failed": self.failed}, ensure_ascii=False)
        try:
            made.write_text(told + "\n", encoding="utf-8")
            made.replace(self._label)
        except OSError as err:
            with contextlib.suppress(OSError):
                made.unlink()
            raise RunError(f"{self._label} cannot be written: {err.strerror}") from err

    @property
    def _is_unicode(self) -> bool:
        return self._encoding in ("utf-8", "gb18030")

    def _format(self, values: list[Any]) -> str:
        cells = [json.dumps(one, ensure_ascii=False) if isinstance(one, list | dict) else one for one in values]
        if self.kind == ".tsv":
            return "\t".join(_escape_cell("" if cell is None else str(cell)) for cell in cells) + "\n"
        text = io.StringIO()
        csv.writer(text, lineterminator="\r\n").writerow(cells)  # so that a lone carriage return is quoted too
        return text.getvalue().removesuffix("\r\n") + "\n"

    def _write(self, text: str, what: str) -> None:
        assert self._file is not None
        try:
            left = SURROGATE.sub("?", text).encode(self._encoding)
        except UnicodeEncodeError as err:
            sentence = f"{what} cannot be written in {self._encoding}, which has no {text[err.start]!r}"
            raise RunError(sentence, hint="-o keeps --encoding: put what is read into UTF-8 first") from None
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
            self._label.unlink(missing_ok=True)
            return
        if self.failed > 1:
            with contextlib.suppress(RunError):  # as on a full disk; that one failed is there already
                self._write_label()
        render.note(f"what is done is kept in {self._part}; the same call goes on after it")


def _escape_cell(value: str) -> str:
    """Write a value into one cell of a .tsv, which has no quotes: a line break or tab in it is escaped."""
    if not any(c in value for c in "\n\r\t"):
        return value
    return render.escape(value).replace("\t", "\\t")
