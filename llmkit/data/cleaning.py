r"""Rules that take away what is not prose: Markdown's marks, code, URLs, line breaks, paragraphs of another kind.

What is left are paragraphs with one blank line between them; a heading is a paragraph of its own, and the lines of a
paragraph, a list or a table stay lines. The rules read line by line with bounded patterns, not by a parser of
CommonMark: there `**重点。**后` is no emphasis, since its closing mark stands between a full stop and a letter, and a
megabyte of `[` takes minutes (markdown-it-py 4.3).
"""

import html
import re
from collections.abc import Callable, Iterator
from itertools import pairwise

from llmkit.recipe.schema import CleanSpec

# While a text is cleaned, GONE stands where something was dropped, and a number between two KEPT where a piece waits to
# be put back.
GONE, KEPT = "\x01", "\x02"
PIECE = re.compile(f"{KEPT}([0-9]+){KEPT}")
HAN = re.compile("[々〇\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+")
LETTERS = re.compile(r"[^\W\d_]+")
WIDTHS = range(30, 121)  # characters of a line, for which a document counts as wrapped
WIDE = re.compile(r"[\u3000-\u303f\u3400-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]")  # no space there
FIRST_WORD = re.compile(r"[\u3400-\u9fff]|\S+?(?=[\s\u3400-\u9fff]|$)")

BLOCK_MARKS = tuple("#>|-*+=_[")
FENCE = re.compile(r"[ \t>]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)?(`{3,}|~{3,})([^`]*)")
ITEM = re.compile(r"[ \t]*(?:[-*+]|\d{1,9}[.)])(?:[ \t]|$)")
INDENTED = re.compile(r"(?: {4}| {0,3}\t)[ \t]*\S")
BREAK = re.compile(r" {0,3}(?:(?:-[ \t]*){2,}|(?:\*[ \t]*){3,}|(?:_[ \t]*){3,}|=+[ \t]*)")
DEFINITION = re.compile(
    r" {0,3}\[(?!\^)[^\[\]]{1,200}\]:[ \t]*+"
    r"(?:(?:https?:|ftp:|mailto:|data:|[/#]).*|<[^<>]*>|\S*)"
    r"""(?:[ \t]+(?:"[^"]*"|'[^']*'|\(.*\)))?[ \t]*"""
)
FOOTNOTE = re.compile(r" {0,3}\[\^[^\[\]]{1,200}\]:[ \t]*")
QUOTE = re.compile(r"(?: {0,3}>[ \t]?)+")
HEADING = re.compile(r" {0,3}(?:#{1,6}(?:[ \t]+|$)|#{2,6}(?=[^#\s])|#(?=[\u4e00-\u9fff]))")
BULLET = re.compile(r"[ \t]*[-*+](?:[ \t]+(?:\[[ xX]\][ \t]+)?|$)")

LABEL = r"\[((?:[^\[\]\n]|\[[^\[\]\n]{0,200}\]){0,1000})\]"
TARGET = r"(?:\([ \t]*(?:[^()\n]|\([^()\n]{0,500}\)){0,4000}\)|[ ]?\[[^\[\]\n]{0,200}\])"
IMAGE = re.compile("!" + LABEL + TARGET)
LINK = re.compile(LABEL + TARGET)
FOOTNOTE_MARK = re.compile(r"\[\^[^\[\]\n]{1,200}\]")
ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
AUTOLINK = re.compile(r"<((?:https?|ftp)://[^<>\s]{1,4000}|mailto:[^<>\s]{1,400}|[\w.+-]{1,100}@[\w.-]{1,200})>")
# Only elements that are known: <username> in a text is a word. An annotation <rt> is not part of the running text.
HIDDEN = ("rt", "rp", "script", "style")
ELEMENTS = """
a abbr address article aside audio b big blockquote body br button canvas caption center cite code col colgroup dd del
details dfn div dl dt em embed fieldset figcaption figure font footer form h1 h2 h3 h4 h5 h6 head header hr html i
iframe img input ins kbd label legend li link main map mark meta nav noscript object ol option p param picture pre q rb
rp rt rtc ruby s samp script section select small source span strike strong style sub summary sup svg table tbody td
textarea tfoot th thead time title tr track tt u ul var video wbr
"""
TAG = re.compile(rf"</?(?:{'|'.join(ELEMENTS.split())})(?:[\s/][^<>]{{0,4000}})?>", re.IGNORECASE)
EMPHASIS = (
    re.compile(r"(?<![A-Za-z0-9*])(\*)(?=[^\s*])([^*\n]{1,2000})(?<=\S)\*(?![A-Za-z0-9*])"),
    re.compile(r"(\*{2,3})([^*\n]{1,2000})\1"),  # with a space inside, too: a common slip
    re.compile(r"(?<![A-Za-z0-9_])(_{1,3})(?=[^\s_])([^_\n]{1,2000})(?<=\S)\1(?![A-Za-z0-9_])"),
    re.compile(r"(~~)(?=[^\s~])([^~\n]{1,2000})(?<=\S)~~"),
)
ESCAPE = re.compile(r"\\([!-/:-@\[-`{-~])")
TICKS = re.compile("`+")

