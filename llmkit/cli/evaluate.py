"""`llmkit evaluate`: the metrics of a checkpoint on a task."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmkit.cli import options, render
from llmkit.errors import InputError, RunError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llmkit.evaluation.comparing import Comparison
    from llmkit.evaluation.evaluating import Evaluation
    from llmkit.evaluation.harness import HarnessResult
    from llmkit.evaluation.keys import DataKeys
    from llmkit.evaluation.own import Own
    from llmkit.evaluation.planning import Plan
    from llmkit.loading import Loaded

Checkpoint = Annotated[str, typer.Argument(metavar="CKPT", help=options.MODEL_HELP)]
Keys = Annotated[
    list[str] | None,
    typer.Argument(metavar="[DATA.KEY=VALUE]...", help="Keys of the data, such as data.label_column=stars."),
]
On = Annotated[
    str | None,
    typer.Option(
        "--on",
        metavar="TASK",
        help="translation, question-answering, classification, sentiment, generation or perplexity.",
    ),
]
Data = Annotated[
    Path | None,
    typer.Option("--data", help="A file, glob or folder: SQuAD json, or jsonl, csv, tsv, json, parquet, arrow."),
]
NumExamples = Annotated[
    int | None, typer.Option("--num-examples", help="So many rows, drawn without replacement; else all.")
]
Seed = Annotated[int, typer.Option("--seed", help="The same seed draws the same rows, and the same intervals.")]
From = Annotated[str | None, typer.Option("--from", help="The language of the texts to translate.")]
To = Annotated[str | None, typer.Option("--to", help="The language of their translations.")]
Labels = Annotated[str | None, typer.Option("--labels", metavar="A,B", help="The labels that 0, 1, ... stand for.")]
MaxNewTokens = Annotated[
    int | None, typer.Option("--max-new-tokens", help="At most so many tokens of a generated text (64).")
]
Metric = Annotated[
    list[str] | None,
    typer.Option(
        "--metric",
        metavar="NAME",
        help="A metric of the evaluate package beside ours: a folder, a .py file or a hub id. Its code is run. "
        "Repeatable.",
    ),
]
Against = Annotated[
    str | None,
    typer.Option("--against", metavar="CKPT2", help="Another checkpoint for the same rows; -a is for the first alone."),
]
Harness = Annotated[
    str | None,
    typer.Option(
        "--harness",
        metavar="TASKS",
        help="In the place of --on: tasks of lm-evaluation-harness, by names or YAML files, with commas between.",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option("-o", "--output", metavar="DIR", help="Write evaluation.json, rows.jsonl and evaluation.html there."),
]


def evaluate(
    checkpoint: Checkpoint,
    keys: Keys = None,
    *,
    on: On = None,
    data: Data = None,
    harness: Harness = None,
    num_examples: NumExamples = None,
    seed: Seed = 0,
    src_lang: From = None,
    tgt_lang: To = None,
    labels: Labels = None,
    max_new_tokens: MaxNewTokens = None,
    metric: Metric = None,
    against: Against = None,
    output: Output = None,
    overwrite: options.Overwrite = False,
    adapter: options.Adapter = None,
    as_json: options.Json = False,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    tokenizer: options.Tokenizer = None,
    offline: options.Offline = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Measure a checkpoint on a task: bleu and chrf, exact_match and f1, accuracy and f1_macro, or perplexity.

    Beside each metric stands its 95 % interval.
    """
    render.NOTES.quiet = quiet
    common = {"device": device, "dtype": dtype, "offline": offline}  # of both checkpoints
    loading = {**common, "adapter": adapter, "tokenizer": tokenizer}
    if harness is not None:
        _refuse({"DATA.KEY=VALUE": keys, "--on": on, "--data": data, "--from": src_lang, "--to": tgt_lang})
        _refuse({"--labels": labels, "--max-new-tokens": max_new_tokens, "--metric": metric, "-o": output})
        _refuse({"--against": against})
        found = _run_harness(checkpoint, harness, loading, num_examples, seed, quiet=quiet)
        return render.write((render.to_json(found) if as_json else str(found)) + "\n")
    from llmkit.evaluation.planning import make_plan

    on, given = _read_call(on, data, keys or [])
    plan = make_plan(
        on,
        given,
        max_examples=num_examples,
        seed=seed,
        src_lang=src_lang,
        tgt_lang=tgt_lang,
        labels=[label.strip() for label in labels.split(",")] if labels is not None else None,
        max_new_tokens=max_new_tokens,
    )
    own = _check_rest(plan, metric or [], against, output, offline=offline, overwrite=overwrite)
    opens = [_opening(checkpoint, plan, loading)]
    opens += [_opening(against, plan, common)] if against is not None else []
    result = _measure(plan, opens, own, quiet=quiet)
    render.NOTES.show()
    _write(result, output, overwrite=overwrite, as_json=as_json)


