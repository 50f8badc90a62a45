"""Rows in, results out: what every command that reads -f and writes -o has in common."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import typer

from llmkit.cli import outputs, render, rows
from llmkit.encodings import find_codec
from llmkit.errors import InputError

# Gives each row of an iterator its results, or comes back with the row's error set and none.
Answers = Callable[[Iterator[rows.Row]], Iterator[tuple[rows.Row, list[Any]]]]
# Arguments that leave the results as they are, or name where they go.
INDIFFERENT = {"output", "overwrite", "quiet", "debug", "batch_size", "device", "offline"}
PATH_LENGTH = 256  # characters of a text that may be meant for the name of a file


@dataclass(frozen=True)
class Flow:
    """Holds where rows come from and where results go.

    Attributes:
        text: TEXT, where it was given.
        file: What -f names; "-" is standard input.
        output: What -o names.
        column: The column of a table that holds the input.
        encoding: Of what is read; -o keeps it.
        overwrite: Whether -o may replace a file.
        as_json: Whether a result is shown as JSON.
        quiet: Whether progress is kept away.
        columns: The columns that -o adds to a table, and the field of a result that each holds.
        per_row: The number of results of a row.
        call: The command and its arguments; a FILE.part goes on by the same call alone.
        inputs: Names of further files that it reads.
    """

    text: str | None
    file: str | None
    output: Path | None
    column: str
    encoding: str
    overwrite: bool
    as_json: bool
    quiet: bool
    columns: Mapping[str, str]
    per_row: int = 1
    call: typer.Context | None = None
    inputs: Sequence[str] = ()

    def open(self) -> "OpenFlow":
        """Check what is to be read and written, before any model is loaded; nothing is written yet.

        Raises:
            InputError: An input cannot be read, or the output not be written.
        """
        find_codec(self.encoding)
        if self.file is not None and self.text is not None:
            raise InputError("got both TEXT and -f; expected one of them")
        path = Path(self.file) if self.file not in (None, "-") else None
        total = rows.check_file(path, self.column, self.encoding) if path is not None else None
        whole = rows.read_whole(self.text, self.encoding) if self.file is None else None
        if self.text is not None and len(self.text) < PATH_LENGTH and os.path.isfile(self.text):
            render.note(f"{self.text!r} itself is the text; -f reads the file of this name")
        return OpenFlow(self, path, total, whole, self._open_table(path) if self.output is not None else None)

    def _open_table(self, path: Path | None) -> outputs.Table:
        assert self.output is not None
        if path is not None and self.output.resolve() == path.resolve():
            raise InputError(f"-o and -f name the same file: {path}")
        header = rows.read_header(path, self.encoding) if path is not None else ["text"]
        taken = [name for name in self.columns if name in header and rows.kind(self.output) in rows.TABLES]
        if taken:
            hint = "another name in the file keeps it; -o NAME.txt takes the results alone"
            raise InputError(f"{path} has a column {taken[0]!r} already, which would be added", hint=hint)
        return outputs.Table(
            self.output,
            encoding=self.encoding,
            overwrite=self.overwrite,
            columns=[*header, *self.columns],
            per_row=self.per_row,
            call=self._describe_call(),
        )

    def _describe_call(self) -> dict[str, Any]:
        """Describe what decides the results, as JSON: the arguments, the bytes of what is read, and the checkpoints."""
        if self.call is None:
            return {}
        from llmkit.runfolder import hash_file

        given = {name: value for name, value in self.call.params.items() if name not in INDIFFERENT}
        read = [Path(name) for name in (self.file, *self.inputs) if name is not None]
        hashes = {str(path): hash_file(path) for path in read if path.is_file()}
        described = {"command": self.call.info_name, **given, "sha256": hashes, **self._hash_checkpoints(self.call)}
        plain: dict[str, Any] = json.loads(json.dumps(described, default=str))
        return plain

    def _hash_checkpoints(self, call: typer.Context) -> dict[str, str]:
        """Compute a sha256 for each checkpoint of the call that is a path here: another one may take its name.

        Raises:
            InputError: One cannot be a checkpoint.
        """
        from llmkit.locating import locate

        given = {name: call.params.get(name) for name in ("model", "adapter", "tokenizer")}
        return {
            f"{name} files": self._hash_checkpoint(locate(path).path)
            for name, path in given.items()
            if path is not None and os.path.exists(os.path.expanduser(path))
        }

    def _hash_checkpoint(self, path: Path) -> str:
        """Compute the sha256 of a checkpoint's manifest, else of the names, sizes and times (in ns) of its files."""
        from llmkit.runfolder import hash_file

        manifest = path / "manifest.json"
        if manifest.is_file():
            return hash_file(manifest)
        assert self.output is not None
        own = self.output.name  # it may lie among them
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        facts = [
            (file.name, file.stat().st_size, file.stat().st_mtime_ns)
            for file in files
            if file.is_file() and file.name != own and not file.name.startswith((".", f"{own}.part"))
        ]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


@dataclass(frozen=True)
class OpenFlow:
    """Holds checked inputs and outputs; `whole` is the one input where there are no rows."""

    flow: Flow
    path: Path | None
    total: int | None
    whole: str | None
    table: outputs.Table | None

    @property
    def is_one(self) -> bool:
        """Whether there is one input and one result, for the screen."""
        return self.whole is not None and self.table is None and self.flow.per_row == 1

    def run(self, answers: Answers) -> int:
        """Answer all rows in order; return 1 where a row had an error, also one done by a call before, else 0."""
        source: Iterable[rows.Row]
        if self.whole is not None:
            source = [rows.Row(1, self.whole, {"text": self.whole})]
        else:
            source = rows.read_rows(self.path, self.flow.column, self.flow.encoding)
        first = self.table.done if self.table is not None else 0
        progress = render.Progress(self.total, quiet=self.flow.quiet, first=first)
        failed = complete = False
        try:
            if self.table is not None:
                self.table.open()
                failed = self.table.failed > 0
            for done, (row, results) in enumerate(answers(islice(source, first, None)), first + 1):
                failed |= row.error is not None
                self._put(row, results)
                progress.update(done)
            complete = True
        finally:
            progress.close()
            if self.table is not None:
                self.table.close(complete=complete)
        return 1 if failed else 0

    def _put(self, row: rows.Row, results: list[Any]) -> None:
        sink: outputs.Sink = self.table or outputs.Screen()
        if row.error is not None:
            if self.table is not None:
                self.table.count_failure()
            problem = {"row": row.number, "error": row.error}
            in_fields = self.table is not None and self.table.kind in rows.DIALECTS  # which have no column for it
            if not self.flow.as_json or in_fields:
                render.say("error", f"row {row.number}: {row.error}")
            added = {name: value for name, value in problem.items() if name == "error" or name not in row.record}
            for _ in range(self.flow.per_row):  # in the place of each result
                sink.put(row, render.to_json(problem) if self.flow.as_json else "", added)
            return
        for result in results:
            text = str(result) if self.whole is not None else render.escape(str(result))
            columns = {column: getattr(result, name) for column, name in self.flow.columns.items()}
            sink.put(row, render.to_json(result) if self.flow.as_json else text, columns)
