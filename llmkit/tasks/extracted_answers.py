"""Answers found in a text by a model with a head for question answering."""

import functools
import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from llmkit import batching, runtime, windows
from llmkit.batching import Budget
from llmkit.encoding import pairs
from llmkit.encoding.pairs import Frame
from llmkit.errors import InputError, RunError
from llmkit.heads import unwrap
from llmkit.loading import Loaded
from llmkit.tasks import asking
from llmkit.tasks.asking import Contexts, Settings, Source
from llmkit.tasks.results import Answer
from llmkit.tasks.spans import Edges, Floats, Hit, Part, Pool, find_edges, measure_reach, sum_logs


@dataclass(frozen=True, eq=False)
class Question:
    """Holds a question and the windows of its texts.

    Attributes:
        frame: What stands around the text in each window.
        source: The texts.
        room: The tokens of the text in a window, at most.
        stride: The tokens that neighbours share.
        windows: The text's number, the first token and the one after the last of each window.
    """

    frame: Frame
    source: Source
    room: int
    stride: int
    windows: list[tuple[int, int, int]]


class Tally(NamedTuple):
    """Holds what a window adds to the sums over all: log-sum-exp of starts and of ends, and no answer's score."""

    starts: float
    ends: float
    null: float


@dataclass(frozen=True)
class Extractor:
    """Finds answers with one model."""

    lm: Loaded
    settings: Settings
    budget: Budget
    length: int

    def read(self, contexts: Contexts) -> Source:
        """Encode a text, or texts by name, for any number of questions.

        Raises:
            InputError: One is empty.
        """
        names, texts = asking.read(contexts, functools.partial(pairs.encode_context, self.lm.tokenizer))
        return Source(names, texts, tuple(find_edges(text.text, text.starts, text.ends) for text in texts))

    def ask(self, question: str, source: Source) -> Question:
        """Plan the windows of a question.

        Raises:
            InputError: The question is empty or too long, or the stride too large for it.
        """
        frame, settings = pairs.frame_question(self.lm.tokenizer, question), self.settings
        if settings.no_answer_threshold is not None and frame.null is None:
            raise lack_null(self.lm)
        room = pairs.find_room(frame, self.length)
        stride = pairs.settle_stride(room, settings.stride, (self.lm.facts or {}).get("stride"))
        cut = [(n, *span) for n, text in enumerate(source.texts) for span in windows.spans(len(text.ids), room, stride)]
        return Question(frame, source, room, stride, cut)

    def run(self, questions: Sequence[Question]) -> list[Answer]:
        """Answer questions, the windows of all of them planned together."""
        most = self.settings.max_answer_tokens
        pools = [Pool(self.settings.top, measure_reach(q.room, q.stride, most), most) for q in questions]
        rows = [(q, w) for q, question in enumerate(questions) for w in range(len(question.windows))]

        def call(batch: list[int]) -> list[Tally]:
            asked = [(questions[q], questions[q].windows[w]) for q, w in (rows[i] for i in batch)]
            scored = self._score(asked)
            for i, (part, _) in zip(batch, scored, strict=True):
                pools[rows[i][0]].add(part)
            return [tally for _, tally in scored]

        lengths = [_measure(questions[q], w) for q, w in rows]
        tallies = batching.run(lengths, self.budget, call, is_full=runtime.is_out_of_memory)
        grouped: list[list[Tally]] = [[] for _ in questions]
        for (q, _), tally in zip(rows, tallies, strict=True):
            grouped[q].append(tally)
        return [self._conclude(*found) for found in zip(questions, pools, grouped, strict=True)]

    def _score(self, asked: list[tuple[Question, tuple[int, int, int]]]) -> list[tuple[Part, Tally]]:
        """Score the starts and ends of windows in one forward."""
        starts, ends = self._forward(asked)
        scored = []
        for i, (question, (n, first, last)) in enumerate(asked):
            frame, edges = question.frame, question.source.edges[n]
            inside = slice(len(frame.before), len(frame.before) + last - first)
            part = Part(n, Edges(edges.starts[first:last], edges.ends[first:last]), starts[i, inside], ends[i, inside])
            tally = [part.starts, part.ends]
            null = math.inf
            if frame.null is not None:
                place = frame.null % (frame.num_tokens + last - first)
                tally = [np.append(part.starts, starts[i, place]), np.append(part.ends, ends[i, place])]
                null = float(starts[i, place] + ends[i, place])
            if not all(np.isfinite(values).all() for values in tally):
                raise RunError("the model gave scores that are not finite")
            # copies: a view would keep the scores of the whole batch alive
            kept = Part(n, part.edges, part.starts.copy(), part.ends.copy())
            scored.append((kept, Tally(sum_logs(tally[0]), sum_logs(tally[1]), null)))
        return scored

    def _forward(self, asked: list[tuple[Question, tuple[int, int, int]]]) -> tuple[Floats, Floats]:
        """Compute the scores of starts and ends, rows padded on the right. Shape of each: (rows, width)."""
        model, tokenizer = self.lm.model, self.lm.tokenizer
        rows, segments = [], []
        for question, (n, first, last) in asked:
            rows.append(question.frame.fill(question.source.texts[n].ids[first:last].tolist()))
            segments.append(question.frame.fill_segments(last - first))
        padding = next((i for i in (tokenizer.pad_token_id, model.config.pad_token_id) if i is not None), 0)
        width = max(map(len, rows))
        given = {
            "input_ids": [[*row, *[padding] * (width - len(row))] for row in rows],
            "attention_mask": [[1] * len(row) + [0] * (width - len(row)) for row in rows],
        }
        if pairs.takes_segments(model) and "token_type_ids" in _parameters(model):
            given["token_type_ids"] = [[*row, *[0] * (width - len(row))] for row in segments]
        tensors = {name: torch.tensor(values, device=model.device) for name, values in given.items()}
        with torch.inference_mode(), runtime.quiet():
            out = model(**tensors)
        return out.start_logits.double().cpu().numpy(), out.end_logits.double().cpu().numpy()

    def _conclude(self, question: Question, pool: Pool, tallies: list[Tally]) -> Answer:
        """Choose the answers of one question from what its windows left."""
        total = sum_logs(np.array([t.starts for t in tallies])) + sum_logs(np.array([t.ends for t in tallies]))
        hits, null = pool.choose(), min(t.null for t in tallies)
        found = [_tell(question.source, hit, total) for hit in hits]
        threshold = self.settings.no_answer_threshold
        if threshold is not None and null + hits[0].cost > threshold:
            return Answer("", math.exp(null - total), 0, 0, alternatives=tuple(found[: self.settings.top - 1]))
        best, *others = found
        return Answer(best.text, best.score, best.start, best.end, best.file, tuple(others))


