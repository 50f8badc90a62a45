"""What is evaluated: a call and its data, checked before anything is loaded, and the rows that are drawn."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TypedDict, TypeVar, Unpack

from llmkit import metrics
from llmkit.data.examples import Completion, Example, Labelled, Pair, Question, Text
from llmkit.data.order import shuffle_index
from llmkit.errors import InputError
from llmkit.evaluation.keys import Data, DataKeys, Task, find_task, read_keys
from llmkit.evaluation.reading import read_examples
from llmkit.metrics import Definition
from llmkit.runtime import check_seed
from llmkit.tasks.sampling import MAX_NEW_TOKENS, check_count, check_names, check_settings

# task -> the rows that are answered at a time: enough to fill batches, few enough to see progress
CHUNKS: Mapping[Task, int] = {
    "translation": 32,
    "question-answering": 16,
    "classification": 256,
    "generation": 64,
    "perplexity": 16,
}
# task -> the heads that can do it, as the verbs have it; of several, that which the checkpoint was saved for is loaded
HEADS: Mapping[Task, tuple[str, ...]] = {
    "translation": ("translation", "generation"),
    "question-answering": ("question-answering", "generation"),
    "classification": ("classification", "generation"),
    "generation": ("generation",),
    "perplexity": ("generation",),
}

Progress = Callable[[int], None]
Row = TypeVar("Row", Pair, Question, Labelled, Completion, Text)


class Choices(TypedDict, total=False):
    """The settings of an evaluation.

    max_examples: So many rows, drawn without replacement and kept in order; None takes all.
    seed: What they, and the resamples of the intervals, are drawn by (0).
    src_lang: The language of the texts to translate.
    tgt_lang: The language of their translations.
    labels: The labels to choose from, where the checkpoint has none of its own. A label of the data is one of the
        names, or a number that counts into them from 0.
    max_new_tokens: At most so many tokens of a generated text (64).
    """

    max_examples: int | None
    seed: int
    src_lang: str | None
    tgt_lang: str | None
    labels: Sequence[str] | None
    max_new_tokens: int | None


@dataclass
class Survey:
    """Counts, over all rows, what decides how they are scored.

    `labels` holds each label of the data with the place of the first row that has it.
    """

    num_rows: int = 0
    num_han: int = 0
    num_unanswerable: int = 0
    labels: dict[str | int, str] = field(default_factory=dict)

    @property
    def definition(self) -> Definition:
        """cmrc-2018 where most questions or their answers, or most completions, are Chinese, else SQuAD's."""
        if 2 * self.num_han > self.num_rows:
            return "cmrc-2018"
        return "squad-v2.0" if self.num_unanswerable else "squad-v1.1"


@dataclass(frozen=True)
class Plan:
    """Holds a call that is right, and which rows of its data are answered.

    Attributes:
        on: The task as the user called it.
        task: The task.
        keys: What names the data.
        survey: What was found in the data.
        chosen: The rows to answer; None for all.
        seed: What they were drawn by; None where nothing was drawn.
        src_lang: The language of the texts to translate, as it was given.
        tgt_lang: The language of their translations, likewise.
        labels: The labels to choose from, likewise.
        examples: The rows, where they are at hand; None reads them from the data.
        max_new_tokens: Of a generated text.
        resampling: The seed of intervals.
    """

    on: str
    task: Task
    keys: DataKeys
    survey: Survey
    chosen: frozenset[int] | None
    seed: int | None
    src_lang: str | None
    tgt_lang: str | None
    labels: Sequence[str] | None
    examples: Sequence[Example] | None = None
    max_new_tokens: int = MAX_NEW_TOKENS
    resampling: int = 0

    @property
    def heads(self) -> tuple[str, ...]:
        """The heads that can do the task."""
        return HEADS[self.task]

    @property
    def num_chosen(self) -> int:
        """The rows to answer."""
        return self.survey.num_rows if self.chosen is None else len(self.chosen)

    def chunks(self, kind: type[Row], progress: Progress) -> Iterator[list[Row]]:
        """Read the rows to answer, some at a time; progress is told the number done when the next are asked for."""
        every = enumerate(self.examples if self.examples is not None else read_examples(self.keys, self.task))
        rows = (row for i, row in every if (self.chosen is None or i in self.chosen) and isinstance(row, kind))
        done = 0
        while chunk := list(islice(rows, CHUNKS[self.task])):
            yield chunk
            done += len(chunk)
            progress(done)


