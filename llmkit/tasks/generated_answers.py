"""Answers written by a causal language model that has read a text."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from llmkit import runtime, scoring, windows
from llmkit.batching import Budget
from llmkit.encoding import pairs, prompts
from llmkit.encoding.pairs import Context
from llmkit.errors import InputError
from llmkit.heads import context_length
from llmkit.loading import Loaded
from llmkit.tasks import asking, generation
from llmkit.tasks.asking import Contexts, Settings, Source
from llmkit.tasks.generation import Start
from llmkit.tasks.results import Answer

LONGEST = 2048  # tokens of a window where the model's context has no end
SLACK = 8  # tokens that a cut text may have more inside a prompt than it had in the whole
WIDTH, CHUNK = 16, 128  # rows at a time at most, and the prompts that are read ahead


@dataclass(frozen=True, eq=False)
class Prompted:
    """Holds a question and the windows of its texts: the text's number, its first token and the one after the last."""

    question: str
    source: Source
    windows: list[tuple[int, int, int]]


@dataclass(frozen=True)
class _Asked:
    """Holds one prompt, whose it is, and where its text begins and ends."""

    index: int
    text: int
    begin: int
    end: int
    start: Start


@dataclass(frozen=True)
class Writer:
    """Writes answers with one model; `limit` is the tokens that a prompt may have."""

    lm: Loaded
    settings: Settings
    budget: Budget
    job: generation.Job
    limit: int

    def read(self, contexts: Contexts) -> Source:
        """Encode a text, or texts by name, for any number of questions.

        Raises:
            InputError: One is empty.
        """
        return Source(*asking.read(contexts, self._encode))

    def _encode(self, text: str) -> Context:
        if getattr(self.lm.tokenizer, "is_fast", False) or not text.strip():
            return pairs.encode_context(self.lm.tokenizer, text)
        ids = self.lm.tokenizer(prompts.replace_surrogates(text), add_special_tokens=False, verbose=False)["input_ids"]
        nowhere = np.zeros(0, dtype=np.int32)
        return Context(text, np.array(ids, dtype=np.int32), nowhere, nowhere)

    def ask(self, question: str, source: Source) -> Prompted:
        """Plan the windows of a question.

        Raises:
            InputError: The question is empty or too long, the stride too large for it, or a tokenizer that does not
                tell places would have to cut a text.
        """
        if not question.strip():
            raise InputError("the question is empty; expected at least one word")
        frame = len(self._encode_prompt(question, "").ids)
        room = self.limit - frame - SLACK
        if room < 1:
            raise InputError(
                f"the question is too long, got {frame:,} tokens with the words around it; expected at most "
                f"{max(self.limit - SLACK - 1, 0):,}"
            )
        stride = pairs.settle_stride(room, self.settings.stride, (self.lm.facts or {}).get("stride"))
        if any(len(text.ids) > room for text in source.texts):
            pairs.check_offsets(self.lm.tokenizer)
        cut = [(n, *span) for n, text in enumerate(source.texts) for span in windows.spans(len(text.ids), room, stride)]
        return Prompted(question, source, cut)

    def _encode_prompt(self, question: str, text: str) -> Start:
        prompt = prompts.question_prompt(self.lm.tokenizer, question, text, _find_template(self.lm))
        return Start(prompts.encode_prompt(self.lm.tokenizer, prompt), self.job.stop)

    def run(self, questions: Sequence[Prompted]) -> list[Answer]:
        """Answer questions, the windows of all of them decoded together."""
        found: list[dict[tuple[int, int | None, str], Answer]] = [{} for _ in questions]
        waiting = itertools.chain.from_iterable(self._lay_out(i, question) for i, question in enumerate(questions))
        while chunk := list(itertools.islice(waiting, CHUNK)):
            fitting = self.budget.tokens // max(len(asked.start.ids) for asked in chunk)
            width = self.settings.batch_size or min(max(fitting, 1), WIDTH)
            written = self.job.run([asked.start for asked in chunk], batch_size=width)
            log_probabilities = scoring.score_continuations(
                self.lm.model, [asked.start.ids for asked in chunk], [g.token_ids for g in written], self.budget
            )
            for asked, result, scores in zip(chunk, written, log_probabilities, strict=True):
                text, source = result.text.strip(), questions[asked.index].source
                if not text:
                    continue
                place = _find(source.texts[asked.text].text, text, asked.begin, asked.end)
                end = None if place is None else place + len(text)
                answer = Answer(text, math.exp(math.fsum(scores)), place, end, source.names[asked.text])
                key = (asked.text, place, text)  # written again in a window that shares it: the surer one counts
                if key not in found[asked.index] or found[asked.index][key].score < answer.score:
                    found[asked.index][key] = answer
        return [self._conclude(list(answers.values())) for answers in found]

    def _lay_out(self, index: int, question: Prompted) -> Iterator[_Asked]:
        """Give the prompts of a question; a window whose prompt does not fit after all is cut in two."""
        waiting = list(reversed(question.windows))
        while waiting:
            n, first, last = waiting.pop()
            context = question.source.texts[n]
            whole = last - first == len(context.ids)
            begin = 0 if whole else int(context.starts[first])
            end = len(context.text) if whole else int(context.ends[last - 1])
            start = self._encode_prompt(question.question, context.text[begin:end])
            if len(start.ids) <= self.limit:
                yield _Asked(index, n, begin, end, start)
                continue
            pairs.check_offsets(self.lm.tokenizer)
            middle = (first + last) // 2
            if middle == first:
                raise InputError(f"the question is too long, got {len(start.ids):,} tokens; expected {self.limit:,}")
            waiting += [(n, middle, last), (n, first, middle)]

    def _conclude(self, answers: list[Answer]) -> Answer:
        """Choose the answers of one question: the surest first, none that overlaps one before it."""
        chosen: list[Answer] = []
        for answer in sorted(answers, key=lambda a: -a.score):
            if len(chosen) < self.settings.top and not any(_overlap(answer, other) for other in chosen):
                chosen.append(answer)
        if not chosen:
            return Answer("", 0.0, 0, 0)
        best, *others = chosen
        return Answer(best.text, best.score, best.start, best.end, best.file, tuple(others))


