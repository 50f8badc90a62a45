"""From documents to token ids, in bounded memory, with end-of-text after each document."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from llmkit.data.sources import Document
from llmkit.encoding import prompts
from llmkit.errors import InputError

Ids = npt.NDArray[np.int64]
Piece = tuple[Ids, bool, str]

# Characters of a block of a long document, and of a batch of blocks; the second bounds the memory of tokenizing.
BLOCK = 16_384
BATCH = 1_000_000
# Where a long document is cut, the best place first: a byte-level BPE cuts its words there anyhow.
BORDERS = tuple(re.compile(pattern, re.DOTALL) for pattern in (r".*\w(?=\s)", r".*\S(?=\s)", r".*[^\w\s](?=\w)"))
# Texts, cut at the best borders, that must give the ids of their halves; else blocks are as long as memory allows.
PROBES = (("once", " upon a time"), ("the end", "\n\nBegin"), ("公园", "\n天气"))


class Block(NamedTuple):
    """A block of a document that is tokenized at once."""

    text: str
    begins: bool
    ends: bool
    where: str


def encode_documents(tokenizer: Any, documents: Iterable[Document], *, end_of_text: bool) -> Iterator[Piece]:
    """Encode documents, in order, as (ids, whether the document ends with them, where it stands).

    A long document comes in several pieces. What the tokenizer puts before a text stays (Llama's <s>), what it puts
    after it does not; a text that spells a special token, such as `<|endoftext|>`, is encoded as the characters it is.

    Args:
        tokenizer: A tokenizer of transformers; its own state is as a call of it leaves it.
        documents: The documents, read as they are needed.
        end_of_text: Whether end-of-text follows each document.

    Raises:
        InputError: The tokenizer has neither an end-of-text token nor [SEP].
    """
    first = np.array(find_prefix(tokenizer), np.int64)
    last = np.array([find_end(tokenizer)] if end_of_text else [], np.int64)
    for batch in _gather(_cut_documents(documents, _choose_block(tokenizer))):
        for block, ids in zip(batch, encode_texts(tokenizer, [b.text for b in batch]), strict=True):
            before, after = first if block.begins else first[:0], last if block.ends else last[:0]
            yield np.concatenate((before, ids, after)), block.ends, block.where


def find_end(tokenizer: Any) -> int:
    """Find the id that ends a document: end-of-text, or [SEP] where a tokenizer has none.

    Raises:
        InputError: It has neither.
    """
    found = prompts.end_of_text(tokenizer)
    if found is None:
        hint = "data.end_of_text: false trains without; or set eos_token in tokenizer_config.json"
        raise InputError("the tokenizer has no end-of-text token and no [SEP] to end a document with", hint=hint)
    return found


def find_prefix(tokenizer: Any) -> list[int]:
    """Find the ids that the tokenizer puts before each text, as a prompt gets them in use."""
    text = "a"
    with_prefix, bare = prompts.encode_text(tokenizer, text), encode_texts(tokenizer, [text])[0]
    return with_prefix[: len(with_prefix) - len(bare)]


def encode_texts(tokenizer: Any, texts: list[str]) -> list[Ids]:
    """Encode texts as they stand: nothing is added, and no text becomes a special token."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        encoded = tokenizer(texts, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
        return [np.array(ids, np.int64) for ids in encoded]
    # A call of the tokenizer sets these three anew each time; the fast path leaves the offsets out, which cost a third.
    backend.no_truncation()
    backend.no_padding()
    before, backend.encode_special_tokens = backend.encode_special_tokens, True
    try:
        found = backend.encode_batch_fast(texts, add_special_tokens=False)
    finally:
        backend.encode_special_tokens = before
    return [np.array(encoding.ids, np.int64) for encoding in found]


def hash_tokenizer(tokenizer: Any) -> str:
    """Compute the sha256 of all that decides which ids a text gets, as lower-case hexadecimal."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        return hash_tokenizer_json(backend.to_str())
    return _hash_object([type(tokenizer).__name__, tokenizer.get_vocab()])


def hash_tokenizer_json(text: str) -> str:
    """Compute the same from the text of a tokenizer.json: of its JSON with sorted keys, no spaces, ASCII only.

    Truncation and padding, which a call sets anew, are left out.
    """
    content = json.loads(text)
    return _hash_object({key: value for key, value in content.items() if key not in ("truncation", "padding")})


def _hash_object(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _choose_block(tokenizer: Any) -> int:
    """Take short blocks where cutting a text changes no id, which keeps all threads busy; else as long as a batch."""
    for left, right in PROBES:
        whole, *halves = encode_texts(tokenizer, [left + right, left, right])
        if not np.array_equal(whole, np.concatenate(halves)):
            return BATCH
    return BLOCK


def _cut_documents(documents: Iterable[Document], size: int) -> Iterator[Block]:
    begins, rest = True, ""
    for document in documents:
        blocks, rest = cut_text(rest + document.text, size)
        if document.ends:
            blocks, rest = [*blocks, rest], ""
        for i, text in enumerate(blocks):
            yield Block(text, begins, document.ends and i == len(blocks) - 1, document.where)
            begins = False
        begins |= document.ends


def cut_text(text: str, size: int) -> tuple[list[str], str]:
    """Cut blocks of at most `size` characters off a text, at good borders; return them and the rest, no longer."""
    blocks, start = [], 0
    while len(text) - start > size:
        found = (border.match(text, start + size // 2, start + size) for border in BORDERS)
        stop = next((match.end() for match in found if match), start + size)
        blocks.append(text[start:stop])
        start = stop
    return blocks, text[start:]


def _gather(blocks: Iterator[Block]) -> Iterator[list[Block]]:
    """Gather blocks to batches of about BATCH characters."""
    for first in blocks:
        batch, size = [first], len(first.text)
        while size < BATCH and (block := next(blocks, None)) is not None:
            batch.append(block)
            size += len(block.text) + 1  # so that empty texts make a batch too
        yield batch
