"""What both ways of answering share: the settings and their ranges, and texts that are read once for many questions."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypedDict

from llmkit.encoding.pairs import Context
from llmkit.errors import InputError
from llmkit.tasks.sampling import check_count
from llmkit.tasks.spans import Edges

Contexts = str | Mapping[str, str]
MAX_ANSWER_TOKENS = 30


class Asking(TypedDict, total=False):
    """The settings of question answering.

    top: So many answers, those after the first as its alternatives; they overlap nowhere.
    no_answer_threshold: In nats: the answer is empty where no answer scores by more than this above the best span.
        None always gives a span.
    max_answer_tokens: At most so many tokens in an answer.
    max_length: The tokens of a window, question included; None takes what the checkpoint states, else at most 384
        (a model that writes: its whole context).
    stride: The tokens of the text that neighbouring windows share; None takes what the checkpoint states, else 128,
        at most half of the room.
    batch_size: At most so many windows at a time; None leaves it to the free memory.
    """

    top: int
    no_answer_threshold: float | None
    max_answer_tokens: int
    max_length: int | None
    stride: int | None
    batch_size: int | None


@dataclass(frozen=True)
class Settings:
    """Holds the settings of a call, with their defaults; Asking says what each means."""

    top: int = 1
    no_answer_threshold: float | None = None
    max_answer_tokens: int = MAX_ANSWER_TOKENS
    max_length: int | None = None
    stride: int | None = None
    batch_size: int | None = None


@dataclass(frozen=True, eq=False)
class Source:
    """Holds the texts that a question is asked of.

    Attributes:
        names: The name of each; None where a single text has none.
        texts: Each text as tokens.
        edges: Where spans begin and end in each; empty where answers are written, not found.
    """

    names: tuple[str | None, ...]
    texts: tuple[Context, ...]
    edges: tuple[Edges, ...] = ()


def check_settings(settings: Settings) -> None:
    """Check the settings before any work.

    Raises:
        InputError: A value is out of range.
    """
    for name in ("top", "max_answer_tokens", "max_length", "batch_size"):
        value = getattr(settings, name)
        if value is not None or name in ("top", "max_answer_tokens"):
            check_count(name, value)
    stride, threshold = settings.stride, settings.no_answer_threshold
    if stride is not None and (isinstance(stride, bool) or not isinstance(stride, int) or stride < 0):
        raise InputError(f"stride out of range, got {stride!r}; expected a whole number from 0")
    if threshold is None:
        return
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not math.isfinite(threshold):
        raise InputError(f"no_answer_threshold out of range, got {threshold!r}; expected a number of nats")


def read(contexts: Contexts, encode: Callable[[str], Context]) -> tuple[tuple[str | None, ...], tuple[Context, ...]]:
    """Encode a text, or texts by name.

    Raises:
        InputError: There is none, or one is empty; says which.
    """
    if isinstance(contexts, str):
        return (None,), (encode(contexts),)
    if not contexts:
        raise InputError("no text to answer from, got none by name; expected at least one")
    texts = []
    for name, text in contexts.items():
        try:
            texts.append(encode(text))
        except InputError as err:
            raise InputError(f"{name}: {err}", hint=err.hint) from None
    return tuple(contexts), tuple(texts)