def prepare(lm: Loaded, settings: Settings) -> Writer:
    """Settle how answers are decoded and how many tokens a prompt may have.

    Raises:
        InputError: A setting is not for a model that writes, or the model cannot take windows of this length.
    """
    if settings.no_answer_threshold is not None:
        raise InputError(
            f"no_answer_threshold needs a model with a head for question answering; {lm.name or 'the model'} writes "
            "its answers"
        )
    stop = "\n\n" if lm.tokenizer.chat_template else "\n"  # what comes after it is no answer any more
    job = generation.prepare(
        lm, {"temperature": 0, "num_beams": 1, "max_new_tokens": settings.max_answer_tokens, "stop": stop}
    )
    longest, asked = context_length(lm.model.config), settings.max_length
    if asked is not None and longest is not None and asked > longest:
        raise InputError(f"max_length too large, got {asked:,}; expected at most {longest:,}, the model's context")
    length = asked or longest or LONGEST
    if length <= settings.max_answer_tokens + SLACK:
        raise InputError(
            f"max_answer_tokens too large, got {settings.max_answer_tokens:,}; expected fewer than "
            f"{max(length - SLACK, 1):,} in windows of {length:,} tokens"
        )
    budget = Budget(runtime.token_budget(lm.model), settings.batch_size)
    return Writer(lm, settings, budget, job, length - settings.max_answer_tokens)


def _find_template(lm: Loaded) -> str | None:
    """Find the prompt that a checkpoint was trained with, where it is one of a question and its text."""
    stated = (lm.facts or {}).get("template")
    is_known = isinstance(stated, str) and set(prompts.list_fields(stated)) == {"context", "question"}
    return str(stated) if is_known else None


def _find(text: str, words: str, begin: int, end: int) -> int | None:
    """Find words in a text, first in the window that they were read from; None where they do not stand there."""
    inside = text.find(words, begin, end)
    place = inside if inside >= 0 else text.find(words)
    return place if place >= 0 else None


def _overlap(one: Answer, other: Answer) -> bool:
    if one.file != other.file or one.start is None or other.start is None:
        return one.file == other.file and one.text == other.text
    assert one.end is not None
    assert other.end is not None
    return one.start < other.end and other.start < one.end
