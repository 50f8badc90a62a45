"""Encodings by their names, and the one that bytes are likely in."""

import codecs

import pytest

from llmkit import encodings


def cut(content, size):
    return [content[first : first + size] for first in range(0, len(content), size)]


@pytest.mark.parametrize("size", [1, 3, 10_000])
@pytest.mark.parametrize(
    ("content", "asked", "found"),
    [
        ("今天天气很好\n".encode("gb18030"), "utf-8", "gb18030"),
        ("今天天气很好\n".encode(), "gb18030", "utf-8"),
        ("今天天氣很好\n".encode("big5"), "gb18030", "big5"),
        ("今天好\n".encode() + "天气\n".encode("gb18030"), "utf-8", None),
        ("今天\n".encode() + "天气\n".encode("gb18030") * 3 + b"\xff\xff", "gb18030", None),
        (b"\xe4", "ascii", None),
        (b"\0\0\xcc\xec\0", "utf-8", None),
    ],
)
def test_another_encoding_is_suggested_where_all_bytes_are_in_it(size, content, asked, found):
    assert encodings.find_other(cut(content, size), asked) == found
    if found is not None:
        assert content.decode(found)


@pytest.mark.parametrize("mark", [codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE])
def test_utf_16_is_known_by_its_mark(mark):
    codec = "utf-16-le" if mark == codecs.BOM_UTF16_LE else "utf-16-be"
    assert encodings.find_other([mark + "好".encode(codec)], "utf-8") == "utf-16"
