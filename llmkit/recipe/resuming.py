"""What a recipe may change when its run goes on."""

from typing import Any

from llmkit.recipe import keys
from llmkit.recipe.explaining import refuse
from llmkit.recipe.parsing import COMMAND_LINE, Place, Problem, show
from llmkit.recipe.rules import find_breaches
from llmkit.recipe.schema import Recipe

FREE_SECTIONS = ("eval", "save", "log")
FREE_KEYS = (
    "output_dir",
    "about",
    "data.origin",
    "data.license",
    "train.max_steps",
    "train.num_epochs",
    "train.micro_batch_size",
    "train.compile",
    "train.threads",
)
LENGTH = ("train.max_steps", "train.num_epochs")

MICRO = "train.micro_batch_size"


def resume_recipe(given: Recipe, kept: Recipe) -> Recipe:
    """Join the recipe that a run began with and the one that is given to go on.

    Only the length, micro_batch_size, compile, threads, output_dir, what the card alone says (about, origin, license),
    eval, save and log may change; what is not given is as it was.

    Args:
        given: The recipe that is given now.
        kept: The recipe in the run's folder.

    Raises:
        InputError: Another key was given and differs; or the values do not go together any more.
    """
    values, problems = kept.model_dump(), []
    for key in given.origins:
        value, before = keys.get(given, key), keys.get(kept, key)
        if key == MICRO and value == "auto":
            continue  # it was found when the run began, and another would give other bits
        if is_free(key):
            if key in LENGTH:
                values["train"] |= {"max_steps": None, "num_epochs": None}
            keys.put(values, key, value)
        elif not _agree(value, before):
            inner, value, before = _narrow(key, value, before)
            sentence = f"{_show(value)} is not {_show(before)}, with which the run began"
            problems.append(Problem(_place(given, key), inner, sentence))
    hint = "another output_dir begins another run, --overwrite begins this one anew (in Python: overwrite=True)"
    refuse(given.file, problems, (given.file, COMMAND_LINE), hint=hint)
    joined = Recipe.model_validate(values)
    for breach in find_breaches(joined, own_data=True):
        problems.append(Problem(_place(given, breach.keys[0]), breach.keys[0], breach.sentence))
    refuse(given.file, problems)
    joined._file, joined._name = given.file, given.name
    joined._origins = {**kept.origins, **given.origins}
    if MICRO not in given.origins or given.train.micro_batch_size == "auto":
        joined._origins.pop(MICRO, None)  # nobody asks for it: on another number of processes it may have to change
    return joined


def is_free(key: str) -> bool:
    """Tell whether a key may change when a run goes on."""
    return key in FREE_KEYS or key.partition(".")[0] in FREE_SECTIONS


def _agree(given: Any, kept: Any) -> bool:
    """Compare two values; in the sources of a mixture, what is not given agrees with anything."""
    if isinstance(given, list) and isinstance(kept, list):
        return len(given) == len(kept) and all(map(_agree, given, kept))
    if isinstance(given, dict) and isinstance(kept, dict):
        return all(value is None or _agree(value, kept.get(key)) for key, value in given.items())
    return bool(given == kept)


def _narrow(key: str, given: Any, kept: Any) -> tuple[str, Any, Any]:
    """Find the first place within two values where they differ."""
    if isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        pairs = [(str(i), a, b) for i, (a, b) in enumerate(zip(given, kept, strict=True))]
    elif isinstance(given, dict) and isinstance(kept, dict):
        pairs = [(name, value, kept.get(name)) for name, value in given.items() if value is not None]
    else:
        return key, given, kept
    inner = next((pair for pair in pairs if not _agree(pair[1], pair[2])), None)
    return (key, given, kept) if inner is None else _narrow(f"{key}.{inner[0]}", inner[1], inner[2])


def _show(value: Any) -> str:
    text = ", ".join(map(show, value)) if isinstance(value, list | tuple) else show(value)
    return text if len(text) <= 90 else text[:89] + "…"


def _place(recipe: Recipe, key: str) -> Place:
    origin = recipe.origins.get(key, recipe.file)
    file, _, line = origin.rpartition(":")
    return Place(file, int(line)) if line.isdecimal() and file else Place(origin)
