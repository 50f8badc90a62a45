"""From a recipe's file, name or mapping to typed values that know where each came from."""

import difflib
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmkit.errors import InputError
from llmkit.recipe import keys, layers
from llmkit.recipe.explaining import find_node, find_place, refuse, validate
from llmkit.recipe.keys import json_schema
from llmkit.recipe.parsing import COMMAND_LINE, Node, Place, Problem, Refused, from_python, parse, plain, show
from llmkit.recipe.resuming import resume_recipe
from llmkit.recipe.rules import find_breaches
from llmkit.recipe.schema import Recipe, SourceSpec
from llmkit.recipe.writing import dump_recipe

__all__ = ["dump_recipe", "find_launchers", "find_recipes", "json_schema", "read_recipe", "resume_recipe"]

MAX_BYTES = 64 * 1024
MAX_PARENTS = 20


@dataclass(frozen=True)
class _Layer:
    """Holds one file of a recipe: its tree and, for its own `extends`, where it lies."""

    tree: Node
    file: str
    path: Path | None


ACCELERATE = "accelerate"  # the folder of files that are no recipes


def read_recipe(
    recipe: str | os.PathLike[str] | Mapping[str, object],
    overrides: Mapping[str, object] | Sequence[str] = (),
    *,
    own_data: bool = False,
) -> Recipe:
    """Read a recipe.

    Args:
        recipe: A path, else a name that `llmkit recipes list` prints; or a mapping.
        overrides: Values for dotted keys, as {"optim.lr": 1e-4} or ["optim.lr=1e-4"]; None or null takes a key back.
        own_data: Whether the caller brings the data, so that the recipe need not name any.

    Returns:
        The recipe; its `origins` say for each key that was given where that was.

    Raises:
        InputError: The recipe must be mended; all its problems at once.
    """
    problems: list[Problem] = []
    contradictions: list[Problem] = []
    found = _read_layers(recipe, problems)
    above, wrong = layers.read_overrides(overrides)
    problems += wrong
    if (extends := above.value.pop("extends", None)) is not None:
        sentence = "a recipe states it itself, and it cannot be given beside one; expected it in a file"
        problems.append(Problem(extends.place, "extends", sentence))
    file = found[-1].file
    tree: Node = Node({}, Place(file))
    files = [layer.file for layer in reversed(found)]
    for layer in (*(layer.tree for layer in found), above):
        try:
            contradictions += layers.find_contradictions(layer)
            tree = layers.lay(tree, layer) or tree
        except Refused as err:
            problems.append(err.problem)
    tree = Node(tree.value, Place(file))
    silent = {rival for problem in contradictions for rival in layers.list_rivals(problem.key)}
    settled, wrong = _check(tree, silent, own_data=own_data)
    if settled is not None and settled.data.eval_path is None:
        fields = SourceSpec.model_fields  # all of which stand in a recipe that was written down
        changed = {f"data.{key}" for key in fields if getattr(settled.data, key) != fields[key].default}
        for layer in (*(layer.tree for layer in found), above):
            contradictions += [problem for problem in layers.find_idle(layer) if problem.key in changed]
    refuse(file, [*problems, *contradictions, *wrong], [*files, COMMAND_LINE])
    assert settled is not None
    settled._file = file
    settled._name = _name(recipe)
    settled._origins = {key: str(node.place) for key, node in layers.list_leaves(tree)}
    return settled


def _name(recipe: str | os.PathLike[str] | Mapping[str, object]) -> str:
    if isinstance(recipe, Mapping):
        return "recipe"
    name = os.path.basename(os.fspath(recipe))
    return name.removesuffix(".yaml").removesuffix(".yml") or name


def _check(tree: Node, silent: set[keys.Path], *, own_data: bool) -> tuple[Recipe | None, list[Problem]]:
    """Check the schema, and what values must fulfil together as far as they are right and not `silent`."""
    values = plain(tree)
    values.setdefault("model", {})
    values.setdefault("train", {})
    recipe, problems, wrong = validate(values, tree)
    wrong |= silent
    if recipe is not None:
        for breach in find_breaches(recipe, own_data=own_data):
            paths = [tuple(int(step) if step.isdecimal() else step for step in key.split(".")) for key in breach.keys]
            if not any(path[:n] in wrong for path in paths for n in range(1, len(path) + 1)):
                given = next((path for path in paths if find_node(tree, path) is not None), paths[0])
                problems.append(Problem(find_place(tree, given), breach.keys[0], breach.sentence))
    return recipe, problems


def _read_layers(recipe: str | os.PathLike[str] | Mapping[str, object], problems: list[Problem]) -> list[_Layer]:
    """Read a recipe and its parents, the furthest parent first."""
    if isinstance(recipe, Mapping):
        layer = _read_one(lambda: (from_python(recipe, Place("recipe")), []), "recipe", None, problems)
    else:
        file = os.fspath(recipe)
        layer = _read_file(file, find_recipe(file), problems)
    found = [layer]
    seen = {_identity(layer)}
    while (extends := layer.tree.value.pop("extends", None)) is not None and extends.value is not None:
        parent = _find_parent(extends, layer)
        layer = _read_file(*parent, problems)
        if _identity(layer) in seen or len(found) > MAX_PARENTS:
            raise InputError(str(Problem(extends.place, "extends", f"{extends.value} leads back to itself")))
        seen.add(_identity(layer))
        found.insert(0, layer)
    return found


