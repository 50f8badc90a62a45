"""Rows changed anew each time they come: a pure function of (seed, position, row), so that one integer resumes a run.

The random numbers are our own integer arithmetic: no release of a library can change a run that is resumed.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from llmkit.data.order import MASK, OrderedRows, Row, Rows

Numbers = npt.NDArray[np.uint64]
Corrupt = Callable[[Row, int], Row]  # of a row and its position

STEP = 0x9E3779B97F4A7C15
EVALUATION = 2**63  # evaluation rows are changed as at positions that no run reaches


def draw(number: int, *key: int) -> Numbers:
    """Draw numbers of 64 bits, evenly distributed: a pure function of the key. Shape: (number,).

    Source: SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014), begun at a hash
    of the key.

    Args:
        number: How many.
        *key: Whole numbers, such as the seed, what the numbers are for, and the position.
    """
    state = np.full(1, len(key), np.uint64)
    for part in key:
        state = mix(state ^ mix(np.array([part & MASK], np.uint64)))
    return mix(state + np.arange(number, dtype=np.uint64) * np.uint64(STEP))


def mix(numbers: Numbers) -> Numbers:
    """Hash each number as llmkit.data.order does: the step of SplitMix64. Arrays wrap around without a warning."""
    numbers = numbers + np.uint64(STEP)
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def threshold(share: float) -> np.uint64:
    """Find the number that a number drawn lies below with this probability, from 0 to less than 1."""
    assert 0 <= share < 1
    return np.uint64(int(share * 2**64))


class CorruptedRows:
    """Gives the rows of a run by their position, each changed by its position: anew in each epoch."""

    def __init__(self, rows: OrderedRows, corrupt: Corrupt) -> None:
        self.rows, self.corrupt = rows, corrupt

    @property
    def num_rows(self) -> int | None:
        """Rows of an epoch; None where only reading would tell."""
        return self.rows.num_rows

    def __getitem__(self, position: int) -> Row:
        return self.corrupt(self.rows[position], position)

    def where(self, position: int) -> str:
        """Name the row at a position for messages."""
        return self.rows.where(position)


class CorruptedDataset(Dataset[Row]):  # type: ignore[misc]  # mypy does not follow torch
    """Gives rows by their index, each changed alike at every evaluation, and as at no position of training."""

    def __init__(self, rows: Rows, corrupt: Corrupt) -> None:
        self.rows, self.corrupt = rows, corrupt

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return self.corrupt(self.rows[index], EVALUATION + index)

    def where(self, index: int) -> str:
        """Name the row at an index for messages."""
        return self.rows.where(index)
