"""The base under an adapter: what adapter_config.json calls it, and which weights it has."""

import functools
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llmkit import checking, runtime
from llmkit.conversion.safetensors import COPIED
from llmkit.loading import load
from llmkit.locating import OURS, Located, locate
from llmkit.runfolder import naming_full_disk, publish

NOT_COPIED = ("manifest.json", "adapter_config.json")


@dataclass(frozen=True)
class Base:
    """Names the base of an adapter.

    Attributes:
        config: What adapter_config.json says of it: a folder, or a hub id and its revision.
        facts: What llmkit.json says of it: `base`, its name for llmkit; `base_sha256`, the hash of its weights; and
            `base_copy_sha256`, that of the copy in the run folder, where it is stored in another form.
    """

    config: Mapping[str, str | None]
    facts: Mapping[str, str]


@functools.lru_cache(maxsize=8)  # a hash of some GB takes seconds, and each save asks for it; a run begins by clearing
def find_base(name: str, run: Path, revision: str | None = None) -> Base:
    """Find the base of a run's adapter; one that peft could not find is copied to RUN/base, once.

    Args:
        name: The recipe's model.name.
        run: The folder of the run.
        revision: Of a hub id.

    Raises:
        RunError: The disk is full.
        InputError: The base is gone.
    """
    found = locate(name, revision=revision)
    sha256 = checking.hash_weights(found.path)
    is_file = found.path.suffix == ".gguf"
    if name.startswith(OURS) or is_file:
        copy = run / "base"
        if not copy.is_dir():
            _copy(found, copy)
        given = name if name.startswith(OURS) else str(found.path.resolve())
        facts = {"base": given, "base_sha256": sha256}
        if is_file:
            facts["base_copy_sha256"] = checking.hash_weights(copy)
        return Base({"base_model_name_or_path": str(copy.resolve())}, facts)
    is_path = Path(os.path.expanduser(name)).exists()
    path = str(found.path.resolve()) if is_path else name
    config = {"base_model_name_or_path": path, "revision": None if is_path else revision}
    return Base(config, {"base": path, "base_sha256": sha256})


def _copy(found: Located, target: Path) -> None:
    """Write a base as plain safetensors: a folder's files as they are, a .gguf file read and dequantized."""

    def fill(folder: Path) -> None:
        if found.path.suffix == ".gguf":
            model, tokenizer = load(str(found.path), dtype="float32", device="cpu")
            with runtime.quiet():
                model.save_pretrained(folder)
                tokenizer.save_pretrained(folder)
            return
        beside = [file for pattern in COPIED for file in found.path.glob(pattern) if file.name not in NOT_COPIED]
        for file in [*checking.list_weights(found.path), *beside]:
            shutil.copyfile(file, folder / file.name)

    with naming_full_disk(target.parent, f"{target.name}/"):
        publish(target, fill)
