"""From a text, or a text and a second one, to the windows of ids that a model reads, special tokens in each."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmkit.encoding.pairs import encode_context
from llmkit.encoding.prompts import replace_surrogates, start_token
from llmkit.errors import InputError
from llmkit.heads import context_length, stated_length

LETTERS = ("a", "中", "0")  # one of which a tokenizer knows
LONG = 200_000  # characters; a longer text is encoded in blocks
UNBOUNDED = 4096  # tokens of a window where neither the model nor the tokenizer has an end


@dataclass(frozen=True)
class Row:
    """Holds one sequence as a model reads it; `type_ids` tell the first text (0) from the second (1)."""

    ids: list[int]
    type_ids: list[int]


@dataclass(frozen=True)
class Frame:
    """Holds the special tokens that a tokenizer sets around one text, or around and between two.

    Each list holds (id, type id): `before` the first text, `between` the two, `after` the last; `types` are the type
    ids of the texts themselves.
    """

    before: list[tuple[int, int]]
    between: list[tuple[int, int]]
    after: list[tuple[int, int]]
    types: tuple[int, int]

    @property
    def num_special(self) -> int:
        """The special tokens that are added."""
        return len(self.before) + len(self.between) + len(self.after)

    def wrap(self, ids: Sequence[int], second: Sequence[int] = ()) -> Row:
        """Set the special tokens around the ids of one text or two."""
        first, other = self.types
        pairs = [*self.before, *((i, first) for i in ids), *self.between, *((i, other) for i in second), *self.after]
        return Row([i for i, _ in pairs], [kind for _, kind in pairs])


def find_frame(tokenizer: Any, *, pair: bool = False) -> Frame:
    """Find the special tokens that a tokenizer adds, by letting it encode a letter, or a letter twice.

    This serves every kind of tokenizer, those without a backend too, and needs each text to be encoded only once.

    Raises:
        InputError: It has no token for any of LETTERS.
    """
    found = zip(LETTERS, encode_texts(tokenizer, LETTERS), strict=True)
    letter, size = next(((text, len(ids)) for text, ids in found if len(ids)), ("", 0))
    if not letter:
        raise InputError(f"the tokenizer has no tokens for {', '.join(LETTERS)}; expected one of texts")
    encoded = tokenizer(
        letter,
        letter if pair else None,
        return_special_tokens_mask=True,
        return_token_type_ids=True,
        verbose=False,
    )
    ids, special = encoded["input_ids"], encoded["special_tokens_mask"]
    types = encoded.get("token_type_ids") or [0] * len(ids)
    own = [i for i, added in enumerate(special) if not added]  # the positions of the letter, then of its second
    first, second = own[:size], own[size:]
    added = [(int(i), int(t)) for i, t in zip(ids, types, strict=True)]
    end = second[-1] if second else first[-1]
    return Frame(
        before=added[: first[0]],
        between=added[first[-1] + 1 : second[0]] if second else [],
        after=added[end + 1 :],
        types=(types[first[0]], types[second[0]] if second else 0),
    )


def encode_texts(tokenizer: Any, texts: Sequence[str]) -> list[Sequence[int]]:
    """Encode texts together, each whole and without special tokens; a very long one in blocks, for less memory."""
    clean = [replace_surrogates(text) for text in texts]
    short = [i for i, text in enumerate(clean) if len(text) <= LONG or not tokenizer.is_fast]
    found: dict[int, Sequence[int]] = dict(zip(short, _encode(tokenizer, [clean[i] for i in short]), strict=True))
    for i in {*range(len(clean))} - {*short}:
        try:
            found[i] = array("i", encode_context(tokenizer, clean[i]).ids.tobytes())
        except InputError:  # white space alone
            found[i] = _encode(tokenizer, [clean[i]])[0]
    return [found[i] for i in range(len(clean))]


def _encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    if not texts:
        return []
    encoded = tokenizer(
        list(texts),
        add_special_tokens=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    ids: list[list[int]] = encoded["input_ids"]
    return ids


def begin(tokenizer: Any, ids: Sequence[int], frame: Frame) -> Sequence[int]:
    """Return the ids of a text, of an empty one the token that begins a text where nothing else would be read.

    Raises:
        InputError: There is no such token.
    """
    if ids or frame.num_special:
        return ids
    start = start_token(tokenizer)
    if start is None:
        raise InputError("the text is empty and the tokenizer has no token to begin a text with")
    return [start]


def settle_size(lm: Any, max_length: int | None) -> int:
    """Find how many tokens a window may have, special ones included.

    That is what is asked for, by the call, else by the llmkit.json of the checkpoint, which says how long the rows of
    its training were, else what the tokenizer states; and never more than the model takes.

    Raises:
        InputError: More is asked for than the model takes.
    """
    context = context_length(lm.model.config)
    if max_length is not None and context is not None and max_length > context:
        raise InputError(
            f"max_length out of range, got {max_length:,}; expected at most {context:,}, which "
            f"{lm.name or 'the model'} takes"
        )
    learned = (lm.facts or {}).get("max_length")
    asked = max_length or (learned if isinstance(learned, int) and learned > 0 else None)
    limits = [context, asked or stated_length(lm.tokenizer)]
    return min((limit for limit in limits if limit is not None), default=UNBOUNDED)


def settle_stride(lm: Any, stride: int | None) -> int:
    """Find how many tokens of the text neighbouring windows share: as asked, else as llmkit.json says, else none."""
    learned = (lm.facts or {}).get("stride")
    return stride if stride is not None else learned if isinstance(learned, int) and learned >= 0 else 0
