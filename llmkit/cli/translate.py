"""`llmkit translate`: one text of any length, or a translation for each row of a file."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmkit.cli import opening, options, render, rows
from llmkit.cli.flow import Flow

if TYPE_CHECKING:
    from llmkit.loading import Loaded
    from llmkit.tasks.results import Translation
    from llmkit.tasks.translation import Job

# The column that -o adds to a table, and the field of a Translation that it holds.
COLUMNS = {"translation": "text"}
CHUNK = 256  # rows that are read ahead, so that batches can be planned by length

From = Annotated[
    str | None, typer.Option("--from", metavar="CODE", help="The language of the input, such as en, zh or fra_Latn.")
]
To = Annotated[str | None, typer.Option("--to", metavar="CODE", help="The language to translate to.")]
BatchSize = Annotated[
    int | None, typer.Option("--batch-size", help="At most so many sentences at a time; else what the memory holds.")
]


def translate(
    context: typer.Context,
    text: options.Text = None,
    src_lang: From = None,
    tgt_lang: To = None,
    model: options.Model = None,
    adapter: options.Adapter = None,
    file: options.File = None,
    output: options.Output = None,
    column: options.Column = "text",
    num_beams: options.NumBeams = None,
    max_new_tokens: options.MaxNewTokens = None,
    as_json: options.Json = False,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    tokenizer: options.Tokenizer = None,
    offline: options.Offline = False,
    batch_size: BatchSize = None,
    encoding: options.Encoding = "utf-8",
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> int:
    """Translate a text sentence by sentence; paragraphs and line breaks are kept."""
    render.NOTES.quiet = quiet
    settings = {"num_beams": num_beams, "max_new_tokens": max_new_tokens, "batch_size": batch_size}
    check(settings)
    flow = Flow(text, file, output, column, encoding, overwrite, as_json, quiet, COLUMNS, call=context).open()
    loading = {"adapter": adapter, "tokenizer": tokenizer, "device": device, "dtype": dtype, "offline": offline}
    job = open_job(model, {"src_lang": src_lang, "tgt_lang": tgt_lang, **settings}, loading)
    render.NOTES.show()
    count = Count()
    if flow.is_one:
        result = translate_one(job, flow.whole or "", quiet)
        count.add(result)
        render.write((render.to_json(result) if as_json else result.text) + "\n")
        code = 0
    else:
        code = flow.run(lambda source: translate_rows(job, source, count))
    count.note()
    return code


class Count:
    """Counts the pieces that were translated and those that look wrong."""

    def __init__(self) -> None:
        self._pieces = self._suspect = 0

    def add(self, result: Translation) -> None:
        """Count one translation."""
        self._pieces += result.num_windows
        self._suspect += len(result.suspect)

    def note(self) -> None:
        """Note how many look wrong, if any."""
        if self._suspect:
            looks = "looks" if self._suspect == 1 else "look"
            render.note(f"{self._suspect:,} of {self._pieces:,} pieces {looks} wrong; --json lists them as suspect")


def check(settings: dict[str, Any]) -> None:
    """Check the settings before anything is read or loaded."""
    from llmkit.tasks.sampling import check_count, check_settings

    check_settings({"num_beams": settings["num_beams"], "max_new_tokens": settings["max_new_tokens"]})
    if settings["batch_size"] is not None:
        check_count("batch_size", settings["batch_size"])


def open_job(model: str | None, settings: dict[str, Any], loading: dict[str, Any]) -> Job:
    """Load the checkpoint, or the default for the languages, and settle the settings."""
    from llmkit.encoding import languages

    def make(lm: Loaded) -> Job:
        from llmkit.tasks.translation import prepare

        return prepare(lm, **settings)

    pair = languages.name_pair(settings["src_lang"], settings["tgt_lang"]) if model is None else ""
    heads = ("translation", "generation")
    return opening.open_job(model, make, use="translation", heads=heads, languages=pair, **loading)


def translate_one(job: Job, text: str, quiet: bool) -> Translation:
    """Translate one text, and show how far it is."""
    line = render.Line(quiet=quiet)

    def show(done: int, total: int) -> None:
        if line.is_due:
            line.show(f"{done:,} of {total:,} characters")

    try:
        return next(job.stream([text], show))
    finally:
        line.close()


def translate_rows(job: Job, source: Iterator[rows.Row], count: Count) -> Iterator[tuple[rows.Row, list[Translation]]]:
    """Translate row by row, in chunks; a row without a text comes back with its error."""
    while chunk := list(itertools.islice(source, CHUNK)):
        for i, row in enumerate(chunk):
            if row.error is None and not isinstance(row.value, str):
                chunk[i] = rows.Row(row.number, None, row.record, f"expected a text, got {type(row.value).__name__}")
        found = job.stream([row.value for row in chunk if row.error is None])
        for row in chunk:
            results = [next(found)] if row.error is None else []
            for result in results:
                count.add(result)
            yield row, results
