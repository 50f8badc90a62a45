"""Translate pieces with an encoder-decoder: planned batches, one GenerationConfig, each row as if it were alone."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import GenerationConfig

from llmkit import batching, runtime
from llmkit.decoding import configuring
from llmkit.encoding.directions import Direction
from llmkit.errors import InputError
from llmkit.heads import context_length, stated_length
from llmkit.loading import Loaded

LONGEST = 512  # tokens of a piece, where neither the model nor its tokenizer states fewer
GROWTH, EXTRA = 2, 32  # a translation may have so many times the tokens of its source, and so many more


@dataclass(frozen=True)
class Draft:
    """Holds what a piece has become, and whether the bound on its length ended it."""

    text: str
    reached_bound: bool


def bound_of(num_source: int) -> int:
    """Bound the new tokens of a translation where the checkpoint states no limit."""
    return GROWTH * num_source + EXTRA


@dataclass
class Searcher:
    """Translates with `model.generate`; never samples.

    Rows are padded on the right and masked, so that a row in a batch is the row alone, up to the rounding of floats.
    Where the bound depends on a row's length, greedy rows go on to the highest bound of their batch and are cut at
    their own, and beams, which a bound steers, share a batch with rows of their own bound alone.

    Attributes:
        lm: The model and its tokenizer.
        direction: How it is told the languages.
        config: The settings; `num_beams` is settled, `max_new_tokens` and `max_length` are where one is stated.
        batch_size: At most so many rows at a time; None leaves it to the memory.
    """

    lm: Loaded
    direction: Direction
    config: GenerationConfig
    batch_size: int | None = None
    _budgets: dict[int, batching.Budget] = field(default_factory=dict)

    def __post_init__(self) -> None:
        config = self.lm.model.config
        learned = (self.lm.facts or {}).get("max_length")
        learned = learned if isinstance(learned, int) and learned > 0 else None  # else what the tokenizer states
        limits = [_positions(config, "encoder"), learned or stated_length(self.lm.tokenizer)]
        self.longest = min((limit for limit in limits if limit is not None), default=LONGEST)
        self._most_new = _positions(config, "decoder")
        self._empty = len(self.encode(""))
        if self.longest <= self._empty:
            raise InputError(f"{self.lm.name or 'the model'} takes {self.longest} tokens, too few for any text")

    @property
    def num_beams(self) -> int:
        """The beams of a first search."""
        return self.config.num_beams or 1

    def encode(self, text: str) -> list[int]:
        """Encode a piece."""
        return self.direction.encode(self.lm.tokenizer, text)

    def fits(self, ids: Sequence[int]) -> bool:
        """Tell whether the model takes a piece."""
        return len(ids) <= self.longest

    def is_empty(self, ids: Sequence[int]) -> bool:
        """Tell whether the tokenizer found nothing in a piece."""
        return len(ids) <= self._empty

    @property
    def tokens_at_once(self) -> int:
        """How many tokens of sources and translations a batch may hold."""
        return self._budget(self.num_beams).tokens

    def run(self, rows: Sequence[list[int]], num_beams: int | None = None) -> list[Draft]:
        """Translate encoded pieces, in their order; with `num_beams` in the place of the settled ones."""
        config = copy.deepcopy(self.config)
        config.num_beams = beams = num_beams or self.num_beams
        bounds = [self._bound(len(row), config) for row in rows]
        drafts: dict[int, Draft] = {}
        for members in batching.group(bounds) if beams > 1 else [list(range(len(rows)))]:
            found = batching.run(
                [len(rows[i]) + min(bounds[i], bound_of(len(rows[i]))) for i in members],
                self._budget(beams),
                lambda batch, members=members: self._search(  # type: ignore[misc]
                    [rows[members[k]] for k in batch], [bounds[members[k]] for k in batch], config
                ),
                is_full=runtime.is_out_of_memory,
            )
            drafts.update(zip(members, found, strict=True))
        return [drafts[i] for i in range(len(rows))]

    def _bound(self, num_source: int, config: GenerationConfig) -> int:
        """Bound the new tokens of a row: as stated, else by its length; never more than the decoder has positions."""
        bound: int = config.max_new_tokens or (config.max_length - 1 if config.max_length else bound_of(num_source))
        return max(min(bound, self._most_new - 1) if self._most_new is not None else bound, 1)

    def _budget(self, beams: int) -> batching.Budget:
        if beams not in self._budgets:
            model = self.lm.model
            # The scores of a row over the vocabulary, in float32, with three copies that a search makes of them.
            scores = 16 * model.config.get_text_config(decoder=True).vocab_size * beams
            rows = max(1, runtime.free_memory(model.device) // 4 // scores)
            tokens = max(1, runtime.token_budget(model) // beams)
            self._budgets[beams] = batching.Budget(tokens, min(rows, self.batch_size or rows))
        return self._budgets[beams]

    def _search(self, rows: list[list[int]], bounds: list[int], config: GenerationConfig) -> list[Draft]:
        model, tokenizer = self.lm.model, self.lm.tokenizer
        pad = next(i for i in (tokenizer.pad_token_id, config.pad_token_id, 0) if i is not None)
        width = max(len(row) for row in rows)
        ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows], device=model.device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=model.device)
        config = copy.deepcopy(config)
        config.update(max_new_tokens=max(bounds), max_length=None)
        with runtime.quiet():
            found = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
        new = found[:, 1:].tolist()  # without the token that starts the decoder
        ends = set(configuring.end_ids(config))
        return [self._read(row, bound, ends, config) for row, bound in zip(new, bounds, strict=True)]

    def _read(self, row: list[int], bound: int, ends: set[int], config: GenerationConfig) -> Draft:
        """Read a row up to its end, or its bound, where a config may force the end.

        The id that ends it is decoded too: special tokens are skipped, and an end that is none belongs to the text.
        """
        length = next((i for i, token in enumerate(row) if token in ends), len(row))
        forced = config.forced_eos_token_id
        if length < (bound if forced is None else bound - 1):
            kept, reached = row[: length + 1], False
        else:
            last = [] if forced is None else [forced if isinstance(forced, int) else forced[0]]
            kept, reached = [*row[: bound - len(last)], *last], True
        if kept and kept[0] == self.direction.first_id:  # not among the special tokens of each M2M100 tokenizer
            kept = kept[1:]
        return Draft(self.lm.tokenizer.decode(kept, skip_special_tokens=True), reached)


def settle(
    lm: Loaded,
    direction: Direction,
    *,
    num_beams: int | None,
    max_new_tokens: int | None,
    config: GenerationConfig | None,
) -> GenerationConfig:
    """Build the GenerationConfig: as given, else as the checkpoint states for the pair or in general.

    Raises:
        InputError: The model does not say how a text begins.
    """
    with runtime.quiet():
        if config is None:
            stated = {key: value for key, value in direction.settings.items() if key != "max_new_tokens"}
            given = {"num_beams": num_beams, "max_new_tokens": max_new_tokens}
            config = GenerationConfig(**{**stated, **{k: v for k, v in given.items() if v is not None}})
            if max_new_tokens is not None:
                config.max_length = None
        settled = configuring.complete(config, lm.model)
    if config.max_new_tokens is None and config.max_length is not None:
        settled.max_new_tokens = None  # the pair's own limit goes before the checkpoint's
    settled.update(do_sample=False, return_dict_in_generate=False, num_return_sequences=1)
    if direction.first_id is not None:
        settled.forced_bos_token_id = direction.first_id
    if settled.decoder_start_token_id is None and settled.bos_token_id is None:
        raise InputError(f"{lm.name or 'the model'} states no decoder_start_token_id, with which a text begins")
    return settled


def _positions(config: Any, side: str) -> int | None:
    """Find how many tokens the encoder or the decoder of a model takes; None where its positions have no end."""
    part = getattr(config, side, None)  # of an EncoderDecoderModel
    if part is not None and hasattr(part, "model_type"):
        return context_length(part)
    stated = getattr(config, f"max_{side}_position_embeddings", None)  # of a LED
    return stated if isinstance(stated, int) else context_length(config)
