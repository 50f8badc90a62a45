"""From what a recipe names, or the user's own data set, to a token store or a stream."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from llmkit.data import given, hub, sources
from llmkit.data.caching import keep_store, prepare_store
from llmkit.data.ledger import Counts
from llmkit.data.store import TokenStore
from llmkit.data.tokenizing import Piece, encode_documents
from llmkit.errors import InputError
from llmkit.recipe.schema import DataSpec, SourceSpec


class Stream:
    """Opens a source from its start for each epoch; `counts` are those of the newest opening.

    `make` has to be picklable: a process that reads ahead gets a copy where it is spawned and not forked.
    """

    def __init__(self, name: str, make: Callable[[Counts], Iterator[Piece]]) -> None:
        self.counts, self._make = Counts(name), make

    def __call__(self, epoch: int) -> Iterator[Piece]:
        """Open it; each epoch reads the same."""
        vars(self.counts).update(vars(Counts(self.counts.name)))
        return self._make(self.counts)


def open_source(part: SourceSpec, spec: DataSpec, tokenizer: Any) -> TokenStore | Stream:
    """Open a source of training data; token shards are read in place, also where the others are streamed.

    Raises:
        InputError: It has no path, cannot be read, or was made by another tokenizer.
        HubError: The hub cannot give it.
        RunError: The token store cannot be written.
    """
    if part.path is None:
        raise InputError("no data to train on; expected data.path, data.mix with a path each, or dataset=")
    if not spec.streaming or sources.is_shards(part.path):
        return _open_store(part, spec, tokenizer, part.train_split)
    return Stream(part.path, partial(_stream, part, spec, tokenizer, part.train_split))


def open_given(dataset: object, spec: DataSpec, tokenizer: Any) -> TokenStore | Stream:
    """Open the user's own data set.

    Raises:
        InputError: It is none, or its rows hold neither a text nor input_ids.
        RunError: The token store cannot be written.
    """
    if given.is_stream(dataset) or spec.streaming:
        return Stream(given.NAME, partial(given.read_given, dataset, spec, tokenizer))
    return given.keep_given(dataset, spec, tokenizer)


def open_evaluation(spec: DataSpec, tokenizer: Any, dataset: object = None) -> TokenStore | None:
    """Open the evaluation data that are not the last rows of the training data; they are always a store.

    Raises:
        InputError: They cannot be read, or hold nothing.
        HubError: The hub cannot give them.
        RunError: The token store cannot be written.
    """
    if dataset is not None:
        given.is_stream(dataset)  # what can be read once only is refused
        store = given.keep_given(dataset, spec, tokenizer)
    elif spec.eval_path is not None:
        store = _open_store(spec.model_copy(update={"path": spec.eval_path}), spec, tokenizer, spec.train_split)
    elif spec.eval_split is None:
        return None
    elif spec.path is None or not hub.is_hub_id(spec.path):
        hint = "data.eval_rows and data.eval_path serve all data"
        raise InputError(f"data.eval_split: only a hub data set has splits, got {spec.path or 'data.mix'}", hint=hint)
    elif spec.streaming:
        store = _keep_streamed(spec, spec.eval_split, tokenizer)
    else:
        store = _open_store(spec, spec, tokenizer, spec.eval_split)
        store.counts.name = f"{spec.path} {spec.eval_split}"
    if store.num_documents == 0:
        raise InputError(f"0 examples in {store.counts.name} to evaluate on")
    return store


def _open_store(part: SourceSpec, spec: DataSpec, tokenizer: Any, split: str) -> TokenStore:
    assert part.path is not None
    if not sources.is_shards(part.path):
        return prepare_store(part, tokenizer, split=split, on_bad=spec.on_bad, end_of_text=spec.end_of_text)
    store = TokenStore.open(Path(part.path).expanduser())
    store.check_tokenizer(tokenizer)
    store.check_ids(len(tokenizer))
    return store


def _stream(part: SourceSpec, spec: DataSpec, tokenizer: Any, split: str, counts: Counts) -> Iterator[Piece]:
    documents = sources.read_documents(part, split=split, on_bad=spec.on_bad, streaming=True, counts=counts)
    return encode_documents(tokenizer, documents, end_of_text=spec.end_of_text)


def _keep_streamed(spec: DataSpec, split: str, tokenizer: Any) -> TokenStore:
    """Make a store of a split that is streamed, so that the others are not downloaded; it is read twice for that."""
    documents = sources.read_documents(spec, split=split, on_bad=spec.on_bad, streaming=True, counts=Counts(split))
    return keep_store(
        f"{spec.path} {split}",
        {"content": given.hash_documents(documents)},
        lambda counts: _stream(spec, spec, tokenizer, split, counts),
        tokenizer,
        end_of_text=spec.end_of_text,
    )
