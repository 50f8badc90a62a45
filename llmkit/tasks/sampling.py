"""The settings of generation and their ranges; nothing here needs torch."""

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TypedDict

from llmkit import runtime
from llmkit.errors import InputError

if TYPE_CHECKING:
    from transformers import GenerationConfig

MAX_NEW_TOKENS, TEMPERATURE = 64, 0.8  # where neither the call nor the checkpoint says
LIMIT = 1_000_000


class Sampling(TypedDict, total=False):
    """The settings of generation; one left out comes from the checkpoint, then from llmkit, then from transformers.

    max_new_tokens: At most so many tokens (64).
    temperature: 0 is greedy; above 0 draws (0.8).
    top_p, top_k: Draw from the most probable tokens only: a share of probability, a number of tokens.
    num_beams: Above 1 searches with beams, without drawing unless a temperature is given.
    stop: A string, or several, that ends the text; it is cut off.
    seed: The same seed gives the same text, in a batch too.
    truncate: "left" drops the beginning of a prompt that does not fit.
    config: A GenerationConfig of transformers, used alone in the place of the settings above, but stop and seed.
    """

    max_new_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    num_beams: int | None
    stop: str | Sequence[str] | None
    seed: int | None
    truncate: Literal["left"] | None
    config: "GenerationConfig | None"


# setting -> (whether a value is good, what is expected)
RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "max_new_tokens": (lambda v: _whole(v) and 1 <= v <= LIMIT, f"a whole number from 1 to {LIMIT:,}"),
    "temperature": (lambda v: 0 <= v < math.inf, "a number from 0, which is greedy"),
    "top_p": (lambda v: 0 < v <= 1, "a number above 0 and at most 1"),
    "top_k": (lambda v: _whole(v) and v >= 1, "a whole number from 1"),
    "num_beams": (lambda v: _whole(v) and 1 <= v <= 1000, "a whole number from 1 to 1,000"),
}


RENAMED = {"to": "tgt_lang", "from_lang": "src_lang", "max_tokens": "max_new_tokens", "do_sample": "temperature"}
ELSEWHERE = {
    name: f"llmkit.load(name, {name}=...)"
    for name in ("device", "dtype", "adapter", "tokenizer", "revision", "offline")
}
OF_BATCHES = {"num_samples": "llmkit.generate_batch(prompts, num_samples=...)"}


def check_names(settings: Mapping[str, object], kind: type, elsewhere: Mapping[str, str] = ELSEWHERE) -> None:
    """Check that the names of settings are those of a TypedDict; `elsewhere` says what takes those of other calls.

    Raises:
        TypeError: One is not.
    """
    known = sorted(kind.__annotations__)
    name = min(set(settings) - set(known), default=None)
    if name is not None:
        near = [RENAMED.get(name), *difflib.get_close_matches(name, known, n=1)]
        meant = elsewhere.get(name) or next((one for one in near if one in known), None)
        more = f" (did you mean {meant}?)" if meant else ""
        raise TypeError(f"no such setting: {name}; expected {', '.join(known)}{more}")


def _whole(value: float) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def check_count(name: str, value: int) -> None:
    """Check a number of rows.

    Raises:
        InputError: It is not a whole number from 1.
    """
    if not _whole(value) or value < 1:
        raise InputError(f"{name} out of range, got {value!r}; expected a whole number from 1")


def check_settings(settings: Sampling) -> None:
    """Check the settings before any work.

    Raises:
        TypeError: A name is not a setting.
        InputError: A value is out of range, or config is given beside what it replaces.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    check_names(settings, Sampling, ELSEWHERE | OF_BATCHES)
    for name, (good, expected) in RANGES.items():
        value = given.get(name)
        if value is not None and not (isinstance(value, int | float) and not isinstance(value, bool) and good(value)):
            raise InputError(f"{name} out of range, got {value!r}; expected {expected}")
        if value is not None and "config" in given:
            raise InputError(f"config is used alone, got {name} beside it")
    stop = given.get("stop", ())
    strings = [stop] if isinstance(stop, str) else stop
    if not isinstance(strings, Sequence) or not all(isinstance(s, str) and s for s in strings):
        raise InputError(f"stop must be a text or several, none of them empty, got {stop!r}")
    if given.get("truncate", "left") != "left":
        raise InputError(f"truncate can only be 'left', got {given['truncate']!r}")
    runtime.check_seed(settings.get("seed"))
