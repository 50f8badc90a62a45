"""Layers of a recipe: parents below, the file above them, the command line on top."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from llmkit.recipe import keys
from llmkit.recipe.keys import Path
from llmkit.recipe.parsing import COMMAND_LINE, Node, Place, Problem, Refused, from_python, parse, show

# Keys of a section of which one layer gives at most one; a later layer's choice drops the earlier one.
CHOICES: dict[str, tuple[tuple[str, ...], ...]] = {
    "model": (("name", "config"),),
    "data": (
        ("path", "mix", "source_path"),
        ("eval_split", "eval_rows", "eval_path", "eval_documents", "eval_source_path"),
        ("prompt_column", "template"),
    ),
    "mix": (("path", "source_path"), ("prompt_column", "template")),
    "train": (("max_steps", "num_epochs"),),
}
# How a source is read.
READING_KEYS = (
    *("text_column", "label_column", "source_column", "target_column", "question_column", "context_column"),
    *("answers_column", "prompt_column", "completion_column", "template", "column_names", "sample_by", "encoding"),
    "clean",
)
# What was given for one value of a key, and is dropped when a later layer gives it another.
FOLLOWERS: dict[str, dict[str, tuple[str, ...]]] = {
    "model": {"name": ("revision", "kwargs")},
    "data": {
        "path": ("name", "train_split", "eval_split", "kwargs", "origin", "license"),
        "source_path": ("target_path", "origin", "license"),
        "eval_source_path": ("eval_target_path",),
    },
    "mix": {
        "path": ("name", "train_split", "kwargs", "origin", "license"),
        "source_path": ("target_path", "origin", "license"),
    },
    "optim": {"name": ("kwargs",)},
    "schedule": {"name": ("kwargs",)},
}


def lay(base: Node | None, layer: Node, path: Path = ()) -> Node | None:
    """Lay a layer over what lies below: mappings merge, all else replaces; None where nothing is left.

    Args:
        base: What lies below, if anything.
        layer: The layer.
        path: Where in the recipe both stand.
    """
    if layer.taken_back or (layer.value is None and not keys.is_in_free(path)):
        return None if keys.is_known(path) else Node(None, layer.place)  # which is refused, as with any other value
    if isinstance(layer.value, list):
        items = [lay(None, item, (*path, i)) or item for i, item in enumerate(layer.value)]
        return Node(items, layer.place)
    if not isinstance(layer.value, dict):
        return layer
    if base is not None and isinstance(base.value, list) and layer.place.argument:
        return _lay_items(base, layer, path)
    below = dict(base.value) if base is not None and isinstance(base.value, dict) else {}
    _drop(below, layer.value, path)
    for key, child in layer.value.items():
        merged = lay(below.get(key), child, (*path, key))
        if merged is None:
            below.pop(key, None)
        else:
            below[key] = merged
    return Node(below, base.place if base is not None else layer.place)


def _lay_items(base: Node, layer: Node, path: Path) -> Node:
    """Lay `data.mix.0.path=...` over a list, item by item."""
    items = list(base.value)
    for key, child in layer.value.items():
        if not key.isdecimal() or int(key) >= len(items):
            dotted = ".".join(map(str, path))
            numbers = f"numbers 0 to {len(items) - 1}" if len(items) > 1 else "number 0 alone" if items else "no items"
            raise Refused(Problem(child.place, dotted, f"no item {key}; {dotted} has {numbers}"))
        items[int(key)] = lay(items[int(key)], child, (*path, int(key))) or Node(None, child.place)
    return Node(items, layer.place)


def _drop(below: dict[str, Node], layer: Mapping[str, Node], path: Path) -> None:
    """Drop from a section below what the layer's choices replace."""
    section = next((str(step) for step in reversed(path) if not isinstance(step, int)), "")
    if len(path) > 2 + (section == "mix"):
        return
    followers = FOLLOWERS.get(section, {})
    for group in CHOICES.get(section, ()):
        if any(key in layer and layer[key].value is not None for key in group):
            for key in group:
                if key not in layer and below.pop(key, None) is not None:
                    _pop_all(below, followers.get(key, ()))
    for key, names in followers.items():
        if key in layer and key in below and layer[key].value != below[key].value:
            _pop_all(below, names)
    if path == ("model",) and _model_type(layer) not in (None, _model_type(below)):
        below.pop("config", None)


def _pop_all(below: dict[str, Node], names: Sequence[str]) -> None:
    for name in names:
        below.pop(name, None)


def _model_type(section: Mapping[str, Node]) -> Any:
    config = section.get("config")
    kind = config.value.get("model_type") if config is not None and isinstance(config.value, dict) else None
    return kind.value if kind is not None else None


