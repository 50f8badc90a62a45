"""Evaluate a checkpoint on a task: its rows are answered in chunks, and the answers are scored."""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from llmkit import metrics
from llmkit.data.examples import Example, Labelled, Pair, Question, Text
from llmkit.data.sequences import find_label, note_missing_classes
from llmkit.encoding import pairs
from llmkit.errors import InputError
from llmkit.evaluation.keys import Data, Task
from llmkit.evaluation.perplexity import Judge, Tally
from llmkit.evaluation.planning import Plan, Progress, make_plan
from llmkit.heads import find_head
from llmkit.loading import Checkpoint, Loaded, load
from llmkit.metrics import Definition
from llmkit.tasks import answering, classification, translation
from llmkit.tasks.asking import Settings

# How the verbs name one of many inputs in an error.
NUMBERED = re.compile(r"[a-z]+ (\d+): (.*)", re.DOTALL)

Result = TypeVar("Result")
Found = tuple[dict[str, float], dict[str, str]]  # metrics and signatures


@dataclass(frozen=True)
class Evaluation:
    """Holds the metrics of a checkpoint on a task.

    Attributes:
        task: The task; sentiment is classification.
        metrics: By name, in the unit of its source: exact_match, f1, bleu and chrf from 0 to 100, accuracy and f1_macro
            from 0 to 1, loss in nats a token, bits_per_byte in bits a byte of UTF-8.
        n: The rows that were answered.
        num_rows: The rows of the data.
        seed: What they were drawn by; None where all of them were answered.
        seconds: Wall time of the answers, without loading.
        definition: What exact_match and f1 follow; see llmkit.metrics.
        signatures: sacrebleu's signatures of bleu and chrf.
    """

    task: str
    metrics: Mapping[str, float]
    n: int
    num_rows: int
    seed: int | None
    seconds: float
    definition: Definition | None = None
    signatures: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return "\n".join([*(f"{name}: {value:.4f}" for name, value in self.metrics.items()), f"n: {self.n}"])


