"""`llmkit sentiment` and `llmkit classify`: a label for one text, or for each row of a file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmkit.cli import opening, options, render, rows
from llmkit.cli.flow import Flow
from llmkit.errors import InputError

if TYPE_CHECKING:
    from llmkit.loading import Loaded
    from llmkit.tasks.classification import Job
    from llmkit.tasks.results import Classification

CHUNK_ROWS, CHUNK_CHARACTERS = 256, 1_000_000  # what is read ahead, so that batches can be planned by length

Labels = Annotated[str | None, typer.Option("--labels", metavar="A,B", help="The labels to choose from.")]
Hypothesis = Annotated[
    str | None,
    typer.Option("--hypothesis", help="What an entailment model is asked, {} for the label: 'This example is {}.'"),
]
Scores = Annotated[bool, typer.Option("--scores", help="Show the score of every label.")]
MaxLength = Annotated[int | None, typer.Option("--max-length", help="The tokens of a window over a long text.")]
Stride = Annotated[int | None, typer.Option("--stride", help="The tokens that neighbouring windows share.")]
BatchSize = Annotated[
    int | None, typer.Option("--batch-size", help="At most so many windows at a time; else as memory allows.")
]


def sentiment(
    context: typer.Context,
    text: options.Text = None,
    model: options.Model = None,
    adapter: options.Adapter = None,
    file: options.File = None,
    output: options.Output = None,
    column: options.Column = "text",
    labels: Labels = None,
    hypothesis: Hypothesis = None,
    scores: Scores = False,
    max_length: MaxLength = None,
    stride: Stride = None,
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
    """Label texts, such as negative or positive; the label alone is printed."""
    from llmkit.tasks.classification import SENTIMENT, check_arguments

    render.NOTES.quiet = quiet
    given = {
        "labels": tuple(label.strip() for label in labels.split(",")) if labels is not None else None,
        "hypothesis": hypothesis,
        "max_length": max_length,
        "stride": stride,
        "batch_size": batch_size,
    }
    check_arguments(**given)  # type: ignore[arg-type]
    columns = {"label": "label", "score": "score"}
    if scores:
        columns["scores"] = "scores" if output is not None and rows.kind(output) == ".jsonl" else "scores_as_text"
    flow = Flow(text, file, output, column, encoding, overwrite, as_json, quiet, columns, call=context).open()
    loading = {"adapter": adapter, "tokenizer": tokenizer, "device": device, "dtype": dtype, "offline": offline}
    job = open_job(model, {**given, "fallback": SENTIMENT if context.info_name == "sentiment" else None}, loading)
    render.NOTES.show()
    if flow.is_one:
        result = show(job.answer([flow.whole or ""])[0], scores)
        render.write((render.to_json(result) if as_json else str(result)) + "\n")
        return 0
    return flow.run(lambda source: answer_rows(job, source, scores))


def open_job(model: str | None, settings: dict[str, Any], loading: dict[str, Any]) -> Job:
    """Load the checkpoint, or the default, and choose how labels are scored."""

    def make(lm: Loaded) -> Job:
        from llmkit.tasks.classification import prepare

        return prepare(lm, **settings)

    return opening.open_job(model, make, use="classification", heads=("classification", "generation"), **loading)


@dataclass(frozen=True)
class Shown:
    """Holds a Classification as it is shown: the label, or the label and all scores."""

    label: str
    score: float
    scores: Mapping[str, float]
    num_windows: int

    def __str__(self) -> str:
        return self.label

    @property
    def scores_as_text(self) -> str:
        """All scores as JSON."""
        return json.dumps(dict(self.scores), ensure_ascii=False)


@dataclass(frozen=True)
class ShownWithScores(Shown):
    """Shows the label and all scores."""

    def __str__(self) -> str:
        return "\t".join([self.label, *(f"{label}={score:.4f}" for label, score in self.scores.items())])


def show(result: Classification, scores: bool) -> Shown:
    """Choose how a result is shown."""
    kind = ShownWithScores if scores else Shown
    return kind(result.label, result.score, result.scores, result.num_windows)


def answer_rows(job: Job, source: Iterator[rows.Row], scores: bool) -> Iterator[tuple[rows.Row, list[Shown]]]:
    """Label row by row, in chunks; a row that cannot be labelled comes back with its error."""
    for chunk in read_chunks(source):
        texts = {i: row.value for i, row in enumerate(chunk) if row.error is None}
        encoded = dict(zip(texts, job.encode(list(texts.values())), strict=True))
        failed = {i: str(found) for i, found in encoded.items() if isinstance(found, InputError)}
        good = {i: found for i, found in encoded.items() if not isinstance(found, InputError)}
        results = dict(zip(good, job.run(list(good.values())), strict=True))
        for i, row in enumerate(chunk):
            if i in results:
                yield row, [show(results[i], scores)]
            else:
                yield rows.Row(row.number, None, row.record, row.error or failed[i]), []


def read_chunks(source: Iterator[rows.Row]) -> Iterator[list[rows.Row]]:
    """Read rows in chunks of bounded size; a row whose value is no text gets its error."""
    chunk: list[rows.Row] = []
    characters = 0
    for row in source:
        if row.error is None and not isinstance(row.value, str):
            row = rows.Row(row.number, None, row.record, f"expected text, got {type(row.value).__name__}")
        chunk.append(row)
        characters += len(row.value or "")
        if len(chunk) == CHUNK_ROWS or characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk
