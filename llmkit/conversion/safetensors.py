"""From pickled weights, or a .gguf file, to plain safetensors."""

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from llmkit import checking, runfolder, runtime
from llmkit.errors import DamagedError, InputError, RunError
from llmkit.locating import Located, locate

# What may stand beside the weights and is copied as it is: text that describes them, never code and never pickles.
COPIED = ("*.json", "*.txt", "*.model", "*.spm", "*.jinja", "*.md")

# The process that reads pickled weights: argv is where packages lie, the script, and its arguments.
CHILD = "import json, runpy, sys; sys.path[:] = json.loads(sys.argv[1]); del sys.argv[:2]; "
CHILD += "runpy.run_path(sys.argv[0], run_name='__main__')"


def export_safetensors(checkpoint: str, out: Path, *, offline: bool = False) -> list[Path]:
    """Write a checkpoint as a folder with safetensors weights.

    A .bin is unpickled by a process of its own, with weights_only=True and without a network, which keeps tensors only.

    Args:
        checkpoint: A folder with pytorch_model*.bin, a .gguf file, or a package with one.
        out: A folder that does not exist yet.
        offline: As for load.

    Returns:
        The weight files that were written.

    Raises:
        InputError: There is nothing to convert, or `out` exists.
        DamagedError: The weights cannot be read as tensors.
    """
    if out.exists():
        raise InputError(f"{out} exists already; expected a new folder")
    found = locate(checkpoint, offline=offline)
    bins = _find_pickled(found) if found.path.suffix != ".gguf" else []
    part, missing = out.with_name(f"{out.name}.part-{os.getpid()}"), [p for p in out.parents if not p.exists()]
    try:
        part.mkdir(parents=True)
    except OSError as err:
        raise InputError(f"cannot write to {out.parent}: {err.strerror}") from None
    try:
        if bins:
            _convert_pickled(found, bins, part)
        else:
            _save_gguf(checkpoint, part, offline)
        runfolder.open_to_others(part.iterdir())
        part.rename(out)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        with contextlib.suppress(OSError):
            for parent in missing:
                parent.rmdir()
        raise
    return sorted(out.glob("*.safetensors"))


def _save_gguf(checkpoint: str, part: Path, offline: bool) -> None:
    from llmkit.loading import load

    model, tokenizer = load(checkpoint, device="cpu", offline=offline)
    try:
        with runtime.quiet():
            model.save_pretrained(part)
            tokenizer.save_pretrained(part)
    except Exception as err:  # safetensors has an error of its own for a full disk
        raise RunError(f"{part} cannot be written: {str(err)[-160:]}") from err


def _find_pickled(found: Located) -> list[Path]:
    bins = sorted(found.path.glob("pytorch_model*.bin"))
    if not bins:
        has = "safetensors weights already" if any(found.path.glob("*.safetensors")) else "no pytorch_model.bin"
        raise InputError(f"{found.name} has {has}; expected pytorch_model*.bin or a .gguf file")
    index = found.path / "pytorch_model.bin.index.json"
    with found.naming():
        checking.check_config(found.path)
        shards = checking.read_json(index).get("weight_map") if index.is_file() else {}
    named = {str(name) for name in shards.values()} if isinstance(shards, dict) else set()
    missing = sorted(named - {path.name for path in bins})
    if missing:
        raise DamagedError(f"{found.name} lacks {len(missing)} of {len(named)} shards: {', '.join(missing[:3])}")
    return bins


def _convert_pickled(found: Located, bins: list[Path], part: Path) -> None:
    child = Path(__file__).with_name("unpickling.py")
    searched = json.dumps([place for place in sys.path if place])  # -I leaves out the packages of the user
    words = [sys.executable, "-I", "-c", CHILD, searched, str(child), str(part), *map(str, bins)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode == errno.EIO:
        raise RunError(f"{part} cannot be written: {done.stderr[-160:]}")
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise DamagedError(f"the weights of {found.name} cannot be read as tensors: {reason[:160]}")
    for pattern in COPIED:
        for file in sorted(found.path.glob(pattern)):
            if file.is_file() and not file.name.endswith(".index.json"):
                shutil.copyfile(file, part / file.name)
