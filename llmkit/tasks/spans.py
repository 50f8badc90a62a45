"""The search for the spans that answer a question, over the scores of starts and ends in many windows of many texts.

The score of a span from token i to token j is start[i] + end[j]. Of all windows only the best few are kept, and yet the
answers are those of a search over all spans of all windows: a chosen span takes spans away only from windows that share
a token with it. Neighbours overlap, so it touches at most `reach` windows, and n - 1 chosen spans leave at least one of
the best (n - 1) * reach + 1 windows as it was. The n-th span is at least as good as that window's best, so no window
beyond these has a part in it.
"""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int32]
# Tokens of one character (four of an emoji, 33 of the longest ligature) overlap in characters though not in tokens.
SHARED = 33
BLOCK = 1 << 16  # tokens whose space is looked for together


class Hit(NamedTuple):
    """Holds a span as its place in the order of answers: by score, then by text and place.

    Attributes:
        cost: Its score, start plus end, with the sign turned.
        text: The number of its text.
        start: Where it begins there, in characters.
        end: Where it ends.
    """

    cost: float
    text: int
    start: int
    end: int


@dataclass(frozen=True, eq=False)
class Edges:
    """Holds where spans of a text begin and end, in characters, when the space around them is left out.

    Attributes:
        starts: Where a span begins that starts with this token. Shape: (tokens,)
        ends: Where a span ends that ends with this token. Shape: (tokens,)
    """

    starts: Ints
    ends: Ints


@dataclass(frozen=True, eq=False)
class Part:
    """Holds the scores of one window of one text.

    Attributes:
        text: The number of the text.
        edges: The edges of the window's tokens. Shape of each: (tokens,)
        starts: The score of each token as the first of an answer. Shape: (tokens,)
        ends: The score of each token as the last. Shape: (tokens,)
    """

    text: int
    edges: Edges
    starts: Floats
    ends: Floats


def find_edges(text: str, starts: Ints, ends: Ints) -> Edges:
    """Find where spans begin and end without the space around them.

    A span of tokens i to j holds more than space where edges.starts[i] < edges.ends[j].

    Args:
        text: The text.
        starts: Where each token begins. Shape: (tokens,)
        ends: Where each token ends. Shape: (tokens,)
    """
    first, last = starts.copy(), ends.copy()
    for at in range(0, len(starts), BLOCK):
        block = slice(at, at + BLOCK)
        begin, end = int(starts[block].min()), int(ends[block].max())
        following, before = _find_words(text[begin:end])
        first[block], last[block] = following[starts[block] - begin] + begin, before[ends[block] - begin] + begin
    is_blank = first >= last
    first[is_blank], last[is_blank] = len(text), 0
    return Edges(np.minimum.accumulate(first[::-1])[::-1], np.maximum.accumulate(last))


def _find_words(text: str) -> tuple[Ints, Ints]:
    """Find from each place the next character that is no space, and the end of the last one before it."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    spaces = np.array([code for code in np.unique(codes).tolist() if chr(code).isspace()], dtype=np.uint32)
    is_space, here = np.isin(codes, spaces), np.arange(len(codes), dtype=np.int32)
    following = np.append(np.where(is_space, len(codes), here), len(codes)).astype(np.int32)
    before = np.append(0, np.where(is_space, 0, here + 1)).astype(np.int32)
    return np.minimum.accumulate(following[::-1])[::-1], np.maximum.accumulate(before)


def find_best(part: Part, max_tokens: int, taken: Sequence[Hit] = ()) -> Hit | None:
    """Find the best span of a window, of at most so many tokens, that overlaps none of those taken.

    Two spans overlap where they share a character. None where no span is left.
    """
    width = min(max_tokens, len(part.starts))
    padded = np.concatenate([part.ends, np.full(width - 1, -np.inf)])
    closes = np.concatenate([part.edges.ends, np.zeros(width - 1, dtype=np.int32)])
    scores = part.starts[:, None] + np.lib.stride_tricks.sliding_window_view(padded, width)  # [i, k]: tokens i to i + k
    begin, end = part.edges.starts[:, None], np.lib.stride_tricks.sliding_window_view(closes, width)
    good = begin < end
    for hit in taken:
        if hit.text == part.text:
            good &= (end <= hit.start) | (begin >= hit.end)
    best = int(np.argmax(np.where(good, scores, -np.inf)))  # of equal scores the first, the shorter one before
    i, k = divmod(best, width)
    if not good[i, k]:
        return None
    return Hit(-float(scores[i, k]), part.text, int(begin[i, 0]), int(end[i, k]))


def measure_reach(room: int, stride: int, max_tokens: int) -> int:
    """Measure how many windows a span of at most so many tokens can touch.

    Args:
        room: The tokens of a window.
        stride: The tokens that neighbours share.
        max_tokens: The tokens of a span.
    """
    return math.ceil((room + max_tokens - 1 + 2 * SHARED) / (room - stride))


@dataclass
class Pool:
    """Holds the windows that the answers to one question can come from.

    Attributes:
        top: So many answers are wanted.
        reach: So many windows a span can touch.
        max_tokens: So many tokens a span may have.
    """

    top: int
    reach: int
    max_tokens: int
    _best: list[tuple[tuple[float, ...], int, Part]] = field(default_factory=list)
    _count: int = 0

    def add(self, part: Part) -> None:
        """Take a window; only the best are kept."""
        hit = find_best(part, self.max_tokens)
        if hit is None:
            return
        self._count += 1
        worst_first = (tuple(-x for x in hit), self._count, part)
        if len(self._best) < (self.top - 1) * self.reach + 1:
            heapq.heappush(self._best, worst_first)
        else:
            heapq.heappushpop(self._best, worst_first)

    def choose(self) -> list[Hit]:
        """Choose the best span, then the best that overlaps none before it, and so on: at most `top`, the best first.

        The order does not depend on that in which the windows came.
        """
        queue = [(Hit(*(-x for x in key)), n, part) for key, n, part in self._best]  # type: ignore[arg-type]
        heapq.heapify(queue)
        chosen: list[Hit] = []
        while queue and len(chosen) < self.top:
            hit, n, part = heapq.heappop(queue)
            if not any(hit.text == other.text and hit.start < other.end and other.start < hit.end for other in chosen):
                chosen.append(hit)
            # chosen or not, the window's next span is one that overlaps none of the chosen
            if (following := find_best(part, self.max_tokens, chosen)) is not None:
                heapq.heappush(queue, (following, n, part))
        return chosen


def sum_logs(values: Floats) -> float:
    """Compute the logarithm of the sum of exponentials."""
    highest = float(values.max())
    return highest + math.log(float(np.exp(values - highest).sum()))
