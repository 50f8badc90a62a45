"""Translate pieces with a causal language model, by asking for each."""

import copy
from collections.abc import Sequence

from transformers import GenerationConfig

from llmkit.decoding import text as decoding
from llmkit.encoding import languages, prompts
from llmkit.encoding.directions import Direction
from llmkit.errors import InputError
from llmkit.loading import Loaded
from llmkit.tasks import generation
from llmkit.tasks.searching import LONGEST, Draft, bound_of

STOP = "\n"  # a piece is one line, and so is its translation
ROWS = 16  # at a time, where nothing else is asked for
TOKENS_AT_ONCE = 8192


class Prompter:
    """Translates greedily, or with beams, after a prompt; the bound on a translation goes by its source's tokens.

    A limit that a causal checkpoint states counts the prompt, or is its context, and says nothing about a translation.
    """

    def __init__(
        self,
        lm: Loaded,
        direction: Direction,
        *,
        num_beams: int | None,
        max_new_tokens: int | None,
        config: GenerationConfig | None,
        batch_size: int | None,
    ) -> None:
        assert direction.target is not None
        self._lm, self._rows = lm, batch_size or ROWS
        self._source = languages.name(direction.source) if direction.source is not None else None
        self._target = languages.name(direction.target)
        self._given = {"config": config} if config is not None else {"num_beams": num_beams, "temperature": 0.0}
        self._job = self._prepare(None)
        self._config = self._job.config
        self._config.do_sample = False
        self._new = config.max_new_tokens if config is not None else max_new_tokens
        self._empty = len(self.encode(""))
        if not self.fits(self.encode("a")):
            raise InputError(
                f"the context of {lm.name or 'the model'} holds {self._job.decoder.context:,} tokens, the prompt has "
                f"{self._empty:,}; too few are left for a translation"
            )

    @property
    def num_beams(self) -> int:
        """The beams of a first search."""
        return self._config.num_beams or 1

    @property
    def tokens_at_once(self) -> int:
        """How many tokens are worth planning together."""
        return TOKENS_AT_ONCE

    def _prepare(self, num_beams: int | None) -> generation.Job:
        settings = self._given if num_beams is None else {"num_beams": num_beams, "temperature": 0.0}
        return generation.prepare(self._lm, settings)  # type: ignore[arg-type]

    def encode(self, text: str) -> list[int]:
        """Encode a piece within its prompt."""
        prompt = prompts.translation_prompt(self._lm.tokenizer, text, self._source, self._target)
        return prompts.encode_prompt(self._lm.tokenizer, prompt)

    def fits(self, ids: Sequence[int]) -> bool:
        """Tell whether a prompt and its translation fit into the context."""
        context = self._job.decoder.context
        return len(ids) - self._empty <= LONGEST and (context is None or len(ids) + self._bound(ids) <= context)

    def is_empty(self, ids: Sequence[int]) -> bool:
        """Tell whether the tokenizer found nothing in a piece."""
        return len(ids) <= self._empty

    def _bound(self, ids: Sequence[int]) -> int:
        return self._new or bound_of(len(ids) - self._empty)

    def run(self, rows: Sequence[list[int]], num_beams: int | None = None) -> list[Draft]:
        """Translate encoded pieces, in their order; with `num_beams` in the place of the settled ones."""
        job = self._job if num_beams is None else self._prepare(num_beams)
        configs: dict[int, GenerationConfig] = {}
        for row in rows:
            bound = self._bound(row)
            if bound not in configs:
                configs[bound] = copy.deepcopy(job.config)
                configs[bound].update(max_new_tokens=bound, max_length=None, do_sample=False)
        requests = [decoding.Request(row, configs[self._bound(row)], 0, (STOP,)) for row in rows]
        texts, reached = [""] * len(rows), [False] * len(rows)
        for update in decoding.run(job.decoder, self._lm.tokenizer, requests, self._rows):
            texts[update.index] += update.text
            reached[update.index] = update.finish_reason == "length"
        return [Draft(text, at_bound) for text, at_bound in zip(texts, reached, strict=True)]
