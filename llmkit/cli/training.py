"""What `llmkit pretrain` and `llmkit finetune` share: their options, and a run from a recipe."""

import math
import os
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from llmkit.cli import render
from llmkit.errors import InputError
from llmkit.recipe.schema import Recipe

if TYPE_CHECKING:
    from llmkit.training.launching import Layout
    from llmkit.training.tracking import Progress

DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Build everything, say what it would be and cost, and train nothing.")
]
Gpu = Annotated[
    str | None,
    typer.Option("--gpu", show_default=False, help="With --dry-run: the kind of GPU to reckon with, as H100."),
]
PricePerHour = Annotated[
    float | None,
    typer.Option("--price-per-hour", show_default=False, help="With --gpu: what one such GPU costs in an hour."),
]
Resume = Annotated[
    str, typer.Option("--resume", help="never, auto (from the newest checkpoint, if any), must, or a checkpoint.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Move a run folder that is not empty aside.")]
MaxSeconds = Annotated[
    float | None, typer.Option("--max-seconds", help="Pause after so many seconds; --resume auto goes on.")
]
NumProcesses = Annotated[
    int | None, typer.Option("--num-processes", show_default=False, help="Train in so many processes on this machine.")
]
Accelerate = Annotated[
    str | None,
    typer.Option("--accelerate", show_default=False, help="Train in the processes of a file of accelerate's."),
]


def run_recipe(
    recipe: Recipe,
    command: Sequence[str],
    *,
    num_processes: int | None,
    accelerate: str | None,
    dry_run: bool,
    gpu: str | None,
    price_per_hour: float | None,
    resume: str,
    overwrite: bool,
    max_seconds: float | None,
    quiet: bool,
    debug: bool,
) -> None:
    """Train what a recipe says and print its folder, or print what would be done.

    Args:
        recipe: The recipe.
        command: The words of the command line that name it, for the note on how to go on.
        num_processes: Of the run, if it is to be launched.
        accelerate: A file of accelerate's that says which processes there are.
        dry_run: Train nothing.
        gpu: The kind of GPU that a dry run reckons with.
        price_per_hour: Of one.
        resume: As for train.
        overwrite: As for train.
        max_seconds: As for train.
        quiet: No progress.
        debug: Processes that are launched show where an error comes from, too.
    """
    _check_dry_run(gpu, price_per_hour, dry_run=dry_run)
    layout = _find_layout(num_processes, accelerate)
    if dry_run:
        from llmkit.training.estimating import describe_plan

        number, told = (1, {}) if layout is None else (layout.num_processes, layout.environment or {})
        sharded = told.get("ACCELERATE_USE_FSDP") == "true"
        text = describe_plan(recipe, num_processes=number, sharded=sharded, gpu=gpu, price_per_hour=price_per_hour)
        render.write(text)
    elif layout is not None:
        flags = [*(["--overwrite"] if overwrite else []), *(["--quiet"] if quiet else [])]
        flags += ["--debug"] if debug else []
        flags += [] if max_seconds is None else ["--max-seconds", str(max_seconds)]
        again = [*command, *([] if num_processes is None else ["--num-processes", str(num_processes)])]
        again += [] if accelerate is None else ["--accelerate", accelerate]
        _launch(recipe, [*command[1:], "--resume", resume, *flags], [*again, "--resume", "auto"], layout)
    else:
        _train(recipe, command, resume=resume, overwrite=overwrite, max_seconds=max_seconds, quiet=quiet)


def _check_dry_run(gpu: str | None, price_per_hour: float | None, *, dry_run: bool) -> None:
    """Refuse flags that would do nothing, and a price that is none."""
    if gpu is not None and not dry_run:
        raise InputError("--gpu goes with --dry-run: a run takes the GPUs that it finds")
    if price_per_hour is not None and gpu is None:
        raise InputError("--price-per-hour goes with --gpu, whose price it is")
    if price_per_hour is not None and not 0 <= price_per_hour < math.inf:
        raise InputError(f"--price-per-hour out of range, got {price_per_hour}; expected a number from 0")


def _find_layout(num_processes: int | None, accelerate: str | None) -> "Layout | None":
    """Find the processes to launch; None trains in this one."""
    if num_processes is not None and num_processes < 1:
        raise InputError(f"--num-processes out of range, got {num_processes}; expected a number from 1")
    if accelerate is not None:
        from llmkit.training.layouts import read_layout

        return read_layout(accelerate, num_processes)
    if num_processes is None or num_processes == 1:
        return None
    from llmkit.training.launching import Layout

    return Layout(num_processes, num_processes)


def _train(
    recipe: Recipe, command: Sequence[str], *, resume: str, overwrite: bool, max_seconds: float | None, quiet: bool
) -> None:
    """Train in this process, which may be one of several."""
    from llmkit.training.launching import LAUNCHER
    from llmkit.training.peers import OthersFailed, part
    from llmkit.training.running import train
    from llmkit.training.stopping import Interrupted

    speaks = os.environ.get("RANK", "0") == "0"
    render.NOTES.quiet = quiet or not speaks
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
        if LAUNCHER not in os.environ:  # else the launcher says how
            render.note(f"step {stop.step} saved; go on with: {shlex.join([*command, '--resume', 'auto'])}")
        raise typer.Exit(stop.exit_code) from None
    except OthersFailed as err:
        raise typer.Exit(err.exit_code) from None
    finally:
        line.close()
        render.NOTES.line = None
    if speaks:
        render.write(f"{run.path}\n")
    part()


def _launch(recipe: Recipe, command: Sequence[str], again: Sequence[str], layout: "Layout") -> None:
    """Run a command in several processes, and say what the first of them cannot.

    Args:
        recipe: Its recipe.
        command: Its words after `llmkit`.
        again: The words that go on with it.
        layout: Which processes there are.
    """
    from llmkit.runfolder import newest_whole
    from llmkit.training.launching import STOPPED, launch
    from llmkit.training.running import find_folder

    ended = launch(command, layout)
    folder = find_folder(recipe)
    newest = newest_whole(folder)[0] if ended.exit_code and folder.is_dir() else None
    saved = (
        "" if newest is None else f"step {int(newest.name.rpartition('-')[2])} saved; go on with: {shlex.join(again)}"
    )
    if ended.sentence is not None:
        render.show_error(ended.sentence, saved or None)
    elif ended.exit_code in STOPPED and saved:
        render.note(saved)
    if ended.exit_code:
        raise typer.Exit(ended.exit_code)


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
