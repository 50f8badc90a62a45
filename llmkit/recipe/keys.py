"""The keys of the schema: what stands at a dotted key, what form it has, and which keys are near a wrong one."""

import functools
from typing import Any

from llmkit.recipe.schema import Recipe

Path = tuple[str | int, ...]

# What other tools call a key; the key of gradient accumulation has no counterpart, as it is derived.
ELSEWHERE = {
    "learning_rate": "optim.lr",
    "optimizer": "optim.name",
    "scheduler": "schedule.name",
    "lr_scheduler_type": "schedule.name",
    "warmup_steps": "schedule.num_warmup_steps",
    "steps": "train.max_steps",
    "epochs": "train.num_epochs",
    "num_train_epochs": "train.num_epochs",
    "batch_size": "train.global_batch_size",
    "per_device_train_batch_size": "train.micro_batch_size",
    "grad_clip": "train.max_grad_norm",
    "bf16": "train.mixed_precision",
    "torch_compile": "train.compile",
    "block_size": "data.max_length",
    "seq_length": "data.max_length",
    "packing": "data.pack",
    "dataset": "data.path",
    "tokenizer_name": "model.tokenizer",
    "save_steps": "save.every_steps",
    "save_total_limit": "save.keep",
    "logging_steps": "log.every_steps",
    "report_to": "log.to",
    "eval_steps": "eval.every_steps",
}


