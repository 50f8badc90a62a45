"""The columns of a record that are wanted, and what to say where one is not there."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
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
SEPARATORS = {";": "semicolons", ",": "commas", "\t": "tabs", "|": "bars", "\uff0c": "full-width commas"}


@dataclass(frozen=True, slots=True)
class Row:
    """Holds one row: its value or what is wrong with it; `ends` is False where the next row goes on with the text."""

    where: str
    value: object
    error: str | None = None
    ends: bool = True


def pick(record: object, columns: Mapping[str, str], where: str, *, strict: bool) -> Row:
    """Take columns out of a record: the row's value is a tuple of theirs, in their order.

    A dot in a column's name steps into a nested one, and a number into a list.

    Args:
        record: A mapping, or what stands in the place of one.
        columns: The columns, each under the key of a recipe's section data that names it.
        where: The name of the row.
        strict: Whether a column that is missing is raised, as for the first record.

    Raises:
        InputError: `strict`, and a column is missing.
    """
    if not isinstance(record, Mapping):
        return Row(where, None, f"expected an object, got {describe(record)}")
    values = []
    for key, column in columns.items():
        value: object = record.get(column) if column in record else _step(record, key, column, where, strict=strict)
        if isinstance(value, _Missing):
            return Row(where, None, value.sentence)
        values.append(value)
    return Row(where, tuple(values))


@dataclass(frozen=True)
class _Missing:
    sentence: str


def _step(record: Mapping[str, object], key: str, column: str, where: str, *, strict: bool) -> object:
    """Step into nested columns."""
    value: object = record
    for part in column.split("."):
        if value is None:  # a nested column that is null in this row
            break
        if isinstance(value, list) and part.isdecimal():
            if int(part) >= len(value):
                return _Missing(f"column {column!r}: a list of {len(value)} has no item {part}")
            value = value[int(part)]
            continue
        if not isinstance(value, Mapping) or part not in value:
            columns = [str(name) for name in (value if isinstance(value, Mapping) else record)]
            if strict:
                check_columns(columns, column if value is record else part, where, key=key)
            return _Missing(f"column {column!r} not in {_list_columns(columns)}")
        value = value[part]
    return value


def check_dataset(dataset: object) -> Iterable[object]:
    """Check that an object is a data set: a datasets.Dataset, or any iterable of mappings; return it.

    Raises:
        InputError: It is another.
    """
    wanted = "expected a data set or an iterable of mappings"
    if isinstance(dataset, Mapping):
        splits = ", ".join(map(str, dataset))[:80]
        raise InputError(f"expected one data set, got a {type(dataset).__name__} of: {splits}")
    if isinstance(dataset, str | bytes) or not isinstance(dataset, Iterable):
        raise InputError(f"{wanted}, got {describe(dataset)}")
    if hasattr(dataset, "to_dict") and hasattr(dataset, "columns"):  # pandas', whose items are names of columns
        hint = "datasets.Dataset.from_pandas(frame) makes a data set of it"
        raise InputError(f"{wanted}, got a {type(dataset).__name__}", hint=hint)
    if isinstance(dataset, list | tuple) and dataset and isinstance(dataset[0], str):
        raise InputError(f"{wanted}, got texts", hint="[{'text': text} for text in texts] makes such mappings")
    return dataset


def check_repeatable(dataset: object, *, hint: str = "give the function that makes it, or a list") -> None:
    """Check that an object can be read more than once.

    Raises:
        InputError: It is an iterator.
    """
    if isinstance(dataset, Iterator):
        raise InputError(f"a {type(dataset).__name__} can be read once, a data set is read again", hint=hint)


def describe(value: object) -> str:
    """Name the type of a value in the words of a data file."""
    return "text" if isinstance(value, str) else TYPES.get(type(value), type(value).__name__)


def check_columns(columns: list[str], column: str, where: str, *, key: str = "text_column") -> None:
    """Check that a column is there, once; `key` is that of a recipe's section data which names it.

    Raises:
        InputError: It is not, and the hint names the nearest; or two have its name.
    """
    if columns.count(column) > 1:
        raise InputError(f"{where} has two columns {column!r}; expected a name for each")
    if column in columns:
        return
    close = [name for name in columns if name.strip().lower() == column.strip().lower()]
    close = close or difflib.get_close_matches(column, columns, 1)
    hint = f"data.{key}: {close[0]}" if close else f"data.{key}: NAME takes another"
    raise InputError(f"{where}: column {column!r} not in {_list_columns(columns)}", hint=hint)


def check_separator(columns: list[str], wanted: Iterable[str], where: str, *, of_tsv: bool = False) -> None:
    """Check that the header of a .csv or .tsv is not one name that holds the separators of several.

    Raises:
        InputError: It is, and none of the columns that are wanted.
    """
    if len(columns) != 1 or columns[0] in wanted:
        return
    found = next((name for mark, name in SEPARATORS.items() if mark in columns[0]), None)
    if found is not None:
        expected = "tabs, as in a .tsv" if of_tsv else "commas, as in a .csv"
        raise InputError(f"the columns of {where} are separated by {found}; expected {expected}")


def _list_columns(columns: list[str]) -> str:
    shown = ", ".join(name[:30] for name in columns[:6])
    return f"[{shown}, ...]" if len(columns) > 6 else f"[{shown}]"
