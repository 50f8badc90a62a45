"""How many documents of one store stand in others too."""

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from llmkit.data.store import TokenStore

NUM_SAMPLES = 16
FACTOR = np.uint64(0x9E3779B97F4A7C15)
CHUNK = 1 << 20  # tokens that are hashed at once


def count_common(store: TokenStore, others: Iterable[TokenStore]) -> int:
    """Count the documents of a store that stand in another one too.

    A few tokens of each document, spread evenly over it, and its length find the candidates; these alone are read.
    """
    keys = _hash_samples(store)
    is_common = np.zeros(len(keys), bool)
    for other in others:
        other_keys = _hash_samples(other)
        mine = np.flatnonzero(np.isin(keys, other_keys) & ~is_common)
        theirs = set(_hash_documents(other, np.flatnonzero(np.isin(other_keys, keys[mine]))))
        is_common[mine] = [digest in theirs for digest in _hash_documents(store, mine)]
    return int(is_common.sum())


def _hash_samples(store: TokenStore) -> npt.NDArray[np.uint64]:
    """Hash the length and the samples of each document. Shape: (num_documents,)."""
    lengths = np.diff(store.starts)
    keys = lengths.astype(np.uint64) * FACTOR
    for i in range(NUM_SAMPLES):
        ids = store.take(store.starts[:-1] + (lengths - 1) * i // (NUM_SAMPLES - 1))
        keys = ((keys ^ (keys >> np.uint64(29))) + ids.astype(np.uint64)) * FACTOR
    return keys


def _hash_documents(store: TokenStore, documents: Iterable[int]) -> Iterator[bytes]:
    for document in documents:
        digest, stop = hashlib.sha256(), int(store.starts[document + 1])
        for start in range(int(store.starts[document]), stop, CHUNK):
            digest.update(store.read(start, min(CHUNK, stop - start)).tobytes())
        yield digest.digest()
