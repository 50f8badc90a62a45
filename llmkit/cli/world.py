"""`llmkit world`: worlds that are made, learnt and looked for in a model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmkit.cli import options, render
from llmkit.errors import DamagedError, InputError

if TYPE_CHECKING:
    from llmkit.loading import Loaded
    from llmkit.worlds.othello.match import Match

app = typer.Typer(help="Whether a model of moves holds the board they are made on.", rich_markup_mode=None)
othello = typer.Typer(help="Othello: draw games, measure a model of them, play against it.", rich_markup_mode=None)
app.add_typer(othello, name="othello")

JSON, PAGE = "worldmodel.json", "worldmodel.html"

Checkpoint = Annotated[str, typer.Argument(metavar="CKPT", help="A model of Othello: a run, or a checkpoint.")]
Folder = Annotated[
    Path | None, typer.Option("-o", "--output", metavar="DIR", help="The folder; unset: that of the run.")
]
Seed = Annotated[int, typer.Option("--seed", help="The same seed draws the same.")]


@app.callback()
def world() -> None:
    """Whether a model of moves holds the board they are made on."""


@othello.callback()
def othello_group() -> None:
    """Othello: draw games, measure a model of them, play against it."""


@othello.command("games")
def games(
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT", help="The folder to write.")],
    num_games: Annotated[int | None, typer.Option("--num-games", help="How many.")] = None,
    board: Annotated[int, typer.Option("--board", help="Rows of the board: 4, 6 or 8.")] = 8,
    seed: Seed = 0,
    wthor: Annotated[
        list[Path] | None,
        typer.Option("--wthor", metavar="FILE", help="Games of championships, in the place of drawn ones; repeatable."),
    ] = None,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Draw random games, or take those of championships, as tokens that `llmkit pretrain othello-6x6` reads."""
    render.NOTES.quiet = quiet
    if (num_games is None) == (not wthor):
        raise InputError("expected --num-games, or --wthor with files of championships")
    if num_games is not None and num_games < 1:
        raise InputError(f"--num-games must be 1 or more, got {num_games}")
    _check_seed(seed)
    from llmkit.worlds.othello.board import Board

    size = Board(board)
    if wthor and size != Board(8):
        raise InputError(f"championships are played on 8 rows, got --board {board}")
    if output.exists() and not overwrite:
        raise InputError(f"{output} exists already", hint="--overwrite replaces it")
    if output.exists() and not (output / "shards.json").is_file():
        raise InputError(f"{output} holds no games; expected a new folder")
    from llmkit.worlds.othello.tokens import write_championships, write_games

    if num_games is None:
        write_championships(wthor or [], output)
    else:
        write_games(size, num_games, seed, output)
    render.write(f"{output}\n")