def prepare(lm: Loaded, settings: Settings) -> Extractor:
    """Settle the length of the windows and what a batch holds.

    Raises:
        InputError: The model cannot take windows of this length, or the tokenizer lacks what answers need.
    """
    pairs.check_offsets(lm.tokenizer)
    if settings.no_answer_threshold is not None and lm.tokenizer.cls_token_id is None:
        raise lack_null(lm)
    stated = (lm.facts or {}).get("max_length")
    length = pairs.settle_length(lm.model.config, lm.tokenizer, settings.max_length, stated)
    return Extractor(lm, settings, Budget(runtime.token_budget(lm.model), settings.batch_size), length)


def lack_null(lm: Loaded) -> InputError:
    """Say that no token of a checkpoint can mean that there is no answer."""
    return InputError(
        f"no_answer_threshold needs a token that means no answer, which the tokenizer of {lm.name or 'the model'} "
        "lacks; expected one that begins each pair with a token such as [CLS]"
    )


def _measure(question: Question, window: int) -> int:
    _, first, last = question.windows[window]
    return question.frame.num_tokens + last - first


def _parameters(model: Any) -> frozenset[str]:
    return frozenset(inspect.signature(unwrap(model).forward).parameters)


def _tell(source: Source, hit: Hit, total: float) -> Answer:
    text = source.texts[hit.text].text[hit.start : hit.end]
    return Answer(text, math.exp(-hit.cost - total), hit.start, hit.end, source.names[hit.text])