# ASCII only: a URL in Chinese text ends where Han or their punctuation begins.
URL_CHARACTER = r"[A-Za-z0-9\-._~:/?#@!$&'*+,;=%|\[\]()]"
URL = re.compile(
    rf"<(?:https?|ftp)://[^<>\s]{{1,4000}}>|(?:(?:https?|ftp)://|(?<![A-Za-z0-9@./])www\.){URL_CHARACTER}{{1,4000}}",
    re.IGNORECASE,
)
GAP = re.compile(
    rf"([ \t]?)(?:\([ \t]*{GONE}+[ \t]*\)|（[ \t]*{GONE}+[ \t]*）|{GONE}+)([ \t]?)"
    "(?=([,.;:!?)。，、；：！？）》」』】”]?))"
)


def clean(text: str, spec: CleanSpec) -> tuple[str, str | None]:
    """Clean a document by the rules that are on.

    - `markdown`: headings, quotes, bullets, emphasis, links and tables keep their text and lose their marks (the cells
      of a row are joined by a space; the numbers of a list stay); images, link definitions, rules, HTML tags, comments,
      ruby annotations and front matter go. Code keeps its text as it stands.
    - `code`: fenced and indented blocks go; the words of inline code stay, since a sentence needs them. A fence that is
      never closed holds no block.
    - `urls`: `https://`, `http://`, `ftp://` and `www.` go, with the brackets around them.
    - `unwrap`: in a document that is wrapped (at a width of 30 to 120, which 95 % of its lines keep) a line break goes
      where the next word would not have fitted into the line before it. The ends of lines lose white space in any one.
    - `min_han_share`: a paragraph with a smaller share of Han among its letters goes, and so does one without letters.
    - `min_paragraph_chars`: a shorter paragraph goes.

    Returns:
        The text, without white space at its ends, and the rule that emptied it, or None where text is left.
    """
    text = text.replace("\r\n", "\n").replace(GONE, "").replace(KEPT, "")
    if spec.markdown or spec.code:
        text = _clean_marks(text, markdown=spec.markdown, code=spec.code)
        if not text.strip():
            return "", "markdown" if spec.markdown else "code"
    if spec.urls:
        text = "\n".join(_drop_urls(line) for line in text.split("\n"))
        if not text.strip():
            return "", "urls"
    if spec.unwrap:
        text = _unwrap(text.split("\n"))
    paragraphs = [p.rstrip() for p in re.split(r"\n(?:[ \t]*\n)+", text.strip("\n")) if p.strip()]
    if spec.min_han_share is not None:
        paragraphs = [p for p in paragraphs if _has_han_share(p, spec.min_han_share)]
        if not paragraphs:
            return "", "min_han_share"
    if spec.min_paragraph_chars is not None:
        paragraphs = [p for p in paragraphs if len(p) >= spec.min_paragraph_chars]
        if not paragraphs:
            return "", "min_paragraph_chars"
    return "\n\n".join(paragraphs).strip(), None


def _has_han_share(paragraph: str, share: float) -> bool:
    num_letters = sum(map(len, LETTERS.findall(paragraph)))
    return num_letters > 0 and sum(map(len, HAN.findall(paragraph))) >= share * num_letters


