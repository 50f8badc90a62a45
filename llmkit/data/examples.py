"""From rows to examples: pairs of texts, questions with their answers, texts with a label, prompts with completions."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from llmkit.data import hub
from llmkit.data.columns import Row, check_dataset, describe, pick
from llmkit.data.formats import find_tops, read_columns, read_rows
from llmkit.data.ledger import Counts
from llmkit.data.sources import OnBad, list_files
from llmkit.encoding.prompts import Prompt, check_messages, fill_template, list_fields, replace_surrogates
from llmkit.errors import InputError
from llmkit.recipe.schema import SourceSpec

Kind = Literal["pair", "question", "label", "completion"]
Label = str | int | float | tuple[str | int | float, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """Holds a text and what it becomes; `where` names it in messages, as "test.tsv row 41"."""

    where: str
    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Question:
    """Holds a question about a text, with the right answers; none where the text holds no answer.

    `starts` says where each answer begins in the text, in characters, as far as the data tell.
    """

    where: str
    question: str
    context: str
    answers: tuple[str, ...]
    starts: tuple[int | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Labelled:
    """Holds a text and its label: a name, a number, or several; from a csv or tsv all is text."""

    where: str
    text: str
    label: Label


@dataclass(frozen=True, slots=True)
class Completion:
    """Holds a prompt, a text or a conversation, and what it is answered by.

    `is_turn` is True for a text that a template made: it is the user's turn where a model has a chat template.
    """

    where: str
    prompt: Prompt
    completion: str
    is_turn: bool = False


@dataclass(frozen=True, slots=True)
class Text:
    """Holds a text by itself, a whole document."""

    where: str
    text: str


Example = Pair | Question | Labelled | Completion | Text


def read_examples(
    spec: SourceSpec, kind: Kind, *, split: str | None = None, on_bad: OnBad = "error", counts: Counts | None = None
) -> Iterator[Example]:
    """Read the examples of a source, lazily and in the order of its files.

    Args:
        spec: The source.
        kind: What its rows are.
        split: The split of a hub data set.
        on_bad: What becomes of a row that is no example.
        counts: Takes the numbers of what was read and left out.

    Raises:
        InputError: A file is missing or not what its name says, a column is missing, or a row is not an example.
        HubError: The hub cannot give the data set.
    """
    if kind == "pair" and spec.source_path is not None:
        rows = _read_parallel(spec)
    elif hub.is_hub_id(str(spec.path)):
        rows = hub.read_columns(spec, list_columns(spec, kind), split, streaming=False)
    else:
        columns = list_columns(spec, kind)
        rows = (row for path in list_files(str(spec.path)) for row in read_columns(path, spec, columns))
    return _make_examples(rows, spec, kind, on_bad, counts or Counts(str(spec.path)))


def read_dataset(
    dataset: object, spec: SourceSpec, kind: Kind, *, on_bad: OnBad = "error", counts: Counts
) -> Iterator[Example]:
    """Read the examples of the user's own data set: a datasets.Dataset, or any iterable of mappings.

    Raises:
        InputError: It is neither, lacks a column, or a row is no example.
    """
    records = check_dataset(dataset)
    columns = list_columns(spec, kind)
    names = getattr(dataset, "column_names", None)
    if isinstance(names, list):
        find_tops(names, columns, counts.name)
    rows = (
        pick(record, columns, f"{counts.name} row {number}", strict=number == 1)
        for number, record in enumerate(records, 1)
    )
    return _make_examples(rows, spec, kind, on_bad, counts)


def list_columns(spec: SourceSpec, kind: Kind) -> dict[str, str]:
    """List the columns that hold an example, in the order in which it holds them, each under the key that names it."""
    if kind == "pair":
        return {"source_column": spec.source_column, "target_column": spec.target_column}
    if kind == "label":
        return {"text_column": spec.text_column, "label_column": spec.label_column}
    if kind == "question":
        asked = {"question_column": spec.question_column, "context_column": spec.context_column}
        return {**asked, "answers_column": spec.answers_column}
    if spec.template is None:
        prompt = {"prompt_column": str(spec.prompt_column)}
    else:
        prompt = {f"template {{{name}}}": name for name in list_fields(spec.template)}
    return {**prompt, "completion_column": str(spec.completion_column)}


def _make_examples(
    rows: Iterable[Row], spec: SourceSpec, kind: Kind, on_bad: OnBad, counts: Counts
) -> Iterator[Example]:
    for row in rows:
        try:
            if row.error is not None:
                raise InputError(f"{row.where}: {row.error}")
            assert isinstance(row.value, tuple)
            example = MAKERS[kind](row.where, spec, row.value)
        except InputError as err:
            if on_bad == "error":
                raise
            counts.skip(err)
            continue
        counts.documents += 1
        counts.num_bytes += sum(len(replace_surrogates(v).encode()) for v in row.value if isinstance(v, str))
        yield example


def _text(where: str, name: str, value: object) -> str:
    if not isinstance(value, str):
        raise InputError(f"{where}: expected text as {name}, got {describe(value)}")
    return replace_surrogates(value)


def _make_pair(where: str, _spec: SourceSpec, values: Sequence[object]) -> Pair:
    return Pair(where, _text(where, "source", values[0]), _text(where, "target", values[1]))


def _make_question(where: str, _spec: SourceSpec, values: Sequence[object]) -> Question:
    question, context, answers = values
    found = [(_text(where, "answer", text), _start(where, start)) for text, start in _list_answers(answers)]
    texts, starts = tuple(text for text, _ in found), tuple(start for _, start in found)
    return Question(where, _text(where, "question", question), _text(where, "context", context), texts, starts)


def _list_answers(answers: Any) -> list[tuple[object, object]]:
    """List answers in any of their forms: a text, a list of texts or of objects with one, or {"text": [...]}."""
    answers = {key: _to_plain(value) for key, value in answers.items()} if isinstance(answers, Mapping) else answers
    if answers is None or (isinstance(answers, str) and not answers):
        return []
    if isinstance(answers, Mapping) and isinstance(answers.get("text"), list):
        starts = answers.get("answer_start")
        starts = starts if isinstance(starts, list) else [starts]
        return list(itertools.zip_longest(answers["text"], starts[: len(answers["text"])]))
    answers = _to_plain(answers)
    listed = answers if isinstance(answers, list) else [answers]
    return [
        (answer["text"], answer.get("answer_start"))
        if isinstance(answer, Mapping) and "text" in answer
        else (answer, None)
        for answer in listed
    ]


def _start(where: str, value: object) -> int | None:
    """Take where an answer begins; a float that is whole is one too, as a table with gaps has them."""
    plain = _to_plain(value)
    if plain is None or (isinstance(plain, int) and not isinstance(plain, bool)):
        return plain
    if isinstance(plain, float) and plain.is_integer():
        return int(plain)
    raise InputError(f"{where}: expected a whole number as answer_start, got {describe(plain)}")


def _to_plain(value: object) -> Any:
    """Turn a number or an array of numpy's into Python's own; all else stays as it is."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def _make_labelled(where: str, _spec: SourceSpec, values: Sequence[object]) -> Labelled:
    text, label = values[0], _to_plain(values[1])
    parts = tuple(map(_to_plain, label if isinstance(label, list) else [label]))
    for part in parts:
        if isinstance(part, bool) or not isinstance(part, str | int | float):
            raise InputError(f"{where}: expected text or a number as label, got {describe(part)}")
    return Labelled(where, _text(where, "text", text), parts if isinstance(label, list) else parts[0])


