"""What `llmkit pretrain` and `llmkit finetune` share: their options, and a run from a recipe."""

import os
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from llmkit.cli import render
from llmkit.errors import InputError
from llmkit.recipe.schema import Recipe

if TYPE_CHECKING:
    from llmkit.training.tracking import Progress

DryRun = Annotated[bool, typer.Option("--dry-run", help="Build everything, say what would be done, and train nothing.")]
Resume = Annotated[
    str, typer.Option("--resume", help="never, auto (from the newest checkpoint, if any), must, or a checkpoint.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Move a run folder that is not empty aside.")]
MaxSeconds = Annotated[
    float | None, typer.Option("--max-seconds", help="Pause after so many seconds; --resume auto goes on.")
]


def run_recipe(
    recipe: Recipe,
    command: Sequence[str],
    *,
    dry_run: bool,
    resume: str,
    overwrite: bool,
    max_seconds: float | None,
    quiet: bool,
) -> None:
    """Train what a recipe says and print its folder, or print what would be done.

    Args:
        recipe: The recipe.
        command: The words of the command line that name it, for the note on how to go on.
        dry_run: Train nothing.
        resume: As for train.
        overwrite: As for train.
        max_seconds: As for train.
        quiet: No progress.
    """
    if dry_run:
        from llmkit.training.estimating import describe_plan

        render.write(describe_plan(recipe))
        return
    # torch's own switch, read before its first tensor: large ones lie in pages of 2 MB, and fewer have to be fetched
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    from llmkit.training.running import train
    from llmkit.training.stopping import Interrupted

    line = render.NOTES.line = render.Line(quiet=quiet)
    try:
        run = train(
            recipe,
            resume=resume,
            overwrite=overwrite,
            max_seconds=max_seconds,
            watch=lambda progress: line.show(_describe(progress)) if line.is_due else None,
        )
    except Interrupted as stop:
        line.close()
        render.note(f"step {stop.step} saved; go on with: {shlex.join([*command, '--resume', 'auto'])}")
        raise typer.Exit(stop.exit_code) from None
    finally:
        line.close()
        render.NOTES.line = None
    render.write(f"{run.path}\n")


def refuse(recipe: Recipe, key: str, sentence: str) -> InputError:
    """Make the error of a key that a command cannot use, with the place where the recipe has it, or its section."""
    section = key.partition(".")[0]
    nearest = [place for name, place in recipe.origins.items() if name == key or name.startswith(f"{section}.")]
    return InputError(f"{recipe.origins.get(key) or (nearest or [recipe.file])[0]}: {key}: {sentence}")


def _describe(progress: "Progress") -> str:
    loss = "skipped" if progress.loss is None else f"loss {progress.loss:.4f}"
    rate = f"{progress.tokens_per_s:,.0f} targets/s"
    if progress.utilization is not None:  # each token is a target
        rate = f"{progress.tokens_per_s:,.0f} tokens/s, MFU {progress.utilization:.0%}"
    done = f"step {progress.step:,} of {progress.max_steps:,}"
    return f"{done}, {loss}, lr {progress.lr:.3g}, {rate}, {_spell(progress.seconds_left)} left"


def _spell(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return f"{seconds:.0f} s" if seconds < 90 else f"{minutes:.0f} min" if minutes < 90 else f"{hours:.1f} h"
