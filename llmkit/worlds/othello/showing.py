"""What the report shows of single positions: boards beside what a probe reads, and moves before and after an edit."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from llmkit.worlds.othello import intervening, labels
from llmkit.worlds.othello.board import name
from llmkit.worlds.othello.games import Games
from llmkit.worlds.othello.intervening import Cases
from llmkit.worlds.othello.predicting import Player
from llmkit.worlds.othello.probing import Probe, classify, split_games
from llmkit.worlds.othello.tokens import encode

NUM_BOARDS = 6

Json = dict[str, Any]


def show_examples(
    player: Player, probes: Mapping[int, Probe], layer: int, games: Games, cases: Cases, edit: Mapping[str, float]
) -> Json:
    """Show one game that the probes did not learn from, and one intervention.

    Args:
        player: The model.
        probes: Linear probes of the relative board, by layer.
        layer: Whose probe is shown.
        games: Those of the probes.
        cases: Interventions.
        edit: The first layer and the alpha of the edit.
    """
    return {
        "game": _show_game(player, probes[layer], layer, games.take(split_games(len(games))[2][:1])),
        "edit": _show_edit(player, probes, cases, int(edit["first_layer"]), float(edit["alpha"])),
    }


def _show_game(player: Player, probe: Probe, layer: int, game: Games) -> Json:
    """Show the board at some plies of a game: what is there and what the probe finds, by class, row by row."""
    length = int(game.lengths[0])
    right = labels.label(game, "relative")[0]
    found = classify(probe, player.read(encode(game)[:, :-1], layer)[0]).cpu().numpy()
    plies = sorted(set(np.linspace(1, length - 1, NUM_BOARDS).round().astype(int).tolist()))
    boards = [{"ply": ply, "right": right[ply - 1].tolist(), "found": found[ply - 1].tolist()} for ply in plies]
    return {"layer": layer, "moves": [name(int(bit)) for bit in game.moves[0, :length]], "boards": boards}


def _show_edit(player: Player, probes: Mapping[int, Probe], cases: Cases, first: int, alpha: float) -> Json:
    """Show the case whose legal squares change most: moves before and after, and what the best move rests on."""
    case = int(np.argmax((cases.before != cases.after).sum(axis=1)))
    one = _take_case(cases, case, cases.squares[case : case + 1], cases.sources[case : case + 1])
    inner = {layer: probe for layer, probe in probes.items() if layer}
    before = intervening.predict_edited(player, one, intervening.keep)[0]
    after = intervening.predict_edited(player, one, intervening.steer(inner, one, first, alpha))[0]
    board = labels.label(one.games, "relative")[0, int(one.plies[0]) - 1]
    occupied = np.flatnonzero(board != labels.EMPTY)
    each = _take_case(cases, case, occupied, board[occupied].astype(np.int64))
    flipped = intervening.predict_edited(player, each, intervening.steer(inner, each, first, alpha))
    best = int(before.argmax())
    saliency = np.zeros(len(board))
    saliency[occupied] = before[best] - flipped[:, best]
    fields, squares = cases.games.board.fields, cases.games.board.squares
    return {
        "moves": [name(int(bit)) for bit in one.games.moves[0, : int(one.plies[0])]],
        "square": name(fields[int(one.squares[0])]),
        "board": board.tolist(),
        "legal_before": one.before[0].tolist(),
        "legal_after": one.after[0].tolist(),
        "before": [round(float(value), 5) for value in before],
        "after": [round(float(value), 5) for value in after],
        "best": name(squares[best]),
        "saliency": [round(float(value), 5) for value in saliency],
    }


def _take_case(cases: Cases, case: int, squares: np.ndarray[Any, Any], sources: np.ndarray[Any, Any]) -> Cases:
    """Take one case as often as there are squares, each with another square."""
    rows = np.full(len(squares), case)
    return Cases(cases.games.take(rows), cases.plies[rows], squares, sources, cases.before[rows], cases.after[rows])
