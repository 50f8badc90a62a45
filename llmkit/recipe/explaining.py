"""What is wrong with a recipe, each problem one sentence with its place."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from llmkit.errors import InputError
from llmkit.recipe import keys
from llmkit.recipe.keys import Path
from llmkit.recipe.parsing import Node, Place, Problem, show
from llmkit.recipe.schema import Recipe

MAX_SHOWN = 20
OUT_OF_RANGE = {
    "greater_than",
    "greater_than_equal",
    "less_than",
    "less_than_equal",
    "finite_number",
    "int_parsing_size",
    "int_type",
}


def validate(values: dict[str, Any], tree: Node) -> tuple[Recipe | None, list[Problem], set[Path]]:
    """Check values against the schema.

    Args:
        values: The values of the recipe.
        tree: The same values with their places.

    Returns:
        The recipe, without the values that are wrong, if that much can be had; the problems; the paths of keys that
        are wrong, or that a wrong key was meant to be.
    """
    try:
        return Recipe.model_validate(values), [], set()
    except ValidationError as err:
        errors = err.errors(include_url=False)
    problems: dict[str, Problem] = {}
    wrong: set[Path] = set()
    missing: list[ErrorDetails] = []
    for error in errors:
        path = _path_of(error)
        if error["type"] == "missing" and path == tuple(error["loc"]):
            missing.append(error)
        elif error["type"] == "extra_forbidden":
            sentence, meant = keys.explain_unknown(path[:-1], str(path[-1]))
            sentence = f"unknown key {show(path[-1])}; {sentence}"
            problem = Problem(find_place(tree, path), ".".join(map(str, path[:-1])), sentence)
            problems[f"{path} unknown"] = problem
            wrong |= {path, *meant}
        else:
            found = Problem(find_place(tree, path), ".".join(map(str, path)), _explain(error, path, tree))
            problems.setdefault(str(path), found)
            wrong.add(path)
    for error in missing:
        path = tuple(error["loc"])
        if path not in wrong:
            example = keys.describe(keys.find(path))
            key = ".".join(map(str, path))
            problems[str(path)] = Problem(find_place(tree, path), key, f"missing; add {key}: {example}")
            wrong.add(path)
    return _try(_prune(values, wrong)), list(problems.values()), wrong


def _path_of(error: ErrorDetails) -> Path:
    """Cut the place of an error down to a key of the schema: a list of numbers is wrong as a whole, a choice too."""
    path = tuple(error["loc"])
    for n in range(1, len(path)):
        if keys.find(path[:n]).keys() & {"prefixItems", "words"}:
            return path[:n]
    return path


def _explain(error: ErrorDetails, path: Path, tree: Node) -> str:
    part = keys.find(path)
    value = error["input"]
    if path == ("version",) and isinstance(value, int) and not isinstance(value, bool):
        from llmkit import __version__

        return f"version {show(value)} is not known; llmkit {__version__} reads version {part['const']}"
    if "prefixItems" in part:
        items = keys.describe(part["prefixItems"][0]).replace("a number", "numbers")
        node = find_node(tree, path)
        return f"expected a list of {len(part['prefixItems'])} {items}, got {_show_node(node)}"
    got = show(value)
    if error["type"] == "literal_error":
        choices = [str(choice) for choice in part.get("enum", [part.get("const")])]
        near = [name for name in keys.nearest(value, choices) if name != value] if isinstance(value, str) else []
        suggestion = f"; did you mean {keys.join([repr(name) for name in near])}?" if near else ""
        return f"expected {keys.describe(part)}, got {got}{suggestion}"
    if error["type"] in ("too_short", "string_too_short"):
        return f"expected {'text' if part.get('type') == 'string' else 'at least one item'}, got {got}"
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    form = keys.describe(part, bounds=is_number and error["type"] in OUT_OF_RANGE)
    if error["type"] == "finite_number":
        form = form.replace("a number", "a finite number")
    if part.get("type") == "array" and isinstance(value, str):
        items = ", ".join(item for item in re.split("[,\uff0c\u3001 ]+", value) if item)
        return f"expected {form}, got {got}; brackets make one: {show(f'[{items}]')[1:-1]}"
    return f"expected {form}, got {got}"


def _show_node(node: Node | None) -> str:
    if node is not None and isinstance(node.value, list) and len(node.value) <= 5:
        return f"[{', '.join(show(item.value) for item in node.value)}]"
    return show(node.value if node is not None else None)


def find_node(tree: Node, path: Sequence[str | int]) -> Node | None:
    """Find what was given at a path."""
    node: Node | None = tree
    for step in path:
        if node is None:
            return None
        if isinstance(node.value, dict):
            node = node.value.get(str(step))
        elif isinstance(node.value, list) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
        else:
            return None
    return node


def find_place(tree: Node, path: Sequence[str | int]) -> Place:
    """Find the place of what was given at a path, or of the section in which it is missing."""
    for n in range(len(path), 0, -1):
        node = find_node(tree, path[:n])
        if node is not None:
            return node.place
    return Place(tree.place.file)


def _prune(values: dict[str, Any], wrong: Iterable[Path]) -> dict[str, Any]:
    """Take wrong keys out, so that what is left can be checked further."""
    pruned = _copy(values)
    for path in wrong:
        parent: Any = pruned
        holder: tuple[dict[str, Any], str] | None = None
        for step in path:
            if isinstance(parent, dict) and step in parent:
                holder, parent = (parent, str(step)), parent[step]
            elif isinstance(parent, list) and isinstance(step, int) and step < len(parent):
                parent = parent[step]
            else:
                holder = None
                break
        if holder is not None:
            holder[0].pop(holder[1], None)
    return {"version": 1, "objective": "causal-lm", **pruned, "model": pruned.get("model", {})} | (
        {} if "train" in pruned else {"train": {}}
    )


def _copy(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _copy(value) for key, value in values.items()}
    return [_copy(item) for item in values] if isinstance(values, list) else values


def _try(values: dict[str, Any]) -> Recipe | None:
    try:
        return Recipe.model_validate(values)
    except ValidationError:
        return None


def refuse(file: str, problems: Iterable[Problem], files: Sequence[str] = (), *, hint: str | None = None) -> None:
    """Raise the problems of a recipe, if there are any: the only one, or all of them as the error's details.

    Args:
        file: What the user called the recipe.
        problems: What is wrong.
        files: The files of its layers, in the order in which their problems are told.
        hint: What answers the next question.

    Raises:
        InputError: There are problems.
    """
    order = {name: number for number, name in enumerate(files)}
    ranked = sorted(problems, key=lambda p: (order.get(p.place.file, -1), p.place.line))
    told = list(dict.fromkeys(map(str, ranked)))
    if len(told) == 1:
        raise InputError(told[0], hint=hint)
    if told:
        rest = [f"and {len(told) - MAX_SHOWN} more"] if len(told) > MAX_SHOWN else []
        raise InputError(f"{file} has {len(told)} problems", details=(*told[:MAX_SHOWN], *rest), hint=hint)
