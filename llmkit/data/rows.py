"""From documents to rows of tokens: a stream of documents cut into rows, which overlap by one token or not.

Row r of a packed stream holds its tokens from r * (max_length - 1) to r * (max_length - 1) + max_length: the last token
of a row begins the next one. Labels are the input ids, shifted inside the model, so each token but the first of a
document is predicted exactly once an epoch. Without packing each document is cut so by itself.

Rows that are not predicted from left to right don't overlap: each token stands in exactly one row.
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
        overlap: The tokens that neighbouring rows of a document share.
        num_cut: Tokens that `on_long: cut` left out.
        num_dropped: Documents that `on_long: drop` left out.
        num_dropped_tokens: Their tokens.
    """

    def __init__(
        self,
        store: TokenStore,
        *,
        max_length: int,
        on_long: OnLong,
        pack: bool,
        documents: range | None = None,
        overlap: int = 1,
        num_special: int = 0,
    ) -> None:
        """Lay out the rows of a store, or of a range of its documents; nothing is read but where documents begin.

        Args:
            store: The store.
            max_length: The most tokens of a row.
            on_long: What becomes of a document that is longer.
            pack: Whether a row holds several documents.
            documents: Those that are laid out, counted from 0; None: all.
            overlap: 1 where the last token of a row begins the next one, which predicts what follows it; 0 where each
                token stands in one row and may be a target there. Packed rows always overlap.
            num_special: The special tokens that are set around each row later, for which room is left: the rows are
                that much shorter than max_length, which counts them.

        Raises:
            InputError: max_length leaves no room, or on_long is `error` and a document is longer.
        """
        assert overlap or not pack, "packed rows without an overlap: nobody needs them"
        check_max_length(max_length, overlap=overlap, num_special=num_special)
        max_length -= num_special
        self.store, self.max_length, self.overlap = store, max_length, overlap
        self.documents = range(store.num_documents) if documents is None else documents
        starts = store.starts[self.documents.start : self.documents.stop + 1]
        lengths = np.diff(starts)
        kept, is_long = lengths, lengths > max_length
        self.num_cut = self.num_dropped = self.num_dropped_tokens = 0
        if on_long == "error" and is_long.any():
            room, longest = max_length + num_special, int(lengths.max()) + num_special
            raise InputError(describe_long(int(is_long.sum()), len(lengths), room, longest))
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
        # Without packing: the rows before each document; one of no more than the overlap predicts nothing, has none.
        self._step = max_length - overlap
        self._rows = None if pack else _add_up((kept - overlap + self._step - 1) // self._step)
        self._first, self._stop = 0, self._count_rows()

    def _count_rows(self) -> int:
        if self._rows is not None:
            return int(self._rows[-1])
        step, total = self._step, int(self._starts[-1])
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
        """The number of tokens that these rows predict; without an overlap all of them, of which some are hidden."""
        return self._count_targets(self._stop) - self._count_targets(self._first)

    @property
    def num_first(self) -> int:
        """The number of tokens that begin a kept document, which no row predicts; `split` does not change it.

        Without an overlap there are none: a first token may be a target too.
        """
        return self.overlap * (len(self._starts) - 1)

    def has_target(self, token: int) -> bool:
        """Tell whether a row predicts this token; rows are read until one does."""
        for row in self:
            ids, document_ids = row["input_ids"], row["document_ids"]
            if not self.overlap and (ids == token).any():
                return True
            if ((ids[1:] == token) & (document_ids[1:] == document_ids[:-1])).any():
                return True
        return False

    def _span(self, index: int) -> tuple[int, int]:
        """Find where a row begins and ends in the stream."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        row, end = self._first + index, int(self._starts[-1])
        start = row * self._step
        if self._rows is not None:
            document = int(np.searchsorted(self._rows, row, side="right")) - 1
            start = int(self._starts[document]) + (row - int(self._rows[document])) * self._step
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
        if self._rows is None:
            last = min(row * self._step, int(self._starts[-1]) - 1)  # the last token that those rows predict
            return last + 1 - int(np.searchsorted(self._starts, last, side="right"))
        document = int(np.searchsorted(self._rows, row, side="right")) - 1
        inside = (row - int(self._rows[document])) * self._step
        return int(self._starts[document]) - self.overlap * document + inside


def check_max_length(max_length: int, *, overlap: int = 1, num_special: int = 0) -> None:
    """Check that a row can hold a token, where rows overlap the next one too, and its special tokens.

    Raises:
        InputError: It cannot.
    """
    least = 1 + overlap + num_special
    if max_length < least:
        needed = "a token and the next one" if overlap else "a token"
        needed += f" beside {num_special} special ones" if num_special else ""
        raise InputError(f"data.max_length: a row needs {needed}, got {max_length}; expected {least} or more")


def describe_long(
    num_long: int,
    num_documents: int,
    max_length: int,
    longest: int,
    *,
    key: str = "max_length",
    ways: str = "cut|split|drop",
) -> str:
    """Say how many documents are longer than a row, and what can be done; `key` states how long a row may be."""
    return (
        f"{num_long:,} of {num_documents:,} examples exceed {max_length:,} tokens (longest {longest:,}); "
        f"set data.{key}: {longest} or data.on_long: {ways}"
    )


def _add_up(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Add up lengths to starts, the end of the last one included. Shape: (number + 1,)."""
    starts = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    return starts
