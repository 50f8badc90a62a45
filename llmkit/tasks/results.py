"""What the task verbs return: frozen dataclasses whose `str()` is the text or label."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Generation:
    """Holds what was generated after one prompt, and nothing of the prompt itself.

    Attributes:
        text: The continuation, without end-of-text, without the stop string, without a last incomplete character.
        token_ids: All ids that were generated but the closing end-of-text; those of a stop string are among them.
        finish_reason: "eos" (the model ended), "stop" (a stop string came) or "length" (a limit was reached).
        num_prompt_tokens: The tokens that were fed, special ones included.
        seed: The seed of the row; None where nothing was drawn.
        seconds: Wall time from the start of the call to the end of this row.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: Literal["eos", "stop", "length"]
    num_prompt_tokens: int
    seed: int | None
    seconds: float

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Translation:
    """Holds a translation, joined as its source was cut.

    Attributes:
        text: The translation, with the paragraphs and line breaks of the source.
        src_lang: The language of the source, as it was asked for; None where the checkpoint knows one pair alone.
        tgt_lang: The language of the translation, likewise.
        num_windows: The pieces that were translated one by one.
        suspect: (start, end) in the source, in characters, of each piece whose translation looks wrong.
    """

    text: str
    src_lang: str | None
    tgt_lang: str | None
    num_windows: int
    suspect: tuple[tuple[int, int], ...]

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Answer:
    """Holds an answer to a question about a text.

    Attributes:
        text: The answer; "" where the text holds none.
        score: Its probability, 0 to 1.
        start: Where it begins in its context, in characters; None where a generated answer does not stand there.
        end: Where it ends, likewise.
        file: The name of its context, where several were given by name.
        alternatives: The next best answers, the best first; they hold no alternatives themselves.
    """

    text: str
    score: float
    start: int | None
    end: int | None
    file: str | None = None
    alternatives: "tuple[Answer, ...]" = ()

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Classification:
    """Holds the label of a text.

    Attributes:
        label: The label with the highest score.
        score: Its score: a probability, 0 to 1; the raw value of a regression head.
        scores: The score of every label, the highest first. Several labels at once: each its own probability.
        num_windows: The windows that the text was read in.
    """

    label: str
    score: float
    scores: Mapping[str, float]
    num_windows: int

    def __str__(self) -> str:
        return self.label
