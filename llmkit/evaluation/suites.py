"""The tasks of lm-evaluation-harness that an evaluation asks for: found, built, and their data fetched."""

import contextlib
import difflib
import importlib.util
import io
import logging
import os
import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llmkit import locating, runtime
from llmkit.data.hub import cache_only
from llmkit.errors import HubError, InputError, LlmkitError, shorten

# What datasets reads from files alone; any other dataset_path that is no folder here is looked up on the hub.
FILE_READERS = {"arrow", "csv", "json", "pandas", "parquet", "text", "webdataset", "xml"}
CUT = ("Combined length of context", "Left truncation applied")  # how lm_eval 0.4.13 warns of it
WORKING_FOLDER = "a file under dataset_kwargs is looked for from the working folder, not from that of the YAML"

TaskName = str | os.PathLike[str]


@dataclass(frozen=True, eq=False)
class Suite:
    """Holds tasks of the harness that are built, their data at hand; `names` are those of the tasks themselves."""

    names: tuple[str, ...]
    built: Any = field(repr=False)  # lm_eval.tasks.TaskManager.load's mapping


def check_tasks(
    tasks: TaskName | Sequence[TaskName],
    *,
    include_path: TaskName | None = None,
    offline: bool = False,
) -> Suite:
    """Find tasks, build them and fetch their data: all that can go wrong before a model is loaded.

    Args:
        tasks: Names of tasks, groups or tags of the harness; or paths: a YAML file, or a folder for all tasks in it.
            What ends in .yaml or .yml or has a slash is a path.
        include_path: A folder of further tasks that names may mean.
        offline: Take data from the local cache only.

    Raises:
        InputError: lm-eval is not installed, a task is unknown, or its YAML or a file of its data must be mended.
        HubError: The hub cannot give the data of a task.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise InputError("tasks of the harness need the package lm-eval", hint='pip install "llmkit[harness]"')
    given = [os.fspath(name) for name in ([tasks] if isinstance(tasks, str | os.PathLike) else tasks)]
    if not given:
        raise InputError("no task of the harness, got an empty list; expected a name or a path to a YAML file")
    paths = {name: _check_path(name) for name in given if _is_path(name)}
    folders = [path if path.is_dir() else path.parent for path in paths.values()]
    if include_path is not None:
        folders.append(_check_folder(include_path))
    with Quietly(), seeded(0):
        manager = _open_manager([name for name in given if name not in paths], folders)
        specs = [spec for name in given for spec in _expand(manager, name, paths.get(name))]
        built = _build(manager, specs, offline=offline)
    for name, task in built["tasks"].items():
        if getattr(task, "UNSAFE_CODE", False):
            raise InputError(f"task {name} runs code that the model writes; expected a task that does not")
        if getattr(task, "MULTIMODAL", False):
            raise InputError(f"task {name} asks about images or sounds; expected a task of text alone")
    return Suite(tuple(built["tasks"]), built)


def _is_path(name: str) -> bool:
    return name.endswith((".yaml", ".yml")) or "/" in name or os.sep in name


def _check_path(name: str) -> Path:
    path = Path(name).expanduser().resolve()
    if not path.exists():
        raise InputError(f"no task of the harness, got {name!r}; expected a YAML file or a folder that is there")
    return path


def _check_folder(include_path: TaskName) -> Path:
    path = Path(include_path).expanduser().resolve()
    if not path.is_dir():
        raise InputError(f"include_path is no folder, got {os.fspath(include_path)!r}; expected a folder of YAML files")
    return path


def _open_manager(names: Sequence[str], folders: Sequence[Path]) -> Any:
    """Index the tasks; the 14,000 of the harness, which take 5 s, only where a name or a group may mean one."""
    from lm_eval.tasks import TaskManager

    include = list(dict.fromkeys(folders))
    own = TaskManager(include_path=include, include_defaults=False)
    members = [member for name in own.all_groups for member in own.task_index[name].cfg["task"]]
    return own if all(name in own.all_tasks for name in (*names, *members)) else TaskManager(include_path=include)


def _expand(manager: Any, name: str, path: Path | None) -> list[str]:
    """Find what the harness calls that which was asked for."""
    if path is None:
        if name in manager.task_index:
            return [name]
        near = difflib.get_close_matches(name, manager.all_tasks, 1)
        hint = f"did you mean {near[0]}?" if near else None
        form = "a name that `lm-eval ls tasks` prints, or a path to a YAML file"
        raise InputError(f"unknown task of the harness, got {name!r}; expected {form}", hint=hint)
    index = manager.task_index
    if path.is_file():  # by its name: of the path of a group lm_eval 0.4.13 makes nothing
        named = [task for task, entry in index.items() if entry.yaml_path == path]
        return named[:1] or [str(path)]
    inside = [task for task in manager.all_subtasks if path in Path(index[task].yaml_path or "").parents]
    if not inside:
        raise InputError(f"{name} holds no task of the harness; expected .yaml files with the key task")
    return inside


def _build(manager: Any, specs: Sequence[str], *, offline: bool) -> Any:
    """Build the tasks one by one, so that an error can name its task; their data are fetched with that."""
    parts: list[Any] = []
    problem = _find_problem(manager, specs, offline)
    with cache_only(problem is not None):
        for spec in dict.fromkeys(specs):
            with _explaining(Path(spec).name, problem):
                one = manager.load([spec])
            # a group, before those within it, holds its tasks
            parts += [next(iter(one["groups"].values()))] if one["groups"] else one["tasks"].values()
    names = [part.task_name for part in parts if hasattr(part, "task_name")]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"task {name} is asked for twice; expected each task once")
    try:
        return manager.load(parts)
    except ValueError as err:  # a task within a group, and once more
        raise InputError(f"{shorten(err)}; expected each task once") from err


def _find_problem(manager: Any, specs: Iterable[str], offline: bool) -> str | None:
    """Say why the hub cannot be asked, where a task may need it."""
    import datasets
    from huggingface_hub import constants

    def reads_files(spec: str) -> bool:
        entries = [entry for entry in manager.task_index.values() if spec in (entry.name, str(entry.yaml_path))]
        sources = [str((entry.cfg or {}).get("dataset_path")) for entry in entries]
        return bool(sources) and all(source in FILE_READERS or os.path.exists(source) for source in sources)

    if offline or datasets.config.HF_HUB_OFFLINE:
        return "offline"
    return None if all(map(reads_files, specs)) else locating.reach(constants.ENDPOINT)


@contextlib.contextmanager
def _explaining(name: str, problem: str | None) -> Iterator[None]:
    from datasets.exceptions import DatasetNotFoundError

    try:
        yield
    except LlmkitError:
        raise
    except Exception as err:  # whatever YAML, a function of the task, datasets or the hub's client raises
        reason = shorten(err)
        if isinstance(err, ConnectionError) or ("Hub" in reason and not isinstance(err, DatasetNotFoundError)):
            cause = problem or reason
            raise HubError(
                f"data of task {name} are not in the local cache, and the hub cannot be asked: {cause}"
            ) from err
        if isinstance(err, DatasetNotFoundError):
            raise HubError(f"data of task {name}: {reason}") from err
        if isinstance(err, FileNotFoundError):
            raise InputError(f"data of task {name}: {reason}", hint=WORKING_FOLDER) from err
        kind = type(err).__name__
        said = reason if kind in reason else f"{kind}: {reason}"
        raise InputError(f"task {name} cannot be built: {said}") from err


class Quietly(contextlib.ExitStack):
    """Keeps the harness's logs, prints and bars from the user, and hears whether it cut a prompt."""

    def __init__(self) -> None:
        super().__init__()
        self.was_cut = False
        self.stderr = sys.stderr

    def __enter__(self) -> "Quietly":
        super().__enter__()
        self.enter_context(runtime.quiet())
        self.enter_context(contextlib.redirect_stdout(io.StringIO()))
        self.enter_context(contextlib.redirect_stderr(io.StringIO()))
        harness, handler = logging.getLogger("lm_eval"), logging.Handler(logging.WARNING)
        handler.emit = self._hear  # type: ignore[method-assign]
        self.callback(setattr, harness, "propagate", harness.propagate)
        self.callback(harness.setLevel, harness.level)
        self.callback(harness.removeHandler, handler)
        harness.propagate = False
        harness.setLevel(logging.WARNING)
        harness.addHandler(handler)
        return self

    def _hear(self, record: logging.LogRecord) -> None:
        self.was_cut = self.was_cut or record.getMessage().startswith(CUT)


@contextlib.contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Seed what a task may draw from, as lm_eval.simple_evaluate does, and put the random states back."""
    before, numpy_before = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device is not None and device.type == "cuda" else []):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(before)
            np.random.set_state(numpy_before)
