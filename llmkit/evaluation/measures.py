"""How the rows of each task are answered, and what is kept of each answer."""

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import numpy as np

from llmkit import metrics
from llmkit.data.examples import Completion, Example, Labelled, Pair, Question, Text
from llmkit.data.sequences import find_label, note_missing_classes
from llmkit.encoding import pairs
from llmkit.encoding.prompts import ask
from llmkit.errors import InputError
from llmkit.evaluation.keys import Task
from llmkit.evaluation.outcomes import Outcome, Row, count_labels, sum_answers, sum_labels
from llmkit.evaluation.perplexity import Judge, Tally
from llmkit.evaluation.planning import Plan, Progress
from llmkit.evaluation.resampling import Counts, Sums, Texts
from llmkit.heads import find_head
from llmkit.loading import Loaded
from llmkit.tasks import answering, classification, generation, translation
from llmkit.tasks.asking import Settings

logger = logging.getLogger("llmkit")

# How the verbs name one of many inputs in an error.
NUMBERED = re.compile(r"[a-z]+ (\d+): (.*)", re.DOTALL)
BEGINNING = 500  # characters that are kept of a text whose perplexity is measured

Result = TypeVar("Result")


def answer(plan: Plan, lm: Loaded, progress: Progress | None = None) -> Outcome:
    """Answer the rows of a plan with a loaded checkpoint.

    Raises:
        InputError: A row cannot be answered, or does not go with the checkpoint.
    """
    began = time.perf_counter()
    outcome = MEASURES[plan.task](plan, lm, progress or (lambda done: None))
    return replace(outcome, checkpoint=lm.name, seconds=time.perf_counter() - began)


def _naming(chunk: Sequence[Example], call: Callable[[], list[Result]]) -> Iterator[Result]:
    """Answer a chunk; an error names the row of the data in the place of its number in the chunk."""
    try:
        yield from call()
    except InputError as err:
        named = NUMBERED.fullmatch(str(err))
        if named is None and len(chunk) > 1:
            raise
        index, sentence = (int(named[1]), named[2]) if named is not None else (0, str(err))
        hint = None if (err.hint or "").startswith("--truncate") else err.hint  # of generate alone
        raise InputError(f"{chunk[index].where}: {sentence}", hint=hint) from err


def _translate(plan: Plan, lm: Loaded, progress: Progress) -> Outcome:
    job = translation.prepare(lm, src_lang=plan.src_lang, tgt_lang=plan.tgt_lang)
    rows: list[Row] = []
    language = plan.tgt_lang
    for chunk in plan.chunks(Pair, progress):
        results = list(_naming(chunk, partial(job.run, [row.source for row in chunk])))
        near = metrics.chrf_of_each([result.text for result in results], [row.target for row in chunk])
        for row, result, score in zip(chunk, results, near, strict=True):
            rows.append(Row(row.where, {"source": row.source}, row.target, result.text, {"chrf": score}))
            language = result.tgt_lang or language
    return Outcome(rows, texts=_take_texts(rows, language))


def _take_texts(rows: Sequence[Row], language: str | None) -> Texts:
    found, references = [str(row.got) for row in rows], [str(row.expected) for row in rows]
    return Texts(found, references, metrics.choose_tokenizer(language, references))


def _answer_questions(plan: Plan, lm: Loaded, progress: Progress) -> Outcome:
    """Answer questions; where some have no answer, a model that can say so does where that scores best."""
    threshold = 0.0 if plan.survey.num_unanswerable and _can_decline(lm) else None
    job = answering.prepare(lm, Settings(no_answer_threshold=threshold))
    rows: list[Row] = []
    for chunk in plan.chunks(Question, progress):
        asked = [(row.question, row.context) for row in chunk]
        for row, result in zip(chunk, _naming(chunk, partial(job.run_pairs, asked)), strict=True):
            given = {"question": row.question, "context": row.context}
            scores = _score_answer(plan, result.text, row.answers)
            rows.append(Row(row.where, given, row.answers, result.text, scores))
    return Outcome(rows, sum_answers(rows))


def _score_answer(plan: Plan, found: str, right: Sequence[str]) -> dict[str, float]:
    definition = plan.survey.definition
    exact = metrics.exact_match(found, right, definition=definition)
    return {"exact_match": 100 * exact, "f1": 100 * metrics.f1(found, right, definition=definition)}


