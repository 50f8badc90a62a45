"""Sentence borders by character offsets, and the joining of what was made of the sentences: nothing is lost.

A line break ends a sentence. What lies between two sentences (white space, line breaks, indentation, marks without a
letter or digit) belongs to neither, and stays as it is when they are joined.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence

import sentencex

Span = tuple[int, int]

BLOCK = 2000  # characters that sentencex sees at once: it takes 250 s for a million without spaces (1.0.32)
LINE = re.compile("[^\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]+")
SPLITS = re.compile("[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")  # what breaks a line
SURROGATE = re.compile("[\ud800-\udfff]")
# Han, kana, bopomofo, their punctuation and full-width forms: written without spaces.
WIDE = re.compile("[\u2e80-\u312f\u3190-\ua4cf\uf900-\ufaff\ufe30-\ufe4f\uff00-\uff9f\U00020000-\U0003ffff]")
# Where a sentence that is too long is cut: after a clause, with the quotes and brackets that close it.
CLAUSE = re.compile(r"[，；：、。！？…—]+[”’」』）】》]*|[,;:.!?]+[\"'”’)\]]*(?=\s)")
CLOSERS = "”’」』）】》〉〕］｝"
SPACE = re.compile(r"\s+")


def split(text: str, language: str = "en") -> Iterator[Span]:
    """Give the sentences of a text in order, as (start, end) in characters.

    None begins or ends with white space or holds a line break, and each has a letter or a digit: the rest of the text
    has nothing to translate.

    Args:
        text: Any text; it is read as it goes, line by line.
        language: The ISO 639 code of its language, for its abbreviations.
    """
    for line in LINE.finditer(text):
        start, end = line.span()
        while start < end:
            block = text[start : min(start + BLOCK, end)]
            ends = _find_ends(block, language)
            if start + BLOCK < end:  # the last sentence may go on after the block
                ends = ends[:-1] or [find_cut(block, 0, len(block))]
            before = 0
            for at in ends:
                yield from trim(text, start + before, start + at)
                before = at
            start += before


def _find_ends(block: str, language: str) -> list[int]:
    found = sentencex.get_sentence_boundaries(language, SURROGATE.sub("\ufffd", block))
    ends = list(dict.fromkeys(_pass_closers(block, int(border["end_index"])) for border in found))
    return ends if ends and ends[-1] == len(block) else [*ends, len(block)]


def _pass_closers(block: str, end: int) -> int:
    """Move the end of a sentence past marks that close it, of which sentencex 1.0 does not know all."""
    while 0 < end < len(block) and block[end] in CLOSERS:
        end += 1
    return end


def trim(text: str, start: int, end: int) -> list[Span]:
    """Take the white space at its ends from a span; no span is left where it has neither a letter nor a digit."""
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    return [(start, end)] if any(c.isalnum() for c in text[start:end]) else []


def cut(text: str, span: Span, fits: Callable[[str], bool]) -> Iterator[Span]:
    """Cut a sentence into spans that fit: after a clause, else at a space, else between two characters.

    Args:
        text: The text that holds it.
        span: The sentence.
        fits: Tells whether a piece is short enough; one character alone is taken as it is.
    """
    start, end = span
    while start < end and not fits(text[start:end]):
        low, high = 1, end - start
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(text[start : start + middle]) else (low, middle)
        at = find_cut(text, start, start + low)
        while at - start > 1 and not fits(text[start:at].strip()):  # fewer characters are rarely more tokens
            at -= 1
        yield from trim(text, start, at)
        start = at
    yield from trim(text, start, end)


def find_cut(text: str, start: int, most: int) -> int:
    """Find where to cut a text that begins at `start`, in the second half of what ends at `most`."""
    half = (start + most) // 2
    for pattern in (CLAUSE, SPACE):
        found = [m.end() for m in pattern.finditer(text, half, min(most + 1, len(text))) if half < m.end() <= most]
        if found:
            return found[-1]
    at = most
    while at > half + 1 and at < len(text) and _is_inside(text[at - 1], text[at]):
        at -= 1
    return max(at, start + 1)


def _is_inside(left: str, right: str) -> bool:
    """Tell whether two characters make one: a mark or joiner after its base, a pair of surrogates."""
    if "\ud800" <= left <= "\udbff" and "\udc00" <= right <= "\udfff":
        return True
    return left == "\u200d" or right == "\u200d" or unicodedata.category(right) in ("Mn", "Mc", "Me")


def join(text: str, spans: Sequence[Span], parts: Sequence[str], *, spaced: bool | None = None) -> str:
    """Put a part in the place of each span, and keep what lies between them.

    Args:
        text: The source.
        spans: Its sentences, in order.
        parts: What each has become.
        spaced: Whether spaces stand between sentences. False drops the source's, True puts one where the source has
            none; None decides by the part before. Where words were cut in the middle none is put.
    """
    made, end = [], 0
    for i, (start, following) in enumerate(spans):
        gap = text[end:start]
        if i > 0 and not gap.strip(" "):
            gap = _space(text, end, start, parts[i - 1], spaced)
        made += [gap, parts[i]]
        end = following
    return "".join([*made, text[end:]])


def _space(text: str, end: int, start: int, before: str, spaced: bool | None) -> str:
    if spaced is None:
        spaced = not WIDE.match(before[-1:])
    if not spaced:
        return ""
    in_word = text[end - 1].isalnum() and text[start].isalnum() and not WIDE.match(text[end - 1])
    return text[end:start] or ("" if in_word else " ")
