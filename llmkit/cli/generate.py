"""`llmkit generate`: one text as it is decoded, or a result for each row of a file."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import typer

from llmkit.cli import opening, options, render, rows
from llmkit.cli.flow import Flow
from llmkit.errors import InputError

if TYPE_CHECKING:
    from llmkit.loading import Loaded
    from llmkit.tasks.generation import Job, Start
    from llmkit.tasks.results import Generation

# The columns that -o adds to a table, and the field of a Generation that each holds.
COLUMNS = {"generation": "text", "finish_reason": "finish_reason", "seed": "seed"}
CHUNK = 8  # batches that are read ahead, so that a row that ends early makes room for the next


def generate(
    context: typer.Context,
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
    flow = Flow(
        text, file, output, column, encoding, overwrite, as_json, quiet, COLUMNS, num_samples, call=context
    ).open()
    job = open_job(model, settings, adapter=adapter, tokenizer=tokenizer, device=device, dtype=dtype, offline=offline)
    render.NOTES.show()
    if flow.is_one:
        return stream_one(job, flow.whole or "", as_json)
    return flow.run(lambda source: answer_rows(job, source, num_samples, batch_size))


def given(values: dict[str, Any], *names: str) -> dict[str, Any]:
    """Pick the settings that were given."""
    return {name: values[name] for name in names if values[name] is not None}


def check(settings: dict[str, Any], **counts: int) -> None:
    """Check the settings before anything is read or loaded."""
    from llmkit.tasks.sampling import check_count, check_settings

    check_settings(settings)  # type: ignore[arg-type]
    for name, value in counts.items():
        check_count(name, value)


def open_job(model: str | None, settings: dict[str, Any], *, use: str = "generation", **loading: Any) -> Job:
    """Load the checkpoint, or the default for a use, and settle the settings."""

    def make(lm: Loaded) -> Job:
        from llmkit.tasks.generation import prepare

        return prepare(lm, settings)  # type: ignore[arg-type]

    return opening.open_job(model, make, use=use, heads="generation", **loading)


def stream_one(job: Job, text: str, as_json: bool) -> int:
    """Print one continuation as it is decoded."""
    from llmkit.tasks.generation import TextStream

    stream = TextStream(job, job.encode(text))
    for piece in stream:
        if not as_json:
            render.write(piece)
    render.write(render.to_json(stream.result) + "\n" if as_json else "\n")
    return 0


def answer_rows(
    job: Job, source: Iterator[rows.Row], num_samples: int, batch_size: int
) -> Iterator[tuple[rows.Row, list[Generation]]]:
    """Continue row by row, in chunks; a row that cannot be continued comes back with its error."""
    while chunk := list(itertools.islice(source, batch_size * CHUNK)):
        encoded: dict[int, Start] = {}
        for i, row in enumerate(chunk):
            if row.error is None:
                try:
                    encoded[i] = job.encode(row.value)
                except InputError as err:
                    chunk[i] = rows.Row(row.number, None, row.record, str(err))
        results = job.run_in_order(list(encoded.values()), num_samples=num_samples, batch_size=batch_size)
        for i, row in enumerate(chunk):
            yield row, list(itertools.islice(results, num_samples if i in encoded else 0))
