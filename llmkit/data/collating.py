"""Rows of tokens to a batch of tensors: padding, labels, and what keeps packed documents apart."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from llmkit.errors import InputError

Isolation = Literal["position_ids", "mask"]
Array = npt.NDArray[np.int64]

IGNORED = -100  # the label that transformers' losses leave out
PADDING = -1  # the document of padding


class Collator:
    """Makes a batch of rows as a transformers model takes it.

    A row holds `input_ids`, Shape: (length,), and `document_ids`, Shape: (length,), the number of each token's document
    in the row. The batch holds `input_ids` and `labels`, Shape: (batch, length), padded on the right to the longest.
    A label stands at its own token, as transformers shifts them itself; it is -100 at padding, known by length and not
    by `pad_id`, and at each document's first token, which no token of its own document predicts. Further:

    - isolation "position_ids": `position_ids`, Shape: (batch, length), from 0 on in each document and in padding,
      and `use_cache` False. transformers isolates by these only where neither a cache nor an attention mask is there.
    - isolation "mask": the same, and `attention_mask`, Shape: (batch, 1, length, length), 0 where a token is seen and
      the least number of `mask_dtype` where it is not. Padding sees padding, so that no softmax is empty.
    - isolation None, for rows of one document: `attention_mask`, Shape: (batch, length), 1 at tokens and 0 at padding.
    """

    def __init__(self, pad_id: int, isolation: Isolation | None, *, mask_dtype: torch.dtype = torch.float32) -> None:
        """Settle how batches are made.

        Args:
            pad_id: The id that stands at padding; any valid id.
            isolation: What keeps the documents of a row apart, from llmkit.data.isolating.find_isolation.
            mask_dtype: The dtype of the model, for isolation "mask". Beside float64 queries sdpa reads a float32 mask
                as something else, without an error (torch 2.13).
        """
        self.pad_id = pad_id
        self.isolation = isolation
        self.mask_dtype = mask_dtype

    def __call__(self, rows: Sequence[Mapping[str, Array]]) -> dict[str, torch.Tensor | bool]:
        """Make a batch of rows.

        Raises:
            InputError: A row lacks its document_ids, or holds several documents where nothing would keep them apart.
        """
        ids, documents = self._pad(rows)
        begins = np.ones(ids.shape, dtype=np.bool_)
        begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
        padding = documents == PADDING
        batch: dict[str, torch.Tensor | bool] = {
            "input_ids": torch.from_numpy(ids),
            "labels": torch.from_numpy(np.where(begins | padding, IGNORED, ids)),
        }
        if self.isolation is None:
            if (begins[:, 1:] & ~padding[:, 1:]).any():
                raise InputError("a row holds several documents, and isolation is None; expected one document a row")
            return {**batch, "attention_mask": torch.from_numpy(np.where(padding, 0, 1))}
        places = np.arange(ids.shape[1])
        positions = places - np.maximum.accumulate(np.where(begins, places, 0), axis=1)
        batch |= {"position_ids": torch.from_numpy(positions), "use_cache": False}
        if self.isolation == "mask":
            batch["attention_mask"] = make_mask(begins, self.mask_dtype)
        return batch

    def _pad(self, rows: Sequence[Mapping[str, Array]]) -> tuple[Array, Array]:
        """Lay rows side by side: their ids and their documents, Shape: (batch, length) each."""
        shape = (len(rows), max(len(row["input_ids"]) for row in rows))
        ids, documents = np.full(shape, self.pad_id, dtype=np.int64), np.full(shape, PADDING, dtype=np.int64)
        for i, row in enumerate(rows):
            length = len(row["input_ids"])
            ids[i, :length] = row["input_ids"]
            if self.isolation is not None and "document_ids" not in row:
                raise InputError(
                    "a row has no document_ids, which keep packed documents apart; expected input_ids and document_ids",
                    hint="TrainingArguments(remove_unused_columns=False), where Trainer took them away",
                )
            documents[i, :length] = row.get("document_ids", 0)
        return ids, documents


def make_mask(begins: npt.NDArray[np.bool_], dtype: torch.dtype) -> torch.Tensor:
    """Make the mask under which a token sees its own document up to itself.

    It is added to the scores: eager attention adds whatever it is given, so a boolean mask would do nothing there.

    Args:
        begins: Whether a document begins at a token; one begins with each row. Shape: (batch, length).
        dtype: The dtype of the mask.

    Returns:
        0 where the token is seen, the dtype's least number where it is not. Shape: (batch, 1, length, length).
    """
    batch_size, length = begins.shape
    least = torch.finfo(dtype).min
    causal = torch.full((length, length), least, dtype=dtype).triu(1)
    mask = torch.full((batch_size, 1, length, length), least, dtype=dtype)
    for row, starts in zip(mask[:, 0], begins, strict=True):
        borders = [*np.flatnonzero(starts).tolist(), length]
        for start, stop in itertools.pairwise(borders):
            row[start:stop, start:stop] = causal[: stop - start, : stop - start]
    return mask


class PaddedCollator:
    """Makes a batch of rows of one sequence each, padded on the right to the longest.

    A row holds `input_ids`, Shape: (length,); further sequences beside it, as `token_type_ids` and `labels`; numbers,
    as a class or a position. The batch holds each under the same name, Shape: (batch, longest) or (batch,), `labels`
    padded with -100 where they are tokens, and `attention_mask`, 1 at tokens and 0 at padding, known by length and not
    by id.

    Where `shift` is given it makes `decoder_input_ids` of the labels, as an encoder-decoder's own method
    prepare_decoder_input_ids_from_labels does. Where `no_cache` is set it holds `use_cache` False: a decoder would
    keep keys and values that nothing reads.
    """

    isolation: Isolation | None = None

    def __init__(
        self, pad_id: int, *, shift: Callable[[torch.Tensor], torch.Tensor] | None = None, no_cache: bool = False
    ) -> None:
        self.pad_id, self.shift, self.no_cache = pad_id, shift, no_cache

    def __call__(self, rows: Sequence[Mapping[str, Array]]) -> dict[str, torch.Tensor | bool]:
        """Make a batch of rows."""
        lengths = [len(row["input_ids"]) for row in rows]
        batch: dict[str, torch.Tensor | bool] = {}
        for name in rows[0]:
            values = [np.asarray(row[name]) for row in rows]
            if values[0].ndim == 0 or values[0].dtype.kind == "f":
                batch[name] = torch.from_numpy(np.stack(values))
                continue
            filler = {"input_ids": self.pad_id, "labels": IGNORED}.get(name, 0)
            padded = np.full((len(rows), max(map(len, values))), filler, dtype=np.int64)
            for i, value in enumerate(values):
                padded[i, : len(value)] = value
            batch[name] = torch.from_numpy(padded)
        mask = np.arange(max(lengths))[None] < np.array(lengths)[:, None]
        batch["attention_mask"] = torch.from_numpy(mask.astype(np.int64))
        if self.shift is not None:
            labels = batch["labels"]
            assert isinstance(labels, torch.Tensor)
            batch["decoder_input_ids"] = self.shift(labels)
        return batch | ({"use_cache": False} if self.no_cache else {})
