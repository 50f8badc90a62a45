"""How well a causal language model predicts texts of any length: in windows that slide over them."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from llmkit.data.examples import Text
from llmkit.data.sources import Document
from llmkit.data.tokenizing import Ids, encode_documents
from llmkit.decoding.text import Pieces
from llmkit.errors import InputError
from llmkit.evaluation.keys import DataKeys
from llmkit.heads import context_length, unwrap
from llmkit.loading import Loaded
from llmkit.scoring import score_continuations, sees_ahead

LONGEST = 1024  # tokens of a window, where none are asked for and the model takes more


@dataclass(frozen=True)
class Window:
    """Holds ids that are read, the last of which are predicted: all but the first `num_context`."""

    ids: Sequence[int]
    num_context: int


@dataclass
class Tally:
    """Sums over predicted tokens: their nll in nats, their number, and the UTF-8 bytes that they stand for."""

    nll: float = 0.0
    num_tokens: int = 0
    num_bytes: int = 0

    def metrics(self) -> dict[str, float]:
        """Compute loss (nats a token), perplexity and bits_per_byte.

        Source of bits_per_byte: Gao et al. 2020, The Pile, section 3.1.
        """
        loss = self.nll / max(self.num_tokens, 1)
        bits = self.nll / math.log(2) / max(self.num_bytes, 1)
        return {"loss": loss, "perplexity": math.exp(min(loss, 700.0)), "bits_per_byte": bits}


class Judge:
    """Computes the nll of texts under a model.

    Args:
        lm: The model and its tokenizer.
        keys: Their max_length and stride.

    Raises:
        InputError: The model is no causal language model, or a window does not fit it.
    """

    def __init__(self, lm: Loaded, keys: DataKeys) -> None:
        if sees_ahead(lm.model):
            name = lm.name or "the model"
            raise InputError(f"{name} sees the tokens it should predict; expected a causal language model")
        context = context_length(unwrap(lm.model).config)
        self._lm, self._pieces = lm, Pieces(lm.tokenizer)
        self.max_length = keys.max_length or min(context or LONGEST, LONGEST)
        self.stride = keys.stride or max(self.max_length // 2, 1)
        if context is not None and self.max_length > context:
            raise InputError(f"data.max_length: {self.max_length} exceeds the model's context of {context}")
        if not 1 <= self.stride < self.max_length:
            wanted = f"expected a number from 1 to {self.max_length - 1}, below data.max_length"
            raise InputError(f"data.stride: {wanted}, got {self.stride}")

    def judge(self, texts: Sequence[Text]) -> list[Tally]:
        """Sum over each text; its first token, which nothing predicts, is not among them.

        The bytes are those of the text itself, whatever a tokenizer makes of its spaces or does not know.
        """
        documents = (Document(text.text, text.where) for text in texts)
        pieces: list[list[Ids]] = [[]]
        for ids, ends, _ in encode_documents(self._lm.tokenizer, documents, end_of_text=False):
            pieces[-1].append(ids)
            pieces += [[]] if ends else []
        rows = [np.concatenate(parts).tolist() for parts in pieces[:-1]]
        windows = [(i, w) for i, ids in enumerate(rows) for w in cut_windows(ids, self.max_length, self.stride)]
        read = [list(w.ids[: w.num_context]) for _, w in windows]
        predicted = [list(w.ids[w.num_context :]) for _, w in windows]
        tallies = [Tally() for _ in rows]
        scores = score_continuations(self._lm.model, read, predicted)
        for (i, _), found in zip(windows, scores, strict=True):
            tallies[i].nll -= sum(found)
            tallies[i].num_tokens += len(found)
        for tally, ids, text in zip(tallies, rows, texts, strict=True):
            first = self._pieces.bytes_of(ids[0], None) if ids else b""
            first = first if text.text[:1].isspace() else first.lstrip()  # of a space that only the token has
            tally.num_bytes = max(len(text.text.encode("utf-8", "replace")) - len(first), 0) if tally.num_tokens else 0
        return tallies


def cut_windows(ids: Sequence[int], max_length: int, stride: int) -> Iterator[Window]:
    """Cut windows that begin every `stride` tokens; each predicts what the one before it did not reach.

    Every token but the first is predicted exactly once, from `max_length - stride` tokens before it at least, or from
    the beginning. Source: "Perplexity of fixed-length models" in the documentation of transformers.
    """
    reached = 1
    for begin in range(0, len(ids), stride):
        end = min(begin + max_length, len(ids))
        if end > reached:
            yield Window(ids[begin:end], reached - begin)
            reached = end
        if end == len(ids):
            return
