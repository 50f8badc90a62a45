"""The rules of Othello on bitboards: a bit for each square of a grid of 8 by 8, and many positions at once.

The square in column c and row r, both from 0, is bit 8 r + c, on boards of 4 and 6 rows as well. Of a position the
discs of the side to move (`own`) and those of the other (`opp`) are held.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from llmkit.errors import InputError

Bits = NDArray[np.uint64]

SIZES = (4, 6, 8)
QUARTERS = 4
COLUMNS = "abcdefgh"


@dataclass(frozen=True)
class Board:
    """Holds what the size of a board settles.

    Attributes:
        size: Rows, and columns: 4, 6 or 8.
    """

    size: int

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise InputError(f"unknown board, got {self.size!r}; expected 4, 6 or 8")

    @cached_property
    def fields(self) -> tuple[int, ...]:
        """The bit of every square, row by row."""
        return tuple(8 * row + column for row in range(self.size) for column in range(self.size))

    @cached_property
    def squares(self) -> tuple[int, ...]:
        """The bit of every square that can be played, row by row: all but the four in the middle."""
        low, high = self.size // 2 - 1, self.size // 2
        return tuple(bit for bit in self.fields if not (bit // 8 in (low, high) and bit % 8 in (low, high)))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The name of every square that can be played, such as `c4`, in the order of `squares`."""
        return tuple(name(bit) for bit in self.squares)

    @property
    def num_plies(self) -> int:
        """The most moves of a game, without the passes."""
        return self.size**2 - 4

    def quarter(self, plies: NDArray[np.int64]) -> NDArray[np.int64]:
        """Find the quarter of a game, from 0, in which prefixes of so many moves end. Shape: as `plies`."""
        return plies * QUARTERS // self.num_plies

    @cached_property
    def mask(self) -> np.uint64:
        """All squares."""
        return np.uint64(sum(1 << bit for bit in self.fields))

    @cached_property
    def inner(self) -> np.uint64:
        """All squares but those of the first and the last column: a line to the side goes through no other."""
        return np.uint64(sum(1 << bit for bit in self.fields if 0 < bit % 8 < self.size - 1))

    def begin(self, number: int) -> tuple[Bits, Bits]:
        """Set up so many boards: the discs of black, who begins, and those of white. Shape: (number,) each."""
        low, high = self.size // 2 - 1, self.size // 2
        black = 1 << (8 * low + high) | 1 << (8 * high + low)
        white = 1 << (8 * low + low) | 1 << (8 * high + high)
        return np.full(number, black, np.uint64), np.full(number, white, np.uint64)

    def legal(self, own: Bits, opp: Bits) -> Bits:
        """Find the squares that the side to move may take. Shape: as `own`."""
        found = np.zeros_like(own)
        empty = self.mask & ~(own | opp)
        for shift, sideways in DIRECTIONS:
            between = opp & self.inner if sideways else opp
            run = self._run(own, between, shift)
            found |= shift(run)
        return found & empty

    def flips(self, own: Bits, opp: Bits, moves: Bits) -> Bits:
        """Find the discs that moves, one bit each, turn over. Shape: as `own`."""
        found = np.zeros_like(own)
        for shift, sideways in DIRECTIONS:
            between = opp & self.inner if sideways else opp
            run = self._run(moves, between, shift)
            found |= np.where(shift(run) & own, run, np.uint64(0))
        return found

    def _run(self, start: Bits, between: Bits, shift: Callable[[Bits], Bits]) -> Bits:
        """Walk from bits one way over other discs, of which at most size - 2 lie in a line."""
        run = shift(start) & between
        for _ in range(self.size - 3):
            run |= shift(run) & between
        return run


def _left(by: int) -> Callable[[Bits], Bits]:
    number = np.uint64(by)
    return lambda bits: bits << number


def _right(by: int) -> Callable[[Bits], Bits]:
    number = np.uint64(by)
    return lambda bits: bits >> number


# The eight ways that a line goes, and whether it changes the column.
DIRECTIONS = tuple((way(by), by != 8) for by in (1, 7, 8, 9) for way in (_left, _right))


def name(bit: int) -> str:
    """Name the square of a bit: 0 is a1."""
    return f"{COLUMNS[bit % 8]}{bit // 8 + 1}"


def pick(bits: Bits, ranks: NDArray[np.int64]) -> NDArray[np.int64]:
    """Find the bit of a given rank, from the lowest, among those that are set. Shape: as `bits`.

    Args:
        bits: Where bits are set.
        ranks: From 0 to below the number of bits that are set.
    """
    place = np.zeros(bits.shape, np.int64)
    left, rest = ranks.copy(), bits.copy()
    for width in (32, 16, 8, 4, 2, 1):
        low = np.bitwise_count(rest & np.uint64((1 << width) - 1)).astype(np.int64)
        above = left >= low
        left -= np.where(above, low, 0)
        place += np.where(above, width, 0)
        rest = np.where(above, rest >> np.uint64(width), rest)
    return place


def place(moves: NDArray[np.integer]) -> Bits:
    """Set the bit of each move; none where it is -1. Shape: as `moves`."""
    bits = np.left_shift(np.uint64(1), np.maximum(moves, 0).astype(np.uint64))
    return np.where(moves >= 0, bits, np.uint64(0))


def choose_evenly(legal: Bits, draws: NDArray[np.float64]) -> NDArray[np.int64]:
    """Choose a square that may be taken, by a number from 0 to 1; -1 where there is none. Shape: as `legal`."""
    counts = np.bitwise_count(legal).astype(np.int64)
    return np.where(counts > 0, pick(legal, (draws * counts).astype(np.int64)), -1)


def unpack(bits: Bits, squares: tuple[int, ...]) -> NDArray[np.bool_]:
    """Tell for each of some squares whether its bit is set. Shape: (..., squares)."""
    return np.asarray((bits[..., None] >> np.array(squares, np.uint64)) & np.uint64(1) != 0)
