"""The best spans of one window, by the arithmetic of transformers 4.57.6: float32, a softmax of its own per window."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

MASKED = -10_000.0  # the logit of a token that no answer may hold
NO_NULL = 1_000_000  # the null score before a window was seen

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Choice:
    """Holds how answers are chosen; the names are those of transformers 4."""

    top_k: int = 1
    max_answer_len: int = 15
    handle_impossible_answer: bool = False
    align_to_words: bool = True

    @property
    def num_candidates(self) -> int:
        """The spans that are kept a window: more than asked for where words may join several of them."""
        return self.top_k * 2 + 10 if self.align_to_words else self.top_k


@dataclass(frozen=True)
class Window:
    """Holds one window of a question and its context.

    Attributes:
        ids: The tokens, special ones included.
        type_ids: The segment of each token.
        allowed: Whether an answer may hold the token; a token that begins a text may, it stands for no answer.
        encoding: The window as tokenizers' Encoding, which knows words and characters.
        sequence: Which of the two texts is the context: 1, or 0 where a tokenizer pads on the left.
    """

    ids: Sequence[int]
    type_ids: Sequence[int]
    allowed: Bools
    encoding: Any
    sequence: int


def normalize(logits: Floats, allowed: Bools) -> Floats:
    """Turn logits into probabilities over a window. Shape: (length,)."""
    masked = np.where(allowed, logits, np.float32(MASKED))
    weights = np.exp(masked - masked.max())
    probabilities: Floats = weights / weights.sum()
    return probabilities


def find_spans(start: Floats, end: Floats, allowed: Bools, choice: Choice) -> list[tuple[int, int, float]]:
    """Find the most probable spans (first token, last token, probability), the best first.

    The order among equal ones is that of numpy's partial sort, on the same matrix as in transformers 4.57.6.

    Args:
        start: The probability of each token to begin the answer. Shape: (length,).
        end: To end it. Shape: (length,).
        allowed: Whether an answer may hold the token. Shape: (length,).
        choice: How many, and how long at most.
    """
    scores = np.tril(np.triu(np.outer(start, end)), choice.max_answer_len - 1)
    flat, count = scores.ravel(), choice.num_candidates
    if count == 1:
        best = np.array([np.argmax(flat)])
    elif len(flat) < count:
        best = np.argsort(-flat)
    else:
        some = np.argpartition(-flat, count)[:count] if len(flat) > count else np.arange(count)
        best = some[np.argsort(-flat[some])]
    firsts, lasts = np.unravel_index(best, scores.shape)
    return [
        (int(s), int(e), float(scores[s, e])) for s, e in zip(firsts, lasts, strict=True) if allowed[s] and allowed[e]
    ]


def find_characters(window: Window, first: int, last: int, *, align_to_words: bool) -> tuple[int, int]:
    """Find the characters of a span in the context, from the first word to the last where words are known."""
    encoding = window.encoding
    if align_to_words:
        words = encoding.token_to_word(first), encoding.token_to_word(last)
        if None not in words:
            begins, ends = (encoding.word_to_chars(word, window.sequence) for word in words)
            if begins is not None and ends is not None:
                return begins[0], ends[1]
    offsets = encoding.offsets
    return offsets[first][0], offsets[last][1]


@dataclass
class Tally:
    """Gathers the answers to one question over the windows of its context.

    The same answer, whatever its case, adds its scores up: windows overlap, so a sum may exceed 1.
    """

    context: str
    choice: Choice
    null_score: float = NO_NULL
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, window: Window, start_logits: Floats, end_logits: Floats) -> None:
        """Add the spans of a window. Shape of the logits: (length,)."""
        start, end = normalize(start_logits, window.allowed), normalize(end_logits, window.allowed)
        self.null_score = min(self.null_score, float(start[0] * end[0]))
        start[0] = end[0] = 0.0
        for first, last, score in find_spans(start, end, window.allowed, self.choice):
            begin, stop = find_characters(window, first, last, align_to_words=self.choice.align_to_words)
            text = self.context[begin:stop]
            fresh = {"score": 0.0, "start": begin, "end": stop, "answer": text}
            self.answers.setdefault(text.lower(), fresh)["score"] += score

    def best(self) -> dict[str, Any] | list[dict[str, Any]]:
        """Return the best answer, or a list of them where there is not exactly one."""
        found = list(self.answers.values())
        if self.choice.handle_impossible_answer:
            found.append({"score": self.null_score, "start": 0, "end": 0, "answer": ""})
        found = sorted(found, key=lambda answer: answer["score"], reverse=True)[: self.choice.top_k]
        return found[0] if len(found) == 1 else found
