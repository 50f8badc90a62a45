"""Ids in, ids out: rows that join, step together and leave.

The one loop under generate, stream, generate_batch and chat. Rows of unequal length stand right-aligned (left padding,
position_ids, attention mask) over one cache; each draws from a random generator of its own, so a row in a batch is the
row alone.
"""

import copy
import inspect
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from transformers import DynamicCache, GenerationConfig, LogitsProcessorList
from transformers.cache_utils import DynamicLayer

from llmkit import runtime
from llmkit.decoding import configuring
from llmkit.decoding.cache import Columns, make_columns, regroup
from llmkit.errors import InputError, RunError
from llmkit.heads import context_length, unwrap

FinishReason = Literal["eos", "length"]
Event = tuple[int, int, FinishReason | None]

ROOM = 256  # columns laid out ahead; beyond them the cache grows by half
SPARE = 32  # padding tokens that cost less than a forward of their own


@dataclass(eq=False)
class _Row:
    key: int
    ids: list[int]
    config: GenerationConfig
    limit: int
    eos: frozenset[int]
    generator: torch.Generator
    history: LogitsProcessorList
    style: tuple[object, ...]
    produced: int = 0
    gone: bool = False


@dataclass
class Decoder:
    """Decodes rows with one causal language model.

    `add` joins a row, `step` gives each row its next token, `remove` takes one out; a row that ended leaves by itself.
    """

    model: Any
    _rows: list[_Row] = field(default_factory=list)
    _waiting: list[_Row] = field(default_factory=list)
    _by_key: dict[int, _Row] = field(default_factory=dict)
    _columns: Columns | None = None
    _next_key: int = 0

    def __post_init__(self) -> None:
        core = unwrap(self.model)
        self._accepts = frozenset(inspect.signature(core.forward).parameters)
        adapter: Any = getattr(self.model, "active_peft_config", None)
        has_virtual = adapter is not None and adapter.is_prompt_learning  # tokens that model.generate alone puts once
        self._has_plain_cache = (
            not has_virtual
            and "past_key_values" in self._accepts
            and all(type(layer) is DynamicLayer for layer in DynamicCache(config=core.config).layers)
        )
        self.context: int | None = context_length(core.config)
        if has_virtual and self.context is not None:
            self.context -= adapter.num_virtual_tokens

    def add(self, prompt_ids: list[int], config: GenerationConfig, seed: int) -> int:
        """Join a row; it takes part from the next step on.

        Args:
            prompt_ids: At least one id.
            config: Its open fields are filled from the checkpoint's, then from transformers' defaults.
            seed: Of the row's own random generator.

        Returns:
            The key under which `step` reports the row.

        Raises:
            InputError: The prompt is empty, or leaves no room in the context.
        """
        if not prompt_ids:
            raise InputError("the prompt has no tokens; expected at least one")
        config = configuring.complete(config, self.model)
        row = _Row(
            key=self._next_key,
            ids=list(prompt_ids),
            config=config,
            limit=self._limit(len(prompt_ids), config),
            eos=frozenset(configuring.end_ids(config)),
            generator=torch.Generator().manual_seed(seed),
            history=configuring.build_history(config, len(prompt_ids), self.model.device),
            style=configuring.style(config),
        )
        self._next_key += 1
        self._waiting.append(row)
        self._by_key[row.key] = row
        return row.key

    def _limit(self, length: int, config: GenerationConfig) -> int:
        if self.context is not None and length >= self.context:
            raise InputError(f"the prompt has {length:,} tokens, the context holds {self.context:,} with the answer")
        limit = config.max_new_tokens
        if limit is None:
            limit = config.max_length - length if config.max_length else configuring.MAX_NEW_TOKENS
        limit = max(int(limit), 1)
        return limit if self.context is None else min(limit, self.context - length)

    def remove(self, row: int) -> None:
        """Take a row out before its end; a row that is gone already stays so."""
        if (found := self._by_key.pop(row, None)) is not None:
            found.gone = True

    def step(self) -> list[Event]:
        """Give every row its next token.

        Returns:
            For each row its key, the token's id, and why it ended, or None while it goes on. A row that goes whole to
            `model.generate` reports all its tokens in one step.

        Raises:
            RunError: The model gives numbers that are not finite.
        """
        with torch.inference_mode():
            return self._step()

    def _step(self) -> list[Event]:
        joining = [row for row in self._waiting if not row.gone]
        self._waiting = []
        whole = [row for row in joining if not self._steps(row.config)]
        events = [event for row in whole for event in self._generate(row)]
        self._drop_gone()
        logits = [self._advance()] if self._rows else []
        parts = [self._columns] if self._columns is not None else []
        for group in _groups([row for row in joining if row not in whole]):
            columns, scores = self._prefill(group)
            parts.append(columns)
            logits.append(scores)
            self._rows += group
        if not self._rows:
            return events
        if len(parts) > 1:
            self._columns = regroup([(part, range(len(part.starts))) for part in parts], self._room())
        else:
            self._columns = parts[0]
        scores = logits[0] if len(logits) == 1 else torch.cat(logits)
        return events + [self._accept(row, token) for row, token in zip(self._rows, self._choose(scores), strict=True)]

    def _steps(self, config: GenerationConfig) -> bool:
        return self._has_plain_cache and configuring.asks_only_for_steps(config)

    def _drop_gone(self) -> None:
        keep = [i for i, row in enumerate(self._rows) if not row.gone]
        if len(keep) == len(self._rows):
            return
        self._rows = [self._rows[i] for i in keep]
        self._columns = regroup([(self._columns, keep)], self._room()) if keep and self._columns else None

    def _room(self) -> int:
        return min(ROOM, max(row.limit - row.produced for row in self._rows))

    def _advance(self) -> torch.Tensor:
        """Feed the last token of every row. Returns the scores of the next. Shape: (rows, vocabulary)."""
        assert self._columns is not None
        device = self.model.device
        ids = torch.tensor([[row.ids[-1]] for row in self._rows], device=device)
        positions = torch.tensor([[len(row.ids) - 1] for row in self._rows], device=device)
        return self._forward(ids, positions, self._columns)

    def _prefill(self, group: list[_Row]) -> tuple[Columns, torch.Tensor]:
        width = max(len(row.ids) for row in group)
        starts = [width - len(row.ids) for row in group]
        room = min(ROOM, max(row.limit for row in group))
        columns = make_columns(starts, width + room)
        ids = torch.tensor([[row.ids[0]] * start + row.ids for row, start in zip(group, starts, strict=True)])
        positions = (torch.arange(width) - torch.tensor(starts)[:, None]).clamp(min=0)
        device = self.model.device
        return columns, self._forward(ids.to(device), positions.to(device), columns)

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor, columns: Columns) -> torch.Tensor:
        given: dict[str, Any] = {"attention_mask": columns.mask(ids.shape[1], ids.device)}
        if "position_ids" in self._accepts:
            given["position_ids"] = positions
        if "logits_to_keep" in self._accepts:
            given["logits_to_keep"] = 1
        out = self.model(input_ids=ids, past_key_values=columns.cache, use_cache=True, return_dict=True, **given)
        scores: torch.Tensor = out.logits[:, -1]
        return scores if scores.dtype == torch.float64 else scores.float()

    def _choose(self, scores: torch.Tensor) -> list[int]:
        """Choose a token for every row. Shape of scores: (rows, vocabulary)."""
        for i, row in enumerate(self._rows):
            if row.history:
                ids = torch.tensor([row.ids], device=scores.device)
                scores[i : i + 1] = row.history(ids, scores[i : i + 1])
        chosen: list[int] = [0] * len(self._rows)
        for members in self._styles():
            rows = [self._rows[i] for i in members]
            part = scores if len(members) == len(self._rows) else scores[members]
            for i, token in zip(members, self._pick(rows, part), strict=True):
                chosen[i] = token
        return chosen

    def _styles(self) -> Iterable[list[int]]:
        groups: dict[tuple[object, ...], list[int]] = {}
        for i, row in enumerate(self._rows):
            groups.setdefault(row.style, []).append(i)
        return groups.values()

    def _pick(self, rows: list[_Row], scores: torch.Tensor) -> list[int]:
        if not rows[0].config.do_sample:
            best, tokens = scores.max(dim=-1)
            self._check_finite(best)
            return [int(t) for t in tokens.tolist()]
        warped = configuring.build_warpers(rows[0].config, scores.device)(scores.new_zeros(0), scores)
        return draw(warped, [row.generator for row in rows])

    @classmethod
    def _check_scores(cls, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Check what `model.generate` is about to choose from. Shape of scores: (rows, vocabulary)."""
        cls._check_finite(scores.max(dim=-1).values)
        return scores

    @staticmethod
    def _check_finite(values: torch.Tensor) -> None:
        if not bool(torch.isfinite(values).all()):
            raise RunError("the model gave scores that are not finite")

    def _accept(self, row: _Row, token: int) -> Event:
        row.ids.append(token)
        row.produced += 1
        reason: FinishReason | None = "eos" if token in row.eos else "length" if row.produced >= row.limit else None
        if reason is not None:
            self.remove(row.key)
        return row.key, token, reason

    def _generate(self, row: _Row) -> list[Event]:
        """Hand a row whole to transformers' own generate."""
        device = self.model.device
        prompt = torch.tensor([row.ids], device=device)
        config = copy.deepcopy(row.config)
        config.update(max_new_tokens=row.limit, max_length=None, num_return_sequences=1, return_dict_in_generate=False)
        if config.pad_token_id is None:
            config.pad_token_id = next(iter(row.eos), 0)
        devices = [device] if device.type == "cuda" else []
        with runtime.quiet(), torch.random.fork_rng(devices=devices):
            torch.manual_seed(row.generator.initial_seed())
            try:
                out = self.model.generate(
                    prompt,
                    attention_mask=torch.ones_like(prompt),
                    generation_config=config,
                    logits_processor=LogitsProcessorList([self._check_scores]),
                )
            except ValueError as err:
                reason = str(err).partition("\n")[0][:160]
                raise InputError(f"transformers refuses this GenerationConfig: {reason}") from err
        events = []
        for token in out[0, len(row.ids) :].tolist():
            events.append(self._accept(row, int(token)))
            if events[-1][2] is not None:
                return events
        self.remove(row.key)
        key, token, _ = events[-1]
        return [*events[:-1], (key, token, "length")]


def draw(scores: torch.Tensor, generators: list[torch.Generator]) -> list[int]:
    """Draw one token a row from softmax(scores), each with one number of its own generator.

    The inverse of the cumulative distribution, in float64, with numbers drawn on the CPU: the same on every device.
    Shape of scores: (rows, vocabulary).

    Raises:
        RunError: The scores are not finite.
    """
    cumulative = torch.softmax(scores.double(), dim=-1).cumsum(dim=-1)
    total = cumulative[:, -1:]
    Decoder._check_finite(total)
    numbers = torch.stack([torch.rand(1, generator=g, dtype=torch.float64) for g in generators]).to(scores.device)
    # right=True: the first entry above the number, so an entry of probability 0 is never chosen
    tokens = torch.searchsorted(cumulative, numbers * total, right=True)
    return [int(t) for t in tokens[:, 0].tolist()]


def _groups(rows: list[_Row]) -> list[list[_Row]]:
    """Split joining rows by length into groups whose padding costs less than a forward of their own."""
    groups: list[list[_Row]] = []
    for row in sorted(rows, key=lambda r: -len(r.ids)):
        if groups:
            group = groups[-1]
            width = len(group[0].ids)
            padding = sum(width - len(r.ids) for r in [*group, row])
            if padding <= SPARE:
                group.append(row)
                continue
        groups.append([row])
    return groups
