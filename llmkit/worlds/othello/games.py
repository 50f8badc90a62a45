"""Games, many at once: drawn at random, or replayed from their moves; with the board before every move.

Every move of a random game is drawn evenly from the legal ones. A seed, a stream and the number of a block settle every
game of the block, so that training, validation and probes never draw from the same numbers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmkit.errors import InputError
from llmkit.worlds.othello.board import Bits, Board, choose_evenly, place

BLOCK = 16_384  # games that are drawn together
STREAMS = {"train": 0, "validation": 1, "probe": 2}

Choose = Callable[[int, Bits], NDArray[np.int64]]


@dataclass(frozen=True, eq=False)
class Games:
    """Holds games and, for t from 0 to the most moves, where they stood after t moves and the passes that follow.

    Attributes:
        board: The size of the board.
        moves: The bits of the squares, -1 after the end. Shape: (games, plies)
        own: The discs of the side to move after t moves. Shape: (games, plies + 1)
        opp: The discs of the other side. Shape: (games, plies + 1)
        legal: The squares that may be taken then; none at the end. Shape: (games, plies + 1)
        is_black: Whether black is to move then. Shape: (games, plies + 1)
    """

    board: Board
    moves: NDArray[np.int8]
    own: Bits
    opp: Bits
    legal: Bits
    is_black: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.moves)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The number of moves of each game. Shape: (games,)."""
        return np.asarray((self.moves >= 0).sum(axis=1))

    def take(self, rows: NDArray[np.int64] | slice) -> "Games":
        """Take some of the games."""
        return Games(
            self.board, self.moves[rows], self.own[rows], self.opp[rows], self.legal[rows], self.is_black[rows]
        )


def draw_games(board: Board, number: int, seed: int, stream: str, *, first: int = 0) -> Games:
    """Draw random games, from the first of a block on.

    Args:
        board: The board.
        number: How many; any number of a stream begins with the same games.
        seed: Settles the games; below 2**32, beyond which numpy reads it as two numbers, and streams run together.
        stream: train, validation or probe.
        first: The number of the first block.
    """
    blocks = range(first, first + max(1, -(-number // BLOCK)))
    drawn = [draw_block(board, min(BLOCK, number - i * BLOCK), seed, stream, block) for i, block in enumerate(blocks)]
    return drawn[0] if len(drawn) == 1 else _join(board, drawn)


def _join(board: Board, parts: Sequence[Games]) -> Games:
    return Games(
        board,
        np.concatenate([part.moves for part in parts]),
        np.concatenate([part.own for part in parts]),
        np.concatenate([part.opp for part in parts]),
        np.concatenate([part.legal for part in parts]),
        np.concatenate([part.is_black for part in parts]),
    )


def draw_block(board: Board, number: int, seed: int, stream: str, block: int) -> Games:
    """Draw the first games of a block."""
    rng = np.random.default_rng([seed, STREAMS[stream], block])

    def choose(ply: int, legal: Bits) -> NDArray[np.int64]:
        return choose_evenly(legal, rng.random(BLOCK)[:number])

    return walk(board, number, choose)


def replay(board: Board, moves: NDArray[np.integer]) -> Games:
    """Replay games from their moves.

    Args:
        board: The board.
        moves: The bits of the squares in turn, -1 after the end; passes are not written. Shape: (games, up to plies)

    Raises:
        InputError: A move is not legal; the game and the move are named.
    """
    games, num_legal = attempt(board, moves)
    wrong = np.flatnonzero(num_legal < (moves >= 0).sum(axis=1))
    if wrong.size:
        raise InputError(f"move {int(num_legal[wrong[0]]) + 1} of game {int(wrong[0]) + 1} is not legal")
    return games


def attempt(board: Board, moves: NDArray[np.integer]) -> tuple[Games, NDArray[np.int64]]:
    """Replay games as far as their moves are legal, and count the moves that are. Shape of the counts: (games,)."""
    given = np.full((len(moves), board.num_plies), -1, np.int64)
    given[:, : moves.shape[1]] = moves
    goes_on = np.ones(len(moves), np.bool_)

    def choose(ply: int, legal: Bits) -> NDArray[np.int64]:
        move = given[:, ply]
        np.logical_and(goes_on, place(move) & legal != 0, out=goes_on)
        return np.where(goes_on, move, -1)

    games = walk(board, len(moves), choose)
    return games, games.lengths


def walk(board: Board, number: int, choose: Choose) -> Games:
    """Play games from the beginning.

    Args:
        board: The board.
        number: How many games.
        choose: Gives for a ply, from 0, and the squares that may be taken the bits of the moves; -1 ends a game, and
            is needed where no square may be taken. Shape: (games,) each.
    """
    own, opp = board.begin(number)
    is_black = np.ones(number, np.bool_)
    plies = board.num_plies
    taken, kept = np.full((number, plies), -1, np.int8), np.zeros((3, number, plies + 1), np.uint64)
    turns = np.zeros((number, plies + 1), np.bool_)
    for ply in range(plies + 1):
        legal = settle(board, own, opp, is_black)
        kept[0, :, ply], kept[1, :, ply], kept[2, :, ply], turns[:, ply] = own, opp, legal, is_black
        if ply == plies:
            break
        moves = choose(ply, legal)
        taken[:, ply] = moves
        is_played = moves >= 0
        placed = place(moves)
        turned = board.flips(own, opp, placed)
        own, opp = opp & ~turned, own | placed | turned
        own, opp = np.where(is_played, own, opp), np.where(is_played, opp, own)
        is_black = is_black ^ is_played
    return Games(board, taken, kept[0], kept[1], kept[2], turns)


def settle(board: Board, own: Bits, opp: Bits, is_black: NDArray[np.bool_]) -> Bits:
    """Let a side that may take no square pass, in place, unless neither may: find what may be taken then."""
    legal = board.legal(own, opp)
    stuck = np.flatnonzero(legal == 0)
    if stuck.size:
        others = board.legal(opp[stuck], own[stuck])
        passing = stuck[others != 0]
        own[passing], opp[passing] = opp[passing], own[passing]
        is_black[passing] ^= True
        legal[stuck] = others
    return legal
