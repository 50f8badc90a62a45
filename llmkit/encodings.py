"""Encodings of text by their names, as commands and recipes give them."""

import codecs
from collections.abc import Iterable
from pathlib import Path

from llmkit.errors import InputError

COMMON = ("utf-8", "gb18030", "big5")  # in the order in which they are tried: the strictest first
NONE = "it is in none of utf-8, gb18030 and big5 throughout: its lines differ, or it is no text"


def find_codec(encoding: str) -> str:
    """Find the codec of an encoding; that of utf-8 takes a byte order mark away.

    Raises:
        InputError: There is no such encoding.
    """
    try:
        name = codecs.lookup(encoding).name
        "".encode(name)  # a LookupError where it is no encoding of text
    except (LookupError, ValueError):
        raise InputError(f"no such encoding, got {encoding!r}; expected one such as utf-8 or gb18030") from None
    return "utf-8-sig" if name == "utf-8" else name


def has_plain_lines(codec: str) -> bool:
    """Tell whether lines in an encoding end in the byte of a line feed, as in all but UTF-16 and UTF-32."""
    return "\n".encode(codec.removesuffix("-sig")) == b"\n"


def suggest(blocks: Iterable[bytes], encoding: str, option: str) -> str:
    """Suggest what to do about bytes that are not in an encoding; `option` is what stands before another one's name."""
    other = find_other(blocks, encoding)
    return NONE if other is None else f"{option}{other}"


def lack_mark(path: Path, encoding: str, option: str) -> InputError:
    """Say that a file does not begin with the mark of the order of its bytes, which utf-16 and utf-32 have."""
    sentence = f"{path}: {encoding} begins with a byte order mark, and this does not"
    return InputError(sentence, hint=f"{option}{encoding}-le needs none")


def find_other(blocks: Iterable[bytes], encoding: str) -> str | None:
    """Find the encoding that bytes are likely in where they are not in this one; None where no common one fits them.

    Args:
        blocks: All of the bytes, in parts.
        encoding: The one that they are not in.
    """
    tried = {name: codecs.getincrementaldecoder(name)() for name in COMMON if name != codecs.lookup(encoding).name}
    is_first = True
    for block in blocks:
        if is_first and block[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            return "utf-16"
        is_first = False
        tried = {name: decoder for name, decoder in tried.items() if b"\0" not in block and _takes(decoder, block)}
        if not tried:
            return None
    return next((name for name, decoder in tried.items() if _takes(decoder, b"", final=True)), None)


def _takes(decoder: codecs.IncrementalDecoder, block: bytes, *, final: bool = False) -> bool:
    try:
        decoder.decode(block, final=final)
    except UnicodeDecodeError:
        return False
    return True
