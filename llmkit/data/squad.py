"""Files in the form of SQuAD v1.1, v2.0, CMRC 2018 or DRCD: articles of paragraphs of questions."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llmkit.data.columns import Row, describe
from llmkit.errors import InputError

COLUMNS = ("id", "title", "context", "question", "answers", "is_impossible")
Question = tuple[str, "dict[str, object] | Row"]


def list_questions(articles: list[Any], path: Path) -> Iterator[Question]:
    """List the questions of articles, flat: each with the name of its row, as the data set `squad` of the hub has them.

    In the place of a question whose answers are not as they should be stands a row that says so.

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
    answers: Any = [] if impossible is True else entry.get("answers")
    problem = _find_problem(answers, "answers")
    if problem is None and not answers and impossible is False:
        problem = "no right answer, and is_impossible is false; expected an answer"
    if problem is not None:
        return where, Row(where, None, problem)
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


def _items(value: Any, where: str, name: str) -> list[Mapping[str, Any]]:
    problem = _find_problem(value, name)
    if problem is not None:
        raise InputError(f"{where}: {problem}")
    return list(value)


def _find_problem(value: object, name: str) -> str | None:
    """Say why a value is no list of objects."""
    if not isinstance(value, list):
        return f"expected a list as {name}, got {describe(value)}"
    other = [describe(item) for item in value if not isinstance(item, Mapping)]
    return f"expected objects in {name}, got {other[0]}" if other else None
