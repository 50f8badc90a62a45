"""The report of a run, or of several beside one another: one page of HTML from what the run folder holds."""

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmkit import checking, pages, runfolder
from llmkit.errors import InputError
from llmkit.pages import Line
from llmkit.recipe.reading import dump_recipe, read_recipe

CURVES = {
    "loss": "loss, nats a target",
    "lr": "learning rate",
    "grad_norm": "norm of the gradient, before clipping",
    "tokens_per_s": "targets a second",
}
UNIT = {"bits_per_byte": "bits a byte"}


@dataclass(frozen=True)
class History:
    """Holds what a run folder tells: its recipe as text and by key, its environment, and the lines of metrics.jsonl."""

    path: Path
    name: str
    recipe: str
    keys: Mapping[str, str]
    objective: str
    environment: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]

    def points(self, key: str) -> list[tuple[float, float]]:
        """List (step, value) of what was logged under a key."""
        return [(row["step"], row[key]) for row in self.rows if isinstance(row.get(key), int | float)]


def read_history(run: Path) -> History:
    """Read a run folder; its name is that of the run.

    Raises:
        InputError: It is none, or a file of it is damaged.
    """
    if not (run / "recipe.yaml").is_file():
        raise InputError(f"{run} is no run: it holds no recipe.yaml" if run.is_dir() else f"no such folder: {run}")
    recipe = read_recipe(run / "recipe.yaml", own_data=True)
    environment, rows = run / "environment.json", run / "metrics.jsonl"
    return History(
        path=run,
        name=run.resolve().name,
        recipe=dump_recipe(recipe),
        keys={key: value for key, value in _flatten(recipe.model_dump()) if value is not None},
        objective=recipe.objective,
        environment=checking.read_json(environment) if environment.is_file() else {},
        rows=runfolder.read_metrics(rows),
    )


def _flatten(value: Any, key: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        return [pair for name, inner in value.items() for pair in _flatten(inner, f"{key}.{name}" if key else name)]
    return [(key, None if value is None else json.dumps(value, ensure_ascii=False))]


def write_report(*runs: Path) -> str:
    """Write the report of a run, or the comparison of several, as HTML.

    Where two folders of several have one name, each is named from the folder on that holds them all.

    Raises:
        InputError: A folder is no run, or a file of it is damaged.
    """
    histories = [read_history(run) for run in runs]
    if len(histories) == 1:
        return _report(histories[0])
    if len({history.name for history in histories}) < len(histories):
        folders = [run.resolve() for run in runs]
        above = os.path.commonpath([folder.parent for folder in folders])
        histories = [
            replace(each, name=folder.relative_to(above).as_posix())
            for each, folder in zip(histories, folders, strict=True)
        ]
    title = " beside ".join(history.name for history in histories)
    return pages.make_page(
        title,
        pages.make_section("What differs in the recipes", _compare(histories)),
        pages.make_section("What they came to", _list_ends(histories)),
        pages.make_section("Curves", *_draw(histories)),
        pages.make_section("What differs in the environment", _compare_environments(histories)),
    )


def _report(history: History) -> str:
    environment = {key: value for key, value in history.environment.items() if key != "data"}
    data = "\n".join(history.environment.get("data", []))
    return pages.make_page(
        history.name,
        pages.make_section("What it came to", _list_ends([history])),
        pages.make_section("Curves", *_draw([history])),
        pages.make_section("Texts", _list_samples(history)),
        pages.make_section("Data", pages.make_listing(data)),
        pages.make_section("The command that repeats it", pages.make_listing(_repeat(history))),
        pages.make_section("Recipe", pages.make_listing(history.recipe)),
        pages.make_section("Environment", pages.make_table((), [(k, str(v)) for k, v in environment.items()])),
    )


def _repeat(history: History) -> str:
    verb = "pretrain" if any(key.startswith("model.config") for key in history.keys) else "finetune"
    count = history.environment.get("num_processes", 1)
    processes = ["--num-processes", str(count)] if count > 1 else []
    words = ["llmkit", verb, str(history.path / "recipe.yaml"), f"output_dir={history.path}-again", *processes]
    return shlex.join(words)


def _draw(histories: Sequence[History]) -> list[str]:
    """Draw what was logged at steps and in evaluations; of one run the loss of both goes into one chart."""
    alone = len(histories) == 1
    charts = []
    for key, title in CURVES.items():
        lines = [Line("training" if alone else history.name, history.points(key)) for history in histories]
        if key == "loss" and alone:
            lines.append(Line("evaluation", histories[0].points("eval_loss")))
        charts.append(pages.make_chart(title, lines))
    measured = {key: None for history in histories for row in history.rows for key in row if key.startswith("eval_")}
    for key in measured:
        if key == "eval_loss" and alone:
            continue
        name = key.removeprefix("eval_")
        lines = [Line(history.name, history.points(key)) for history in histories]
        charts.append(pages.make_chart(f"{UNIT.get(name, name)} in evaluations", lines))
    return charts


def _list_ends(histories: Sequence[History]) -> str:
    """List the last value of everything that was logged, and the best loss of the evaluations."""
    found: dict[str, list[str]] = {"objective": [history.objective for history in histories]}
    keys = {key: None for history in histories for row in history.rows for key in row}
    for key in [key for key in keys if key not in ("samples", "skipped")]:
        values = [points[-1][1] if (points := history.points(key)) else None for history in histories]
        found[f"last {key}" if key != "step" else "steps"] = ["" if v is None else f"{v:,.6g}" for v in values]
    best = [min(history.points("eval_loss"), key=lambda point: point[1], default=None) for history in histories]
    if any(best):
        found["best eval_loss"] = [f"{point[1]:,.6g} at step {point[0]:,.0f}" if point else "" for point in best]
    head = () if len(histories) == 1 else ("", *(history.name for history in histories))
    return pages.make_table(head, [(name, *values) for name, values in found.items()])


def _list_samples(history: History) -> str:
    rows = [
        (f"{row['step']:,}", sample["prompt"], sample["text"])
        for row in history.rows
        for sample in row.get("samples", [])
    ]
    return pages.make_table(("step", "prompt", "text"), rows)


def _compare(histories: Sequence[History]) -> str:
    return _tell_apart([history.keys for history in histories], histories)


def _compare_environments(histories: Sequence[History]) -> str:
    return _tell_apart([{k: str(v) for k, v in h.environment.items() if k != "data"} for h in histories], histories)


def _tell_apart(values: Sequence[Mapping[str, str]], histories: Sequence[History]) -> str:
    """List the keys whose values are not the same everywhere."""
    keys = {key: None for one in values for key in one if key != "output_dir"}
    rows = [(key, *(one.get(key, "") for one in values)) for key in keys if len({one.get(key) for one in values}) > 1]
    if not rows:
        return "<p>Nothing.</p>"
    return pages.make_table(("", *(history.name for history in histories)), rows)
