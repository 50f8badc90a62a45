"""What came of the rows of an evaluation, one by one and all together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from llmkit.encoding.prompts import Prompt
from llmkit.evaluation.resampling import Counts, Difference, Interval, Sums, Texts


@dataclass(frozen=True, slots=True)
class Row:
    """Holds what one row asked, and what came of it.

    Attributes:
        where: Its place, as "test.tsv row 41".
        given: What it gave by name: source; question and context; text; prompt. Of a text whose perplexity is measured
            only the beginning.
        expected: The right text or label, or the right answers, none where there is no answer; None in perplexity.
        got: The text or label that was found; None in perplexity.
        scores: Its own scores by name, in the unit of the metrics: f1, chrf and so on; of a label accuracy, and as
            score the probability that the right label got, from 0 to 1.
    """

    where: str
    given: Mapping[str, Prompt]
    expected: str | tuple[str, ...] | None
    got: str | None
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Confusion:
    """Holds how often each label was found for each: `counts[i][j]` rows of labels[i] were found to be labels[j]."""

    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, eq=False)
class Outcome:
    """Holds all rows, and what turns them, or rows drawn anew from them, into metrics.

    Attributes:
        rows: The rows in their order.
        sums: What computes the metrics that are sums over rows, as far as the task has such.
        texts: What computes bleu and chrf, likewise.
        confusion: Of labels, which were found for which.
        checkpoint: What the checkpoint was called.
        seconds: Wall time of the answers.
    """

    rows: Sequence[Row]
    sums: Sums | None = None
    texts: Texts | None = None
    confusion: Confusion | None = None
    checkpoint: str = ""
    seconds: float = 0.0

    @property
    def _scorers(self) -> list[Sums | Texts]:
        return [scorer for scorer in (self.sums, self.texts) if scorer is not None]

    def metrics(self) -> dict[str, float]:
        """Compute the metrics."""
        return {name: value for scorer in self._scorers for name, value in scorer.metrics().items()}

    def intervals(self, seed: int) -> dict[str, Interval]:
        """Compute the 95 % interval of each metric, as far as it has one."""
        return {name: span for scorer in self._scorers for name, span in scorer.intervals(seed).items()}

    def signatures(self) -> dict[str, str]:
        """List sacrebleu's signatures."""
        return {} if self.texts is None else {name: score.signature for name, score in self.texts.scores.items()}

    def compare(self, other: "Outcome", seed: int) -> dict[str, Difference]:
        """Compare each metric with that of another checkpoint on the same rows."""
        found: dict[str, Difference] = {}
        if self.sums is not None and other.sums is not None:
            found |= self.sums.compare(other.sums, seed)
        if self.texts is not None and other.texts is not None:
            found |= self.texts.compare(other.texts, seed)
        return found


def sum_answers(rows: Sequence[Row]) -> Sums:
    """Make exact_match and f1 of rows the mean of theirs."""
    values = np.array([[row.scores["exact_match"], row.scores["f1"]] for row in rows])

    def score(counts: Counts) -> dict[str, float]:
        exact, near = (counts @ values / counts.sum()).tolist()
        return {"exact_match": exact, "f1": near}

    return Sums(len(rows), score)


def sum_labels(found: Sequence[int], right: Sequence[int], num_labels: int) -> Sums:
    """Make accuracy and f1_macro of the numbers of labels, as llmkit.metrics defines them."""
    named, meant = np.array(found), np.array(right)
    hits = named == meant

    def score(counts: Counts) -> dict[str, float]:
        same = np.bincount(meant[hits], counts[hits], num_labels)
        sizes = np.bincount(named, counts, num_labels) + np.bincount(meant, counts, num_labels)
        occurs = sizes > 0
        each = 2 * same[occurs] / sizes[occurs]
        return {"accuracy": float(same.sum() / counts.sum()), "f1_macro": float(each.sum() / len(each))}

    return Sums(len(found), score)


def count_labels(found: Sequence[int], right: Sequence[int], labels: Sequence[str]) -> Confusion:
    """Count which labels were found for which, from their numbers."""
    cells = np.bincount(np.array(right) * len(labels) + np.array(found), minlength=len(labels) ** 2)
    return Confusion(tuple(labels), tuple(tuple(row) for row in cells.reshape(len(labels), -1).tolist()))
