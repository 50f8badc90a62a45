"""The folder of a training run: its parts, its whole checkpoints and the facts kept in llmkit.json.

    runs/NAME/  recipe.yaml  checkpoints/step-000200/  best/  final/

A checkpoint folder is whole when each file that its manifest.json names is there with the size and the sha256 given:
`{"files": {"model.safetensors": {"size": 1044992, "sha256": "..."}}}`.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from llmkit.errors import DamagedError

STEP = re.compile(r"step-(\d+)")


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
    return sorted(folders, key=lambda p: int(p.name.removeprefix("step-")), reverse=True)


def find_damage(folder: Path) -> str | None:
    """Compare a checkpoint folder with its manifest and name the first difference, or None."""
    manifest = _read_object(folder / "manifest.json")
    if manifest is None:
        return "manifest.json cannot be read" if (folder / "manifest.json").exists() else "no manifest.json"
    try:
        expected = [(name, int(entry["size"]), str(entry["sha256"])) for name, entry in manifest["files"].items()]
    except (ValueError, TypeError, KeyError, AttributeError):
        return "manifest.json cannot be read"
    for name, size, sha256 in expected:
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size:,} bytes, expected {size:,}"
        if hash_file(path) != sha256:
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
