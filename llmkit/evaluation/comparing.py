"""Two checkpoints on the same rows: how far their metrics lie apart, and whether that may be chance."""

import gc
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Unpack

import torch

from llmkit import checking
from llmkit.adapters import locate_base
from llmkit.errors import InputError
from llmkit.evaluation.evaluating import Evaluation, describe, list_failures
from llmkit.evaluation.keys import Data
from llmkit.evaluation.measures import answer
from llmkit.evaluation.outcomes import Outcome
from llmkit.evaluation.own import Own, load_metrics
from llmkit.evaluation.planning import Choices, Plan, Progress, make_plan
from llmkit.evaluation.resampling import Difference
from llmkit.loading import Checkpoint, Loaded, load
from llmkit.locating import locate

logger = logging.getLogger("llmkit")


@dataclass(frozen=True)
class Comparison:
    """Holds what came of two checkpoints on the same rows.

    Attributes:
        first: The evaluation of the one.
        second: That of the other.
        differences: By metric, the one minus the other. The loss and perplexity of two tokenizers differ by what they
            call a token: of such, compare bits_per_byte.
    """

    first: Evaluation
    second: Evaluation
    differences: Mapping[str, Difference]

    def __str__(self) -> str:
        against = [f"against {line}" for line in self.second.list_metrics()]
        return "\n".join([str(self.first), *against, *map(_show, self.differences.items())])

    def as_dict(self) -> dict[str, object]:
        """Give what --json prints: the evaluation of the first, with the other's and the differences as `against`."""
        differences = {name: asdict(difference) for name, difference in self.differences.items()}
        other = {"checkpoint": self.second.checkpoint, **self.second.as_dict(), "differences": differences}
        return {**self.first.as_dict(), "against": other}


def _show(entry: tuple[str, Difference]) -> str:
    name, found = entry
    span = "" if found.interval is None else f"  [{found.interval[0]:.4f}, {found.interval[1]:.4f}]"
    chance = "" if found.p_value is None else f"  p {found.p_value:.4f}"
    return f"difference {name}: {found.value:.4f}{span}{chance}"


def compare(
    first: Checkpoint,
    second: Checkpoint,
    *,
    on: str,
    data: Data,
    metrics: str | Sequence[str] = (),
    progress: Progress | None = None,
    **choices: Unpack[Choices],
) -> Comparison:
    """Let two checkpoints answer the same rows, one after the other, and compare their metrics.

    Only one of the two is held at a time, where they are named.

    Args:
        first: The one, by its name, or a Loaded.
        second: The other, likewise.
        on: The task, as for evaluate.
        data: As for evaluate.
        metrics: Metrics of the evaluate package, as for evaluate; their differences have no interval.
        progress: Is told the number of rows done, those of both together.
        **choices: See Choices.

    Raises:
        TypeError: A name is not a setting.
        InputError: An argument, a key, a file or a row must be mended, or does not go with a checkpoint.
        DamagedError: The files of a checkpoint are damaged.
        HubError: The hub cannot give one, or a metric.
    """
    plan = make_plan(on, data, **choices)
    own = load_metrics(metrics, plan.task)
    check_second(second, plan)
    found = compare_opened(plan, [partial(load, one, task=plan.heads) for one in (first, second)], own, progress)
    for reason in list_failures(found.first, found.second):
        logger.warning(reason)
    return found


def check_second(checkpoint: Checkpoint, plan: Plan, *, offline: bool = False) -> None:
    """Find the second checkpoint and look at its files before the first one has worked for long.

    Raises:
        InputError: It is missing, cannot be loaded, has no head for the task, or a window does not fit it.
        DamagedError: Its files are damaged.
        HubError: The hub cannot give it.
    """
    if isinstance(checkpoint, Loaded):
        load(checkpoint, task=plan.heads)
        return
    found = locate(os.fspath(checkpoint), offline=offline)
    with found.naming():
        if found.path.suffix == ".gguf":
            checking.check_gguf(found.path)
        elif checking.is_adapter(found.path):
            checking.check_adapter(found.path)
            locate_base(found, offline=offline)
        else:
            longest, context = plan.keys.max_length, checking.check_checkpoint(found.path).context
            if plan.task == "perplexity" and longest and context and longest > context:
                raise InputError(f"data.max_length: {longest} exceeds the context of {found.name}, {context}")


def compare_opened(
    plan: Plan, opens: Sequence[Callable[[], Loaded]], own: Sequence[Own] = (), progress: Progress | None = None
) -> Comparison:
    """Open two checkpoints in turn, let each answer the rows of a plan, and compare them.

    Raises:
        InputError: A row cannot be answered, or does not go with a checkpoint.
    """
    outcomes: list[Outcome] = []
    for i, open_one in enumerate(opens):
        tell = partial(_tell, progress, i * plan.num_chosen) if progress is not None else None
        outcomes.append(answer(plan, open_one(), tell))
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    first, second = (describe(plan, outcome, own) for outcome in outcomes)
    differences = outcomes[0].compare(outcomes[1], plan.resampling)
    shared = [name for name in first.metrics if name in second.metrics and name not in outcomes[0].metrics()]
    more = {name: Difference(first.metrics[name] - second.metrics[name]) for name in shared}
    return Comparison(first, second, {**differences, **more})


def _tell(progress: Progress, before: int, done: int) -> None:
    progress(before + done)
