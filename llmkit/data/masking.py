"""BERT's objective: some tokens of a text are hidden, and a model learns to restore them."""

import unicodedata
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from llmkit.data.corrupting import draw, threshold
from llmkit.data.order import Row
from llmkit.decoding.text import ALPHABET, BYTE_TOKEN
from llmkit.encoding.segments import find_frame
from llmkit.errors import InputError
from llmkit.metrics import HAN

Ids = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Kinds = npt.NDArray[np.int8]

IGNORED = -100  # the label of what is no target
CHOICE, FATE, SWAP = 1, 2, 3  # what random numbers are for
MASKED, SWAPPED = (
    threshold(0.8),
    threshold(0.9),
)  # below the first a chosen token becomes the mask, below the next another

# What a piece of a text begins or ends with.
JOINED, LETTER, DIGIT, SPACE, ALONE = range(5)  # JOINED: it goes on with what stands before it
CONTINUATION = bytes(range(0x80, 0xC0))  # the bytes of a UTF-8 character after its first


class Masker:
    """Hides tokens of a row: a pure function of (seed, position, row).

    Each ordinary token is chosen with a probability, independently of the others; of the chosen 80 % become the mask,
    10 % a random ordinary token and 10 % stay as they are. With `whole_word` the words of a row are chosen so, each
    with all of its tokens, and a token's probability is the same. Special tokens are never chosen.

    The token, or word, whose random number is the lowest of the row is chosen in any case, so that no row is without
    a target. That tells only where none would be chosen, with probability (1 - probability) ** tokens: 9e-10 of the
    rows of 128 tokens at 15 %.

    Source: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding", 2019,
    section 3.1; whole words as in its implementation.

    Attributes:
        mask_id: The id of the mask.
        frame: The special tokens that the tokenizer sets around a text.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        seed: int,
        probability: float = 0.15,
        whole_word: bool = False,
    ) -> None:
        """Gather what a tokenizer has for it.

        Args:
            tokenizer: The tokenizer of the model.
            seed: Decides, with a row's position, what is hidden.
            probability: Share of the tokens that are chosen.
            whole_word: Whether all tokens of a word are chosen together.

        Raises:
            InputError: The tokenizer has no mask token, or does not tell where words begin.
        """
        if tokenizer.mask_token_id is None:
            raise InputError(
                "the tokenizer has no mask token, which stands for what masked-lm hides; expected one such as [MASK]",
                hint="llmkit data tokenizer FILES --for masked-lm makes one that has it",
            )
        self.mask_id, self.frame = int(tokenizer.mask_token_id), find_frame(tokenizer)
        self.seed, self._threshold = seed, threshold(probability)
        vocabulary = {int(i): token for token, i in tokenizer.get_vocab().items()}
        marked = {int(i) for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        special = marked.union(int(i) for i in tokenizer.all_special_ids)
        self._is_special = np.zeros(max(vocabulary.keys() | special) + 1, np.bool_)
        self._is_special[list(special)] = True
        self._ordinary = np.array(sorted({*vocabulary} - special), np.int64)
        self._words = Words(tokenizer, vocabulary, self._is_special) if whole_word else None

    def __call__(self, row: Row, position: int) -> Row:
        """Set the special tokens around the tokens of a text, then hide some.

        Args:
            row: `input_ids` without special tokens, of one document. Shape: (length,).
            position: That of the row in the run.

        Returns:
            What `mask` does. Shape: (length + frame.num_special,) each.
        """
        text, first = row["input_ids"].tolist(), [i for i, _ in self.frame.before]
        if first and text[: len(first)] == first:  # RoBERTa's kind puts them before each document
            text = text[len(first) :]
        ids = self.frame.wrap(text).ids
        return self.mask({"input_ids": np.array(ids, np.int64)}, position)

    def mask(self, row: Row, position: int) -> Row:
        """Hide tokens of a row that has its special tokens.

        Args:
            row: `input_ids`, and perhaps `token_type_ids`, which stay. Shape: (length,) each.
            position: That of the row in the run.

        Returns:
            The row with tokens of `input_ids` hidden, and `labels`: the ids that stood at targets, -100 elsewhere.
            Shape: (length,) each.
        """
        ids = row["input_ids"]
        is_chosen = self._choose(ids, position)
        fate = draw(len(ids), self.seed, FATE, position)
        others = self._ordinary[draw(len(ids), self.seed, SWAP, position) % np.uint64(len(self._ordinary))]
        hidden = np.where(fate < MASKED, self.mask_id, np.where(fate < SWAPPED, others, ids))
        masked = {"input_ids": np.where(is_chosen, hidden, ids), "labels": np.where(is_chosen, ids, IGNORED)}
        return {**row, **masked}

    def _choose(self, ids: Ids, position: int) -> Flags:
        """Choose the tokens that are targets. Shape: (length,)."""
        numbers = draw(len(ids), self.seed, CHOICE, position)
        is_ordinary: Flags = ~self._is_special[ids]
        if not is_ordinary.any():
            return is_ordinary
        if self._words is not None:
            numbers = numbers[self._words.find_begins(ids).cumsum() - 1]  # all tokens of a word have one number
        is_chosen: Flags = (numbers < self._threshold) | (numbers == numbers[is_ordinary].min())
        return is_ordinary & is_chosen


class Words:
    """Tells where words begin, by the pieces of a vocabulary.

    A word is a run of letters or of digits; each other sign and each Chinese character is a word of its own. WordPiece
    marks what goes on with a word (`##ing`); elsewhere a space is part of the word after it (`Ġthe`, `▁the`).
    """

    def __init__(self, tokenizer: Any, vocabulary: Mapping[int, str], is_special: Flags) -> None:
        """Find what each piece begins and ends with.

        Raises:
            InputError: The pieces do not tell: they are neither WordPiece nor byte-level BPE nor SentencePiece.
        """
        kind = _find_kind(tokenizer, vocabulary)
        self._first: Kinds = np.full(len(is_special), ALONE, np.int8)
        self._last = self._first.copy()
        for i, token in vocabulary.items():
            if not is_special[i]:
                self._first[i], self._last[i] = classify_piece(token, kind)

    def find_begins(self, ids: Ids) -> Flags:
        """Find the tokens of a row that begin a word; the first one does. Shape: (length,)."""
        first, last = self._first[ids], self._last[ids]
        # A piece that ends a character leaves what the character is to the piece where it begins.
        ending = last[np.maximum.accumulate(np.where(last != JOINED, np.arange(len(ids)), 0))]
        before = np.concatenate((np.full(1, ALONE, np.int8), ending[:-1]))
        goes_on = (before == first) | (before == SPACE)
        begins: Flags = (first == SPACE) | (first == ALONE) | ((first != JOINED) & ~goes_on)
        begins[:1] = True
        return begins


def _find_kind(tokenizer: Any, vocabulary: Mapping[int, str]) -> str:
    """Find how pieces are written: "bytes" by GPT-2's alphabet, "##" for what goes on, "▁" for a space."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder = backend.decoder.__getstate__().decode() if backend is not None and backend.decoder is not None else ""
    if '"ByteLevel"' in decoder:
        return "bytes"
    if '"WordPiece"' not in decoder and any(token.startswith("▁") for token in vocabulary.values()):
        return "▁"
    if any(token.startswith("##") for token in vocabulary.values()):
        return "##"
    raise InputError(
        "data.masking.whole_word: the tokenizer does not tell where words begin; expected WordPiece, byte-level BPE or "
        "SentencePiece"
    )


