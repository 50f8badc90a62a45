"""From the keys of an evaluation to its examples, by the readers of training data.

What is wrong with one row is an error, since a metric over the other rows could not be compared with any.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from llmkit.data import examples
from llmkit.data.columns import describe
from llmkit.data.examples import Example, Kind, Labelled, Text
from llmkit.data.formats import find_kind
from llmkit.data.ledger import Counts
from llmkit.data.sources import list_files, read_dataset, read_documents
from llmkit.errors import InputError
from llmkit.evaluation.keys import DataKeys, Task
from llmkit.recipe.schema import SourceSpec

KINDS: Mapping[Task, Kind] = {
    "translation": "pair",
    "question-answering": "question",
    "classification": "label",
    "generation": "completion",
}
OWN = ("max_length", "stride")  # keys that say how texts are cut, and nothing of how they are read


def read_examples(keys: DataKeys, task: Task) -> Iterator[Example]:
    """Read the examples of a task, lazily and in the order of the files.

    Raises:
        InputError: A file is missing or not what its name says, a column is missing, or a row is not an example.
    """
    aside = {*OWN, "prompt_column"} if keys.template is not None else {*OWN}
    spec = SourceSpec.model_validate(keys.model_dump(exclude_none=True, exclude=aside))
    if task == "perplexity":
        yield from _read_texts(spec, keys)
        return
    if keys.source_path is None and keys.dataset is None:
        for path in list_files(str(keys.path)):
            _check_columns(path, task)
    try:
        for example in _read_rows(spec, keys, KINDS[task]):
            if isinstance(example, Labelled) and not isinstance(example.label, str | int):
                found = describe(list(example.label) if isinstance(example.label, tuple) else example.label)
                raise InputError(f"{example.where}: expected text or a whole number as label, got {found}")
            yield example
    except InputError as err:
        hint = _as_argument(err.hint) if keys.dataset is None else None  # whose columns no key can name
        raise InputError(str(err), hint=hint, details=err.details) from err


def _read_rows(spec: SourceSpec, keys: DataKeys, kind: Kind) -> Iterator[Example]:
    if keys.dataset is not None:
        return examples.read_dataset(keys.dataset, spec, kind, counts=Counts(keys.title))
    return examples.read_examples(spec, kind)


def _read_texts(spec: SourceSpec, keys: DataKeys) -> Iterator[Text]:
    """Read whole documents."""
    parts: list[str] = []
    counts, given = Counts(keys.title), keys.dataset
    own = None if given is None else read_dataset(given, text_column=spec.text_column, counts=counts)
    for document in read_documents(spec, counts=counts) if own is None else own:
        parts.append(document.text)
        if document.ends:
            yield Text(document.where, "".join(parts))
            parts = []


def _check_columns(path: Path, task: Task) -> None:
    if find_kind(path) == "txt":
        wanted = "csv, tsv, jsonl, json, parquet or arrow"
        also = ", or data.source_path and data.target_path" if task == "translation" else ""
        raise InputError(f"{path} has no columns; expected {wanted}{also}")


def _as_argument(hint: str | None) -> str | None:
    """Turn a recipe's key in a hint into an argument of the command line."""
    if hint is None or not hint.startswith("data."):
        return hint
    key, _, rest = hint.partition(": ")
    more = "; data.column_names=[NAME,NAME] where the file has no header" if "NAME takes" in rest else ""
    return f"{key}={rest}{more}"
