"""Two ways to one board: moves of one colour are exchanged, and the game stands as before.

Moves i and i + 2 of a prefix change places; what is still legal and comes to the same board with the same side to move
is a second prefix of that state. Several exchanges, one after the other, lead further away.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmkit.worlds.othello.board import Bits
from llmkit.worlds.othello.figures import Figure, Share, summarize
from llmkit.worlds.othello.games import Games, attempt
from llmkit.worlds.othello.predicting import Ids, Player
from llmkit.worlds.othello.tokens import encode

ROUNDS = 6  # attempts for each prefix, one after the other, each from where the last that went well came to


@dataclass(frozen=True, eq=False)
class Pairs:
    """Holds pairs of prefixes of as many moves.

    Attributes:
        first: Games that end with the prefix.
        second: The same.
        plies: The moves of each prefix. Shape: (pairs,)
    """

    first: Games
    second: Games
    plies: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.plies)

    def take(self, rows: NDArray[np.int64]) -> "Pairs":
        """Take some of the pairs."""
        return Pairs(self.first.take(rows), self.second.take(rows), self.plies[rows])


def cut_moves(moves: NDArray[np.integer], plies: NDArray[np.int64]) -> NDArray[np.int64]:
    """Cut games to prefixes: -1 takes the place of later moves. Shape: (games, plies)."""
    return np.where(np.arange(moves.shape[1]) < plies[:, None], moves, -1).astype(np.int64)


def transpose(games: Games, seed: int) -> Pairs:
    """Draw a prefix of 3 moves and more of each game, and seek a second one that comes to the same state."""
    rng = np.random.default_rng(seed)
    rows = np.flatnonzero(games.lengths > 4)
    plies = 3 + (rng.random(len(rows)) * (games.lengths[rows] - 3)).astype(np.int64)
    start = cut_moves(games.moves[rows], plies)
    first, _ = attempt(games.board, start)
    moves = start.copy()
    for _ in range(ROUNDS):
        i = (rng.random(len(rows)) * (plies - 2)).astype(np.int64)
        swapped = moves.copy()
        swapped[np.arange(len(rows)), i], swapped[np.arange(len(rows)), i + 2] = (
            moves[np.arange(len(rows)), i + 2],
            moves[np.arange(len(rows)), i],
        )
        found, num_legal = attempt(games.board, swapped)
        is_same = (num_legal == plies) & _stand_alike(first, found, plies)
        moves[is_same] = swapped[is_same]
    second, _ = attempt(games.board, moves)
    kept = np.flatnonzero((moves != start).any(axis=1))
    return Pairs(first.take(kept), second.take(kept), plies[kept])


def _stand_alike(first: Games, second: Games, plies: NDArray[np.int64]) -> NDArray[np.bool_]:
    return np.asarray((_read_states(first, plies) == _read_states(second, plies)).all(axis=1))


def _read_states(games: Games, plies: NDArray[np.int64]) -> Bits:
    """Read the states after prefixes: both sides' discs, and which of them is to move. Shape: (games, 3)."""
    rows = np.arange(len(plies))
    parts = [getattr(games, name)[rows, plies] for name in ("own", "opp", "is_black")]
    return np.stack([part.astype(np.uint64) for part in parts], axis=1)


def pair_at_random(games: Games, number: int, seed: int) -> tuple[Pairs, int]:
    """Draw pairs of prefixes of as many moves, of two games, that stand apart and go on.

    Returns:
        The pairs, and how many were left out because they are of one state.
    """
    rng = np.random.default_rng(seed)
    one, two = (rng.integers(0, len(games), 2 * number) for _ in range(2))
    longest = np.minimum(games.lengths[one], games.lengths[two])
    plies = 1 + (rng.random(2 * number) * (longest - 1)).astype(np.int64)
    first, second = (attempt(games.board, cut_moves(games.moves[rows], plies))[0] for rows in (one, two))
    is_alike, goes_on = _stand_alike(first, second, plies), longest > 1
    kept = np.flatnonzero(goes_on & ~is_alike)[:number]
    tried = slice(0, int(kept[-1]) + 1 if len(kept) == number else None)
    return Pairs(first.take(kept), second.take(kept), plies[kept]), int((goes_on & is_alike)[tried].sum())


def number_states(pairs: Pairs) -> NDArray[np.int64]:
    """Number the states of pairs of one state, from 0. Shape: (pairs,)."""
    states = _read_states(pairs.first, pairs.plies)
    return np.asarray(np.unique(states, axis=0, return_inverse=True)[1]).reshape(-1)


def compare_predictions(player: Player, pairs: Pairs, seed: int) -> dict[str, Figure]:
    """Compare what a model says after the two prefixes of each pair.

    Returns:
        `total_variation`, half the sum of the differences of the probabilities of squares, from 0 to 1;
        `top1_differs`, the share of pairs whose best squares are not the same: where the truth is even over the legal
        squares, the nearer a model is to it, the more chance has a say in which is best.
    """
    rows, ones = np.arange(len(pairs)), np.ones(len(pairs))
    first, second = (
        np.exp(player.predict(encode(games)[:, :-1])[0][rows, pairs.plies - 1]) for games in (pairs.first, pairs.second)
    )
    varied = np.abs(first - second).sum(axis=1) / 2
    differs = first.argmax(axis=1) != second.argmax(axis=1)
    shares = {"total_variation": Share(varied.astype(np.float64), ones), "top1_differs": Share(differs * 1.0, ones)}
    return summarize(shares, seed)


def follow(games: Games, plies: NDArray[np.int64], suffixes: Ids) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Count how many tokens of a suffix, one after the other, are legal after a prefix, and tell whether none is after.

    Args:
        games: Games that end with the prefix, one for each row.
        plies: Its moves. Shape: (rows,)
        suffixes: Tokens, 0 after their end. Shape: (rows, length)

    Returns:
        Shape: (rows,) each.
    """
    bits = np.array([-1, *games.board.squares])
    moves = cut_moves(games.moves, plies)
    for i in range(suffixes.shape[1]):
        column = plies + i
        inside = np.flatnonzero(column < moves.shape[1])
        moves[inside, column[inside]] = bits[suffixes[inside, i]]
    found, num_legal = attempt(games.board, moves)
    is_over = found.legal[np.arange(len(plies)), num_legal] == 0
    return num_legal - plies, np.asarray(is_over)