def evaluate(
    checkpoint: Checkpoint,
    *,
    on: str,
    data: Data,
    max_examples: int | None = None,
    seed: int = 0,
    src_lang: str | None = None,
    tgt_lang: str | None = None,
    labels: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate a checkpoint on a task: translation, question-answering, classification, sentiment or perplexity.

    All rows are read and checked before the checkpoint is loaded. A language model answers by prompts. Perplexity is
    that of a causal language model on texts: each in windows that slide over it (data.max_length, data.stride), every
    token but a text's first predicted once.

    Args:
        checkpoint: Its name, or a Loaded.
        on: The task.
        data: A file, glob or folder; or the keys of a recipe's section data, as {"path": ..., "label_column": ...}.
        max_examples: So many rows, drawn without replacement and kept in order; None takes all.
        seed: What they are drawn by.
        src_lang: The language of the texts to translate.
        tgt_lang: The language of their translations.
        labels: The labels to choose from, where the checkpoint has none of its own. A label of the data is one of the
            names, or a number that counts into them from 0.
        progress: Is told the number of rows done.

    Raises:
        InputError: An argument, a key, a file or a row must be mended, or does not go with the checkpoint.
        DamagedError: The files of the checkpoint are damaged.
        HubError: The hub cannot give it.
    """
    plan = make_plan(
        on, data, max_examples=max_examples, seed=seed, src_lang=src_lang, tgt_lang=tgt_lang, labels=labels
    )
    return measure(plan, load(checkpoint, task=plan.heads), progress)


def measure(plan: Plan, lm: Loaded, progress: Progress | None = None) -> Evaluation:
    """Answer the rows of a plan with a loaded checkpoint, and score the answers.

    Raises:
        InputError: A row cannot be answered, or does not go with the checkpoint.
    """
    began = time.perf_counter()
    values, signatures = MEASURES[plan.task](plan, lm, progress or (lambda done: None))
    return Evaluation(
        task=plan.task,
        metrics=values,
        n=plan.num_chosen,
        num_rows=plan.survey.num_rows,
        seed=plan.seed,
        seconds=time.perf_counter() - began,
        definition=plan.survey.definition if plan.task == "question-answering" else None,
        signatures=signatures,
    )


def _naming(chunk: Sequence[Example], call: Callable[[], list[Result]]) -> Iterator[Result]:
    """Answer a chunk; an error names the row of the data in the place of its number in the chunk."""
    try:
        yield from call()
    except InputError as err:
        named = NUMBERED.fullmatch(str(err))
        if named is None and len(chunk) > 1:
            raise
        index, sentence = (int(named[1]), named[2]) if named is not None else (0, str(err))
        raise InputError(f"{chunk[index].where}: {sentence}", hint=err.hint) from err


def _measure_translation(plan: Plan, lm: Loaded, progress: Progress) -> Found:
    job = translation.prepare(lm, src_lang=plan.src_lang, tgt_lang=plan.tgt_lang)
    translations: list[str] = []
    references: list[str] = []
    language = plan.tgt_lang
    for chunk in plan.chunks(Pair, progress):
        results = _naming(chunk, partial(job.run, [row.source for row in chunk]))
        for row, result in zip(chunk, results, strict=True):
            translations.append(result.text)
            references.append(row.target)
            language = result.tgt_lang or language
    tokenize = metrics.choose_tokenizer(language, references)
    scores = {"bleu": metrics.bleu(translations, references, tokenize=tokenize)}
    scores["chrf"] = metrics.chrf(translations, references)
    return {name: s.value for name, s in scores.items()}, {name: s.signature for name, s in scores.items()}


def _measure_answers(plan: Plan, lm: Loaded, progress: Progress) -> Found:
    """Answer questions; where some have no answer, a model that can say so does where that scores best."""
    threshold = 0.0 if plan.survey.num_unanswerable and _can_decline(lm) else None
    job, definition = answering.prepare(lm, Settings(no_answer_threshold=threshold)), plan.survey.definition
    exact = near = 0.0
    for chunk in plan.chunks(Question, progress):
        asked = [(row.question, row.context) for row in chunk]
        for row, result in zip(chunk, _naming(chunk, partial(job.run_pairs, asked)), strict=True):
            exact += metrics.exact_match(result.text, row.answers, definition=definition)
            near += metrics.f1(result.text, row.answers, definition=definition)
    return {"exact_match": 100 * exact / plan.num_chosen, "f1": 100 * near / plan.num_chosen}, {}


def _can_decline(lm: Loaded) -> bool:
    """Tell whether a model finds spans and its tokenizer has a token that means that there is no answer."""
    return find_head(lm.model) != "generation" and pairs.frame_question(lm.tokenizer, "?").null is not None


def _measure_labels(plan: Plan, lm: Loaded, progress: Progress) -> Found:
    fallback = classification.SENTIMENT if plan.on == "sentiment" else None
    job = classification.prepare(lm, plan.labels, fallback=fallback)
    names = job.method.labels
    if len(names) < 2:
        raise InputError(f"{lm.name or 'the model'} has one label, {names[0]}; expected two or more for an accuracy")
    meant = {label: find_label(label, names, where) for label, where in plan.survey.labels.items()}
    if plan.examples is None:  # those of a training were looked at before it began
        note_missing_classes(set(meant.values()), names, "evaluate on")
    found: list[str] = []
    right: list[str] = []
    for chunk in plan.chunks(Labelled, progress):
        results = _naming(chunk, partial(job.answer, [row.text for row in chunk]))
        for row, result in zip(chunk, results, strict=True):
            found.append(result.label)
            assert isinstance(row.label, str | int)
            right.append(names[meant[row.label]])
    return {"accuracy": metrics.accuracy(found, right), "f1_macro": metrics.f1_macro(found, right)}, {}


def _measure_perplexity(plan: Plan, lm: Loaded, progress: Progress) -> Found:
    judge, total = Judge(lm, plan.keys), Tally()
    for chunk in plan.chunks(Text, progress):
        for one in judge.judge(chunk):
            total.nll, total.num_tokens = total.nll + one.nll, total.num_tokens + one.num_tokens
            total.num_bytes += one.num_bytes
    if not total.num_tokens:
        raise InputError("no text has two tokens, and nothing predicts the first")
    return total.metrics(), {}


MEASURES: Mapping[Task, Callable[[Plan, Loaded, Progress], Found]] = {
    "translation": _measure_translation,
    "question-answering": _measure_answers,
    "classification": _measure_labels,
    "perplexity": _measure_perplexity,
}
