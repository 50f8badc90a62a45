"""Recipes as YAML that people read and that reads back to the same values."""

import re
from collections.abc import Callable, Iterator
from typing import Any

from llmkit.recipe.parsing import resolve
from llmkit.recipe.rules import ACTING
from llmkit.recipe.schema import Recipe

# Text that YAML reads as itself without quotes, inside a list too.
BARE = re.compile(r"[^\W\d][\w./~+-]*( [\w./~+-]+)*|\.{0,2}/[\w./~+-]*")
OLD_BOOLEANS = ("y", "n", "yes", "no", "on", "off")  # to a reader of YAML 1.1
WIDTH = 100
FREE = ("config", "kwargs", "adapter", "quantization")  # mappings whose keys are not the schema's


def dump_recipe(recipe: Recipe, comment: Callable[[str], str] = lambda key: "") -> str:
    """Write a recipe with all its values as YAML; what is unset, or cannot act with the objective, is left out.

    Args:
        recipe: The recipe.
        comment: Gives the comment that stands after the value of a dotted key; "" for none.
    """
    values = {key: value for key, value in recipe.model_dump().items() if key != "extends"}
    for source in (values["data"], *(values["data"]["mix"] or [])):
        for key in source.keys() & {key for key, acting in ACTING.items() if recipe.objective not in acting}:
            del source[key]
    return "\n".join(_write_mapping(values, (), comment, free=False)) + "\n"


def _write_mapping(
    values: dict[str, Any], path: tuple[str, ...], comment: Callable[[str], str], *, free: bool
) -> Iterator[str]:
    indent = "  " * len(path)
    for key, value in values.items():
        if not free and (value is None or value == {}):
            continue
        inner = (*path, key)
        start = f"{indent}{_write_scalar(key)}:"
        told = comment(".".join(inner))
        end = f"  # {told}" if told else ""
        if isinstance(value, dict) and value:
            yield start
            yield from _write_mapping(value, inner, comment, free=free or key in FREE)
        elif isinstance(value, list | tuple) and value and not _fits(value, start):
            yield start + end
            for item in value:
                yield f"{indent}  - {_write_flow(item, free=free)}"
        else:
            yield f"{start} {_write_flow(value, free=free)}{end}"


def _fits(values: list[Any] | tuple[Any, ...], start: str) -> bool:
    """Tell whether a list is short enough to stand on one line."""
    if any(isinstance(item, dict | list | tuple) for item in values):
        return False
    return len(start) + len(_write_flow(values, free=True)) <= WIDTH


def write_value(value: Any) -> str:
    """Write a value on one line, with all that it holds."""
    return _write_flow(value, free=True)


def _write_flow(value: Any, *, free: bool) -> str:
    if isinstance(value, dict):
        pairs = value.items() if free else [(k, v) for k, v in value.items() if v is not None and v != {}]
        inside = ", ".join(
            f"{_write_scalar(key)}: {_write_flow(item, free=free or key in FREE)}" for key, item in pairs
        )
        return f"{{{inside}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_write_flow(item, free=free) for item in value)}]"
    return _write_scalar(value)


def _write_scalar(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        is_bare = BARE.fullmatch(value) and resolve(value) == value and value.lower() not in OLD_BOOLEANS
        return value if is_bare else _quote(value)
    text = repr(value)
    return f"{text[:-3]}.{text[-3:]}" if text.endswith(("inf", "nan")) else text


def _quote(text: str) -> str:
    """Quote a text, with what cannot be printed as escapes."""
    short = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}
    return '"' + "".join(short.get(c) or (c if c.isprintable() else f"\\U{ord(c):08X}") for c in text) + '"'
