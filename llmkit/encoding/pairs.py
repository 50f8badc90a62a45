"""A question and a text as windows, one way for training and for use: the text is encoded once and cut in tokens.

The windows are those of the tokenizer's own call on the pair (`truncation="only_second"` with a stride), offsets
included. They are cut from arrays, as they are needed: encodings that are joined by post_process have the spaces
trimmed off the offsets of a byte-level token a second time, which then miss a character (tokenizers 0.23).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llmkit.encoding.prompts import mask_surrogates
from llmkit.errors import InputError
from llmkit.heads import context_length, stated_length

MAX_LENGTH, STRIDE = 384, 128  # where neither the call nor the checkpoint says
# models without type_vocab_size that tell question from text by segments all the same
SEGMENTED = {"xlnet"}
Ints = npt.NDArray[np.int32]
Encoded = tuple[Ints, Ints, Ints]  # ids, starts, ends
BLOCK, MARGIN = 1 << 18, 1 << 10  # characters that are encoded together, and so many more at either side
AGREED = 16  # tokens at either side of a border on which two blocks agree


@dataclass(frozen=True, eq=False)
class Context:
    """Holds a text as tokens, without special ones.

    Attributes:
        text: The text.
        ids: The ids. Shape: (tokens,)
        starts: Where each token begins in the text, in characters. Shape: (tokens,)
        ends: Where it ends. Shape: (tokens,)
    """

    text: str
    ids: Ints
    starts: Ints
    ends: Ints


@dataclass(frozen=True)
class Frame:
    """Holds what stands around the text in every window of a question: the question and the special tokens.

    Attributes:
        before: The ids before the text.
        after: The ids after it.
        segments: The token types before the text, of the text, and after it.
        null: Where the token stands that means no answer, in a window; counted from the end where negative, None where
            the tokenizer has none.
        num_question_tokens: The tokens of the question alone.
    """

    before: list[int]
    after: list[int]
    segments: tuple[list[int], int, list[int]]
    null: int | None
    num_question_tokens: int

    @property
    def num_tokens(self) -> int:
        """How many tokens of a window are not the text's."""
        return len(self.before) + len(self.after)

    def fill(self, ids: list[int]) -> list[int]:
        """Put tokens of the text into the frame."""
        return [*self.before, *ids, *self.after]

    def fill_segments(self, length: int) -> list[int]:
        """Give the token types of a window with so many tokens of the text."""
        before, inside, after = self.segments
        return [*before, *[inside] * length, *after]


def encode_context(tokenizer: Any, text: str) -> Context:
    """Encode a text with the place of each token in it.

    Raises:
        InputError: The text is blank, or nothing of it is left in tokens, or the tokenizer does not tell places.
    """
    if not text.strip():
        raise InputError("the text to answer from is empty; expected at least one word")
    check_offsets(tokenizer)
    ids, starts, ends = _encode(tokenizer, mask_surrogates(text))
    if not any(text[start:end].strip() for start, end in zip(starts, ends, strict=True)):
        raise InputError("the text to answer from holds nothing that the tokenizer keeps")
    return Context(text, ids, starts, ends)


def _encode(tokenizer: Any, text: str) -> Encoded:
    """Encode a text, a long one block by block: at once it would take two hundred times its size in memory.

    Each block is encoded with some of the text around it. Two blocks are joined where they meet, if they agree on the
    tokens around that place; where they do not, as in a word without end, the text is encoded at once after all.
    """
    parts: list[Encoded] = []
    for border in range(0, max(len(text) - 2 * MARGIN, 1), BLOCK):
        last = border + BLOCK >= len(text) - 2 * MARGIN
        begin, end = max(border - MARGIN, 0), len(text) if last else border + BLOCK + MARGIN
        part = _encode_at_once(tokenizer, text[begin:end], begin)
        if parts:
            left, right = (int(np.searchsorted(side[1], border)) for side in (parts[-1], part))
            if not _agree(parts[-1], left, part, right):
                return _encode_at_once(tokenizer, text)
            parts[-1] = (parts[-1][0][:left], parts[-1][1][:left], parts[-1][2][:left])
            part = (part[0][right:], part[1][right:], part[2][right:])
        parts.append(part)
    ids, starts, ends = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return ids, starts, ends


