"""The claim of one process to a run folder: that no other writes there, and where the run goes on."""

import contextlib
import fcntl
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from llmkit.errors import DamagedError, InputError
from llmkit.runfolder import find_damage, make_folders, newest_whole, recover, steps

LOCK = ".lock"
# a run that was killed while it wrote the first of its files is a new one still
NOTHING = {LOCK, ".tmp-recipe.yaml"}


@contextlib.contextmanager
def claim(run: Path, *, resume: str = "never", overwrite: bool = False) -> Iterator[tuple[Path | None, list[str]]]:
    """Take the folder of a run for this process until the block ends, and find where the run goes on.

    Args:
        run: The folder; it is made where it is missing, and taken away again if nothing was put into it.
        resume: `never`: the folder has to be new or empty. `auto`: from the newest whole step, else from the start.
            `must`: from the newest whole step. Else the path of a step folder of the run; later ones stay until the
            next save.
        overwrite: Whether a folder that is not empty is moved aside, to NAME.old-1.

    Yields:
        The step folder to go on from, or None for a start; and a sentence for each newer one that was passed over.

    Raises:
        InputError: The folder cannot be taken so, or another process has it.
        DamagedError: The step folder that was given is damaged.
    """
    if overwrite and resume != "never":
        raise InputError(f"overwrite starts a new run, resume {resume!r} goes on with one; expected one of the two")
    aside = None
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(lock(run))
            if overwrite and _holds_something(run):
                aside = _move_aside(run)
                stack.enter_context(lock(run))
            yield _find_start(run, resume)
    finally:
        if aside is not None:
            (aside / LOCK).unlink(missing_ok=True)
            if not run.exists():  # nothing was put into the new folder: the old one comes back
                aside.rename(run)


def _find_start(run: Path, resume: str) -> tuple[Path | None, list[str]]:
    given = None if resume in ("never", "auto", "must") else Path(os.path.expanduser(resume))
    if given is not None and given.resolve() not in [step.resolve() for step in steps(run)]:
        raise InputError(
            f"no step to resume from at {given}; expected a step folder of this run, as {run}/checkpoints/step-000200"
        )
    if _holds_something(run):
        if resume == "never":
            hint = "--resume auto goes on with it, --overwrite moves it aside"
            raise InputError(f"{run} is not empty; expected a new or empty folder", hint=hint)
        if not (run / "recipe.yaml").is_file():
            raise InputError(f"{run} is not empty and holds no run (no recipe.yaml); expected a run or a new folder")
    recover(run)
    if given is not None:
        problem = find_damage(given)
        if problem is not None:
            raise DamagedError(f"{given} is damaged: {problem}")
        return given, []
    newest, passed_over = newest_whole(run)
    if newest is None and resume == "must":
        reason = f"; {passed_over[0]}" if passed_over else ""
        raise InputError(f"no whole step to resume from in {run}{reason}", hint="--resume auto starts a new run")
    return newest, passed_over


def _holds_something(run: Path) -> bool:
    return any(p.name not in NOTHING for p in run.iterdir())


def _move_aside(run: Path) -> Path:
    whole = Path(os.path.abspath(run))  # a link is moved, not what it names
    names = (whole.with_name(f"{whole.name}.old-{n}") for n in itertools.count(1))
    aside = next(path for path in names if not path.exists())
    try:
        whole.rename(aside)
    except OSError as err:
        raise InputError(f"{run} cannot be moved to {aside}: {err.strerror}") from err
    return aside


@contextlib.contextmanager
def lock(run: Path) -> Iterator[None]:
    """Keep other processes out of a run folder; the kernel ends the lock with the process, however that ends.

    Raises:
        InputError: Another process has the folder, or it cannot be made or written.
    """
    if run.exists() and not run.is_dir():
        raise InputError(f"{run} is a file; expected a folder of a run")
    made: list[Path] = []
    try:
        made = make_folders(run)
        file = _take(run)
    except OSError as err:
        raise InputError(f"{run} cannot be written: {err.strerror}; expected a folder of a run") from err
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if _is_there(run, file):
                (run / LOCK).unlink()
                for folder in reversed(made):  # those into which something was put stay
                    folder.rmdir()
        file.close()


def _take(run: Path) -> TextIO:
    while True:
        file = (run / LOCK).open("a+", encoding="utf-8")
        try:
            # a lock of the process, not of the open file: its forked workers do not hold it after its death
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as err:
            with file:
                if not isinstance(err, (BlockingIOError, PermissionError)):
                    raise
                file.seek(0)
                holder = file.read().strip()
            raise InputError(f"{run} is in use by {f'process {holder}' if holder else 'another process'}") from err
        if _is_there(run, file):  # else its holder took it away at the end
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            return file
        file.close()


def _is_there(run: Path, file: TextIO) -> bool:
    try:
        return os.path.samestat(os.stat(run / LOCK), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
