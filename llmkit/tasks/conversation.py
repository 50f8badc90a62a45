"""Keep a conversation within the context of its model."""

from collections.abc import Sequence

from llmkit.encoding import prompts
from llmkit.encoding.prompts import Message
from llmkit.errors import InputError
from llmkit.tasks.generation import Job

ANSWER_SHARE = 4  # the newest turn keeps at least a quarter of the context free for its answer


def fit_history(job: Job, messages: Sequence[Message]) -> tuple[list[Message], int]:
    """Drop the oldest turns until the conversation leaves room for an answer; system messages stay.

    Returns:
        The messages that are kept, and the number of those dropped.

    Raises:
        InputError: The newest message alone leaves no room.
    """
    kept, dropped = list(messages), 0
    context = job.decoder.context
    while context is not None:
        length = len(prompts.encode_prompt(job.lm.tokenizer, kept))
        if length <= context - context // ANSWER_SHARE:
            break
        oldest = next((i for i, m in enumerate(kept[:-1]) if m["role"] != "system"), None)
        if oldest is None:
            if length < context:
                break
            raise InputError(f"the message has {length:,} tokens, the context holds {context:,} with the answer")
        gone = 2 if oldest + 2 < len(kept) and kept[oldest + 1]["role"] == "assistant" else 1
        del kept[oldest : oldest + gone]
        dropped += gone
    return kept, dropped