def find_contradictions(layer: Node) -> Iterator[Problem]:
    """Find the choices of which one layer gives several."""
    for section, node in _list_sections(layer):
        for group in CHOICES["mix" if section.startswith("data.mix.") else section]:
            given = [key for key in group if key in node and node[key].value is not None]
            for first, second in pairwise(given):
                sentence = f"given beside {section}.{first}; expected one of the two"
                yield Problem(node[second].place, f"{section}.{second}", sentence)


def _list_sections(layer: Node) -> Iterator[tuple[str, Mapping[str, Node]]]:
    """List the sections that hold choices, the sources of a mixture among them, by their dotted keys."""
    for section in CHOICES:
        node = layer.value.get(section)
        if node is not None and isinstance(node.value, dict):
            yield section, node.value
            mix = node.value.get("mix") if section == "data" else None
            items = mix.value if mix is not None else None
            numbered = enumerate(items) if isinstance(items, list) else items.items() if isinstance(items, dict) else ()
            yield from ((f"data.mix.{i}", item.value) for i, item in numbered if isinstance(item.value, dict))


def find_idle(layer: Node) -> Iterator[Problem]:
    """Find the keys by which one layer reads a source, where it gives a mixture, whose sources have keys of their own.

    Where the evaluation data lie in a file of their own they act on that.
    """
    data = layer.value.get("data")
    given = data.value if data is not None and isinstance(data.value, dict) else {}
    if "mix" in given and given["mix"].value is not None:
        for key in READING_KEYS:
            if key in given and given[key].value is not None:
                sentence = "cannot act beside data.mix; expected it in each source there"
                yield Problem(given[key].place, f"data.{key}", sentence)


def list_rivals(key: str) -> set[Path]:
    """List the keys among which a key is a choice, itself among them."""
    section, _, name = key.partition(".")
    return {(section, rival) for group in CHOICES.get(section, ()) if name in group for rival in group}


def read_overrides(overrides: Mapping[str, object] | Sequence[str]) -> tuple[Node, list[Problem]]:
    """Turn overrides into a layer, later ones over earlier ones; a value of the command line is YAML."""
    root = Node({}, Place(COMMAND_LINE))
    problems: list[Problem] = []
    arguments = [overrides] if isinstance(overrides, str) else overrides
    pairs = arguments.items() if isinstance(arguments, Mapping) else [(text, None) for text in arguments]
    for key, value in pairs:
        try:
            if isinstance(arguments, Mapping):
                argument = f"{key}={show(value)}"
                node = from_python(value, Place(COMMAND_LINE, 0, argument))
            else:
                argument, key, node = _read_argument(str(key), problems)
            _put(root, str(key), Node(node.value, node.place, taken_back=node.value is None))
        except Refused as err:
            problems.append(err.problem)
    return root, problems


def _read_argument(argument: str, problems: list[Problem]) -> tuple[str, str, Node]:
    place = Place(COMMAND_LINE, 0, argument)
    key, equals, text = argument.partition("=")
    if not equals:
        raise Refused(Problem(Place(COMMAND_LINE), "", f"expected key=value, got {show(argument)}"))
    if not text.strip():
        raise Refused(Problem(place, "", "expected a value after =; null takes the key back"))
    if text.startswith(("*", "&", "!", "@", "`", "%")):  # no plain scalar of YAML, but a fine glob or name
        return argument, key.strip(), from_python(text, place)
    node, found = parse(text, COMMAND_LINE, argument)
    problems += found
    return argument, key.strip(), node


def _put(root: Node, dotted: str, node: Node) -> None:
    """Put a value into the layer of overrides at its dotted key."""
    *sections, last = dotted.split(".")
    if not all((*sections, last)):
        raise Refused(Problem(node.place, "", "expected key=value, with a key such as optim.lr"))
    if len(sections) > 20:
        raise Refused(Problem(node.place, "", "the key has more than 20 parts"))
    above = root.value
    for section in sections:
        inner = above.get(section)
        if inner is None or not isinstance(inner.value, dict):
            inner = above[section] = Node({}, node.place)
        above = inner.value
    before = above.get(last)
    merge = before is not None and isinstance(before.value, dict) and isinstance(node.value, dict)
    above[last] = (lay(before, node, tuple(dotted.split("."))) or node) if merge else node


def list_leaves(node: Node, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Node]]:
    """List the given values with their dotted keys; a list is one value."""
    if isinstance(node.value, dict) and (node.value or not keys.is_free(path)):
        for key, child in node.value.items():
            yield from list_leaves(child, (*path, key))
    else:
        yield ".".join(path), node
