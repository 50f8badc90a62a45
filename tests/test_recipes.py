"""Every recipe that comes with llmkit: it parses, its header is true, and it goes by name."""

import pathlib
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
from ruamel.yaml import YAML

from llmkit.recipe.reading import find_recipes, read_recipe

ROOT = pathlib.Path(__file__).resolve().parents[1]
FILES = sorted(path for path in (ROOT / "recipes").rglob("*.yaml") if path.parent.name != "accelerate")
by_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))


def test_there_are_recipes_and_each_has_a_name_of_its_own():
    assert len(FILES) > 0
    assert sorted(find_recipes().values()) == FILES
    assert len(find_recipes()) == len(FILES)


def read_command(path):
    """The command in a recipe's header: its verb and the words after it."""
    return re.search(r"^#\s+llmkit (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)[1].split()


@by_file
def test_a_recipe_parses_with_the_command_in_its_header(path):
    verb, name, *arguments = read_command(path)
    assert (verb, name) == ({"worlds": "pretrain"}.get(path.parent.name, path.parent.name), path.stem)
    recipe = read_recipe(name, arguments)
    assert recipe == read_recipe(path, arguments)
    assert recipe.name == path.stem


@by_file
def test_a_recipe_names_the_schema_for_editors(path):
    first = path.read_text(encoding="utf-8").split("\n")[0]
    schema = (path.parent / first.removeprefix("# yaml-language-server: $schema=")).resolve()
    assert schema == ROOT / "docs" / "reference" / "recipe.schema.json"
    assert schema.is_file()


@by_file
def test_a_recipe_means_the_same_to_another_reader_of_yaml(path):
    recipe = read_recipe(path, own_data=True).model_dump()
    values = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))

    def agree(mine, theirs):
        if isinstance(theirs, dict):
            return all(agree(mine[key], value) for key, value in theirs.items())
        if isinstance(theirs, list):
            return len(mine) == len(theirs) and all(map(agree, mine, theirs))
        return mine == theirs

    parent = values.pop("extends", None)  # its keys are in the recipe, where the child has none
    assert parent is None or parent in find_recipes()
    assert agree(recipe, values)


def test_recipes_go_by_name_from_a_wheel_too(tmp_path):
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]["targets"]
    assert wheel["wheel"]["force-include"] == {"recipes": "llmkit/_recipes"}
    shutil.copytree(ROOT / "recipes", tmp_path / "llmkit" / "_recipes")
    for name in ("__init__.py", "errors.py"):
        shutil.copy(ROOT / "llmkit" / name, tmp_path / "llmkit")
    shutil.copytree(ROOT / "llmkit" / "recipe", tmp_path / "llmkit" / "recipe")
    code = "from llmkit.recipe.reading import find_recipes; print(*find_recipes().values(), sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == len(FILES)
    assert all(line.startswith(str(tmp_path / "llmkit" / "_recipes")) for line in done.stdout.splitlines())