def _identity(layer: _Layer) -> str:
    return os.path.realpath(layer.path) if layer.path is not None else ""


def _find_parent(extends: Node, layer: _Layer) -> tuple[str, Path]:
    """Find the recipe that another extends: a path from its folder, else a name."""

    def complain(sentence: str) -> InputError:
        return InputError(str(Problem(extends.place, "extends", sentence)))

    name = extends.value
    if not isinstance(name, str):
        raise complain(f"expected a path or a recipe's name, got {show(name)}")
    folder = layer.path.parent if layer.path is not None else Path()
    if (path := folder / os.path.expanduser(name)).is_file():
        beside = os.path.join(os.path.dirname(layer.file), name) if layer.path is not None else name
        return beside, path
    recipes = find_recipes()
    if name in recipes:
        return name, recipes[name]
    near = _suggest(path, name)
    raise complain(f"recipe not found: {show(name)[1:-1]}{f'; did you mean {near}?' if near else ''}")


def _read_file(file: str, path: Path, problems: list[Problem]) -> _Layer:
    return _read_one(lambda: parse(_read_text(file, path), file), file, path, problems)


def _read_one(
    read: Callable[[], tuple[Node, list[Problem]]], file: str, path: Path | None, problems: list[Problem]
) -> _Layer:
    try:
        tree, found = read()
    except Refused as err:
        raise InputError(str(err.problem)) from None
    if tree.value is None and not found:
        raise InputError(f"{file}: the recipe is empty")
    if not isinstance(tree.value, dict):
        refuse(file, found)
        raise InputError(f"{file}: a recipe must be a mapping, got {show(tree.value)}")
    problems += found
    return _Layer(tree, file, path)


def _read_text(file: str, path: Path) -> str:
    """Read a file that cannot hang or fill the memory.

    Raises:
        InputError: It is not a regular file, too large, not UTF-8 or cannot be read.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{file}: not a regular file")
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as err:
        raise InputError(f"{file}: {err.strerror or err}") from err
    if len(content) > MAX_BYTES:
        size = max(status.st_size, len(content))
        raise InputError(f"{file}: {size / 1e6:,.1f} MB are too large for a recipe; expected at most 64 kB")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        line = content.count(b"\n", 0, err.start) + 1
        raise InputError(f"{file}:{line}: not UTF-8, got the byte 0x{content[err.start]:02X}") from err


def find_recipe(name: str) -> Path:
    """Find the file of a recipe: a path, else a name that `llmkit recipes list` prints.

    Raises:
        InputError: There is none.
    """
    path = Path(os.path.expanduser(name))
    recipes = find_recipes()
    try:
        exists, is_folder = path.exists(), path.is_dir()
    except (OSError, ValueError):  # too long, a NUL, or in a folder that may not be read
        exists = is_folder = False
    if name and exists and not is_folder:
        return path
    if name in recipes:
        return recipes[name]
    shown = show(name)[1:-1] if name else "''"
    if is_folder and name:
        raise InputError(f"{shown} is a folder; expected a recipe's file or name")
    near = _suggest(path, name)
    hint = f"did you mean {near}?" if near else "llmkit recipes list prints the names"
    raise InputError(f"recipe not found: {shown}", hint=hint)


def _suggest(path: Path, name: str) -> str | None:
    """Find the recipe whose path or name is nearest."""
    try:
        files = [entry.name for entry in path.parent.iterdir() if entry.suffix in (".yaml", ".yml")]
    except (OSError, ValueError):
        files = []
    for known, form in ((files, lambda found: str(Path(name).parent / found)), (list(find_recipes()), str)):
        near = difflib.get_close_matches(path.name[:100], known, n=1)
        if near:
            return str(form(near[0]))
    return None


def find_recipes() -> dict[str, Path]:
    """Find the recipes that come with llmkit, by name: inside the package, or beside it in a working copy."""
    return {name: path for name, path in _find_shipped().items() if path.parent.name != ACCELERATE}


def find_launchers() -> dict[str, Path]:
    """Find the files for accelerate that come with llmkit, by name."""
    return {name: path for name, path in _find_shipped().items() if path.parent.name == ACCELERATE}


def _find_shipped() -> dict[str, Path]:
    package = Path(__file__).resolve().parents[1]
    packed, beside = package / "_recipes", package.parent / "recipes"
    folder = packed if packed.is_dir() else beside if (package.parent / "pyproject.toml").is_file() else None
    files = sorted(folder.rglob("*.yaml")) if folder is not None else []
    return {file.stem: file for file in files}