def _encode_at_once(tokenizer: Any, text: str, begin: int = 0) -> Encoded:
    encoding = tokenizer(text, add_special_tokens=False, verbose=False).encodings[0]
    offsets = np.array(encoding.offsets, dtype=np.int32).reshape(-1, 2) + np.int32(begin)
    return np.array(encoding.ids, dtype=np.int32), offsets[:, 0].copy(), offsets[:, 1].copy()


def _agree(left: Encoded, i: int, right: Encoded, k: int) -> bool:
    """Tell whether two encodings have the same tokens before and after token i of one and token k of the other."""
    if min(i, k, len(left[0]) - i, len(right[0]) - k) < AGREED:
        return False
    around = slice(i - AGREED, i + AGREED), slice(k - AGREED, k + AGREED)
    return all(np.array_equal(one[around[0]], other[around[1]]) for one, other in zip(left, right, strict=True))


def check_offsets(tokenizer: Any) -> None:
    """Check that a tokenizer tells where its tokens stand in a text.

    Raises:
        InputError: It is one written in Python, which does not.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(
            f"the tokenizer does not say where its tokens stand in a text, got {type(tokenizer).__name__}; expected "
            "one with a tokenizer.json"
        )


def frame_question(tokenizer: Any, question: str) -> Frame:
    """Find what the tokenizer puts around a text when it is the second of a pair whose first is the question.

    Raises:
        InputError: The question is blank, or the tokenizer does not tell places.
    """
    check_offsets(tokenizer)
    if not question.strip():
        raise InputError("the question is empty; expected at least one word")
    # Any text shows the frame; the question is one that has tokens in every vocabulary.
    clean = mask_surrogates(question)
    pair = tokenizer(clean, clean, verbose=False).encodings[0]
    sequences = pair.sequence_ids
    if 1 not in sequences:
        raise InputError(f"the tokenizer keeps nothing of the question, got {question[:40]!r}")
    first, last = sequences.index(1), len(sequences) - sequences[::-1].index(1)
    special = [i for i, sequence in enumerate(sequences) if sequence is None]
    null = next((i for i in special if pair.ids[i] == tokenizer.cls_token_id), None)
    return Frame(
        before=list(pair.ids[:first]),
        after=list(pair.ids[last:]),
        segments=(list(pair.type_ids[:first]), pair.type_ids[first], list(pair.type_ids[last:])),
        null=null if null is None or null < first else null - len(pair.ids),
        num_question_tokens=sequences.count(0),
    )


def takes_segments(model: Any) -> bool:
    """Tell whether a model tells question from text by token types.

    GPT-2's kind takes token types too, as embeddings of words: they would change what it computes.
    """
    config = model.config
    return (getattr(config, "type_vocab_size", None) or 0) > 1 or config.model_type in SEGMENTED


def settle_length(config: Any, tokenizer: Any, asked: int | None = None, stated: object = None) -> int:
    """Settle how many tokens a window holds: what was asked for, else what the checkpoint states, else at most 384.

    Raises:
        InputError: More was asked for than the model can take.
    """
    longest = context_length(config)
    if asked is not None:
        if longest is not None and asked > longest:
            raise InputError(f"max_length too large, got {asked:,}; expected at most {longest:,}, the model's context")
        return asked
    limits = [longest, stated_length(tokenizer)]
    limits.append(stated if isinstance(stated, int) else MAX_LENGTH)
    return min(int(limit) for limit in limits if limit is not None)


def find_room(frame: Frame, length: int) -> int:
    """Find how many tokens of the text a window holds.

    Raises:
        InputError: The question leaves none.
    """
    room = length - frame.num_tokens
    if room < 1:
        most = length - (frame.num_tokens - frame.num_question_tokens) - 1
        raise InputError(
            f"the question is too long, got {frame.num_question_tokens:,} tokens; expected at most {max(most, 0):,} "
            f"in windows of {length:,}"
        )
    return room


def settle_stride(room: int, asked: int | None = None, stated: object = None) -> int:
    """Settle how many tokens of the text neighbouring windows share: by default 128, at most half of the room for it.

    Raises:
        InputError: The stride that was asked for fills the room.
    """
    if asked is not None:
        if asked >= room:
            raise InputError(
                f"stride too large, got {asked:,}; expected at most {room - 1:,}, since the question leaves room for "
                f"{room:,} tokens of the text"
            )
        return asked
    wanted = stated if isinstance(stated, int) and 0 <= stated < room else None
    return wanted if wanted is not None else min(STRIDE, room // 2)
