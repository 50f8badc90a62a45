"""A run from its recipe to its folder; the folder is claimed before torch is imported."""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from llmkit import runfolder
from llmkit.errors import InputError
from llmkit.recipe.reading import read_recipe, resume_recipe
from llmkit.recipe.schema import Recipe
from llmkit.training.peers import meet

if TYPE_CHECKING:
    from accelerate import Accelerator

    from llmkit.training.tracking import Progress

logger = logging.getLogger("llmkit")


@dataclass(frozen=True)
class Run:
    """Says where a run lies and how far it came; it stands wherever a checkpoint does.

    `finished` is False where it was paused; `metrics` are those of the last evaluation.
    """

    path: Path
    step: int
    finished: bool
    metrics: Mapping[str, float] = field(default_factory=dict)

    def __fspath__(self) -> str:
        return os.fspath(self.path)


def train(
    recipe: Recipe | str | os.PathLike[str] | Mapping[str, object],
    *,
    dataset: object = None,
    eval_dataset: object = None,
    resume: str = "never",
    overwrite: bool = False,
    max_seconds: float | None = None,
    accelerator: "Accelerator | None" = None,
    watch: "Callable[[Progress], None] | None" = None,
) -> Run:
    """Train what a recipe says, in its run folder.

    Args:
        recipe: A recipe, or what read_recipe takes.
        dataset: Documents to train on in the place of data.path: a datasets.Dataset, or rows with a text column.
        eval_dataset: Documents to evaluate on.
        resume: never (the folder must be empty), auto (from the newest whole checkpoint, else from the start), must
            (there must be one), or the path of a checkpoint of this run.
        overwrite: Move a folder that is not empty aside.
        max_seconds: Pause after so many seconds, at the end of a step.
        accelerator: An Accelerator of your own, with gradient_accumulation_steps 1.
        watch: Is given the progress after each step.

    Raises:
        InputError: The recipe, the data, the checkpoint or the folder must be mended; nothing was started.
        RunError: It failed while running; the checkpoints written so far stay.
        Interrupted: A signal came; the run was saved.
        OthersFailed: Another process of the run says why it ends.
    """
    if not isinstance(recipe, Recipe):
        recipe = read_recipe(recipe, own_data=dataset is not None or eval_dataset is not None)
    if max_seconds is not None and not max_seconds > 0:
        raise InputError(f"max_seconds out of range, got {max_seconds}; expected a number above 0")
    folder = find_folder(recipe)
    with meet() as peers, peers.claim(folder, resume=resume, overwrite=overwrite) as start:
        if start is not None:
            recipe = resume_recipe(recipe, read_recipe(folder / "recipe.yaml", own_data=True))
            ended = _find_end(folder, recipe, start) if resume in ("auto", "must") else None
            if ended is not None:
                if dataset is not None or eval_dataset is not None:
                    logger.warning("it was finished before: the data set that is given now is not read")
                peers.disperse()
                return ended
        from llmkit.training import building, starting

        with building.keeping_state():
            return starting.train_in(
                folder,
                recipe,
                start,
                peers,
                dataset=dataset,
                eval_dataset=eval_dataset,
                max_seconds=max_seconds,
                accelerator=accelerator,
                watch=watch,
            )


def find_folder(recipe: Recipe) -> Path:
    """Find the folder of a run: the recipe's output_dir, else runs/NAME."""
    return Path(os.path.expanduser(recipe.output_dir or Path("runs") / recipe.name))


def _find_end(folder: Path, recipe: Recipe, start: Path) -> Run | None:
    """Find how a run ended, unless the recipe now asks for more, or it went on from an older checkpoint since."""
    if not (folder / "final").is_dir():
        return None
    facts = runfolder.read_facts(folder / "final")
    step, metrics = facts.get("step"), facts.get("metrics")
    key = "num_epochs" if recipe.train.max_steps is None else "max_steps"
    wanted, had = getattr(recipe.train, key), facts.get(key)
    if not isinstance(step, int) or not isinstance(had, int) or wanted > had or start.name != f"step-{step:06}":
        return None
    if facts.get("end") == "patience" and facts.get("patience") != recipe.eval.patience:
        return None
    more = "a greater eval.patience" if facts.get("end") == "patience" else f"a greater train.{key}"
    logger.info(f"{folder} is finished at step {step}; {more} goes on")
    return Run(folder, step, True, metrics if isinstance(metrics, dict) else {})
