"""What a probe is asked of a square, after every prefix: whose disc lies there; and the boards that are controls.

A class is 0, 1 or 2: mine, yours and empty, as the side to move sees it, or black, white and empty. Who is to move is
what the rules say, passes counted, not whether the number of moves is even.
"""

import numpy as np
from numpy.typing import NDArray

from llmkit.worlds.othello.board import Bits, place, unpack
from llmkit.worlds.othello.games import Games

Labels = NDArray[np.uint8]

EMPTY = 2
KINDS = ("relative", "absolute", "shuffled", "no_flips")


def label(games: Games, kind: str, seed: int = 0) -> Labels:
    """Label the squares after every prefix of t moves, from 1 to one less than the most.

    Args:
        games: The games.
        kind: relative (mine, yours, empty); absolute (black, white, empty); shuffled, the relative boards dealt out
            anew among the games that stand at the same ply; no_flips, the relative board of a game that turns no disc
            over.
        seed: Of the shuffling.

    Returns:
        Shape: (games, plies - 1, size * size), row by row.
    """
    own, opp, is_black = games.own[:, 1:-1], games.opp[:, 1:-1], games.is_black[:, 1:-1]
    if kind == "absolute":
        return _classes(games, np.where(is_black, own, opp), np.where(is_black, opp, own))
    if kind == "no_flips":
        black, white = (place[:, 1:-1] for place in _place(games))
        return _classes(games, np.where(is_black, black, white), np.where(is_black, white, black))
    found = _classes(games, own, opp)
    return _shuffle(games, found, seed) if kind == "shuffled" else found


def _classes(games: Games, first: Bits, second: Bits) -> Labels:
    fields = games.board.fields
    found = np.full((*first.shape, len(fields)), EMPTY, np.uint8)
    found[unpack(second, fields)] = 1
    found[unpack(first, fields)] = 0
    return found


def _place(games: Games) -> tuple[Bits, Bits]:
    """Place the discs of either colour and turn none over. Shape: (games, plies + 1) each."""
    bits, placed = place(games.moves), []
    for start, is_mine in zip(games.board.begin(len(games)), (games.is_black, ~games.is_black), strict=True):
        own = np.where(is_mine[:, :-1], bits, np.uint64(0))
        placed.append(np.bitwise_or.accumulate(np.concatenate([start[:, None], own], axis=1), axis=1))
    return placed[0], placed[1]


def _shuffle(games: Games, labels: Labels, seed: int) -> Labels:
    rng, found = np.random.default_rng(seed), labels.copy()
    for ply in range(labels.shape[1]):
        rows = np.flatnonzero(games.moves[:, ply + 1] >= 0)
        found[rows, ply] = labels[rng.permutation(rows), ply]
    return found
