"""What the task verbs return: frozen dataclasses whose `str()` is the text or label."""

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
