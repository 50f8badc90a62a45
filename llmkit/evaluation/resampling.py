"""How sure a metric is: over rows that are drawn anew, with replacement, from those that were answered."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from llmkit import metrics

logger = logging.getLogger("llmkit")

RESAMPLES = 1000
MOST_TEXTS = 20_000  # sacrebleu holds all resamples at once: about 72 kB a row

Counts = NDArray[np.float64]  # how often each row counts, Shape: (rows,)
Interval = tuple[float, float]


@dataclass(frozen=True)
class Difference:
    """Holds by how much a metric of one checkpoint exceeds that of another, on the same rows.

    Attributes:
        value: The one minus the other, in the unit of the metric.
        interval: The 95 % interval of it; None for bleu and chrf, of which sacrebleu gives none, and for metrics of
            the user's own.
        p_value: How probable so large a difference is where there is none, in either direction; None where there is
            no interval for want of rows, and for metrics of the user's own.
    """

    value: float
    interval: Interval | None = None
    p_value: float | None = None


@dataclass(frozen=True, eq=False)
class Sums:
    """Turns rows into metrics through sums over rows, so that rows drawn anew need not be answered anew.

    Attributes:
        size: The number of rows.
        score: Computes the metrics from how often each row counts, Shape: (rows,).
    """

    size: int
    score: Callable[[Counts], dict[str, float]]

    def metrics(self) -> dict[str, float]:
        """Compute the metrics of the rows as they are."""
        return self.score(np.ones(self.size))

    def intervals(self, seed: int) -> dict[str, Interval]:
        """Compute the 95 % interval of each metric: percentiles of 1,000 resamples.

        Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, section 13.3.
        """
        if self.size < 2:
            return {}
        drawn = _gather([self.score(counts) for counts in draw(self.size, seed)])
        return {name: _span(values) for name, values in drawn.items()}

    def compare(self, other: "Sums", seed: int) -> dict[str, Difference]:
        """Compare with the same rows as another checkpoint answered them: both count the same rows in each resample.

        The p-value is twice the share of the resamples in which the difference is not of the sign that it mostly has.
        Source: Koehn 2004, Statistical significance tests for machine translation evaluation; the 1 that is added to
        both counts: Davison and Hinkley 1997, Bootstrap methods and their application, chapter 4.
        """
        mine, theirs = self.metrics(), other.metrics()
        values = {name: value - theirs[name] for name, value in mine.items()}
        if self.size < 2:
            return {name: Difference(value) for name, value in values.items()}
        pairs = [(self.score(counts), other.score(counts)) for counts in draw(self.size, seed)]
        drawn = _gather([{name: a[name] - b[name] for name in a} for a, b in pairs])
        return {name: Difference(values[name], _span(found), _weigh_chance(found)) for name, found in drawn.items()}


@dataclass(frozen=True, eq=False)
class Texts:
    """Turns texts into bleu and chrf, which sacrebleu computes and resamples itself.

    Attributes:
        found: The texts.
        references: The right texts.
        tokenize: sacrebleu's tokenizer of bleu.
    """

    found: Sequence[str]
    references: Sequence[str]
    tokenize: str

    @property
    def size(self) -> int:
        """The number of rows."""
        return len(self.found)

    @cached_property
    def scores(self) -> dict[str, metrics.Score]:
        """Both scores of the texts as they are."""
        bleu = metrics.bleu(self.found, self.references, tokenize=self.tokenize)
        return {"bleu": bleu, "chrf": metrics.chrf(self.found, self.references)}

    def metrics(self) -> dict[str, float]:
        """Compute the metrics of the texts as they are."""
        return {name: score.value for name, score in self.scores.items()}

    def intervals(self, seed: int) -> dict[str, Interval]:
        """Compute the 95 % interval of each metric by sacrebleu: mean - half width to mean + half width."""
        if self.size < 2 or not _fits(self.size):
            return {}
        return metrics.resample_translations(
            self.found, self.references, tokenize=self.tokenize, resamples=RESAMPLES, seed=seed
        )

    def compare(self, other: "Texts", seed: int) -> dict[str, Difference]:
        """Compare with the texts of another checkpoint, by sacrebleu's paired bootstrap test.

        There is no difference of bleu where the two count by different tokenizers.
        """
        values = {name: value - other.metrics()[name] for name, value in self.metrics().items()}
        if self.tokenize != other.tokenize:
            logger.info(
                f"bleu is not compared: one counts by {self.tokenize}, the other by {other.tokenize}; "
                "--to (in Python: tgt_lang=) names the language of the translations"
            )
            del values["bleu"]
        p_values: dict[str, float] = {}
        if self.size > 1 and _fits(self.size):
            p_values = metrics.compare_translations(
                self.found, other.found, self.references, tokenize=self.tokenize, resamples=RESAMPLES, seed=seed
            )
        return {name: Difference(value, None, p_values.get(name)) for name, value in values.items()}


def draw(size: int, seed: int) -> Iterator[Counts]:
    """Draw as many rows as there are, with replacement, 1,000 times: how often each counts, Shape: (rows,)."""
    rng = np.random.default_rng(seed)
    for _ in range(RESAMPLES):
        yield np.bincount(rng.integers(0, size, size), minlength=size).astype(np.float64)


def _gather(drawn: Sequence[Mapping[str, float]]) -> dict[str, NDArray[np.float64]]:
    """Gather the values of each metric, Shape: (resamples,); a draw that leaves a metric without value is left out."""
    found = {name: np.array([one[name] for one in drawn]) for name in drawn[0]}
    return {name: values[~np.isnan(values)] for name, values in found.items()}


def _span(values: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _weigh_chance(differences: NDArray[np.float64]) -> float:
    fewer = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return min(1.0, 2 * (fewer + 1) / (len(differences) + 1))


def _fits(size: int) -> bool:
    if size > MOST_TEXTS:
        logger.info(f"bleu and chrf of more than {MOST_TEXTS:,} rows are given without resampling, got {size:,}")
    return size <= MOST_TEXTS
