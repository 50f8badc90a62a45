"""Rows cut from documents while they are read, shuffled in blocks, and found again by position alone."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from llmkit.data.order import BLOCK_ROWS, Row, check_position, shuffle_index
from llmkit.data.rows import OnLong, check_max_length
from llmkit.data.tokenizing import Ids, Piece
from llmkit.errors import InputError

logger = logging.getLogger("llmkit")

NamedRow = tuple[Row, str]


class StreamedRows:
    """Gives the rows of a stream by position, in the rows that a store of the same documents would give.

    The rows of an epoch are shuffled in blocks of `block_rows`, a function of (seed, epoch, block); the last block may
    be smaller. One block is held. Positions are read forward; one that lies behind begins the stream again, so what is
    at a position never depends on what was asked before. A process that was forked off reads for itself.
    """

    def __init__(
        self,
        open_documents: Callable[[int], Iterator[Piece]],
        *,
        max_length: int,
        on_long: OnLong,
        pack: bool,
        seed: int,
        block_rows: int = BLOCK_ROWS,
    ) -> None:
        """Take a stream; nothing is read yet.

        Args:
            open_documents: Opens the documents of an epoch: (ids, whether a document ends with them, where it stands).
            max_length: The most tokens of a row.
            on_long: What becomes of a document that is longer.
            pack: Whether a row holds several documents.
            seed: The key of the order.
            block_rows: Rows that are shuffled among themselves, and held.

        Raises:
            InputError: max_length is below 2.
        """
        check_max_length(max_length)
        self.open_documents, self.max_length, self.on_long, self.pack = open_documents, max_length, on_long, pack
        self.seed, self.block_rows = seed, block_rows
        self._has_noted = False
        self._rewind()

    @property
    def num_rows(self) -> None:
        """Rows of an epoch: not known of a stream."""
        return None

    def __getitem__(self, position: int) -> Row:
        """Read on to the row at a position.

        Raises:
            InputError: The stream holds no row, or a document is too long where `on_long` is `error`.
        """
        return self._find(position)[0]

    def where(self, position: int) -> str:
        """Name the row at a position for messages."""
        return self._find(position)[1]

    def __getstate__(self) -> dict[str, Any]:
        """Leave out how far this process has read."""
        return {**self.__dict__, "_rows": iter(()), "_held": [], "_process": 0}

    def _rewind(self) -> None:
        self._process = os.getpid()
        self._epoch, self._block = -1, 0  # of the block that is held
        self._rows: Iterator[NamedRow] = iter(())
        self._held: list[NamedRow] = []
        self._start = 0  # position of the first row that is held

    def _find(self, position: int) -> NamedRow:
        check_position(position)
        if position < self._start or self._process != os.getpid():
            self._rewind()
        if position >= self._start + len(self._held) + self.block_rows and not self._has_noted:
            self._has_noted = True
            logger.info(f"reading the stream again up to row {position:,}")
        try:
            while position >= self._start + len(self._held):
                self._read_block()
        except BaseException:
            self._rewind()  # the documents that were being read are lost: an end that is none must not follow
            raise
        return self._held[position - self._start]

    def _read_block(self) -> None:
        """Go on to the next block, of the next epoch where this one has ended."""
        self._start += len(self._held)
        self._block += 1
        self._held = self._take_block()
        if not self._held:
            self._epoch, self._block = self._epoch + 1, 0
            pieces = keep_pieces(self.open_documents(self._epoch), self.max_length, self.on_long)
            self._rows = cut_rows(pieces, self.max_length, pack=self.pack)
            self._held = self._take_block()
        if not self._held:
            raise InputError("the stream holds 0 rows; expected at least one document of two tokens")

    def _take_block(self) -> list[NamedRow]:
        block = [row for _, row in zip(range(self.block_rows), self._rows, strict=False)]
        return [block[shuffle_index(i, len(block), self.seed, self._epoch, self._block)] for i in range(len(block))]


def keep_pieces(pieces: Iterable[Piece], max_length: int, on_long: OnLong) -> Iterator[Piece]:
    """Apply `on_long` to documents that come in pieces; no more than a row of a document is held.

    Raises:
        InputError: A document is longer than a row, and on_long is `error`.
    """
    if on_long == "split":
        yield from pieces
        return
    parts: list[Ids] = []
    length = 0
    for ids, ends, where in pieces:
        parts.append(ids[: max(0, max_length - length)])
        length += len(ids)
        if not ends:
            continue
        if length > max_length and on_long == "error":
            raise InputError(
                f"{where} exceeds {max_length:,} tokens, got {length:,}; "
                f"set data.max_length: {length} or data.on_long: cut|split|drop"
            )
        if length <= max_length or on_long == "cut":
            yield np.concatenate(parts), True, where
        parts, length = [], 0


def cut_rows(pieces: Iterable[Piece], max_length: int, *, pack: bool) -> Iterator[NamedRow]:
    """Cut documents into rows that overlap by one token, as llmkit.data.rows.TokenRows does; each with where it stands.

    As there, what is left at the end and predicts nothing is no row.
    """
    step, number = max_length - 1, 0
    names: dict[int, str] = {}
    ids, numbers = np.zeros(0, np.int64), np.zeros(0, np.int64)  # tokens that are not cut yet, and their documents

    def make_row(start: int) -> NamedRow:
        inside = numbers[start : start + max_length]
        first, last = names[int(inside[0])], names[int(inside[-1])]
        begins = np.diff(inside, prepend=inside[:1]) != 0
        row = {"input_ids": ids[start : start + max_length].copy(), "document_ids": begins.cumsum()}
        return row, first if first == last else f"{first} to {last}"

    for more, ends, where in pieces:
        names[number] = where
        ids, numbers = np.concatenate((ids, more)), np.concatenate((numbers, np.full(len(more), number)))
        num_whole = max(0, (len(ids) - 1) // step)
        for row in range(num_whole):
            yield make_row(row * step)
        ids, numbers = ids[num_whole * step :], numbers[num_whole * step :]
        if ends and not pack:
            if len(ids) > 1:
                yield make_row(0)
            ids, numbers = ids[:0], numbers[:0]
        number += ends
        if num_whole and len(ids):
            names = {kept: name for kept, name in names.items() if kept >= numbers[0]}
    if (numbers[1:] == numbers[:-1]).any():
        yield make_row(0)
