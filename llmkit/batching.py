"""Batches planned by length: few padding tokens, bounded memory, results in the order of the input."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

logger = logging.getLogger("llmkit")

Result = TypeVar("Result")


@dataclass
class Budget:
    """Holds how large a batch may be; `halve` makes it smaller for good.

    Attributes:
        tokens: At most so many tokens in a batch, padding included.
        rows: At most so many rows; None sets no bound.
    """

    tokens: int
    rows: int | None = None
    noted: bool = False

    def halve(self) -> None:
        """Halve the tokens, and note it the first time."""
        self.tokens = max(self.tokens // 2, 1)
        if not self.noted:
            logger.info(f"the device's memory is full; batches hold {self.tokens:,} tokens from here on")
        self.noted = True


def plan(lengths: Sequence[int], budget: Budget) -> list[list[int]]:
    """Group rows into batches by length, the longest first, so that memory runs short at once or never.

    A batch costs its number of rows times its longest; a row above the budget is a batch of its own.

    Args:
        lengths: The tokens of each row.
        budget: What a batch may hold.

    Returns:
        The indices of each batch; every row is in exactly one.
    """
    batches: list[list[int]] = []
    room = 0
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if room == 0:
            batches.append([])
            room = max(budget.tokens // max(lengths[i], 1), 1)
            room = min(room, budget.rows or room)
        batches[-1].append(i)
        room -= 1
    return batches


def group(values: Sequence[int]) -> list[list[int]]:
    """Group indices by their value."""
    groups: dict[int, list[int]] = {}
    for i, value in enumerate(values):
        groups.setdefault(value, []).append(i)
    return list(groups.values())


def run(
    lengths: Sequence[int],
    budget: Budget,
    call: Callable[[list[int]], Sequence[Result]],
    *,
    is_full: Callable[[Exception], bool],
) -> list[Result]:
    """Call a function on planned batches of rows and return one result a row, in the order of the rows.

    Args:
        lengths: The tokens of each row.
        budget: What a batch may hold; halved where the memory is full, and the rest planned again.
        call: Takes the indices of a batch and gives a result for each.
        is_full: Tells whether an error says that the memory is full.
    """
    results: dict[int, Result] = {}
    waiting = plan(lengths, budget)
    while waiting:
        batch = waiting.pop(0)
        try:
            found = call(batch)
        except Exception as err:
            if len(batch) == 1 or not is_full(err):
                raise
            budget.halve()
            left = [i for other in (batch, *waiting) for i in other]
            waiting = [[left[k] for k in other] for other in plan([lengths[i] for i in left], budget)]
            continue
        results.update(zip(batch, found, strict=True))
    return [results[i] for i in range(len(lengths))]