def make_plan(on: str, data: Data, **choices: Unpack[Choices]) -> Plan:
    """Check a call, read its data through once, and draw the rows.

    Arguments and errors are those of evaluate.
    """
    check_names(choices, Choices)
    task = find_task(on)
    keys = read_keys(data, task)
    max_examples, seed = choices.get("max_examples"), choices.get("seed", 0)
    src_lang, tgt_lang = choices.get("src_lang"), choices.get("tgt_lang")
    labels, max_new_tokens = choices.get("labels"), choices.get("max_new_tokens")
    if max_examples is not None:
        check_count("max_examples", max_examples)
    seed = check_seed(seed)
    check_settings({"max_new_tokens": max_new_tokens})
    _check_options(task, src_lang=src_lang, tgt_lang=tgt_lang, labels=labels, max_new_tokens=max_new_tokens)
    survey = survey_rows(read_examples(keys, task), keys.title)
    chosen = None
    if max_examples is not None and max_examples < survey.num_rows:
        chosen = frozenset(shuffle_index(i, survey.num_rows, seed) for i in range(max_examples))
    return Plan(
        on=on,
        task=task,
        keys=keys,
        survey=survey,
        chosen=chosen,
        seed=None if chosen is None else seed,
        src_lang=src_lang,
        tgt_lang=tgt_lang,
        labels=labels,
        max_new_tokens=max_new_tokens or MAX_NEW_TOKENS,
        resampling=seed,
    )


def _check_options(task: Task, **options: object) -> None:
    """Refuse what cannot act with a task."""
    acting: Mapping[str, tuple[str, ...]] = {
        "translation": ("src_lang", "tgt_lang"),
        "classification": ("labels",),
        "generation": ("max_new_tokens",),
    }
    flags = {"src_lang": "--from", "tgt_lang": "--to", "labels": "--labels", "max_new_tokens": "--max-new-tokens"}
    for name, value in options.items():
        if value is not None and name not in acting.get(task, ()):
            raise InputError(f"{flags[name]} (in Python: {name}=) cannot act with {task}")


def plan_examples(task: Task, examples: Sequence[Example]) -> Plan:
    """Plan to answer examples that are at hand.

    Raises:
        InputError: There are none, or one cannot be answered.
    """
    survey = survey_rows(examples, "the examples")
    return Plan(task, task, DataKeys(), survey, None, None, None, None, None, examples)


def survey_rows(examples: Iterable[Example], name: str) -> Survey:
    """Go through all rows, and check what can be checked without a model.

    Raises:
        InputError: There are none, or one cannot be answered.
    """
    found = Survey()
    for row in examples:
        found.num_rows += 1
        if isinstance(row, Question):
            _check_question(row)
            found.num_unanswerable += not row.answers
            found.num_han += any(metrics.HAN.search(text) is not None for text in (row.question, *row.answers))
        elif isinstance(row, Completion):
            found.num_han += metrics.HAN.search(row.completion) is not None
        elif isinstance(row, Labelled) and isinstance(row.label, str | int):
            found.labels.setdefault(row.label, row.where)
    if found.num_rows == 0:
        raise InputError(f"0 examples in {name}")
    return found


def _check_question(row: Question) -> None:
    for name in ("question", "context"):
        if not getattr(row, name).strip():
            raise InputError(f"{row.where}: the {name} is empty; expected text")
