"""`llmkit data`: what models are trained on."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from llmkit.cli import options, render
from llmkit.errors import InputError
from llmkit.recipe.reading import find_recipes, read_recipe
from llmkit.recipe.rules import has_examples

app = typer.Typer(help="Make a tokenizer, and look at training data.", rich_markup_mode=None)


@app.callback()
def data() -> None:
    """Make a tokenizer, and look at training data."""


@app.command("tokenizer")
def tokenizer(
    files: Annotated[
        list[str],
        typer.Argument(
            help="Files, globs or folders: txt, jsonl, csv, tsv, parquet, arrow, json, or .gz; "
            "or a RECIPE and its KEY=VALUE, for its data."
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--output", help="The folder to write.")],
    vocab_size: Annotated[int, typer.Option("--vocab-size", help="Tokens in all, the 256 bytes among them.")],
    objective: Annotated[
        str | None,
        typer.Option(
            "--for", metavar="OBJECTIVE", help="causal-lm, masked-lm or seq2seq; unset: the recipe's, else causal-lm."
        ),
    ] = None,
    text_column: Annotated[str, typer.Option("--text-column", help="The column that holds the text.")] = "text",
    encoding: options.Encoding = "utf-8",
    lowercase: Annotated[
        bool, typer.Option("--lowercase", help="Capitals are read as small letters; for classifiers.")
    ] = False,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Train a byte-level BPE tokenizer, GPT-2's kind, with the special tokens of an objective."""
    from llmkit.data.tokenizers import KINDS, train_tokenizer

    render.NOTES.quiet = quiet
    is_recipe = _is_recipe(files)
    if is_recipe and (text_column, encoding) != ("text", "utf-8"):
        wanted = "data.text_column=NAME and data.encoding=NAME do it for a recipe"
        raise InputError("--text-column and --encoding cannot act on a recipe", hint=wanted)
    recipe = read_recipe(files[0], files[1:]) if is_recipe else None
    if objective is None:
        objective = recipe.objective if recipe is not None and recipe.objective in KINDS else "causal-lm"
    texts = files if recipe is None else recipe.data
    of_pairs = recipe is not None and recipe.objective == "seq2seq" and has_examples(recipe)
    reading: dict[str, Any] = {"of_pairs": of_pairs, "text_column": text_column, "encoding": encoding}
    reading["lowercase"] = lowercase
    try:
        path = train_tokenizer(texts, out, vocab_size, objective=objective, overwrite=overwrite, **reading)
    except InputError as err:
        if is_recipe:
            raise
        # A recipe's key in a hint is an option here.
        hint = err.hint and re.sub(r"data\.(\w+): ", lambda key: f"--{key[1].replace('_', '-')} ", err.hint)
        raise InputError(str(err), hint=hint) from err
    render.write(f"{path}\n")


def _is_recipe(files: list[str]) -> bool:
    """Tell a recipe and its keys from files: by its ending, or by its name where no such file lies here."""
    first = files[0]
    return first.endswith((".yaml", ".yml")) or (first in find_recipes() and not Path(first).exists())


@app.command("inspect")
def inspect(
    recipe: options.Recipe,
    keys: options.Keys = None,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Show the first three rows as the model sees them, then what became of each document and token."""
    render.NOTES.quiet = quiet
    settled = read_recipe(recipe, keys or [])
    import numpy as np

    from llmkit.data import inspecting
    from llmkit.training import building

    plan = building.plan(settled)
    train, collate = plan.data.train, plan.parts.data_collator
    num_rows = min(3, train.num_rows or 3)
    rows = [train[position] for position in range(num_rows)]
    unit = "document" if "document_ids" in rows[0] else "example"
    packed = f"packed, documents apart by {collate.isolation}" if collate.isolation else f"one {unit} a row"
    render.write(f"max_length {plan.recipe.data.max_length}, {packed}\n{inspecting.explain(settled)}\n\n")
    labels = plan.facts.get("labels")
    names = labels if isinstance(labels, list) else []
    for position, row in enumerate(rows):
        where = f"row {position}, {train.where(position)}"
        if "document_ids" in row:
            is_target = np.asarray(collate([row])["labels"])[0] >= 0
            shown = inspecting.show_row(plan.parts.tokenizer, row, is_target, where)
        else:
            shown = inspecting.show_example(plan.parts.tokenizer, row, names, where)
        render.write(f"{shown}\n\n")
    render.write(f"{plan.data.ledger}\n")
