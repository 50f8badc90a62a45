"""The order of training rows: a pure function of (seed, epoch, position), so that one integer resumes a run.

A position counts rows from the start of the run and on through the epochs. Nothing here keeps a state, and the
arithmetic is our own: no release of a library can change the order of a run that is resumed.
"""

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from math import isqrt, lcm
from typing import Protocol

import numpy as np
import numpy.typing as npt

from llmkit.errors import InputError

Row = dict[str, npt.NDArray[np.int64]]

BLOCK_ROWS = 1024  # rows that are shuffled among themselves in a mixture and in a stream
NUM_ROUNDS = 12  # of the Feistel network, in pairs; with 10, orders of five rows are not equally frequent
MASK = 2**64 - 1


class Rows(Protocol):
    """Gives the rows of one epoch by their index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Row: ...

    def where(self, index: int, /) -> str:
        """Name the row at an index for messages."""
        ...


class OrderedRows(Protocol):
    """Gives the rows of a run by their position."""

    @property
    def num_rows(self) -> int | None:
        """Rows of an epoch; None where only reading would tell."""
        ...

    def __getitem__(self, position: int, /) -> Row: ...

    def where(self, position: int, /) -> str:
        """Name the row at a position for messages."""
        ...


def shuffle_index(index: int, size: int, seed: int, *salts: int) -> int:
    """Compute where a keyed permutation of range(size) takes an index.

    A generalised Feistel network over a grid of about sqrt(size) by sqrt(size) cells: each round adds to one coordinate
    a hash of the other, which can be undone, so the whole is a permutation of the grid. An index that falls on one of
    the few cells from `size` on walks on until it is back inside.

    Source: Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002, methods 2 and 3.

    Args:
        index: From 0 to size - 1.
        size: Number of indices.
        seed: The key.
        *salts: Further parts of the key: an epoch, a block.

    Raises:
        IndexError: The index is not in range(size).
    """
    if not 0 <= index < size:
        raise IndexError(f"index {index} is not in range({size})")
    height = isqrt(size - 1) + 1
    width = -(-size // height)
    keys = _round_keys(seed, *salts)
    while True:
        row, column = divmod(index, width)
        for i in range(0, NUM_ROUNDS, 2):
            row = (row + _mix(keys[i] ^ column)) % height
            column = (column + _mix(keys[i + 1] ^ row)) % width
        index = row * width + column
        if index < size:
            return index


@lru_cache(maxsize=256)
def _round_keys(*key: int) -> tuple[int, ...]:
    state = len(key)
    for part in key:
        state = _mix(state ^ _mix(part & MASK))
    return tuple(_mix(state + i) for i in range(NUM_ROUNDS))


def _mix(number: int) -> int:
    """Hash 64 bits to 64 bits, one to one. Source: the step of SplitMix64 (Steele, Lea and Flood, 2014)."""
    number = (number + 0x9E3779B97F4A7C15) & MASK
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & MASK
    return number ^ (number >> 31)


def check_position(position: int) -> None:
    """Check that a position is a whole number from 0 on.

    Raises:
        TypeError: It is not an int.
        IndexError: It is negative.
    """
    if type(position) is not int:
        raise TypeError(f"a position is an int, got {position!r}")
    if position < 0:
        raise IndexError(f"a position is counted from 0, got {position}")


class ShuffledRows:
    """Gives rows in an order of their own in each epoch: each row once an epoch."""

    def __init__(self, rows: Rows, seed: int) -> None:
        if len(rows) == 0:
            raise InputError("the data hold 0 rows; expected at least one document of two tokens")
        self.rows = rows
        self.seed = seed

    @property
    def num_rows(self) -> int:
        """Rows of an epoch."""
        return len(self.rows)

    def __getitem__(self, position: int) -> Row:
        return self.rows[self._find_index(position)]

    def where(self, position: int) -> str:
        """Name the row at a position for messages."""
        return self.rows.where(self._find_index(position))

    def _find_index(self, position: int) -> int:
        check_position(position)
        size = len(self.rows)
        epoch, index = divmod(position, size)
        return shuffle_index(index, size, self.seed, epoch)


class MixedRows:
    """Draws rows from several sources by weight, each source in its own order and through its own epochs.

    Each BLOCK_ROWS positions are dealt out to the sources and shuffled; an epoch begins a new block. Where a block ends
    a source has given its exact share of all rows so far, to about a row, however long the run; so a block holds its
    share to two rows, and of two sources to one. Without weights a source has as many shares as rows, and each row
    comes exactly once an epoch.
    """

    def __init__(self, parts: Sequence[OrderedRows], weights: Sequence[float] | None, seed: int) -> None:
        self.parts = list(parts)
        self.seed = seed
        sizes = [part.num_rows for part in self.parts]
        known = [size for size in sizes if size is not None]
        self._num_rows = sum(known) if len(known) == len(sizes) else None
        if weights is None and self._num_rows is None:
            raise InputError("a mixture has no weights, and a stream has no number of rows to go by; expected weights")
        self._weights = _as_whole_numbers(known if weights is None else weights)
        if not self.parts or len(self.parts) != len(self._weights):
            raise InputError(
                f"a mixture has {len(self.parts)} sources and {len(self._weights)} weights; expected one each"
            )
        self._block: tuple[int, int] | None = None  # epoch and block of the plan: what was computed last, not a state
        self._plan: list[tuple[int, int]] = []

    @property
    def num_rows(self) -> int | None:
        """Rows of an epoch: of all sources together; None where one is a stream."""
        return self._num_rows

    def __getitem__(self, position: int) -> Row:
        source, inner = self.find(position)
        return self.parts[source][inner]

    def where(self, position: int) -> str:
        """Name the row at a position for messages."""
        source, inner = self.find(position)
        return self.parts[source].where(inner)

    def find(self, position: int) -> tuple[int, int]:
        """Find the source of the row at a position, and the position of the row in that source."""
        check_position(position)
        epoch, place = divmod(position, self._num_rows) if self._num_rows else (0, position)
        block = place // BLOCK_ROWS
        if self._block != (epoch, block):
            self._plan = self._plan_block(epoch, block)
            self._block = (epoch, block)
        return self._plan[place % BLOCK_ROWS]

    def _plan_block(self, epoch: int, block: int) -> list[tuple[int, int]]:
        """Deal out the positions of a block: (source, position in the source) of each."""
        first = block * BLOCK_ROWS
        last = first + BLOCK_ROWS
        if self._num_rows:
            last = min(last, self._num_rows)
        before = epoch * (self._num_rows or 0)
        inner = _share_out(before + first, self._weights)
        after = _share_out(before + last, self._weights)
        dealt = [source for source in range(len(self.parts)) for _ in range(after[source] - inner[source])]
        plan = []
        for i in range(last - first):
            source = dealt[shuffle_index(i, last - first, self.seed, epoch, block)]
            plan.append((source, inner[source]))
            inner[source] += 1
        return plan


def _as_whole_numbers(weights: Sequence[float]) -> list[int]:
    """Turn weights into whole numbers in the same proportion, 0.3 into 3 of 10 and not into the nearest binary."""
    for weight in weights:
        if not 0 < weight < float("inf"):
            raise InputError(f"a source of a mixture has weight {weight}; expected a number above 0")
    shares = [Fraction(str(weight)) for weight in weights]
    scale = lcm(*(share.denominator for share in shares))
    return [int(share * scale) for share in shares]


def _share_out(total: int, weights: Sequence[int]) -> list[int]:
    """Share rows out: each source in turn, the heaviest first, takes its share, rounded, of what is left.

    No share falls when the total grows, which rounding all shares at once does not promise.
    """
    shares, rest = [0] * len(weights), sum(weights)
    for source in sorted(range(len(weights)), key=lambda s: -weights[s]):
        shares[source] = (2 * total * weights[source] + rest) // (2 * rest)
        total -= shares[source]
        rest -= weights[source]
    return shares
