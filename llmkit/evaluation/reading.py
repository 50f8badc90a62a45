"""From files to examples: pairs of texts, questions with their answers, texts with a label.

The files are read by the readers of training data, one for each column, side by side; what is wrong with one row is an
error here, since a metric over the other rows could not be compared with any.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmkit.data.columns import Row, describe
from llmkit.data.formats import find_kind, read_rows
from llmkit.data.sources import list_files
from llmkit.encoding.prompts import replace_surrogates
from llmkit.errors import InputError
from llmkit.evaluation.keys import COLUMNS, DataKeys, Task
from llmkit.recipe.schema import SourceSpec


@dataclass(frozen=True, slots=True)
class Pair:
    """Holds a text and its translation; `where` names it in messages, as "test.tsv row 41"."""

    where: str
    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Question:
    """Holds a question about a text, with the right answers; none where the text holds no answer."""

    where: str
    question: str
    context: str
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Labelled:
    """Holds a text and its label: a name, or a number from 0; from a csv or tsv both are text."""

    where: str
    text: str
    label: str | int


Example = Pair | Question | Labelled


def read_examples(keys: DataKeys, task: Task) -> Iterator[Example]:
    """Read the examples of a task, lazily and in the order of the files.

    Raises:
        InputError: A file is missing or not what its name says, a column is missing, or a row is not an example.
    """
    if task == "translation" and keys.source_path is not None:
        yield from _read_parallel(keys)
        return
    assert keys.path is not None
    for path in list_files(keys.path):
        if find_kind(path) == "txt":
            wanted = "csv, tsv, jsonl, json, parquet or arrow"
            also = ", or data.source_path and data.target_path" if task == "translation" else ""
            raise InputError(f"{path} has no columns; expected {wanted}{also}")
        if task == "question-answering" and is_squad(path, keys.encoding):
            yield from read_squad(path, keys.encoding)
            continue
        for where, values in _read_columns(path, keys, task):
            yield MAKERS[task](where, *values)


def _read_columns(path: Path, keys: DataKeys, task: Task) -> Iterator[tuple[str, list[object]]]:
    """Read several columns of a file, each by a reader of its own."""
    specs = {name: _spec(keys, text_column=getattr(keys, name)) for name in COLUMNS[task]}
    readers = [_naming(name, read_rows(path, spec)) for name, spec in specs.items()]
    for rows in zip(*readers, strict=True):
        yield rows[0].where, [_value(row) for row in rows]


def _spec(keys: DataKeys, **changes: object) -> SourceSpec:
    return SourceSpec.model_validate({"column_names": keys.column_names, "encoding": keys.encoding, **changes})


def _naming(key: str, rows: Iterator[Row]) -> Iterator[Row]:
    """Put the key of this column in the place of that for which the readers were written."""
    try:
        yield from rows
    except InputError as err:
        hint = err.hint
        if hint is not None and hint.startswith("data.text_column: "):
            hint = f"data.{key}={hint.removeprefix('data.text_column: ')}"
            hint += "; data.column_names=[NAME,NAME] where the file has no header" if "NAME takes" in hint else ""
        elif hint is not None:
            hint = hint.replace("data.encoding: ", "data.encoding=")
        raise InputError(str(err), hint=hint) from err


def _value(row: Row) -> object:
    if row.error is not None:
        raise InputError(f"{row.where}: {row.error}")
    return row.value


def _text(where: str, name: str, value: object) -> str:
    if not isinstance(value, str):
        raise InputError(f"{where}: expected text as {name}, got {describe(value)}")
    return replace_surrogates(value)


def _make_pair(where: str, source: object, target: object) -> Pair:
    return Pair(where, _text(where, "source", source), _text(where, "target", target))


def _make_question(where: str, question: object, context: object, answers: object) -> Question:
    texts = tuple(_text(where, "answer", answer) for answer in _list_answers(answers))
    return Question(where, _text(where, "question", question), _text(where, "context", context), texts)


def _list_answers(answers: Any) -> list[object]:
    """List answers in any of their forms: a text, a list of texts or of objects with one, or {"text": [...]}."""
    if isinstance(answers, Mapping):
        answers = answers.get("text", [answers])
    if answers is None or answers == "":
        return []
    listed = answers if isinstance(answers, list) else [answers]
    return [answer["text"] if isinstance(answer, Mapping) and "text" in answer else answer for answer in listed]


def _make_labelled(where: str, text: object, label: object) -> Labelled:
    if isinstance(label, bool) or not isinstance(label, str | int):
        raise InputError(f"{where}: expected text or a whole number as label, got {describe(label)}")
    return Labelled(where, _text(where, "text", text), label)


MAKERS: Mapping[Task, Callable[..., Example]] = {
    "translation": _make_pair,
    "question-answering": _make_question,
    "classification": _make_labelled,
}


def _read_parallel(keys: DataKeys) -> Iterator[Pair]:
    """Read two files whose lines belong together.

    Raises:
        InputError: One of them has more lines.
    """
    assert keys.source_path is not None
    assert keys.target_path is not None
    sides = [_read_lines(path, keys) for path in (keys.source_path, keys.target_path)]
    for number, (source, target) in enumerate(itertools.zip_longest(*sides), 1):
        if source is None or target is None:
            shorter, longer = (keys.source_path, keys.target_path)[:: 1 if source is None else -1]
            raise InputError(f"{shorter} has {number - 1:,} lines, {longer} has more; expected a line for each line")
        yield Pair(f"{keys.source_path} line {number}", source, target)


def _read_lines(name: str, keys: DataKeys) -> Iterator[str]:
    """Read the lines of a text, whatever its name ends in."""
    for path in list_files(name):
        parts: list[str] = []
        for row in _naming("source_path", read_rows(path, _spec(keys, sample_by="line"), kind="txt")):
            parts.append(_text(row.where, "line", _value(row)))
            if row.ends:
                yield "".join(parts)
                parts.clear()


def is_squad(path: Path, encoding: str) -> bool:
    """Tell whether a file is a .json in the form of SQuAD: articles of paragraphs of questions."""
    if find_kind(path) != "json":
        return False
    try:
        return next(_read_articles(path, encoding), None) is not None
    except InputError:  # is told by who reads the file then
        return False


def _read_articles(path: Path, encoding: str) -> Iterator[Row]:
    return read_rows(path, SourceSpec(text_column="paragraphs", encoding=encoding))


def read_squad(path: Path, encoding: str = "utf-8") -> Iterator[Question]:
    """Read the questions of a .json file in the form of SQuAD v1.1, v2.0, CMRC 2018 or DRCD.

    Raises:
        InputError: It is not in that form.
    """
    for article in _read_articles(path, encoding):
        for paragraph in _items(_value(article), article.where, "paragraphs"):
            context = _text(article.where, "context", paragraph.get("context"))
            for entry in _items(paragraph.get("qas"), article.where, "qas"):
                where = f"{path} question {entry.get('id', article.where)}"
                listed = [] if entry.get("is_impossible") is True else entry.get("answers")
                answers = [_text(where, "answer", answer.get("text")) for answer in _items(listed, where, "answers")]
                if not answers and entry.get("is_impossible") is False:
                    raise InputError(f"{where}: no right answer, and is_impossible is false; expected an answer")
                yield Question(where, _text(where, "question", entry.get("question")), context, tuple(answers))


def _items(value: object, where: str, name: str) -> list[Mapping[str, Any]]:
    if not isinstance(value, list):
        raise InputError(f"{where}: expected a list as {name}, got {describe(value)}")
    for item in value:
        if not isinstance(item, Mapping):
            raise InputError(f"{where}: expected objects in {name}, got {describe(item)}")
    return value