def _can_decline(lm: Loaded) -> bool:
    """Tell whether a model finds spans and its tokenizer has a token that means that there is no answer."""
    return find_head(lm.model) != "generation" and pairs.frame_question(lm.tokenizer, "?").null is not None


def _label(plan: Plan, lm: Loaded, progress: Progress) -> Outcome:
    fallback = classification.SENTIMENT if plan.on == "sentiment" else None
    job = classification.prepare(lm, plan.labels, fallback=fallback)
    names = job.method.labels
    if len(names) < 2:
        raise InputError(f"{lm.name or 'the model'} has one label, {names[0]}; expected two or more for an accuracy")
    order = plan.labels or names  # that of the numbers in the data; a classifier may have its own
    meant = {label: names.index(order[find_label(label, order, where)]) for label, where in plan.survey.labels.items()}
    if plan.examples is None:  # those of a training were looked at before it began
        note_missing_classes(set(meant.values()), names, "evaluate on")
    rows: list[Row] = []
    found: list[int] = []
    right: list[int] = []
    for chunk in plan.chunks(Labelled, progress):
        results = _naming(chunk, partial(job.answer, [row.text for row in chunk]))
        for row, result in zip(chunk, results, strict=True):
            assert isinstance(row.label, str | int)
            found.append(names.index(result.label))
            right.append(meant[row.label])
            name = names[right[-1]]
            scores = {"accuracy": float(result.label == name), "score": result.scores[name]}
            rows.append(Row(row.where, {"text": row.text}, name, result.label, scores))
    return Outcome(rows, sum_labels(found, right, len(names)), confusion=count_labels(found, right, names))


def _continue(plan: Plan, lm: Loaded, progress: Progress) -> Outcome:
    """Continue prompts as generate does at temperature 0."""
    trained_with = (lm.facts or {}).get("template")
    if isinstance(trained_with, str) and plan.keys.template is None and plan.examples is None:
        logger.info(
            f"{lm.name or 'the model'} was trained with data.template={trained_with!r}, and is asked without it"
        )
    job = generation.prepare(lm, {"temperature": 0.0, "max_new_tokens": plan.max_new_tokens})
    for chunk in plan.chunks(Completion, lambda done: None):  # a prompt that does not fit is told before any work
        for row in chunk:
            list(_naming([row], partial(_encode, job, row)))
    rows: list[Row] = []
    for chunk in plan.chunks(Completion, progress):
        starts = [start for row in chunk for start in _naming([row], partial(_encode, job, row))]
        found = [result.text.strip() for result in job.run(starts)]
        right = [row.completion.strip() for row in chunk]
        for row, text, wanted, near in zip(chunk, found, right, metrics.chrf_of_each(found, right), strict=True):
            scores = {**_score_answer(plan, text, [wanted]), "chrf": near}
            rows.append(Row(row.where, {"prompt": row.prompt}, wanted, text, scores))
    return Outcome(rows, sum_answers(rows), _take_texts(rows, None))


def _encode(job: generation.Job, row: Completion) -> list[generation.Start]:
    given = row.prompt
    return [job.encode(ask(job.lm.tokenizer, given) if row.is_turn and isinstance(given, str) else given)]


def _judge(plan: Plan, lm: Loaded, progress: Progress) -> Outcome:
    judge = Judge(lm, plan.keys)
    tallies: list[Tally] = []
    rows: list[Row] = []
    for chunk in plan.chunks(Text, progress):
        for row, one in zip(chunk, judge.judge(chunk), strict=True):
            scores = {"num_tokens": float(one.num_tokens), **(one.metrics() if one.num_tokens else {})}
            rows.append(Row(row.where, {"text": row.text[:BEGINNING]}, None, None, scores))
            tallies.append(one)
    if not any(one.num_tokens for one in tallies):
        raise InputError("no text has two tokens, and nothing predicts the first")
    sums = np.array([(one.nll, one.num_tokens, one.num_bytes) for one in tallies])

    def score(counts: Counts) -> dict[str, float]:
        nll, num_tokens, num_bytes = (counts @ sums).tolist()
        found = Tally(nll, round(num_tokens), round(num_bytes)).metrics()
        return found if num_tokens else dict.fromkeys(found, np.nan)

    return Outcome(rows, Sums(len(rows), score))


MEASURES: Mapping[Task, Callable[[Plan, Loaded, Progress], Outcome]] = {
    "translation": _translate,
    "question-answering": _answer_questions,
    "classification": _label,
    "generation": _continue,
    "perplexity": _judge,
}
