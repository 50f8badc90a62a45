"""Figures of an experiment: means over what games hold, with intervals over games that are drawn anew."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmkit.evaluation.resampling import Sums

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Figure:
    """Holds a mean.

    Attributes:
        value: The mean.
        interval: Its 95 % interval, by 1,000 resamples of games; None of fewer than two games.
        n: What it is a mean of: positions, squares or games.
    """

    value: float
    interval: tuple[float, float] | None
    n: int

    def __str__(self) -> str:
        return f"{self.value:.4f}" + (f" [{self.interval[0]:.4f}, {self.interval[1]:.4f}]" if self.interval else "")


@dataclass(frozen=True, eq=False)
class Share:
    """Holds what a mean is made of, game by game: sums, and what they are divided by. Shape: (games,) each.

    Attributes:
        sums: The sums.
        counts: How many values each is of; or, of a ratio of two sums, the lower one.
        n: Of a ratio, how many values it is of; else None.
    """

    sums: Floats
    counts: Floats
    n: int | None = None


def share(values: NDArray[np.generic], mask: NDArray[np.bool_]) -> Share:
    """Sum values that count over all axes but the first, that of games. Shape of both: (games, ...)."""
    axes = tuple(range(1, values.ndim))
    return Share(np.where(mask, values, 0).astype(np.float64).sum(axis=axes), mask.sum(axis=axes).astype(np.float64))


def summarize(
    shares: Mapping[str, Share], seed: int, *, means: Mapping[str, tuple[str, ...]] | None = None
) -> dict[str, Figure]:
    """Compute means and their intervals; a share without any value is left out.

    Args:
        shares: What each mean is made of.
        seed: Of the intervals.
        means: Figures that stand in the place of others: a name, and the shares of which it is the plain mean.
    """
    kept = {name: one for name, one in shares.items() if one.counts.sum() > 0}
    if not kept:
        return {}
    sums, counts = (np.stack([getattr(one, field) for one in kept.values()], 1) for field in ("sums", "counts"))

    sizes = {name: round(float(one.counts.sum())) if one.n is None else one.n for name, one in kept.items()}
    parts = {name: [one for one in of if one in kept] for name, of in (means or {}).items()}

    def score(weights: Floats) -> dict[str, float]:
        with np.errstate(invalid="ignore"):  # a draw may hold no game that counts
            found = dict(zip(kept, (weights @ sums / (weights @ counts)).tolist(), strict=True))
        return found | {name: float(np.mean([found[one] for one in of])) for name, of in parts.items()}

    drawn = Sums(len(sums), score)
    values, intervals = drawn.metrics(), drawn.intervals(seed)
    sizes |= {name: sum(sizes[one] for one in of) for name, of in parts.items()}
    replaced = {one for of in parts.values() for one in of}
    return {name: Figure(values[name], intervals.get(name), n) for name, n in sizes.items() if name not in replaced}
