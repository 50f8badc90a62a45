"""`llmkit generate`: one text as it is decoded, or a result for each row of a file."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from llmkit.cli import options, outputs, render, rows
from llmkit.errors import InputError

if TYPE_CHECKING:
    from llmkit.tasks.generation import Job
    from llmkit.tasks.results import Generation

# The columns that -o adds to a table, and the field of a Generation that each holds.
COLUMNS = {"generation": "text", "finish_reason": "finish_reason", "seed": "seed"}
CHUNK = 8  # batches that are read ahead, so that a row that ends early makes room for the next


def generate(
    text: options.Text = None,
    model: options.Model = None,
    adapter: options.Adapter = None,
    file: options.File = None,
    output: options.Output = None,
    column: options.Column = "text",
    max_new_tokens: options.MaxNewTokens = None,
    num_samples: int = typer.Option(1, "-N", "--num-samples", help="So many texts for each input."),
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    top_k: options.TopK = None,
    num_beams: options.NumBeams = None,
    stop: options.Stop = None,
    seed: options.Seed = None,
    truncate: options.Truncate = None,
    as_json: options.Json = False,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    tokenizer: options.Tokenizer = None,
    offline: options.Offline = False,
    batch_size: options.BatchSize = 16,
    encoding: options.Encoding = "utf-8",
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> int:
    """Continue a text with a language model; the continuation alone is printed."""
    render.NOTES.quiet = quiet
    settings = given(
        locals(), "max_new_tokens", "temperature", "top_p", "top_k", "num_beams", "stop", "seed", "truncate"
    )
    check(settings, num_samples=num_samples, batch_size=batch_size)
    total = open_input(file, text, column, encoding)
    whole = rows.read_whole(text, encoding) if file is None else None
    table = open_table(output, file, column, encoding, overwrite, num_samples)
    job = open_job(model, settings, adapter=adapter, tokenizer=tokenizer, device=device, dtype=dtype, offline=offline)
    render.NOTES.show()
    if whole is not None and table is None and num_samples == 1:
        return stream_one(job, whole, as_json)
    source: Iterable[rows.Row] = (
        [rows.Row(1, whole, {"text": whole})] if whole is not None else read(file, column, encoding)
    )
    sink: outputs.Sink = table or outputs.Screen()
    progress = render.Progress(total, quiet=quiet or (table is None and total is None))
    failed, complete = False, False
    try:
        skip = table.done if table else 0
        for row, results in answers(job, itertools.islice(source, skip, None), num_samples, batch_size):
            failed |= put(sink, row, results, as_json, whole is not None)
            if table:
                table.flush()
            progress.update(row.number)
        complete = True
    finally:
        progress.close()
        if table:
            table.close(complete=complete)
    return 1 if failed else 0


def given(values: dict[str, Any], *names: str) -> dict[str, Any]:
    """Pick the settings that were given."""
    return {name: values[name] for name in names if values[name] is not None}


def check(settings: dict[str, Any], **counts: int) -> None:
    """Check the settings before anything is read or loaded."""
    from llmkit.tasks.sampling import check_count, check_settings

    check_settings(settings)  # type: ignore[arg-type]
    for name, value in counts.items():
        check_count(name, value)


def open_input(file: str | None, text: str | None, column: str, encoding: str) -> int | None:
    """Check what is to be read; return its number of rows where that can be known."""
    rows.python_name(encoding)
    if file is not None and text is not None:
        raise InputError("got both TEXT and -f; expected one of them")
    return rows.check_file(Path(file), column, encoding) if file not in (None, "-") else None


def read(file: str | None, column: str, encoding: str) -> Iterator[rows.Row]:
    """Read the rows that -f names."""
    return rows.read_rows(None if file in (None, "-") else Path(file), column, encoding)


def open_table(
    output: Path | None, file: str | None, column: str, encoding: str, overwrite: bool, per_row: int
) -> outputs.Table | None:
    """Open the file that -o names, before the model is loaded."""
    if output is None:
        return None
    if file not in (None, "-") and output.resolve() == Path(file).resolve():
        raise InputError(f"-o and -f name the same file: {output}")
    header = (rows.read_header(Path(file), encoding) if file not in (None, "-") else None) or [column]
    taken = sorted(set(header) & set(COLUMNS)) if output.suffix in rows.TABLES else []
    if taken:
        raise InputError(f"{file} has a column {taken[0]!r} already, which generate adds")
    return outputs.Table(output, encoding=encoding, overwrite=overwrite, columns=[*header, *COLUMNS], per_row=per_row)


def open_job(model: str | None, settings: dict[str, Any], **loading: Any) -> Job:
    """Load the checkpoint and settle the settings."""
    from llmkit.defaults import default_checkpoint
    from llmkit.loading import load

    lm = load(model if model is not None else default_checkpoint("generation"), task="generation", **loading)
    from llmkit.tasks.generation import prepare

    return prepare(lm, settings)  # type: ignore[arg-type]


def stream_one(job: Job, text: str, as_json: bool) -> int:
    """Print one continuation as it is decoded."""
    from llmkit.tasks.generation import TextStream

    stream = TextStream(job, job.encode(text))
    for piece in stream:
        if not as_json:
            render.write(piece)
    render.write(render.to_json(stream.result) + "\n" if as_json else "\n")
    return 0


def answers(
    job: Job, source: Iterator[rows.Row], num_samples: int, batch_size: int
) -> Iterator[tuple[rows.Row, list[Generation]]]:
    """Continue row by row, in chunks; a row that cannot be continued comes back with its error."""
    while chunk := list(itertools.islice(source, batch_size * CHUNK)):
        encoded: dict[int, list[int]] = {}
        for i, row in enumerate(chunk):
            if row.error is None:
                try:
                    encoded[i] = job.encode(row.value)
                except InputError as err:
                    chunk[i] = rows.Row(row.number, None, row.record, str(err))
        results = job.run(list(encoded.values()), num_samples=num_samples, batch_size=batch_size)
        found = {i: results[n * num_samples : (n + 1) * num_samples] for n, i in enumerate(encoded)}
        for i, row in enumerate(chunk):
            yield row, found.get(i, [])


def put(sink: outputs.Sink, row: rows.Row, results: list[Generation], as_json: bool, whole: bool) -> bool:
    """Put the results of one row, or its error in their place; tell whether it was an error."""
    if row.error is not None:
        problem = {"row": row.number, "error": row.error}
        if not as_json:
            render.say("error", f"row {row.number}: {row.error}")
        sink.put(row, render.to_json(problem) if as_json else "", problem)
        return True
    for result in results:
        line = render.to_json(result) if as_json else result.text if whole else render.escape(result.text)
        sink.put(row, line, {column: getattr(result, name) for column, name in COLUMNS.items()})
    return False
