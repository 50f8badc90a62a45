"""From ids to text as they come: whole characters, stop strings cut off, nothing held back longer than it must be."""

import codecs
import functools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from transformers import GenerationConfig

from llmkit.decoding.decoder import Decoder

BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
# Han, kana, bopomofo, their punctuation and full-width forms, and the quotes and dots of Chinese text: written without
# spaces. Hangul is left out, since Korean puts spaces between words.
SPACELESS = re.compile(
    "[\u2014\u2018\u2019\u201c\u201d\u2026\u2e80-\u312f\u3190-\ua4cf\uf900-\ufaff\ufe30-\ufe4f\uff00-\uff9f\uffe0-\uffef"
    "\U00020000-\U0003ffff]"
)


def _byte_alphabet() -> dict[str, int]:
    """Build the inverse of GPT-2's byte-to-character table.

    Source: bytes_to_unicode in OpenAI's gpt-2 encoder.py: printable bytes stand for themselves, the others, in order,
    for the characters from U+0100.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(others)}


ALPHABET = _byte_alphabet()


class Pieces:
    """Turns ids into the bytes that each adds to a text, given the id before it.

    Byte-level and byte-fallback vocabularies give their bytes; any other gives the text that an id adds after its
    predecessor, as the tokenizer's own decoder writes it.
    """

    def __init__(self, tokenizer: Any) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._token: Callable[[int], str | None]
        self._decode: Callable[[list[int]], str]
        if backend is not None:
            self._token, self._decode = backend.id_to_token, backend.decode
        else:  # a tokenizer written in Python, such as CTRL's
            self._token = tokenizer.convert_ids_to_tokens
            self._decode = functools.partial(
                tokenizer.decode, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        kind = backend.decoder.__getstate__().decode() if backend is not None and backend.decoder is not None else ""
        self._by_bytes = '"ByteLevel"' in kind
        self._by_fallback = backend is None or '"ByteFallback"' in kind
        self._spaceless = '"WordPiece"' in kind
        # all_special_ids holds only those with a role; as tokenizer.decode, skip each that is marked special
        special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._skipped = special.union(tokenizer.all_special_ids)

    def skips(self, token_id: int) -> bool:
        """Tell whether an id is a special token, which adds nothing to the text."""
        return token_id in self._skipped

    def bytes_of(self, token_id: int, before: int | None) -> bytes:
        """Give the UTF-8 bytes, perhaps part of a character, that an id adds after the id before it."""
        if self.skips(token_id):
            return b""
        token = self._token(token_id)
        if token is None:  # an id beyond the vocabulary: some checkpoints pad their embedding
            return b""
        if self._by_bytes:
            codes = [ALPHABET.get(c) for c in token]
            return bytes(c for c in codes if c is not None) if None not in codes else token.encode()
        if self._by_fallback and (byte := BYTE_TOKEN.fullmatch(token)):
            return bytes([int(byte[1], 16)])
        return self._added_text(token_id, before).encode("utf-8", "replace")

    def _added_text(self, token_id: int, before: int | None) -> str:
        if before is None:
            return self._decode([token_id])
        left, both = self._decode([before]), self._decode([before, token_id])
        added = both[len(left) :] if both.startswith(left) else self._decode([token_id])
        if self._spaceless and added.startswith(" ") and len(added) > 1 and left:
            return added[1:] if SPACELESS.match(left[-1]) or SPACELESS.match(added[1]) else added
        return added


@dataclass
class Writer:
    """Writes the text of one row: whole characters only, and nothing from a stop string on."""

    pieces: Pieces
    prompt_ids: Sequence[int]
    stop: Sequence[str] = ()
    token_ids: list[int] = field(default_factory=list)
    _held: str = ""

    def __post_init__(self) -> None:
        self._before = next((i for i in reversed(self.prompt_ids) if not self.pieces.skips(i)), None)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, token_id: int) -> tuple[str, bool]:
        """Add an id; return the text that is now certain, and whether a stop string was completed."""
        self.token_ids.append(token_id)
        added = self._decoder.decode(self.pieces.bytes_of(token_id, self._before))
        if not self.pieces.skips(token_id):
            self._before = token_id
        text, self._held = self._held + added, ""
        # the one that is complete first, however the text is cut into tokens
        found = [(at + len(stop), at) for stop in self.stop if (at := text.find(stop)) >= 0]
        if found:
            return text[: min(found)[1]], True
        hold = max((_overlap(text, stop) for stop in self.stop), default=0)
        text, self._held = text[: len(text) - hold], text[len(text) - hold :]
        return text, False

    def close(self) -> str:
        """End the row: give the text held back for a stop string that never came. Half a character stays out."""
        text, self._held = self._held, ""
        return text


def _overlap(text: str, stop: str) -> int:
    """Measure the longest end of a text that is a beginning of a stop string, in characters."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)


@dataclass(frozen=True)
class Request:
    """Asks for the continuation of one prompt."""

    prompt_ids: list[int]
    config: GenerationConfig
    seed: int
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Update:
    """Says what a step added to one request: its text, and at the end its ids and why it ended."""

    index: int
    text: str
    finish_reason: Literal["eos", "stop", "length"] | None = None
    token_ids: tuple[int, ...] = ()


def run(decoder: Decoder, tokenizer: Any, requests: Iterable[Request], width: int) -> Iterator[Update]:
    """Decode requests, at most `width` rows at a time; as one ends the next joins.

    Requests are drawn as there is room for them, and an update comes for each that has new text or has ended. Rows
    leave the decoder when the iterator is closed.
    """
    pieces, waiting = Pieces(tokenizer), enumerate(requests)
    live: dict[int, tuple[int, Writer]] = {}
    try:
        while True:
            while len(live) < width and (following := next(waiting, None)) is not None:
                index, request = following
                key = decoder.add(request.prompt_ids, request.config, request.seed)
                live[key] = (index, Writer(pieces, request.prompt_ids, request.stop))
            if not live:
                return
            yield from _take_step(decoder, live)
    finally:
        for key in live:
            decoder.remove(key)


def _take_step(decoder: Decoder, live: dict[int, tuple[int, Writer]]) -> list[Update]:
    texts: dict[int, str] = {}
    ended: dict[int, Literal["eos", "stop", "length"]] = {}
    for key, token_id, reason in decoder.step():
        if key in ended:  # a stop string came earlier among the tokens of this step
            continue
        writer, stopped = live[key][1], False
        text = ""
        if reason != "eos":
            text, stopped = writer.add(token_id)
        if stopped:
            ended[key] = "stop"
            decoder.remove(key)
        elif reason is not None:
            text += writer.close()
            ended[key] = reason
        texts[key] = texts.get(key, "") + text
    updates = []
    for key, text in texts.items():
        index, writer = live[key]
        if key in ended:
            del live[key]
            updates.append(Update(index, text, ended[key], tuple(writer.token_ids)))
        elif text:
            updates.append(Update(index, text))
    return updates