def _unwrap(lines: list[str]) -> str:
    lines = [line.strip() for line in lines]
    lengths = sorted(len(line) for line in lines if line)
    width = lengths[len(lengths) * 95 // 100] if lengths else 0
    if width not in WIDTHS:
        return "\n".join(lines)
    parts = lines[:1]
    for before, line in pairwise(lines):
        if not before or not line or len(before) + 1 + len(FIRST_WORD.match(line)[0]) <= width:  # type: ignore[index]
            parts.append("\n")
        elif not before.endswith(("-", "\u2014")) and not (WIDE.match(before[-1]) or WIDE.match(line)):
            parts.append(" ")
        parts.append(line)
    return "".join(parts)


def _drop_urls(line: str) -> str:
    return _close_gaps(URL.sub(_drop_url, line)) if "://" in line or "www." in line.lower() else line


def _drop_url(match: re.Match[str]) -> str:
    """Leave the punctuation that ends a sentence, and a bracket that was opened before the URL."""
    url = match[0]
    if url.startswith("<"):
        return GONE
    end = len(url)
    surplus = {")": url.count(")") - url.count("("), "]": url.count("]") - url.count("[")}
    while url[end - 1] in ".,;:!?'*|" or surplus.get(url[end - 1], 0) > 0:
        end -= 1
        if url[end] in surplus:
            surplus[url[end]] -= 1
    return GONE + url[end:]


def _close_gaps(text: str) -> str:
    """Take GONE away: of the two spaces around it one stays between words, none before a mark or at a line's end."""
    if GONE not in text:
        return text
    text = GAP.sub(lambda gap: " " if gap[1] and gap[2] and not gap[3] else "", text)
    return "\n".join(line.rstrip(" \t") for line in text.split("\n"))


def _clean_marks(text: str, *, markdown: bool, code: bool) -> str:
    parts: list[str] = []
    lines = (text.replace("\xa0", " ") if markdown else text).split("\n")
    for is_code, block in _split_code(_drop_front_matter(lines) if markdown else lines):
        if not is_code:
            prose = "\n".join(_strip_blocks(block) if markdown else block)
            parts.append(_clean_inline(prose, markdown=markdown, code=code))
        elif not code:
            parts.append("\n".join(block))
        else:
            parts.append("")
    return "\n\n".join(parts) if markdown else "\n".join(parts)


def _drop_front_matter(lines: list[str]) -> list[str]:
    """Drop the metadata between two lines `---` at the very beginning of many Markdown files."""
    if lines[0].rstrip() == "---":
        for i, line in enumerate(lines[1:200], 1):
            if line.rstrip() in ("---", "..."):
                return lines[i + 1 :]
            if line and not re.match(r"[\w.-]{1,60}[ \t]*:|[ \t#-]", line):
                break
    return lines


def _split_code(lines: list[str]) -> Iterator[tuple[bool, list[str]]]:
    """Split lines into prose and blocks of code, the marks of a fence taken away."""
    prose: list[str] = []
    in_list = False
    i = 0
    unclosed = {"`": 10**9, "~": 10**9}  # a fence as long as this, or longer, is not closed any more
    while i < len(lines):
        line, end = lines[i], 0
        fence = FENCE.fullmatch(line)
        if fence and len(fence[1]) < unclosed[fence[1][0]]:
            end = _find_fence_end(lines, i, fence[1])
            if not end:
                unclosed[fence[1][0]] = len(fence[1])
        if fence:
            yield False, prose
            prose = []
            if end:
                yield True, lines[i + 1 : end]
            i = max(i, end) + 1
            continue
        after_blank = not prose or not prose[-1].strip()
        if not in_list and after_blank and INDENTED.match(line):
            yield False, prose
            prose, start = [], i
            while i < len(lines) and (INDENTED.match(lines[i]) or not lines[i].strip()):
                i += 1
            yield True, lines[start:i]
            continue
        if line.strip():
            in_list = bool(ITEM.match(line)) or (in_list and (line[0] in " \t" or not after_blank))
        prose.append(line)
        i += 1
    yield False, prose


def _find_fence_end(lines: list[str], start: int, mark: str) -> int:
    for i in range(start + 1, len(lines)):
        stripped = lines[i].strip(" \t>")
        if stripped.startswith(mark) and not stripped.strip(mark[0]):
            return i
    return 0


def _strip_blocks(lines: list[str]) -> Iterator[str]:
    """Take away the marks at the beginning of lines, and lines that are marks alone."""
    in_table = False
    for i, raw in enumerate(lines):
        line = raw.strip()
        in_table = bool(line) and (
            in_table or _is_table_rule(line) or _is_table_rule(lines[min(i + 1, len(lines) - 1)])
        )
        if not in_table and line[:1] not in BLOCK_MARKS:
            yield line
            continue
        line = raw[quote.end() :] if (quote := QUOTE.match(raw)) else raw
        if _is_table_rule(line) or DEFINITION.fullmatch(line):
            continue
        if BREAK.fullmatch(line):
            yield ""
        elif heading := HEADING.match(line):
            yield from ("", _drop_heading_end(line[heading.end() :].strip()), "")
        elif in_table or line.lstrip().startswith("|"):
            yield " ".join(cell.strip() for cell in line.strip().strip("|").split("|"))
        else:
            mark = FOOTNOTE.match(line) or BULLET.match(line)
            yield line[mark.end() if mark else 0 :].strip()


def _drop_heading_end(line: str) -> str:
    shorter = line.rstrip("#")
    return shorter.rstrip() if shorter[-1:] in " \t" or line.endswith("##") else line


def _is_table_rule(line: str) -> bool:
    return "|" in line and "-" in line and not line.strip("|:- \t")


def _clean_inline(text: str, *, markdown: bool, code: bool) -> str:
    kept: list[str] = []

    def keep(piece: str) -> str:
        kept.append(piece)
        return f"{KEPT}{len(kept) - 1}{KEPT}"

    def take_span(content: str, raw: str) -> str:
        return keep(content if markdown else raw)

    paragraphs = text.split("\n\n")
    text = "\n\n".join(_replace_spans(p, take_span) if "`" in p else p for p in paragraphs)
    if markdown:
        text = ESCAPE.sub(lambda escape: keep(escape[1]), text)
        text = _drop_between(text, "<!--", "-->")
        if "<" in text:
            text = AUTOLINK.sub(r"\1", text)
            for name in (*HIDDEN, *(("pre",) if code else ())):
                text = _drop_between(text, f"<{name}>", f"</{name}>")
            text = TAG.sub("", text)
        text = IMAGE.sub(GONE, text)
        text = LINK.sub(lambda link: link[0] if link[1].isdigit() and link[0].endswith("]") else link[1], text)
        text = FOOTNOTE_MARK.sub("", text)
        for _ in range(2):  # one may stand within another
            for pattern in EMPHASIS:
                text = pattern.sub(r"\2", text)
        text = ENTITY.sub(lambda entity: html.unescape(entity[0]), text).replace("\xa0", " ")
        text = re.sub(r"[ \t]{2,}", " ", text)
    text = PIECE.sub(lambda piece: kept[int(piece[1])], text)
    return _close_gaps(text)


def _replace_spans(text: str, replace: Callable[[str, str], str]) -> str:
    """Replace inline code: what stands between two runs of backticks of one length."""
    runs = [match.span() for match in TICKS.finditer(text)]
    later: dict[int, list[int]] = {}
    for i in range(len(runs) - 1, -1, -1):
        later.setdefault(runs[i][1] - runs[i][0], []).append(i)
    parts: list[str] = []
    done = i = 0
    while i < len(runs):
        start, end = runs[i]
        closers = later[end - start]
        while closers and closers[-1] <= i:
            closers.pop()
        if closers:
            i = closers[-1]
            parts += [text[done:start], replace(text[end : runs[i][0]].strip(" "), text[start : runs[i][1]])]
            done = runs[i][1]
        i += 1
    return "".join([*parts, text[done:]])


def _drop_between(text: str, begin: str, end: str) -> str:
    """Drop everything from a mark to the next closing one; one that is never closed stays."""
    parts: list[str] = []
    done = 0
    while (start := text.find(begin, done)) >= 0 and (stop := text.find(end, start)) >= 0:
        parts.append(text[done:start])
        done = stop + len(end)
    return "".join([*parts, text[done:]])
