"""From documents to rows of tokens: a stream of documents cut into rows that overlap by one token.

Row r of a packed stream holds its tokens from r * (max_length - 1) to r * (max_length - 1) + max_length: the last token
of a row begins the next one. Labels are the input ids, shifted inside the model, so each token but the first of a
document is predicted exactly once an epoch. Without packing each document is cut so by itself.
"""

import copy
from typing import Literal

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from llmkit.data.order import Row
from llmkit.data.store import TokenStore
from llmkit.data.tokenizing import Ids
from llmkit.errors import InputError

OnLong = Literal["error", "cut", "split", "drop"]


class TokenRows(Dataset[Row]):  # type: ignore[misc]  # mypy does not follow torch
    """Gives the rows of a store by number: input_ids, and for each the number of its document within the row.

    Attributes:
        store: The store that is read.
        documents: The documents of the store that are laid out, counted from 0.
        max_length: The most tokens of a row.
        num_cut: Tokens that `on_long: cut` left out.
        num_dropped: Documents that `on_long: drop` left out.
        num_dropped_tokens: Their tokens.
    """

    def __init__(
        self, store: TokenStore, *, max_length: int, on_long: OnLong, pack: bool, documents: range | None = None
    ) -> None:
        """Lay out the rows of a store, or of a range of its documents; nothing is read but where documents begin.

        Raises:
            InputError: max_length is below 2, or on_long is `error` and a document is longer.
        """
        check_max_length(max_length)
        self.store, self.max_length = store, max_length
        self.documents = range(store.num_documents) if documents is None else documents
        starts = store.starts[self.documents.start : self.documents.stop + 1]
        lengths = np.diff(starts)
        kept, is_long = lengths, lengths > max_length
        self.num_cut = self.num_dropped = self.num_dropped_tokens = 0
        if on_long == "error" and is_long.any():
            raise InputError(describe_long(int(is_long.sum()), len(lengths), max_length, int(lengths.max())))
        if on_long == "cut":
            kept = lengths.clip(max=max_length)
            self.num_cut = int((lengths - kept).sum())
        elif on_long == "drop":
            kept = lengths[~is_long]
            self.num_dropped, self.num_dropped_tokens = int(is_long.sum()), int(lengths[is_long].sum())
        # Where each kept document begins in the stream and in the store; None: the stream is the store.
        self._is_whole = len(kept) == store.num_documents and self.num_cut == 0
        self._starts = store.starts if self._is_whole else _add_up(kept)
        self._sources = starts[:-1][~is_long] if on_long == "drop" else starts[:-1]
        # Without packing: the rows before each document; one of a single token predicts nothing and has none.
        self._rows = None if pack else _add_up((kept + max_length - 3) // (max_length - 1))
        self._first, self._stop = 0, self._count_rows()

    def _count_rows(self) -> int:
        if self._rows is not None:
            return int(self._rows[-1])
        step, total = self.max_length - 1, int(self._starts[-1])
        num_rows = max(0, -(-(total - 1) // step))
        is_short = num_rows * step + 1 > total
        if num_rows and is_short and self._count_targets(num_rows) == self._count_targets(num_rows - 1):
            return num_rows - 1  # what is left at the end predicts nothing
        return num_rows

    def __len__(self) -> int:
        return self._stop - self._first

    def __getitem__(self, index: int) -> Row:
        start, stop = self._span(index)
        first, last = self._documents(start, stop)
        document_ids = np.zeros(stop - start, np.int64)
        document_ids[self._starts[first + 1 : last + 1] - start] = 1
        return {"input_ids": self._read(start, stop, first, last), "document_ids": document_ids.cumsum()}

    def where(self, index: int) -> str:
        """Name a row by its source and its documents, counted from 1."""
        first, last = (self._number(d) for d in self._documents(*self._span(index)))
        documents = f"document {first:,}" if first == last else f"documents {first:,} to {last:,}"
        return f"{self.store.counts.name} {documents}"

    def split(self, num_rows: int) -> "tuple[TokenRows, TokenRows]":
        """Split the last `num_rows` rows off: (the others, the last)."""
        others, last = copy.copy(self), copy.copy(self)
        others._stop = last._first = max(self._first, self._stop - num_rows)
        return others, last

    @property
    def num_targets(self) -> int:
        """The number of tokens that these rows predict."""
        return self._count_targets(self._stop) - self._count_targets(self._first)

    @property
    def num_first(self) -> int:
        """The number of tokens that begin a kept document, which no row predicts; `split` does not change it."""
        return len(self._starts) - 1

    def has_target(self, token: int) -> bool:
        """Tell whether a row predicts this token; rows are read until one does."""
        for row in self:
            ids, document_ids = row["input_ids"], row["document_ids"]
            if ((ids[1:] == token) & (document_ids[1:] == document_ids[:-1])).any():
                return True
        return False

    def _span(self, index: int) -> tuple[int, int]:
        """Find where a row begins and ends in the stream."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        row, end = self._first + index, int(self._starts[-1])
        start = row * (self.max_length - 1)
        if self._rows is not None:
            document = int(np.searchsorted(self._rows, row, side="right")) - 1
            start = int(self._starts[document]) + (row - int(self._rows[document])) * (self.max_length - 1)
            end = int(self._starts[document + 1])
        return start, min(start + self.max_length, end)

    def _documents(self, start: int, stop: int) -> tuple[int, int]:
        """Find the first and the last kept document of a span of the stream."""
        first, last = np.searchsorted(self._starts, (start, stop - 1), side="right") - 1
        return int(first), int(last)

    def _number(self, document: int) -> int:
        """Count a kept document among all of the store, from 1."""
        return int(np.searchsorted(self.store.starts, self._sources[document], side="right"))

    def _read(self, start: int, stop: int, first: int, last: int) -> Ids:
        if self._is_whole:
            return self.store.read(start, stop - start)
        parts = []
        for document in range(first, last + 1):
            begin, end = max(start, int(self._starts[document])), min(stop, int(self._starts[document + 1]))
            source = int(self._sources[document]) + begin - int(self._starts[document])
            parts.append(self.store.read(source, end - begin))
        return np.concatenate(parts)

    def _count_targets(self, row: int) -> int:
        """Count the targets of all rows before one."""
        step = self.max_length - 1
        if self._rows is None:
            last = min(row * step, int(self._starts[-1]) - 1)  # the last token that those rows predict
            return last + 1 - int(np.searchsorted(self._starts, last, side="right"))
        document = int(np.searchsorted(self._rows, row, side="right")) - 1
        inside = (row - int(self._rows[document])) * step
        return int(self._starts[document]) - document + inside


def check_max_length(max_length: int) -> None:
    """Check that a row can hold a token and the next one.

    Raises:
        InputError: It cannot.
    """
    if max_length < 2:
        raise InputError(f"data.max_length: a row needs a token and the next one, got {max_length}; expected 2 or more")


def describe_long(num_long: int, num_documents: int, max_length: int, longest: int) -> str:
    """Say how many documents are longer than a row, and what can be done."""
    return (
        f"{num_long:,} of {num_documents:,} examples exceed {max_length:,} tokens (longest {longest:,}); "
        f"set data.max_length: {longest} or data.on_long: cut|split|drop"
    )


def _add_up(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Add up lengths to starts, the end of the last one included. Shape: (number + 1,)."""
    starts = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    return starts