def classify_piece(token: str, kind: str) -> tuple[int, int]:
    """Tell what a piece of a vocabulary begins and ends with.

    A character whose last bytes are missing counts as the one that they complete, of the same block; a piece of last
    bytes alone is JOINED to what stands before it on both sides.
    """
    if kind == "##":
        inside = token.removeprefix("##") if len(token) > 2 else token
        is_joined = len(inside) < len(token) and not HAN.match(inside)
        return (JOINED if is_joined else SPACE), _classify(inside[-1:])
    data = token.replace("▁", " ").encode("utf-8", "replace")
    if kind == "bytes" and all(c in ALPHABET for c in token):
        data = bytes(ALPHABET[c] for c in token)
    elif byte := BYTE_TOKEN.fullmatch(token):
        data = bytes([int(byte[1], 16)])
    rest = data.lstrip(CONTINUATION)
    if not rest:
        return JOINED, JOINED
    text = _complete(rest)
    return (_classify(text[0]) if rest == data else JOINED), _classify(text[-1])


def _complete(data: bytes) -> str:
    """Decode bytes that begin with a character; the last one may lack bytes, which any of its block complete."""
    for number in range(4):
        try:
            return (data + b"\x8c" * number).decode()
        except UnicodeDecodeError:
            continue
    return data.decode("utf-8", "replace")


def _classify(character: str) -> int:
    if character == " ":
        return SPACE
    kind = unicodedata.category(character)[0] if character else "C"
    if kind in "LM" and not HAN.match(character):
        return LETTER
    return DIGIT if kind == "N" else ALONE
