"""Evaluate a checkpoint on a task: its rows are answered in chunks, and the answers are scored."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Unpack

from llmkit.errors import RunError
from llmkit.evaluation.keys import Data
from llmkit.evaluation.measures import answer
from llmkit.evaluation.outcomes import Confusion, Outcome, Row
from llmkit.evaluation.own import Own, load_metrics
from llmkit.evaluation.planning import Choices, Plan, Progress, make_plan
from llmkit.evaluation.resampling import Interval
from llmkit.loading import Checkpoint, Loaded, load
from llmkit.metrics import Definition

logger = logging.getLogger("llmkit")


@dataclass(frozen=True)
class Evaluation:
    """Holds the metrics of a checkpoint on a task.

    Attributes:
        task: The task; sentiment is classification.
        metrics: By name, in the unit of its source: exact_match, f1, bleu and chrf from 0 to 100, accuracy and f1_macro
            from 0 to 1, loss in nats a token, bits_per_byte in bits a byte of UTF-8.
        n: The rows that were answered.
        num_rows: The rows of the data.
        seed: What they were drawn by; None where all of them were answered.
        seconds: Wall time of the answers, without loading.
        definition: What exact_match and f1 follow; see llmkit.metrics.
        signatures: sacrebleu's signatures of bleu and chrf.
        intervals: The 95 % interval of each metric, by the bootstrap over rows: 1,000 times as many rows are drawn with
            replacement, and what lies between the percentiles 2.5 and 97.5 is the interval (Efron and Tibshirani 1993);
            of bleu and chrf it is sacrebleu's mean - half width to mean + half width. None of a single row.
        confusion: Of a classification, which labels were found for which.
        rows: Every row that was answered, in the order of the data.
        checkpoint: What the checkpoint was called.
        data: The path of the data.
        failures: The user's own metrics that failed, by name, and why; all else was computed.
    """

    task: str
    metrics: Mapping[str, float]
    n: int
    num_rows: int
    seed: int | None
    seconds: float
    definition: Definition | None = None
    signatures: Mapping[str, str] = field(default_factory=dict)
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    confusion: Confusion | None = None
    rows: Sequence[Row] = field(default=(), repr=False)
    checkpoint: str = ""
    data: str = ""
    failures: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return "\n".join([*self.list_metrics(), f"n: {self.n}"])

    def list_metrics(self) -> list[str]:
        """List the metrics as lines: name, value, and the interval where there is one."""
        spans = {name: f"  [{low:.4f}, {high:.4f}]" for name, (low, high) in self.intervals.items()}
        return [f"{name}: {value:.4f}{spans.get(name, '')}" for name, value in self.metrics.items()]

    def as_dict(self) -> dict[str, object]:
        """Give what --json prints: all but the rows and what was asked."""
        return {
            "task": self.task,
            "metrics": dict(self.metrics),
            "n": self.n,
            "num_rows": self.num_rows,
            "seed": self.seed,
            "seconds": self.seconds,
            "definition": self.definition,
            "signatures": dict(self.signatures),
            "intervals": {name: list(span) for name, span in self.intervals.items()},
            "confusion": None if self.confusion is None else asdict(self.confusion),
            "failures": dict(self.failures),
        }


def evaluate(
    checkpoint: Checkpoint,
    *,
    on: str,
    data: Data,
    metrics: str | Sequence[str] = (),
    progress: Progress | None = None,
    **choices: Unpack[Choices],
) -> Evaluation:
    """Evaluate a checkpoint on a task: translation, question-answering, classification, generation or perplexity.

    All rows are read and checked before the checkpoint is loaded. A language model answers by prompts. Generation
    continues prompts as generate does at temperature 0, and compares the text with the right one, both without white
    space around them. Perplexity is that of a causal language model on texts: each in windows that slide over it
    (data.max_length, data.stride), every token but a text's first predicted once.

    Args:
        checkpoint: Its name, or a Loaded.
        on: The task; sentiment is a classification too.
        data: A file, glob or folder; the keys of a recipe's section data, as {"path": ..., "label_column": ...}; or
            rows, a datasets.Dataset or a list of mappings, whose columns have the names that are read unasked.
        metrics: Metrics of the evaluate package beside ours, each by the path of its folder or .py file, or by its id
            on the hub. Their modules are code that runs on this machine: name only those that you trust. They take
            texts, of an answer the list of right ones as reference, and of labels their numbers. One that fails at
            the end is warned of and stands in `failures`.
        progress: Is told the number of rows done.
        **choices: See Choices.

    Raises:
        TypeError: A name is not a setting.
        InputError: An argument, a key, a file or a row must be mended, or does not go with the checkpoint.
        DamagedError: The files of the checkpoint are damaged.
        HubError: The hub cannot give it, or a metric.
    """
    plan = make_plan(on, data, **choices)
    own = load_metrics(metrics, plan.task)
    found = describe(plan, answer(plan, load(checkpoint, task=plan.heads), progress), own)
    for reason in list_failures(found):
        logger.warning(reason)
    return found


def list_failures(*found: Evaluation) -> list[str]:
    """List why metrics of the user's own failed, each reason once."""
    return list(dict.fromkeys(reason for one in found for reason in one.failures.values()))


def measure(plan: Plan, lm: Loaded, progress: Progress | None = None) -> Evaluation:
    """Answer the rows of a plan with a loaded checkpoint, and score the answers; no intervals are computed.

    Raises:
        InputError: A row cannot be answered, or does not go with the checkpoint.
    """
    return _describe(plan, answer(plan, lm, progress))


def describe(plan: Plan, outcome: Outcome, own: Sequence[Own] = ()) -> Evaluation:
    """Describe what came of a plan, with intervals and the user's own metrics; one that fails costs itself alone."""
    if plan.num_chosen < 2:
        more = "; data.sample_by=paragraph or line makes more texts of a txt file" if plan.task == "perplexity" else ""
        logger.info(f"no intervals: rows are drawn anew for them, and there is only one{more}")
    found = _describe(plan, outcome)
    more_metrics: dict[str, float] = {}
    failures: dict[str, str] = {}
    for metric in own:
        try:
            more_metrics |= metric.compute(outcome)
        except RunError as err:
            failures[metric.name] = str(err)
    metrics, intervals = {**found.metrics, **more_metrics}, outcome.intervals(plan.resampling)
    return replace(found, metrics=metrics, intervals=intervals, failures=failures)


def _describe(plan: Plan, outcome: Outcome) -> Evaluation:
    return Evaluation(
        task=plan.task,
        metrics=outcome.metrics(),
        n=plan.num_chosen,
        num_rows=plan.survey.num_rows,
        seed=plan.seed,
        seconds=outcome.seconds,
        definition=plan.survey.definition if plan.task in ("question-answering", "generation") else None,
        signatures=outcome.signatures(),
        confusion=outcome.confusion,
        rows=outcome.rows,
        checkpoint=outcome.checkpoint,
        data=plan.keys.title,
    )
