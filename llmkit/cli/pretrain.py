"""`llmkit pretrain`: a model from a recipe."""

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from llmkit.cli import options, render
from llmkit.recipe.reading import read_recipe

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


def pretrain(
    recipe: options.Recipe,
    keys: options.Keys = None,
    dry_run: DryRun = False,
    resume: Resume = "never",
    overwrite: Overwrite = False,
    max_seconds: MaxSeconds = None,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Pretrain a model as a recipe says; the run folder is a checkpoint for every other command."""
    render.NOTES.quiet, render.NOTES.at_once = quiet, True
    settled = read_recipe(recipe, keys or [])
    if dry_run:
        from llmkit.training.estimating import describe_plan

        render.write(describe_plan(settled))
        return
    from llmkit.training.running import train
    from llmkit.training.stopping import Interrupted

    line = render.NOTES.line = render.Line(quiet=quiet)
    try:
        run = train(
            settled,
            resume=resume,
            overwrite=overwrite,
            max_seconds=max_seconds,
            watch=lambda progress: line.show(_describe(progress)) if line.is_due else None,
        )
    except Interrupted as stop:
        line.close()
        command = shlex.join(["llmkit", "pretrain", recipe, *(keys or []), "--resume", "auto"])
        render.note(f"step {stop.step} saved; go on with: {command}")
        raise typer.Exit(stop.exit_code) from None
    finally:
        line.close()
        render.NOTES.line = None
    render.write(f"{run.path}\n")


def _describe(progress: "Progress") -> str:
    loss = "skipped" if progress.loss is None else f"loss {progress.loss:.4f}"
    return (
        f"step {progress.step:,} of {progress.max_steps:,}, {loss}, lr {progress.lr:.3g}, "
        f"{progress.tokens_per_s:,.0f} tokens/s, MFU {progress.utilization:.0%}, {_spell(progress.seconds_left)} left"
    )


def _spell(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return f"{seconds:.0f} s" if seconds < 90 else f"{minutes:.0f} min" if minutes < 90 else f"{hours:.1f} h"
