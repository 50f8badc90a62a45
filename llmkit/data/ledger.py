"""The ledger: what became of every document and token of each source."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Counts:
    """Counts what was read from one source and what was not trained on.

    `documents` were read and hold text after cleaning, `num_bytes` are their UTF-8 bytes; `dropped` counts documents by
    the rule that emptied them, `empty` those that held nothing before, `bad_rows` rows without text that were skipped,
    `problem` what was wrong with the first of them, `surrogates` documents in which a lone surrogate was replaced;
    `tokens` are those written, end-of-text included.
    """

    name: str
    documents: int = 0
    num_bytes: int = 0
    tokens: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    empty: int = 0
    bad_rows: int = 0
    surrogates: int = 0
    problem: str = ""

    def skip(self, problem: Exception) -> None:
        """Count one row that is no example."""
        self.bad_rows += 1
        self.problem = self.problem or str(problem)

    def drop(self, rule: str) -> None:
        """Count one document that a rule emptied."""
        self.dropped[rule] = self.dropped.get(rule, 0) + 1


@dataclass(frozen=True)
class SourceLedger:
    """Holds what became of one source.

    Each token of a store has one fate: `counts.tokens` = trained_on + held_out + first + cut + dropped.

    Attributes:
        counts: What was read.
        trained_on: Tokens that a training row predicts, each once a pass.
        held_out: Tokens that a row held out for evaluation predicts.
        first: Tokens that begin a document, which nothing predicts.
        cut: Tokens beyond max_length, under `on_long: cut`.
        dropped: Tokens of longer documents, under `on_long: drop`.
        num_long: Those documents.
        passes: How often a mixture goes over the source in an epoch; None where there is no mixture.
        is_stream: Whether the source is read while training, so that its tokens are not known ahead.
    """

    counts: Counts
    trained_on: int = 0
    held_out: int = 0
    first: int = 0
    cut: int = 0
    dropped: int = 0
    num_long: int = 0
    passes: float | None = None
    is_stream: bool = False

    def lines(self) -> list[str]:
        """Give the lines to print: the source, its documents, its tokens."""
        name = self.counts.name + (f", {self.passes:.2f} passes an epoch" if self.passes is not None else "")
        if self.is_stream:
            return [f"{name}: a stream, tokenized while training"]
        return [name, f"  documents  {self._documents()}", f"  tokens     {self._tokens()}"]

    def _documents(self) -> str:
        counts = self.counts
        parts = [f"{counts.documents:,} read"]
        rules = [*counts.dropped.items(), ("longer than max_length", self.num_long)]
        parts += [f"{number:,} dropped: {rule}" for rule, number in rules if number]
        rest = (("empty", counts.empty), ("rows without text skipped", counts.bad_rows))
        parts += [f"{number:,} {what}" for what, number in rest if number]
        if counts.surrogates:
            parts.append(f"{counts.surrogates:,} with lone surrogates replaced")
        return ", ".join(parts)

    def _tokens(self) -> str:
        fates = {
            "trained on": self.trained_on,
            "held out": self.held_out,
            "at the start of a document": self.first,
            "cut": self.cut,
            "dropped": self.dropped,
        }
        parts = [f"{number:,} {fate}" for fate, number in fates.items() if number]
        return f"{self.counts.tokens:,} read" + (f" = {' + '.join(parts)}" if parts else "")


@dataclass(frozen=True)
class ExampleLedger:
    """Holds what became of one source of examples.

    Attributes:
        counts: What was read, held out examples among them.
        num_rows: Rows that are trained on; an example may have several.
        num_tokens: Their tokens.
        trained_on: Their targets: tokens, classes, values or windows.
        num_held: Rows that are held out for evaluation.
        held_out: Their targets.
        passes: How often a mixture goes over the source in an epoch; None where there is no mixture.
    """

    counts: Counts
    num_rows: int
    num_tokens: int
    trained_on: int
    num_held: int = 0
    held_out: int = 0
    passes: float | None = None
    is_stream: bool = False

    def lines(self) -> list[str]:
        """Give the lines to print: the source, its examples, its rows."""
        counts = self.counts
        name = counts.name + (f", {self.passes:.2f} passes an epoch" if self.passes is not None else "")
        parts = [f"{counts.documents:,} read"]
        parts += [f"{number:,} dropped: {rule}" for rule, number in counts.dropped.items() if number]
        rest = (("without text", counts.empty), ("bad rows skipped", counts.bad_rows))
        parts += [f"{number:,} {what}" for what, number in rest if number]
        rows = []
        if self.num_rows:
            rows.append(f"{self.num_rows:,} trained on ({self.num_tokens:,} tokens, {self.trained_on:,} targets)")
        if self.num_held:
            rows.append(f"{self.num_held:,} held out ({self.held_out:,} targets)")
        return [name, f"  examples   {', '.join(parts)}", f"  rows       {', '.join(rows)}"]


@dataclass(frozen=True)
class Ledger:
    """Holds what became of each source, and of the evaluation data that are not part of one; `str()` is the table."""

    sources: Sequence[SourceLedger | ExampleLedger]
    evaluation: SourceLedger | ExampleLedger | None = None

    def __str__(self) -> str:
        lines = [line for source in self.sources for line in source.lines()]
        if self.evaluation is not None:
            lines += ["evaluation:", *self.evaluation.lines()]
        return "\n".join(lines)
