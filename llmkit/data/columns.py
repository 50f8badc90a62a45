"""The column of a record that holds the text, and what to say where it is not there."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from llmkit.errors import InputError

TYPES = {
    type(None): "null",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
    bytes: "binary data",
}


@dataclass(frozen=True, slots=True)
class Row:
    """Holds one row: its value or what is wrong with it; `ends` is False where the next row goes on with the text."""

    where: str
    value: object
    error: str | None = None
    ends: bool = True


def pick(record: object, column: str, where: str, *, strict: bool) -> Row:
    """Take the text out of a record; a dot in the column's name steps into a nested one.

    Raises:
        InputError: `strict`, as for the first record, and there is no such column.
    """
    if not isinstance(record, Mapping):
        return Row(where, None, f"expected an object, got {describe(record)}")
    if column in record:
        return Row(where, record[column])
    value: object = record
    for part in column.split("."):
        if value is None:  # a nested column that is null in this row
            break
        if not isinstance(value, Mapping) or part not in value:
            columns = [str(key) for key in (value if isinstance(value, Mapping) else record)]
            if strict:
                check_columns(columns, column if value is record else part, where)
            return Row(where, None, f"column {column!r} not in {_list_columns(columns)}")
        value = value[part]
    return Row(where, value)


def describe(value: object) -> str:
    """Name the type of a value in the words of a data file."""
    return "text" if isinstance(value, str) else TYPES.get(type(value), type(value).__name__)


def check_columns(columns: list[str], column: str, where: str) -> None:
    """Check that a column is there.

    Raises:
        InputError: It is not; the hint names the nearest.
    """
    if column in columns:
        return
    close = [name for name in columns if name.strip().lower() == column.strip().lower()]
    close = close or difflib.get_close_matches(column, columns, 1)
    hint = f"data.text_column: {close[0]}" if close else "data.text_column: NAME takes another"
    raise InputError(f"{where}: column {column!r} not in {_list_columns(columns)}", hint=hint)


def _list_columns(columns: list[str]) -> str:
    shown = ", ".join(name[:30] for name in columns[:6])
    return f"[{shown}, ...]" if len(columns) > 6 else f"[{shown}]"
