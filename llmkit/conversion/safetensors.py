"""From pickled weights, or a .gguf file, to plain safetensors."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from llmkit import checking
from llmkit.errors import DamagedError, InputError, RunError
from llmkit.locating import locate

# What may stand beside the weights and is copied as it is: text that describes them, never code and never pickles.
COPIED = ("*.json", "*.txt", "*.model", "*.spm", "*.jinja", "*.md")


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
    part = out.with_name(f"{out.name}.part-{os.getpid()}")
    try:
        part.mkdir(parents=True)
    except OSError as err:
        raise InputError(f"cannot write to {out.parent}: {err.strerror}") from None
    try:
        if found.path.suffix == ".gguf":
            _save_gguf(found.path, part)
        else:
            _convert_folder(found.path, part)
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return sorted(out.glob("*.safetensors"))


def _save_gguf(path: Path, part: Path) -> None:
    from llmkit.loading import load

    model, tokenizer = load(path, device="cpu")
    model.save_pretrained(part)
    tokenizer.save_pretrained(part)


def _convert_folder(folder: Path, part: Path) -> None:
    bins = sorted(folder.glob("pytorch_model*.bin"))
    if not bins:
        has = "safetensors weights already" if any(folder.glob("*.safetensors")) else "no pytorch_model.bin"
        raise InputError(f"{folder} has {has}; expected pytorch_model*.bin or a .gguf file")
    checking.check_config(folder)
    child = Path(__file__).with_name("unpickling.py")
    done = subprocess.run(
        [sys.executable, "-I", str(child), str(part), *map(str, bins)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        raise DamagedError(
            f"the weights of {folder} cannot be read as tensors: {(lines or ['no reason given'])[-1][:160]}"
        )
    for pattern in COPIED:
        for file in sorted(folder.glob(pattern)):
            if file.is_file() and not file.name.endswith(".index.json"):
                shutil.copyfile(file, part / file.name)
    if not checking.list_weights(part):
        raise RunError(f"nothing was written for {folder}")