@functools.cache
def json_schema() -> dict[str, Any]:
    """Give the JSON schema of a recipe, with the description of each key."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Recipe.model_json_schema(),
        "title": "A recipe of llmkit",
    }


def find(path: Path) -> dict[str, Any]:
    """Find the part of the JSON schema that describes a path; {} where the schema says nothing about it."""
    part = _follow(json_schema())
    for step in path:
        if isinstance(step, int) or (step.isdigit() and "items" in part):
            part = (part.get("prefixItems") or [part.get("items", {})])[0]
        else:
            part = part.get("properties", {}).get(step, {})
        part = _follow(part)
    return part


def find_items(part: dict[str, Any]) -> dict[str, Any]:
    """Find the part that describes each item of a list."""
    return _follow(part.get("items", {}))


def _follow(part: dict[str, Any]) -> dict[str, Any]:
    """Go through references and past null; words that may stand in the place of a value become its `words`."""
    if "$ref" in part:
        return _follow(json_schema()["$defs"][part["$ref"].rpartition("/")[2]])
    if "anyOf" in part:
        first, *others = (form for form in part["anyOf"] if form.get("type") != "null")
        words = [form["const"] for form in others if "const" in form]
        return {**_follow(first), **({"words": words} if words else {})}
    return part


def is_free(path: Path) -> bool:
    """Tell whether a path is a mapping of free keys, such as model.config."""
    return find(path).get("additionalProperties") is True


def is_in_free(path: Path) -> bool:
    """Tell whether a path lies inside a mapping of free keys."""
    return any(is_free(path[:n]) for n in range(1, len(path)))


def is_known(path: Path) -> bool:
    """Tell whether a path is that of a key of a recipe, of an item, or lies inside a mapping of free keys."""
    if not path or isinstance(path[-1], int) or is_in_free(path):
        return True
    return path[-1] in find(path[:-1]).get("properties", {})


def list_keys(path: Path = ()) -> list[str]:
    """List the keys of a section; () is the recipe itself."""
    return list(find(path).get("properties", {}))


def list_sections() -> list[str]:
    """List the sections of a recipe."""
    return [key for key in list_keys() if list_keys((key,))]


def describe(part: dict[str, Any], *, bounds: bool = True) -> str:
    """Say what form a value has, with its bounds or without."""
    if "words" in part:
        plain = {key: value for key, value in part.items() if key != "words"}
        return " or ".join([describe(plain, bounds=bounds), *part["words"]])
    if "const" in part:
        return str(part["const"])
    if "enum" in part:
        return "one of " + ", ".join(map(str, part["enum"]))
    kind = part.get("type", "object")
    if kind == "array" and "prefixItems" in part:
        return f"a list of {len(part['prefixItems'])}"
    nouns = {"integer": "a whole number", "number": "a number", "string": "text", "boolean": "true or false"}
    noun = nouns.get(kind, "a list" if kind == "array" else "a mapping")
    if not bounds or kind not in ("integer", "number"):
        return noun
    if "exclusiveMinimum" in part:
        below = f" and below {part['exclusiveMaximum']:,}" if "exclusiveMaximum" in part else ""
        return f"{noun} above {part['exclusiveMinimum']:,}{below}"
    ends = (f" from {part['minimum']:,}" if "minimum" in part else "") + (
        f" to {part['maximum']:,}" if "maximum" in part else ""
    )
    return noun + ends


def explain_unknown(path: Path, key: str) -> tuple[str, list[Path]]:
    """Say which key is meant by one that is unknown; the paths of what is meant come with the sentence."""
    meant: list[Path] = []
    name, colon, value = key.replace("：", ":").partition(":")
    if colon:  # YAML takes `lr:1e-2` for a key without a value
        return f"a key ends in a colon and a space, as in {name.strip()}: {value.strip() or '...'}", meant
    keys = list_keys(path)
    near = nearest(key, keys)
    homes = [section for section in list_sections() if key in list_keys((section,)) and (section,) != path]
    told = next((ELSEWHERE[name] for name in nearest(key, list(ELSEWHERE))), None)
    close = [name for name in near if distance(key, name) == 1]
    if homes and not close:
        sentence, meant = f"it belongs under {join(homes)}", [(home, key) for home in homes]
    elif path and not close and key in list_keys():
        sentence, meant = "it belongs at the top", [(key,)]
    elif told is not None and not close:
        sentence, meant = f"did you mean {told}?", [tuple(told.split("."))]
    elif not path and key.partition(".")[0] in list_sections():
        section, _, rest = key.partition(".")
        sentence, meant = f"write {rest} under {section}", [tuple(key.split("."))]
    elif near:
        sentence, meant = f"did you mean {join([repr(name) for name in near])}?", [(*path, name) for name in near]
    elif key == "gradient_accumulation_steps":
        sentence = "it follows from train.global_batch_size and train.micro_batch_size"
    else:
        sentence = f"expected {join(keys) if len(keys) < 9 else ', '.join(keys[:8]) + ', ...'}"
    return sentence, meant


def join(words: list[str]) -> str:
    """Join words as `a, b or c`."""
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def nearest(word: str, known: list[str]) -> list[str]:
    """Find the known words at the least distance from a word: one edit, or more in a long word."""
    if len(word) > 60:
        return []
    bound = 1 if len(word) < 5 else 2 if len(word) < 9 else 3
    plain = word.lower().replace("-", "_")
    similar = [name for name in known if abs(len(name) - len(word)) <= bound]
    scores = {name: min(distance(word, name), distance(plain, name) + 0.5) for name in similar}
    least = min(scores.values(), default=bound + 1)
    return [name for name, score in scores.items() if score == least] if least <= bound + 0.5 else []


def distance(a: str, b: str) -> int:
    """Count the edits between two words: a letter put in, left out, changed, or two neighbours swapped.

    Source: optimal string alignment distance (restricted Damerau-Levenshtein).
    """
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        older, before, row = before, row, [i]
        for j, y in enumerate(b, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                cost = min(cost, older[j - 2] + 1)
            row.append(cost)
    return row[-1]


def get(recipe: Recipe, key: str) -> Any:
    """Give the value at a dotted key, as plain mappings and lists; None where there is none."""
    value: Any = recipe.model_dump()
    steps = key.split(".")
    while steps and isinstance(value, dict):
        # A free key may itself hold dots.
        known = next((n for n in range(len(steps), 0, -1) if ".".join(steps[:n]) in value), 0)
        if not known:
            return None
        value, steps = value[".".join(steps[:known])], steps[known:]
    return None if steps else value


def put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set the value at a dotted key."""
    *sections, last = key.split(".")
    for section in sections:
        if not isinstance(values.get(section), dict):
            values[section] = {}  # of a free key, whose value is a mapping that was not there
        values = values[section]
    values[last] = value
