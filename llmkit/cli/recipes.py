"""`llmkit recipes`: the recipes that come with llmkit, and what is wrong with one of yours."""

import re
from pathlib import Path
from typing import Annotated

import typer

from llmkit.cli import options, render
from llmkit.errors import InputError
from llmkit.recipe.reading import dump_recipe, find_recipe, find_recipes, read_recipe
from llmkit.recipe.schema import Recipe

app = typer.Typer(help="List, show, copy and check recipes.", rich_markup_mode=None)
SCHEMA = re.compile(r"# yaml-language-server:.*(\n#\n|\n|$)")


@app.callback()
def recipes() -> None:
    """List, show, copy and check recipes."""


@app.command("list")
def list_recipes(debug: options.Debug = False) -> None:
    """Print the recipes that come with llmkit: name, kind and first comment."""
    found = find_recipes()
    width = max(map(len, found), default=0)
    for name, path in found.items():
        render.write(f"{name:<{width}}  {path.parent.name}  {_read_title(path)}".rstrip() + "\n")


def _read_title(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    comments = [line.removeprefix("#").strip() for line in lines if line.startswith("#") and not SCHEMA.match(line)]
    return next(filter(None, comments), "")


@app.command("show")
def show(name: options.Recipe, keys: options.Keys = None, debug: options.Debug = False) -> None:
    """Print a recipe with all its values, and where each that was given came from."""
    recipe = read_recipe(name, keys or [], own_data=True)
    render.write(dump_recipe(recipe, lambda key: recipe.origins.get(key, "")))


@app.command("copy")
def copy(
    name: options.Recipe,
    path: Annotated[Path | None, typer.Argument(help="The file to write; unset: the recipe's own name, here.")] = None,
    overwrite: options.Overwrite = False,
    debug: options.Debug = False,
) -> None:
    """Copy a recipe, to change it."""
    source = find_recipe(name)
    target = path or Path(source.name)
    target = target / source.name if target.is_dir() else target
    # The line by which editors find the schema holds for the recipe's own folder alone.
    text = SCHEMA.sub("", source.read_text(encoding="utf-8"))
    if target.exists() and target.samefile(source):
        raise InputError(f"{target} is the recipe itself; expected another path")
    try:
        with target.open("w" if overwrite else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise InputError(f"{target} exists already", hint="--overwrite replaces it") from None
    except OSError as err:
        raise InputError(f"cannot write {target}: {err.strerror}") from err
    render.write(f"{target}\n")


@app.command("check")
def check(name: options.Recipe, keys: options.Keys = None, debug: options.Debug = False) -> None:
    """Find all that is wrong with a recipe, before anything is loaded."""
    recipe = read_recipe(name, keys or [])
    from llmkit.training import building  # the schema is clean: now the libraries look at their sections

    building.check(recipe)
    render.write(f"{_describe(recipe)}\n")


def _describe(recipe: Recipe) -> str:
    train = recipe.train
    length = f"{train.max_steps:,} steps" if train.max_steps is not None else f"{train.num_epochs:,} epochs"
    return f"{recipe.file} is a recipe: {recipe.objective}, {length}"


@app.command("schema")
def schema(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the reference page instead.")] = False,
    debug: options.Debug = False,
) -> None:
    """Print the JSON schema of recipes, for editors."""
    from llmkit.recipe import describing

    render.write(describing.write_page() if markdown else describing.write_schema())
