"""`llmkit evaluate`: the metrics of a checkpoint on a task."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmkit.cli import options, render

if TYPE_CHECKING:
    from llmkit.evaluation.evaluating import Evaluation
    from llmkit.evaluation.planning import Plan
    from llmkit.loading import Loaded

Checkpoint = Annotated[str, typer.Argument(metavar="CKPT", help=options.MODEL_HELP)]
Keys = Annotated[
    list[str] | None,
    typer.Argument(metavar="[DATA.KEY=VALUE]...", help="Keys of the data, such as data.label_column=stars."),
]
On = Annotated[
    str,
    typer.Option(
        "--on", metavar="TASK", help="translation, question-answering, classification, sentiment or perplexity."
    ),
]
Data = Annotated[
    Path | None,
    typer.Option("--data", help="A file, glob or folder: SQuAD json, or jsonl, csv, tsv, json, parquet, arrow."),
]
NumExamples = Annotated[
    int | None, typer.Option("--num-examples", help="So many rows, drawn without replacement; else all.")
]
Seed = Annotated[int, typer.Option("--seed", help="The same seed draws the same rows.")]
From = Annotated[str | None, typer.Option("--from", help="The language of the texts to translate.")]
To = Annotated[str | None, typer.Option("--to", help="The language of their translations.")]
Labels = Annotated[str | None, typer.Option("--labels", metavar="A,B", help="The labels that 0, 1, ... stand for.")]


def evaluate(
    checkpoint: Checkpoint,
    keys: Keys = None,
    *,
    on: On,
    data: Data = None,
    num_examples: NumExamples = None,
    seed: Seed = 0,
    src_lang: From = None,
    tgt_lang: To = None,
    labels: Labels = None,
    adapter: options.Adapter = None,
    as_json: options.Json = False,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    tokenizer: options.Tokenizer = None,
    offline: options.Offline = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Measure a checkpoint on a task: bleu and chrf, exact_match and f1, accuracy and f1_macro, or perplexity."""
    from llmkit.evaluation.keys import find_task, read_keys
    from llmkit.evaluation.planning import make_plan

    render.NOTES.quiet = quiet
    plan = make_plan(
        on,
        read_keys(data, find_task(on), keys or []),
        max_examples=num_examples,
        seed=seed,
        src_lang=src_lang,
        tgt_lang=tgt_lang,
        labels=[label.strip() for label in labels.split(",")] if labels is not None else None,
    )
    from llmkit.loading import load

    loading = {"adapter": adapter, "tokenizer": tokenizer, "device": device, "dtype": dtype, "offline": offline}
    lm = load(checkpoint, task=plan.heads, **loading)  # type: ignore[arg-type]
    render.NOTES.show()
    result = _measure(plan, lm, quiet=quiet)
    render.write((render.to_json(result) if as_json else str(result)) + "\n")


def _measure(plan: Plan, lm: Loaded, *, quiet: bool) -> Evaluation:
    from llmkit.evaluation.evaluating import measure

    progress = render.Progress(plan.num_chosen, quiet=quiet)
    try:
        return measure(plan, lm, lambda done: progress.update(done) if done < plan.num_chosen else None)
    finally:
        progress.close()
