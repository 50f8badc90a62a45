"""The user's own data set, given as an object in the place of a path."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np

from llmkit.data import sources
from llmkit.data.caching import keep_store
from llmkit.data.columns import check_repeatable, describe
from llmkit.data.ledger import Counts
from llmkit.data.store import TokenStore
from llmkit.data.tokenizing import Piece, encode_documents, find_end
from llmkit.errors import InputError
from llmkit.recipe.schema import DataSpec

NAME = "the data set"


def is_stream(dataset: object) -> bool:
    """Tell whether a data set is read from its start each time: an iterable without a length, or a function of one.

    Raises:
        InputError: It can be read once only.
    """
    check_repeatable(dataset)
    return callable(dataset) or (isinstance(dataset, Iterable) and not hasattr(dataset, "__len__"))


def read_given(dataset: object, spec: DataSpec, tokenizer: Any, counts: Counts) -> Iterator[Piece]:
    """Read the user's own data set from its start; its rows hold a text, or input_ids, which are taken as they are.

    Raises:
        InputError: A row holds neither.
    """
    if _holds_ids(dataset):
        return _add_end(_read_ids(dataset, spec.on_bad, counts), tokenizer, end_of_text=spec.end_of_text)
    documents = sources.read_dataset(
        _begin(dataset), text_column=spec.text_column, on_bad=spec.on_bad, counts=counts, clean=spec.clean
    )
    return encode_documents(tokenizer, documents, end_of_text=spec.end_of_text)


def keep_given(dataset: object, spec: DataSpec, tokenizer: Any) -> TokenStore:
    """Tokenize the user's own data set, or take what was made of the same texts before; they are read once for that.

    Raises:
        InputError: A row holds neither a text nor input_ids.
        RunError: The cache cannot be written.
    """
    facts = {
        "content": _hash_content(dataset, spec),
        "clean": spec.clean.model_dump(),
        "version": sources.VERSION,
        "on_bad": spec.on_bad,
    }
    return keep_store(
        NAME,
        facts,
        lambda counts: read_given(dataset, spec, tokenizer, counts),
        tokenizer,
        end_of_text=spec.end_of_text,
    )


def hash_documents(documents: Iterable[sources.Document]) -> str:
    """Compute the sha256 of documents as they come, as hexadecimal."""
    digest = hashlib.sha256()
    for document in documents:
        content = document.text.encode()
        digest.update(f"{len(content)} {document.ends} ".encode() + content)
    return "text " + digest.hexdigest()


def _hash_content(dataset: object, spec: DataSpec) -> str:
    counts = Counts(NAME)
    if not _holds_ids(dataset):
        rows = _begin(dataset)
        return hash_documents(
            sources.read_dataset(rows, text_column=spec.text_column, on_bad=spec.on_bad, counts=counts)
        )
    digest = hashlib.sha256()
    for ids, _, _ in _read_ids(dataset, spec.on_bad, counts):
        digest.update(f"{len(ids)} ".encode() + ids.astype("<i8").tobytes())
    return "ids " + digest.hexdigest()


def _begin(dataset: Any) -> Any:
    return dataset() if callable(dataset) else dataset


def _holds_ids(dataset: object) -> bool:
    rows = _begin(dataset)
    if isinstance(rows, Mapping) or not isinstance(rows, Iterable):
        return False
    return any(isinstance(row, Mapping) and "input_ids" in row for row in islice(rows, 1))


def _read_ids(dataset: object, on_bad: sources.OnBad, counts: Counts) -> Iterator[Piece]:
    for number, row in enumerate(_begin(dataset), 1):
        where = f"{counts.name} row {number}"
        value = row.get("input_ids") if isinstance(row, Mapping) else row
        ids = _to_array(value)
        if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
            if on_bad == "error":
                hint = "data.on_bad: skip leaves such rows out"
                raise InputError(f"{where}: expected a list of ids as input_ids, got {describe(value)}", hint=hint)
            counts.bad_rows += 1
        elif ids.size == 0:
            counts.empty += 1
        else:
            counts.documents += 1
            yield ids.astype(np.int64), True, where


def _to_array(value: object) -> np.ndarray[Any, Any]:
    """Turn what stands as input_ids into an array; what is none of one dimension becomes text, which is refused."""
    try:
        return np.asarray(value if value is not None else "")
    except ValueError:  # lists of several lengths
        return np.asarray("")


def _add_end(pieces: Iterator[Piece], tokenizer: Any, *, end_of_text: bool) -> Iterator[Piece]:
    """End each document with end-of-text where it does not."""
    end = find_end(tokenizer) if end_of_text else None
    for ids, ends, where in pieces:
        yield (ids if end in (None, int(ids[-1])) else np.append(ids, end)), ends, where