@othello.command("evaluate")
def evaluate(
    checkpoint: Checkpoint,
    output: Folder = None,
    num_games: Annotated[int, typer.Option("--num-games", help="Games by which moves are judged.")] = 2000,
    num_probe_games: Annotated[int, typer.Option("--num-probe-games", help="Games for the probes.")] = 4000,
    num_cases: Annotated[int, typer.Option("--num-cases", help="Discs that are turned over.")] = 300,
    num_pairs: Annotated[int, typer.Option("--num-pairs", help="Pairs of prefixes, of one state and of two.")] = 200,
    seed: Seed = 0,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    tokenizer: options.Tokenizer = None,
    offline: options.Offline = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Measure legal moves, probes, interventions and states, each beside its controls, into worldmodel.json."""
    render.NOTES.quiet = quiet
    _check_seed(seed)
    target = _find_folder(checkpoint, output) / JSON
    if target.exists() and not overwrite:
        raise InputError(f"{target} exists already", hint="--overwrite replaces it, -o names another folder")
    from llmkit.runfolder import make_folders, write_text
    from llmkit.worlds.othello.measuring import Sizes, list_lines, measure, read_curve, to_plain

    sizes = Sizes(num_games=num_games, num_probe_games=num_probe_games, num_cases=num_cases, num_pairs=num_pairs)
    lm = _load(checkpoint, device=device, dtype=dtype, tokenizer=tokenizer, offline=offline)
    make_folders(target.parent)
    found = measure(lm, sizes, seed=seed, curve=read_curve(Path(checkpoint)), tell=render.note)
    render.NOTES.show()
    write_text(target, json.dumps(to_plain(found), ensure_ascii=False, indent=1) + "\n")
    render.write(
        render.to_json(to_plain(found)) + "\n" if as_json else "".join(f"{line}\n" for line in list_lines(found))
    )
    render.note(f"{target} has all of it; its page: llmkit world othello report {target.parent}")


@othello.command("report")
def report(
    checkpoint: Annotated[str, typer.Argument(metavar="CKPT", help="A run, or the folder that evaluate wrote.")],
    output: Folder = None,
    overwrite: options.Overwrite = False,
    debug: options.Debug = False,
) -> None:
    """Write worldmodel.html from worldmodel.json: curves by layer, boards, moves before and after an edit."""
    source = Path(checkpoint) / JSON
    if output is not None:
        _check_folder(output)
    if not source.is_file() and output is not None:
        source = output / JSON
    if not source.is_file():
        raise InputError(f"no {JSON} in {checkpoint}", hint=f"llmkit world othello evaluate {checkpoint} writes it")
    target = (output or source.parent) / PAGE
    if target.exists() and not overwrite:
        raise InputError(f"{target} exists already", hint="--overwrite replaces it")
    from llmkit.runfolder import make_folders, write_text
    from llmkit.worlds.othello.measuring import read_measurement
    from llmkit.worlds.othello.reporting import write_page

    try:
        page = write_page(read_measurement(source))
    except (LookupError, TypeError, ValueError, AttributeError) as err:
        raise DamagedError(f"{source} lacks what its page shows ({type(err).__name__}: {err})") from err
    make_folders(target.parent)
    write_text(target, page)
    render.write(f"{target}\n")


@othello.command("play")
def play(
    checkpoint: Checkpoint,
    white: Annotated[bool, typer.Option("--white", help="You are white, and the model begins.")] = False,
    seed: Seed = 0,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    tokenizer: options.Tokenizer = None,
    offline: options.Offline = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Play against a model; beside the board stands what its hidden states hold, and ! where that errs."""
    render.NOTES.quiet = quiet
    _check_seed(seed)
    lm = _load(checkpoint, device=device, dtype=dtype, tokenizer=tokenizer, offline=offline)
    from llmkit.worlds.othello.match import Match

    match = Match(lm, seed)
    render.note(f"the board on the right is read from layer {match.reader.layer} of the model, as the side to move")
    render.write(f"{match.show()}\n")
    while match.legal:
        if match.is_black_to_move != white:
            if not _take_move(match):
                return
        else:
            move = match.answer()
            wish = "" if move.wanted == move.played else f" (it wanted {move.wanted}, which may not be taken)"
            render.write(f"the model takes {move.played}{wish}\n{match.show()}\n")
    black, light = match.count()
    render.write(f"black {black}, white {light}\n")


def _take_move(match: Match) -> bool:
    """Take a move from standard input, and ask until it is one; False where there is no more."""
    while True:
        if sys.stdin.isatty():
            render.write_aside("your move, such as " + match.legal[0] + " (q ends): ")
        line = sys.stdin.readline()
        square = line.strip().lower()
        if not line or square in ("q", "quit"):
            return False
        try:
            match.play(square)
        except InputError as err:
            render.say("note", str(err))
            continue
        render.write(f"you take {square}\n{match.show()}\n")
        return True


def _check_seed(seed: int) -> None:
    if seed < 0:
        raise InputError(f"--seed must be 0 or more, got {seed}")
    if seed >= 2**32:  # numpy splits a larger one into two numbers, the second of which would tell another stream
        raise InputError(f"--seed must be below 2**32, got {seed}")


def _check_folder(output: Path) -> Path:
    """Refuse what is no folder, or stands below what is none."""
    above = next(path for path in (output.absolute(), *output.absolute().parents) if path.exists())
    if not above.is_dir():
        raise InputError(f"{above if above != output.absolute() else output} is no folder")
    return output


def _find_folder(checkpoint: str, output: Path | None) -> Path:
    """Find where the figures of a checkpoint go: the folder that was named, else the run."""
    from llmkit.runfolder import is_run

    if output is not None:
        return _check_folder(output)
    if is_run(Path(checkpoint)):
        return Path(checkpoint)
    raise InputError(f"{checkpoint} is no run; expected one, or -o DIR for {JSON}")


def _load(checkpoint: str, *, device: str, dtype: str, tokenizer: str | None, offline: bool) -> Loaded:
    from llmkit.loading import load
    from llmkit.worlds.othello.tokens import find_board

    lm = load(checkpoint, task="generation", device=device, dtype=dtype, tokenizer=tokenizer, offline=offline)
    find_board(lm.tokenizer)
    render.NOTES.show()
    return lm
