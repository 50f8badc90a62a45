"""A run from its recipe to its folder; the folder is claimed before torch is imported."""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmkit import runfolder
from llmkit.claiming import claim
from llmkit.errors import InputError
from llmkit.recipe.reading import read_recipe, resume_recipe
from llmkit.recipe.schema import Recipe

if TYPE_CHECKING:
    from accelerate import Accelerator

    from llmkit.training.tracking import Progress

logger = logging.getLogger("llmkit")


@dataclass(frozen=True)
class Run:
    """Says where a run lies and how far it came; it stands wherever a checkpoint does.

    `metrics` are those of the last evaluation; `end` says why it ended: done, time (paused) or patience.
    """

    folder: Path
    step: int
    end: str
    metrics: dict[str, float] = field(default_factory=dict)

    def __fspath__(self) -> str:
        return os.fspath(self.folder)


def train(
    recipe: Recipe | str | os.PathLike[str] | Mapping[str, Any],
    *,
    dataset: Any = None,
    eval_dataset: Any = None,
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
    """
    if not isinstance(recipe, Recipe):
        recipe = read_recipe(recipe, own_data=dataset is not None)
    if max_seconds is not None and not max_seconds > 0:
        raise InputError(f"max_seconds out of range, got {max_seconds}; expected a number above 0")
    folder = Path(recipe.output_dir or Path("runs") / recipe.name)
    with claim(folder, resume=resume, overwrite=overwrite) as (start, passed_over):
        for sentence in passed_over:
            logger.info(sentence)
        if start is not None:
            recipe = resume_recipe(recipe, read_recipe(folder / "recipe.yaml", own_data=True))
            finished = _find_end(folder, recipe)
            if finished is not None:
                logger.info(f"{folder} is finished at step {finished}; a greater train.max_steps goes on")
                return Run(folder, finished, "done")
        from llmkit.training import starting

        return starting.train_in(
            folder,
            recipe,
            start,
            dataset=dataset,
            eval_dataset=eval_dataset,
            max_seconds=max_seconds,
            accelerator=accelerator,
            watch=watch,
        )


def _find_end(folder: Path, recipe: Recipe) -> int | None:
    """Find the step at which a run ended, unless the recipe now asks for more."""
    if not (folder / "final").is_dir():
        return None
    facts = runfolder.read_facts(folder / "final")
    key = "num_epochs" if recipe.train.max_steps is None else "max_steps"
    wanted, had = getattr(recipe.train, key), facts.get(key)
    step = facts.get("step")
    return step if isinstance(step, int) and isinstance(had, int) and wanted <= had else None
