"""The folder of a training run: its parts, its whole checkpoints, and how each of them is written.

    runs/NAME/  recipe.yaml  environment.json  metrics.jsonl  checkpoints/step-000200/  best/  final/

A checkpoint folder is whole when each file that its manifest.json names is there with the size and the sha256 given:
`{"files": {"model.safetensors": {"size": 1044992, "sha256": "..."}, "state/state.json": {...}}}`. It appears under its
name only then: it is filled as `.tmp-NAME`, and what it replaces waits as `.old-NAME` until the new one is on the disk.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from llmkit.errors import DamagedError, RunError

STEP = re.compile(r"step-(\d+)")
MADE, ASIDE = ".tmp-", ".old-"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# in their own exceptions safetensors and tokenizers say `(os error 28)`, torch.save `unexpected pos 576 vs 534`
FULL_TEXT = re.compile(rf"\(os error ({'|'.join(map(str, FULL))})\)|unexpected pos \d")


class Disk:
    """Holds the operations by which a run folder changes; a test records them, or has one fail."""

    def make_folder(self, folder: Path) -> None:
        """Make a folder in one that is there."""
        folder.mkdir()

    def fill(self, folder: Path, writer: Callable[[Path], None]) -> None:
        """Have a writer put files into a folder."""
        writer(folder)

    def write(self, path: Path, content: bytes) -> None:
        """Write a file."""
        path.write_bytes(content)

    def sync(self, path: Path) -> None:
        """Wait until the content of a file, or the names in a folder, are on the disk."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, old: Path, new: Path) -> None:
        """Give a file or folder another name in the same folder."""
        old.replace(new)

    def remove(self, path: Path) -> None:
        """Remove a file, or a folder and all that is in it."""
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


DISK = Disk()


def is_run(folder: Path) -> bool:
    """Tell whether a folder is the folder of a run: it has a recipe, and its checkpoints lie below it."""
    return (folder / "recipe.yaml").is_file() and not (folder / "config.json").is_file()


def choose_checkpoint(run: Path) -> tuple[Path | None, list[str]]:
    """Choose the checkpoint that stands for a run: final/, else best/, else the newest whole step.

    Returns:
        The folder, or None where the run has none; and a sentence for each newer step that was passed over.
    """
    for part in ("final", "best"):
        if (run / part).is_dir():
            return run / part, []
    return newest_whole(run)


def newest_whole(run: Path) -> tuple[Path | None, list[str]]:
    """Find the newest step folder that is whole.

    Returns:
        The folder, or None where the run has none; and a sentence for each newer step that was passed over.
    """
    passed_over: list[str] = []
    for step in steps(run):
        problem = find_damage(step)
        if problem is None:
            return step, passed_over
        passed_over.append(f"{step.name} is not whole ({problem})")
    return None, passed_over


def steps(run: Path) -> list[Path]:
    """List the step folders of a run, newest first."""
    folders = [p for p in (run / "checkpoints").glob("step-*") if p.is_dir() and STEP.fullmatch(p.name)]
    return sorted(folders, key=_number, reverse=True)


def _number(step: Path) -> int:
    return int(step.name.removeprefix("step-"))


def find_damage(folder: Path) -> str | None:
    """Compare a checkpoint folder with its manifest and name the first difference, or None."""
    manifest = _read_object(folder / "manifest.json")
    if manifest is None:
        return "manifest.json cannot be read" if (folder / "manifest.json").exists() else "no manifest.json"
    try:
        expected = [(name, int(entry["size"]), str(entry["sha256"])) for name, entry in manifest["files"].items()]
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return "manifest.json cannot be read"
    for name, size, sha256 in expected:
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size:,} bytes, expected {size:,}"
        try:
            same = hash_file(path) == sha256
        except OSError as err:
            return f"{name} cannot be read: {err.strerror}"
        if not same:
            return f"{name} differs from its sha256"
    return None


def check_manifest(folder: Path) -> None:
    """Compare a checkpoint folder with its manifest, where it has one of ours.

    Raises:
        DamagedError: A file is missing or differs.
    """
    manifest = _read_object(folder / "manifest.json")
    problem = find_damage(folder) if manifest is not None and "files" in manifest else None
    if problem is not None:
        raise DamagedError(f"{folder} is damaged: {problem}")


