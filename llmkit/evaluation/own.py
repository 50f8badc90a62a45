"""Metrics of the user's own, beside ours: modules of the evaluate package, which are code that runs on this machine."""

import contextlib
import math
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmkit import runtime
from llmkit.errors import HubError, InputError, RunError
from llmkit.evaluation.keys import Task
from llmkit.evaluation.outcomes import Outcome
from llmkit.locating import reach, suggest_near

# task -> a prediction and a reference, in the form in which a metric is given them
FORMS: dict[Task, tuple[object, object]] = {
    "translation": ("a text", "a text"),
    "question-answering": ("a text", ["a text"]),
    "classification": (0, 0),
    "generation": ("a text", "a text"),
}


@dataclass(frozen=True, eq=False)
class Own:
    """Holds a metric that was loaded: `name` is what its results are called by, `asked` what the user wrote."""

    name: str
    asked: str
    module: Any

    def compute(self, outcome: Outcome) -> dict[str, float]:
        """Compute it over all rows: every number that it gives, as NAME.KEY.

        Raises:
            RunError: It fails, or gives no number.
        """
        predictions: list[Any] = [row.got for row in outcome.rows]
        references: list[Any] = [row.expected for row in outcome.rows]
        if outcome.confusion is not None:
            numbers = {label: i for i, label in enumerate(outcome.confusion.labels)}
            predictions = [numbers[label] for label in predictions]
            references = [numbers[label] for label in references]
        references = [list(one) if isinstance(one, tuple) else one for one in references]
        try:
            with _aside():
                found = self.module.compute(predictions=predictions, references=references)
        except Exception as err:  # whatever the user's own code raises
            raise RunError(f"the metric {self.asked} failed: {_reason(err)}") from err
        numbers_found = {f"{self.name}.{key}": value for key, value in _list_numbers(found)}
        if not numbers_found:
            raise RunError(f"the metric {self.asked} gave no number; expected a mapping of names to numbers")
        return numbers_found


def load_metrics(names: str | Sequence[str], task: Task, *, offline: bool = False) -> list[Own]:
    """Load metrics of the evaluate package, and check that they take the predictions and references of a task.

    Args:
        names: Of each the path of its folder or .py file, or its id on the hub; a single one may stand alone.
        task: The task.
        offline: Take one of the hub from the local cache only.

    Raises:
        InputError: One is missing, cannot be imported or takes something else, or there are none for the task.
        HubError: The hub cannot give one.
    """
    if names and task not in FORMS:
        raise InputError(f"--metric (in Python: metrics=) cannot act with {task}")
    found: list[Own] = []
    for asked in [names] if isinstance(names, str) else names:
        name = Path(asked).name.removesuffix(".py")
        if name in [metric.name for metric in found]:
            raise InputError(f"two metrics are called {name}; expected one of them")
        module = _load(asked, offline=offline)
        _check_form(asked, module, task)
        found.append(Own(name, asked, module))
    return found


def _load(asked: str, *, offline: bool) -> Any:
    path = Path(os.path.expanduser(asked))
    if path.exists():
        script = path if path.suffix == ".py" else path / f"{path.name}.py"
        if not script.is_file():
            raise InputError(f"{asked} is no metric: it holds no {path.name}.py")
        return _open(asked, str(script))
    if asked.startswith((".", "/", "~")) or "\\" in asked or asked.count("/") > 1 or asked.endswith(".py"):
        raise InputError(f"no such metric: {asked}", hint=suggest_near(path))
    return _ask_hub(asked, offline=offline)


def _ask_hub(asked: str, *, offline: bool) -> Any:
    from huggingface_hub import constants

    problem = "offline" if offline or constants.HF_HUB_OFFLINE else reach(constants.ENDPOINT)
    with _keep_offline() if problem is not None else contextlib.nullcontext():
        try:
            return _open(asked, asked)
        except FileNotFoundError as err:
            if problem is None:
                raise HubError(f"the hub has no metric {asked}") from err
            raise HubError(
                f"the metric {asked} is neither a folder here nor in the local cache, and the hub cannot be asked: "
                f"{problem}"
            ) from err


def _open(asked: str, path: str) -> Any:
    import evaluate

    try:
        with _aside():
            return evaluate.load(path, keep_in_memory=True)
    except FileNotFoundError as err:
        if path == asked:
            raise
        raise InputError(f"the metric {asked} cannot be loaded: {_reason(err)}") from err
    except Exception as err:  # whatever the user's own code raises
        raise InputError(f"the metric {asked} cannot be loaded: {_reason(err)}") from err


def _check_form(asked: str, module: Any, task: Task) -> None:
    """Let a metric's own features encode a row, so that the rows need not be answered for nothing."""
    prediction, reference = FORMS[task]
    listed = module.features if isinstance(module.features, list) else [module.features]
    problems = [_find_misfit(features, {"predictions": prediction, "references": reference}) for features in listed]
    if all(problem is not None for problem in problems):
        given = f"predictions such as {prediction!r} and references such as {reference!r}"
        raise InputError(f"the metric {asked} does not go with {task}, which gives {given}: {problems[0]}")


def _find_misfit(features: Any, example: dict[str, object]) -> str | None:
    import pyarrow

    if set(features) != set(example):
        return f"it takes {', '.join(features)}"
    for name, value in example.items():
        kind = features.arrow_schema.field(name).type
        takes_lists = pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind)
        if takes_lists != isinstance(value, list):  # else a text would be taken for a list of characters
            return f"it takes {'lists' if takes_lists else 'no lists'} as {name}"
    try:
        features.encode_example(example)
    except Exception as err:  # of datasets, as its features see fit
        return _reason(err)
    return None


def _list_numbers(found: Any) -> Iterator[tuple[str, float]]:
    for key, value in found.items() if isinstance(found, dict) else ():
        try:
            number = float(value)
        except (TypeError, ValueError):
            continue  # a list of values, one a row or a label
        if math.isfinite(number):
            yield str(key), number


@contextlib.contextmanager
def _aside() -> Iterator[None]:
    """Keep what a metric prints off stdout, and the libraries' warnings from the user."""
    with runtime.quiet(), contextlib.redirect_stdout(sys.stderr):
        yield


@contextlib.contextmanager
def _keep_offline() -> Iterator[None]:
    """Let the evaluate package look into its cache alone."""
    from evaluate import config

    before = config.HF_EVALUATE_OFFLINE
    config.HF_EVALUATE_OFFLINE = True
    try:
        yield
    finally:
        config.HF_EVALUATE_OFFLINE = before


def _reason(err: Exception) -> str:
    return (" ".join(str(err).split()) or type(err).__name__)[:160]
