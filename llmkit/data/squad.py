"""Files in the form of SQuAD v1.1, v2.0, CMRC 2018 or DRCD: articles of paragraphs of questions."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llmkit.data.columns import describe
from llmkit.errors import InputError

COLUMNS = ("id", "title", "context", "question", "answers", "is_impossible")
Question = tuple[str, dict[str, object]]


def list_questions(articles: list[Any], path: Path) -> Iterator[Question]:
    """List the questions of articles, flat: each with the name of its row, as the data set `squad` of the hub has them.

    Raises:
        InputError: They are not in that form.
    """
    for number, article in enumerate(articles, 1):
        where = f"{path} row {number}"
        if not isinstance(article, Mapping) or "paragraphs" not in article:
            raise InputError(f"{where}: expected an object with paragraphs, as the first, got {describe(article)}")
        for paragraph in _items(article["paragraphs"], where, "paragraphs"):
            if not isinstance(paragraph.get("context"), str):
                got = describe(paragraph.get("context"))
                raise InputError(f"{where}: expected text as context, got {got}")
            for entry in _items(paragraph.get("qas"), where, "qas"):
                yield _flatten(article, paragraph, entry, f"{path} question {entry.get('id', where)}")


def _flatten(
    article: Mapping[str, Any], paragraph: Mapping[str, Any], entry: Mapping[str, Any], where: str
) -> Question:
    impossible = entry.get("is_impossible")
    answers = [] if impossible is True else _items(entry.get("answers"), where, "answers")
    if not answers and impossible is False:
        raise InputError(f"{where}: no right answer, and is_impossible is false; expected an answer")
    return where, {
        "id": entry.get("id"),
        "title": article.get("title"),
        "context": paragraph.get("context"),
        "question": entry.get("question"),
        "answers": {
            "text": [answer.get("text") for answer in answers],
            "answer_start": [answer.get("answer_start") for answer in answers],
        },
        "is_impossible": impossible,
    }


def _items(value: object, where: str, name: str) -> list[Mapping[str, Any]]:
    if not isinstance(value, list):
        raise InputError(f"{where}: expected a list as {name}, got {describe(value)}")
    for item in value:
        if not isinstance(item, Mapping):
            raise InputError(f"{where}: expected objects in {name}, got {describe(item)}")
    return value