def hash_file(path: Path) -> str:
    """Compute the sha256 of a file, as lower-case hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_facts(folder: Path) -> dict[str, object]:
    """Read llmkit.json of a checkpoint folder; where there is none, the facts are empty.

    Raises:
        DamagedError: It cannot be read as a JSON object.
    """
    path = folder / "llmkit.json"
    facts = _read_object(path) if path.is_file() else {}
    if facts is None:
        raise DamagedError(f"{path} cannot be read as a JSON object")
    return facts


def _read_object(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def publish(target: Path, fill: Callable[[Path], None], disk: Disk = DISK) -> None:
    """Write a folder whole or not at all, in the place of one that may be there.

    Args:
        target: The folder.
        fill: Writes its files into the folder that it is given, in sub-folders too; the manifest comes on top.
        disk: How the disk is changed.
    """
    made, aside = target.with_name(MADE + target.name), target.with_name(ASIDE + target.name)
    try:
        make_folders(target.parent, disk)
        _mend(target, disk)
        disk.make_folder(made)
        disk.fill(made, fill)
        files = {p.relative_to(made).as_posix(): p for p in sorted(made.rglob("*")) if p.is_file()}
        open_to_others(files.values())
        for path in files.values():
            disk.sync(path)
        entries = {name: {"size": p.stat().st_size, "sha256": hash_file(p)} for name, p in files.items()}
        disk.write(made / "manifest.json", json.dumps({"files": entries}, indent=1).encode())
        disk.sync(made / "manifest.json")
        for folder in [*(p for p in made.rglob("*") if p.is_dir()), made]:
            disk.sync(folder)
        if target.exists():
            disk.rename(target, aside)
        disk.rename(made, target)
        disk.sync(target.parent)
        if aside.exists():
            disk.remove(aside)
    except BaseException:
        with contextlib.suppress(OSError):
            _mend(target, disk)
        raise


def open_to_others(files: Iterable[Path]) -> None:
    """Give files the mode that a new one has here: safetensors 0.8 keeps what it writes to the owner."""
    mask = os.umask(0o077)  # there is no way to read it alone
    os.umask(mask)
    for path in files:
        path.chmod(0o666 & ~mask)


def _mend(target: Path, disk: Disk) -> None:
    """Undo what an interrupted publish() or prune() of a folder left, or finish it."""
    made, aside = target.with_name(MADE + target.name), target.with_name(ASIDE + target.name)
    if aside.exists():
        disk.sync(target.parent)  # the new name comes to the disk before the old content goes
        if target.exists() and find_damage(target) is None:
            disk.remove(aside)
        else:
            if target.exists():
                disk.remove(target)
            disk.rename(aside, target)
            disk.sync(target.parent)
    if made.exists():
        disk.remove(made)


def recover(run: Path, disk: Disk = DISK) -> None:
    """Bring a run folder in order after a crash; call it under the lock, before anything is read."""
    for folder in (run, run / "checkpoints"):
        left = [*folder.glob(f"{MADE}*"), *folder.glob(f"{ASIDE}*")]
        for name in {p.name.removeprefix(MADE).removeprefix(ASIDE) for p in left}:
            _mend(folder / name, disk)


def prune(run: Path, step: int, keep: int, disk: Disk = DISK) -> None:
    """Remove the step folders that a step, which is whole and on the disk, makes needless.

    They are those before the last `keep` up to this step, and all after it: they are damaged, or a line that was left
    when an older checkpoint was resumed.
    """
    upto = [folder for folder in steps(run) if _number(folder) <= step]
    needless = [folder for folder in steps(run) if folder not in upto[:keep]]
    gone = [folder.with_name(MADE + folder.name) for folder in needless]
    for folder, away in zip(needless, gone, strict=True):
        disk.rename(folder, away)
    if gone:
        disk.sync(run / "checkpoints")  # none loses its name after its content
    for away in gone:
        disk.remove(away)


def make_folders(folder: Path, disk: Disk = DISK) -> list[Path]:
    """Make a folder and what is missing above it; return those made, the uppermost first."""
    missing, made = [p for p in (folder, *folder.parents) if not p.exists()][::-1], []
    for path in missing:
        try:
            disk.make_folder(path)
        except FileExistsError:
            if not path.is_dir():
                raise
            continue  # another process has made it since
        disk.sync(path.parent)
        made.append(path)
    return made


def write_text(path: Path, text: str, disk: Disk = DISK) -> None:
    """Write a text file of a run folder whole or not at all.

    Raises:
        RunError: The disk is full.
    """
    _write(path, text.encode(), disk)


def _write(path: Path, content: bytes, disk: Disk) -> None:
    made = path.with_name(MADE + path.name)
    with naming_full_disk(path.parent, path.name):
        try:
            disk.write(made, content)
            disk.sync(made)
            disk.rename(made, path)
            disk.sync(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                disk.remove(made)
            raise


def append_metrics(path: Path, row: Mapping[str, object]) -> None:
    """Add a line to metrics.jsonl.

    Raises:
        ValueError: A number is NaN or infinite.
        RunError: The disk is full.
    """
    line = json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
    with naming_full_disk(path.parent, path.name), path.open("ab") as file:
        file.write(line.encode())


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the lines of metrics.jsonl; none where there is no file, and not one that a crash left torn."""
    rows = []
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict) and isinstance(row.get("step"), int)]


def truncate_metrics(path: Path, step: int, *, measured: int | None = None) -> None:
    """Drop the lines of metrics.jsonl after a step, and those a crash left torn; the others keep their bytes.

    Args:
        path: The file.
        step: The last step whose line stays.
        measured: The last step whose evaluation stays; unset: the same. An evaluation is a line without a rate.
    """
    if not path.is_file():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if _is_upto(line, step, step if measured is None else measured)]
    if kept != lines:
        _write(path, b"".join(kept), DISK)


def _is_upto(line: bytes, step: int, measured: int) -> bool:
    if not line.endswith(b"\n"):
        return False
    try:
        row = json.loads(line)
        return bool(row["step"] <= (step if "lr" in row else measured))
    except (ValueError, TypeError, KeyError):
        return False


@contextlib.contextmanager
def naming_full_disk(run: Path, what: str) -> Iterator[None]:
    """Turn a full disk, met while something of a run is written, into one sentence.

    Raises:
        RunError: The disk is full; the sentence names the newest checkpoint that is intact.
    """
    try:
        yield
    except Exception as err:  # each library has its own for this
        if not (isinstance(err, OSError) and err.errno in FULL) and not FULL_TEXT.search(str(err)):
            raise
        newest, _ = newest_whole(run)
        intact = "there is no whole checkpoint" if newest is None else f"step {_number(newest)} is intact"
        raise RunError(f"disk full while saving {what}; {intact}") from err
