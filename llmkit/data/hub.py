"""A data set of the hub, read through datasets."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmkit import locating
from llmkit.data.columns import Row, pick
from llmkit.data.formats import TEXT, Columns, find_kind, find_tops, unwrap
from llmkit.errors import HubError, InputError, LlmkitError
from llmkit.recipe.schema import SourceSpec

# What a recipe has keys for.
RESERVED = {"path": "path", "name": "name", "split": "train_split", "streaming": "streaming"}


def is_hub_id(path: str) -> bool:
    """Tell whether a path that is not there is a hub id: it neither looks like a path nor ends like a data file."""
    place = os.path.expanduser(path)
    if not path or os.path.lexists(place) or find_kind(Path(path)) is not None:
        return False
    if path.startswith((".", "/", "~", "runs/")) or "\\" in path:
        return False
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, but not in its __all__

    try:
        validate_repo_id(path)  # refuses more than one slash, too
    except HFValidationError:
        return False
    return True


def read_rows(spec: SourceSpec, split: str | None, *, streaming: bool) -> Iterator[Row]:
    """Read the text of each row of a hub data set.

    Raises:
        InputError: It has no such split, configuration or column, or an option is wrong.
        HubError: The hub cannot give it.
    """
    return unwrap(read_columns(spec, {TEXT: spec.text_column}, split, streaming=streaming))


def read_columns(spec: SourceSpec, columns: Columns, split: str | None, *, streaming: bool) -> Iterator[Row]:
    """Read some columns of each row of a hub data set: the row's value is a tuple of theirs.

    Raises:
        InputError: It has no such split, configuration or column, or an option is wrong.
        HubError: The hub cannot give it.
    """
    dataset = _load(spec, split, streaming=streaming)
    if dataset.column_names is not None:
        dataset = dataset.select_columns(find_tops(dataset.column_names, columns, str(spec.path)))
    number = 0
    with _explaining(spec):
        for number, record in enumerate(dataset, 1):
            yield pick(record, columns, f"{spec.path} row {number}", strict=number == 1)


def fingerprint(spec: SourceSpec, split: str | None) -> str:
    """Tell the fingerprint that datasets gives a data set that is in its cache.

    Raises:
        InputError: It has no such split or configuration, or an option is wrong.
        HubError: The hub cannot give it.
    """
    return str(_load(spec, split, streaming=False)._fingerprint)


def _load(spec: SourceSpec, split: str | None, *, streaming: bool) -> Any:
    from huggingface_hub import constants

    for key in sorted(RESERVED.keys() & spec.kwargs):
        raise InputError(f"data.kwargs.{key} is data.{RESERVED[key]} in a recipe; expected it there")
    import datasets

    problem = "offline" if datasets.config.HF_HUB_OFFLINE else locating.reach(constants.ENDPOINT)
    with _explaining(spec, problem), cache_only(problem is not None):
        return datasets.load_dataset(
            spec.path, name=spec.name, split=split or spec.train_split, streaming=streaming, **spec.kwargs
        )


@contextlib.contextmanager
def cache_only(wanted: bool) -> Iterator[None]:
    """Let datasets look into its cache alone: it asks a hub that does not answer for 23 s a data set (datasets 5.2)."""
    import datasets

    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = wanted or before
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before


@contextlib.contextmanager
def _explaining(spec: SourceSpec, problem: str | None = None) -> Iterator[None]:
    from datasets.exceptions import DatasetNotFoundError

    try:
        yield
    except LlmkitError:
        raise
    except Exception as err:  # whatever datasets, the hub's client or a reader raises
        reason = " ".join(str(err).split())[:140] or type(err).__name__
        if problem is not None:
            raise HubError(
                f"{spec.path} is neither a file here nor in the local cache, and the hub cannot be asked: {problem}"
            ) from err
        if isinstance(err, DatasetNotFoundError):
            raise HubError(f"the hub has no data set {spec.path} (or it is private: set HF_TOKEN)") from err
        if isinstance(err, ValueError | TypeError | KeyError):  # no such configuration, split or option
            raise InputError(f"{spec.path}: {reason}") from err
        raise HubError(f"{spec.path} cannot be read: {reason}") from err
