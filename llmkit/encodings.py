"""Encodings of text by their names, as commands and recipes give them."""

import codecs

from llmkit.errors import InputError


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
