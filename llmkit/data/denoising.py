"""T5's objective: spans of a text are replaced by sentinels, and an encoder-decoder learns to restore them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from llmkit.data.corrupting import draw
from llmkit.data.order import Row
from llmkit.data.tokenizers import SENTINEL
from llmkit.encoding import prompts
from llmkit.errors import InputError

Ids = npt.NDArray[np.int64]

HINT = "llmkit data tokenizer FILES --for seq2seq makes one that has them"
GAPS, KEPT = 1, 2  # what random numbers are for


class Denoiser:
    """Replaces spans of a row by sentinels: a pure function of (seed, position, row).

    Of a row `a b c d e f g` come the input `a b <extra_id_0> e f <extra_id_1> </s>` and the labels
    `<extra_id_0> c d <extra_id_1> g </s>`, by which the row can be restored. A row begins with tokens that are kept and
    ends with a span that is not; so one of a single span, of up to 30 tokens or so, always lacks its end.

    Source: Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", 2020,
    section 3.1.4; lengths and places as in random_spans_noise_mask of its implementation.

    Attributes:
        sentinels: Their ids. Shape: (number,).
        end: The id of end-of-text.
    """

    def __init__(self, tokenizer: Any, *, seed: int, density: float = 0.15, mean_span: float = 3.0) -> None:
        """Gather what a tokenizer has for it.

        Args:
            tokenizer: The tokenizer of the model.
            seed: Decides, with a row's position, which spans are replaced.
            density: Share of the tokens that are replaced.
            mean_span: Tokens of a span on average.

        Raises:
            InputError: The tokenizer has no sentinels, or no end-of-text.
        """
        self.seed, self.density, self.mean_span = seed, density, mean_span
        self.sentinels = np.array(find_sentinels(tokenizer), np.int64)
        end = prompts.end_of_text(tokenizer)
        if end is None:
            sentence = "the tokenizer has no end-of-text token, which ends the inputs and labels of denoising"
            raise InputError(sentence, hint=HINT)
        self.end = end

    def __call__(self, row: Row, position: int) -> Row:
        """Replace spans of a row.

        Args:
            row: `input_ids`, the tokens of a text, of one document. Shape: (length,).
            position: That of the row in the run.

        Returns:
            `input_ids`, Shape: (length - replaced + spans + 1,), and `labels`, Shape: (replaced + spans + 1,).
        """
        ids = row["input_ids"]
        num_replaced, num_spans = self.count(len(ids))
        gaps = cut_randomly(num_replaced, num_spans, (self.seed, GAPS, position))
        kept = cut_randomly(len(ids) - num_replaced, num_spans, (self.seed, KEPT, position))
        # kept, gap, kept, gap, ...: where each of them begins
        starts = np.concatenate(([0], np.stack((kept, gaps), axis=1).cumsum()))[:-1]
        is_begin = np.zeros(len(ids), np.int64)
        np.add.at(is_begin, starts, 1)  # of a single token nothing is kept: two begin at once
        is_gap = is_begin.cumsum() % 2 == 0
        sentinels = self.sentinels[:num_spans]
        return {
            "input_ids": self._put(ids, ~is_gap, starts[1::2], sentinels),
            "labels": self._put(ids, is_gap, starts[1::2], sentinels),
        }

    def _put(self, ids: Ids, is_taken: npt.NDArray[np.bool_], places: Ids, sentinels: Ids) -> Ids:
        """Take some tokens, with a sentinel where each span begins, and end-of-text at the end."""
        taken_before = np.concatenate(([0], is_taken.cumsum()))
        return np.append(np.insert(ids[is_taken], taken_before[places], sentinels), self.end)

    def count(self, length: int) -> tuple[int, int]:
        """Count the tokens of a row that are replaced, and their spans: at least one each, at most the sentinels.

        A row of one token is replaced whole; a longer one keeps a token before each span.
        """
        assert length > 0, "a row without a token"
        if length == 1:
            return 1, 1
        num_replaced = min(max(round(length * self.density), 1), length - 1)
        num_spans = max(round(num_replaced / self.mean_span), 1)
        return num_replaced, min(num_spans, num_replaced, length - num_replaced, len(self.sentinels))

    def find_lengths(self, length: int) -> tuple[int, int]:
        """Find how many tokens the inputs and the labels of a row have."""
        num_replaced, num_spans = self.count(length)
        return length - num_replaced + num_spans + 1, num_replaced + num_spans + 1

    def find_longest(self, max_length: int, max_target_length: int) -> int:
        """Find how many tokens a row may have, whose inputs and labels are to have at most so many; 0: not even one.

        Source: random_spans_helper of T5's implementation.
        """
        length = 0
        while True:
            num_inputs, num_labels = self.find_lengths(length + 1)
            if num_inputs > max_length or num_labels > max_target_length:
                return length
            length += 1


def find_sentinels(tokenizer: Any) -> Sequence[int]:
    """Find the ids of `<extra_id_0>`, `<extra_id_1>` and so on.

    Raises:
        InputError: There is none.
    """
    vocabulary = tokenizer.get_vocab()
    found: list[int] = []
    while (token := SENTINEL.format(len(found))) in vocabulary:
        found.append(int(vocabulary[token]))
    if not found:
        raise InputError(
            "the tokenizer has no sentinels, which stand for what denoising leaves out; expected <extra_id_0> and on",
            hint=HINT,
        )
    return found


def cut_randomly(number: int, num_parts: int, key: tuple[int, ...]) -> Ids:
    """Cut a number of items into so many parts, none empty, each way alike. Shape: (parts,).

    No item is one empty part, which a row of a single token needs.

    Source: _random_segmentation of T5's implementation: all sets of places between two items are as likely.
    """
    if num_parts == 1:
        return np.array([number], np.int64)
    places = np.argsort(draw(number - 1, *key), kind="stable")[: num_parts - 1]
    return np.diff(np.concatenate(([0], np.sort(places) + 1, [number])))
