"""`llmkit report`: a page about a run, or about several beside one another."""

from pathlib import Path
from typing import Annotated

import typer

from llmkit.cli import options, render
from llmkit.errors import InputError


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="A run's folder; of several, what differs.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write there (of one run: RUN/report.html).")
    ] = None,
    overwrite: options.Overwrite = False,
    debug: options.Debug = False,
) -> None:
    """Write a run's report as one page of HTML that opens offline, or compare runs; print where it lies."""
    from llmkit.runfolder import write_text
    from llmkit.training.report import write_report

    if output is None and len(runs) > 1:
        raise InputError(f"{len(runs)} runs are compared on one page; expected -o FILE.html")
    if output is not None and output.exists() and not overwrite:
        raise InputError(f"{output} exists; expected a new file, or --overwrite")
    page = write_report(*runs)
    target = output or runs[0] / "report.html"
    if not target.parent.is_dir():
        raise InputError(f"no such folder: {target.parent}")
    write_text(target, page)
    render.write(f"{target}\n")