def _read_call(on: str | None, data: Path | None, keys: list[str]) -> tuple[str, DataKeys]:
    """Read what is to be measured, and on what."""
    from llmkit.evaluation.keys import TASKS, find_task, read_keys

    if on is None:
        hint = f"--on takes {', '.join(TASKS)}"
        raise InputError("nothing to measure, got neither --on nor --harness; expected one of them", hint=hint)
    return on, read_keys(data, find_task(on), keys)


def _write(result: Evaluation | Comparison, output: Path | None, *, overwrite: bool, as_json: bool) -> None:
    if output is not None:
        from llmkit.evaluation.writing import write_evaluation

        write_evaluation(result, output, overwrite=overwrite)
    render.write((render.to_json(result.as_dict()) if as_json else str(result)) + "\n")
    from llmkit.evaluation.comparing import Comparison
    from llmkit.evaluation.evaluating import list_failures

    found = (result.first, result.second) if isinstance(result, Comparison) else (result,)
    if failures := list_failures(*found):
        raise RunError("; ".join(failures))


def _refuse(given: dict[str, object]) -> None:
    """Refuse what cannot act with tasks of the harness."""
    for name, value in given.items():
        if value:
            raise InputError(f"{name} cannot act with --harness, whose tasks say what is measured")


def _run_harness(
    checkpoint: str, tasks: str, loading: dict[str, Any], num_examples: int | None, seed: int, *, quiet: bool
) -> HarnessResult:
    """Have lm-evaluation-harness measure a checkpoint, which is loaded once the tasks and their data are there."""
    from llmkit.evaluation.suites import check_tasks

    suite = check_tasks([name.strip() for name in tasks.split(",")], offline=loading["offline"])
    from llmkit.evaluation.harness import evaluate_tasks
    from llmkit.loading import load

    lm = load(checkpoint, task="generation", **loading)
    render.NOTES.show()
    line = render.Line(quiet=quiet)

    def tell(done: int, total: int) -> None:
        if line.is_due and done < total:
            line.show(f"{done:,} of {total:,} requests")

    try:
        result = evaluate_tasks(lm, suite, max_examples=num_examples, seed=seed, progress=tell)
    finally:
        line.close()
    render.NOTES.show()
    return result


def _check_rest(
    plan: Plan, metrics: list[str], against: str | None, output: Path | None, *, offline: bool, overwrite: bool
) -> list[Own]:
    """Check all else before a checkpoint is loaded, and load the user's own metrics."""
    from llmkit.evaluation.comparing import check_second
    from llmkit.evaluation.own import load_metrics
    from llmkit.evaluation.writing import check_folder

    if output is not None:
        check_folder(output, overwrite=overwrite)
    own = load_metrics(metrics, plan.task, offline=offline)
    if against is not None:
        check_second(against, plan, offline=offline)
    return own


def _opening(checkpoint: str, plan: Plan, loading: dict[str, Any]) -> Callable[[], Loaded]:
    """Make what loads a checkpoint when its turn has come."""

    def open_one() -> Loaded:
        from llmkit.loading import load

        lm = load(checkpoint, task=plan.heads, **loading)
        render.NOTES.show()
        return lm

    return open_one


def _measure(
    plan: Plan, opens: Sequence[Callable[[], Loaded]], own: list[Own], *, quiet: bool
) -> Evaluation | Comparison:
    from llmkit.evaluation.comparing import compare_opened
    from llmkit.evaluation.evaluating import describe
    from llmkit.evaluation.measures import answer

    total = plan.num_chosen * len(opens)
    progress = render.Progress(total, quiet=quiet)

    def tell(done: int) -> None:
        if done < total:
            progress.update(done)

    try:
        if len(opens) > 1:
            return compare_opened(plan, opens, own, tell)
        return describe(plan, answer(plan, opens[0](), tell), own)
    finally:
        progress.close()
