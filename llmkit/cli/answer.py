"""`llmkit answer`: a question about texts, or a question for each row of a file."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmkit.cli import opening, options, render, rows
from llmkit.cli.flow import Flow
from llmkit.errors import InputError

if TYPE_CHECKING:
    from llmkit.loading import Loaded
    from llmkit.tasks.answering import Job
    from llmkit.tasks.asking import Contexts, Settings, Source
    from llmkit.tasks.extracted_answers import Question
    from llmkit.tasks.generated_answers import Prompted
    from llmkit.tasks.results import Answer

# The columns that -o adds to a table, and the field of an Answer that each holds; `file` where there are several.
COLUMNS = {"prediction": "text", "score": "score", "start": "start", "end": "end"}
CHUNK = 64  # rows that are read ahead, so that their windows fill batches

Asked = Annotated[str | None, typer.Argument(show_default=False, help="The question; else -f names a file of them.")]
Context = Annotated[
    list[str] | None,
    typer.Option("-c", "--context", help="A file with the text to answer from, repeatable; - or none is piped input."),
]
ContextColumn = Annotated[
    str, typer.Option("--context-column", help="The column of -f that holds each row's own text, if it has one.")
]
Top = Annotated[int, typer.Option("--top", help="So many answers, the best first.")]
Threshold = Annotated[
    float | None,
    typer.Option("--no-answer-threshold", help="Empty where no answer scores so many nats above the best."),
]
Windows = Annotated[int | None, typer.Option("--batch-size", help="At most so many windows at a time.")]


@dataclasses.dataclass(frozen=True)
class Named:
    """Holds an Answer that shows the name of its text too."""

    text: str
    score: float
    start: int | None
    end: int | None
    file: str
    alternatives: tuple[Answer, ...]

    def __str__(self) -> str:
        return f"{self.text}\t{self.file}"


def answer(
    command: typer.Context,
    question: Asked = None,
    context: Context = None,
    model: options.Model = None,
    adapter: options.Adapter = None,
    file: options.File = None,
    output: options.Output = None,
    column: options.Column = "question",
    context_column: ContextColumn = "context",
    top: Top = 1,
    no_answer_threshold: Threshold = None,
    as_json: options.Json = False,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    tokenizer: options.Tokenizer = None,
    offline: options.Offline = False,
    batch_size: Windows = None,
    encoding: options.Encoding = "utf-8",
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> int:
    """Answer a question from a text of any length, or from several."""
    from llmkit.tasks.asking import Settings, check_settings

    render.NOTES.quiet = quiet
    settings = Settings(top=top, no_answer_threshold=no_answer_threshold, batch_size=batch_size)
    check_settings(settings)
    if question is None and file is None:
        raise InputError("no question, got neither QUESTION nor -f; expected one of them")
    _check_places(top, file, output, as_json)
    columns = COLUMNS | ({"file": "file"} if len(context or []) > 1 else {})
    flow = Flow(
        question, file, output, column, encoding, overwrite, as_json, quiet, columns, call=command, inputs=context or []
    ).open()
    own = _has_column(flow.path, context_column, encoding)
    contexts = _read_contexts(context or [], file, encoding, own=own)
    job = _open_job(model, settings, adapter=adapter, tokenizer=tokenizer, device=device, dtype=dtype, offline=offline)
    render.NOTES.show()
    source = job.read(contexts) if contexts is not None else None
    if flow.is_one:
        assert source is not None
        _show(job.run([job.ask(flow.whole or "", source)])[0], as_json)
        return 0
    if flow.whole is not None and source is not None:
        job.ask(flow.whole, source)  # the one question is wrong before anything is written
    return flow.run(lambda found: answer_rows(job, found, source, context_column))


def _check_places(top: int, file: str | None, output: Path | None, as_json: bool) -> None:
    """Check that several answers have a place to go to."""
    in_json = as_json and (output is None or rows.kind(output) not in rows.TABLES)
    if top > 1 and (file is not None or output is not None) and not in_json:
        raise InputError(
            f"several answers a row are shown as JSON alone, got --top {top}; expected --json, and -o with no table"
        )


def _has_column(path: Path | None, column: str, encoding: str) -> bool:
    return path is not None and rows.kind(path) in rows.TABLES and column in rows.read_header(path, encoding)


def _read_contexts(paths: list[str], file: str | None, encoding: str, *, own: bool) -> Contexts | None:
    """Read the texts of -c, or the piped one; None where each row has its own."""
    if own and paths:
        raise InputError(
            f"got both -c and a column of texts in {file}; expected one of them",
            hint="--context-column names another column",
        )
    if own:
        return None
    if file == "-" and "-" in paths:
        raise InputError("-c - and -f - both read standard input; expected one of them")
    if not paths and file is not None:
        raise InputError(
            f"no text to answer from, got no -c and no column of texts in {file}; expected one of them",
            hint="--context-column names the column",
        )
    texts = {path: _read_context(path, encoding) for path in paths or ["-"]}
    return texts if len(texts) > 1 else next(iter(texts.values()))


def _read_context(name: str, encoding: str) -> str:
    if name == "-":
        if sys.stdin is None or sys.stdin.isatty():
            raise InputError("no text to answer from, got neither -c nor piped input; expected -c FILE")
        text, name = rows.read_whole(None, encoding), "the piped input"
    else:
        text = _read_file(Path(name), encoding)
    if not text.strip():
        raise InputError(f"{name} is empty; expected a text to answer from")
    return text


def _read_file(path: Path, encoding: str) -> str:
    rows.check_regular(path)
    try:
        content = path.read_bytes()
    except OSError as err:
        raise InputError(f"{path} cannot be read: {err.strerror}") from None
    return rows.decode(content, encoding, str(path))


def _open_job(model: str | None, settings: Settings, **loading: Any) -> Job:
    """Load the checkpoint or the default, and settle the settings."""

    def make(lm: Loaded) -> Job:
        from llmkit.tasks.answering import prepare

        return prepare(lm, settings)

    heads = ("question-answering", "generation")
    return opening.open_job(model, make, use="question-answering", heads=heads, **loading)


def _show(found: Answer, as_json: bool) -> None:
    """Print the answers to one question: the text alone, or a line for each of several."""
    if as_json:
        render.write(render.to_json(found) + "\n")
    elif not found.alternatives:
        render.write(_line(found) + "\n" if found.file else found.text + "\n")
    else:
        for one in (found, *found.alternatives):
            render.write(f"{one.score:.3g}\t{_line(one)}\n")


def _line(found: Answer) -> str:
    text = render.escape(found.text)
    return f"{text}\t{found.file}" if found.file else text


def answer_rows(
    job: Job, source_rows: Iterator[rows.Row], source: Source | None, context_column: str
) -> Iterator[tuple[rows.Row, list[Answer | Named]]]:
    """Answer row by row, in chunks; a row that cannot be answered comes back with its error."""
    while chunk := list(itertools.islice(source_rows, CHUNK)):
        asked: dict[int, Question | Prompted] = {}
        sources: dict[str, Source] = {}  # texts that come again are encoded once
        for i, row in enumerate(chunk):
            if row.error is not None:
                continue
            try:
                if not isinstance(row.value, str):
                    raise InputError(f"a question must be a text, got {type(row.value).__name__}")
                asked[i] = job.ask(row.value, source or _read_own(job, row, context_column, sources))
            except InputError as err:
                chunk[i] = rows.Row(row.number, None, row.record, str(err))
        found = dict(zip(asked, job.run(list(asked.values())), strict=True))
        for i, row in enumerate(chunk):
            result = found.get(i)
            yield row, [] if result is None else [Named(**vars(result)) if result.file else result]


def _read_own(job: Job, row: rows.Row, column: str, sources: dict[str, Source]) -> Source:
    text = row.record.get(column)
    if not isinstance(text, str):
        got = "nothing" if column not in row.record else "null" if text is None else type(text).__name__
        raise InputError(f"expected text in column {column!r}, got {got}")
    if text not in sources:
        sources[text] = job.read(text)
    return sources[text]