def _make_completion(where: str, spec: SourceSpec, values: Sequence[object]) -> Completion:
    *given, completion = values
    prompt: Any = given[0] if given else ""
    if spec.template is not None:
        texts = {name: _text(where, name, value) for name, value in zip(list_fields(spec.template), given, strict=True)}
        prompt = fill_template(spec.template, texts)
    elif isinstance(prompt, list):
        try:
            check_messages(prompt)
        except InputError as err:
            raise InputError(f"{where}: {err}") from None
        prompt = [{**message, "content": replace_surrogates(message["content"])} for message in prompt]
    else:
        prompt = _text(where, "prompt", prompt)
    return Completion(where, prompt, _text(where, "completion", completion), is_turn=spec.template is not None)


MAKERS: Mapping[Kind, Callable[[str, SourceSpec, Sequence[object]], Example]] = {
    "pair": _make_pair,
    "question": _make_question,
    "label": _make_labelled,
    "completion": _make_completion,
}


def _read_parallel(spec: SourceSpec) -> Iterator[Row]:
    """Read two files whose lines belong together.

    Raises:
        InputError: One of them has more lines.
    """
    names = (str(spec.source_path), str(spec.target_path))
    sides = [_read_lines(name, spec) for name in names]
    for number, (source, target) in enumerate(itertools.zip_longest(*sides), 1):
        if source is None or target is None:
            shorter, longer = names[:: 1 if source is None else -1]
            raise InputError(f"{shorter} has {number - 1:,} lines, {longer} has more; expected a line for each line")
        yield Row(f"{names[0]} line {number}", (source, target))


def _read_lines(name: str, spec: SourceSpec) -> Iterator[str]:
    """Read the lines of a text, whatever its name ends in."""
    by_line = spec.model_copy(update={"sample_by": "line"})
    for path in list_files(name):
        parts: list[str] = []
        for row in read_rows(path, by_line, kind="txt"):
            parts.append(_text(row.where, "line", row.value))
            if row.ends:
                yield "".join(parts)
                parts.clear()
