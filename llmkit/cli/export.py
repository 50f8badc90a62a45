"""`llmkit export`: a checkpoint in another form."""

from pathlib import Path
from typing import Annotated

import typer

from llmkit.cli import options, render

app = typer.Typer(help="Write a checkpoint in another form.", rich_markup_mode=None)


@app.callback()
def export() -> None:
    """Write a checkpoint in another form."""


@app.command("safetensors")
def safetensors(
    checkpoint: Annotated[str, typer.Argument(help="A folder with pytorch_model.bin, or a .gguf file.")],
    out: Annotated[Path, typer.Argument(help="The folder to write; it must not exist.")],
    offline: options.Offline = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Turn pickled weights, or a .gguf file, into plain safetensors."""
    from llmkit.conversion.safetensors import export_safetensors

    render.NOTES.quiet = quiet
    for path in export_safetensors(checkpoint, out, offline=offline):
        render.write(f"{path}\n")


@app.command("merge")
def merge(
    checkpoint: Annotated[str, typer.Argument(help="A run with an adapter, or an adapter; with -a its base.")],
    out: Annotated[Path, typer.Argument(help="The folder to write; it must not exist.")],
    adapter: options.Adapter = None,
    offline: options.Offline = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Merge an adapter into its base: one model for plain transformers."""
    from llmkit.conversion.merging import export_merge

    render.NOTES.quiet = quiet
    for path in export_merge(checkpoint, out, adapter=adapter, offline=offline):
        render.write(f"{path}\n")
