"""From YAML 1.2 text, or a mapping of Python, to a tree whose values know where they stand."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

COMMAND_LINE = "command line"
MAX_DEPTH = 40
MAX_VALUES = 5_000
# Scalars of the YAML 1.2 core schema: `no`, `1:30` and `2026-01-01` are text, and 1e-4 is a number.
CONSTANTS = {"": None, "~": None} | {
    form: value
    for word, value in (("null", None), ("true", True), ("false", False))
    for form in (word, word.capitalize(), word.upper())
}
INT = re.compile(r"[-+]?[0-9]{1,400}|0o[0-7]{1,400}|0x[0-9a-fA-F]{1,400}")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
NO_TEXT = re.compile(r"[\0\ud800-\udfff]")
# What an input method for Chinese types in the place of YAML's own characters, and those.
FULL_WIDTH = dict(zip("\uff1a\uff0c\uff3b\uff3d\uff5b\uff5d\u201c\u201d\u3000\xa0", ':,[]{}""  ', strict=True))
TOO_DEEP = re.compile(rf"(?:[\[{{]\s*){{{MAX_DEPTH + 1}}}")  # the scanner would look far ahead before saying so


@dataclass(frozen=True)
class Place:
    """Says where a value stands: a line of a file, or an argument of the command line; line 0 is the whole file."""

    file: str
    line: int = 0
    argument: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass(frozen=True)
class Node:
    """Holds a value and its place: a scalar, a list of nodes or a dict of nodes; `taken_back` for `key=null`."""

    value: Any
    place: Place
    taken_back: bool = False


@dataclass(frozen=True)
class Problem:
    """Says what is wrong with a key, or with a place of the file where the key is empty."""

    place: Place
    key: str
    sentence: str

    def __str__(self) -> str:
        if self.place.argument:
            text = f"{self.place}: {_cut(self.place.argument, 60)}: {self.sentence}"
        else:
            text = f"{self.place}: {_cut(self.key, 100)}{': ' if self.key else ''}{self.sentence}"
        return _cut("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text), 300)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


@dataclass
class _Open:
    """Holds a mapping or list that is not closed yet."""

    value: dict[str, Node] | list[Node]
    place: Place
    key: str | None = None
    key_place: Place | None = None
    lines: dict[str, int] = field(default_factory=dict)


class Refused(Exception):
    """Carries a problem after which nothing more can be read."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.sentence)
        self.problem = problem


def parse(text: str, file: str, argument: str = "") -> tuple[Node, list[Problem]]:
    """Read YAML text into a tree, with the problems after which reading could go on.

    Args:
        text: The text.
        file: The name for messages.
        argument: The argument of the command line that the text is part of.

    Raises:
        Refused: It is no YAML, or too deep or long.
    """
    tree = _Tree(file, argument)
    if (deep := TOO_DEEP.search(text)) is not None:
        tree.refuse(text.count("\n", 0, deep.start()) + 1, f"nested deeper than {MAX_DEPTH} levels")
    try:
        for event in YAML(typ="safe", pure=True).parse(text):
            tree.take(event)
    except MarkedYAMLError as err:
        lines = [mark.line + 1 for mark in (err.problem_mark, err.context_mark) if mark is not None] or [1]
        line, meant = _find_full_width(text, [lines[0], lines[0] - 1, lines[-1]]) or (lines[0], "")
        tree.refuse(line, _explain(err) + meant)
    except YAMLError as err:  # a character that YAML does not allow
        position = getattr(err, "position", 0)
        character = getattr(err, "character", 0)
        code = ord(character) if isinstance(character, str) else character
        tree.refuse(text.count("\n", 0, position) + 1, f"the character U+{code:04X} is not allowed in YAML")
    except (ValueError, OverflowError) as err:  # an escape beyond Unicode
        tree.refuse(1, f"not YAML ({err})")
    return tree.root or Node(None, Place(file, 0, argument)), tree.problems


def _explain(err: MarkedYAMLError) -> str:
    problem = " ".join(str(err.problem or err.context or "").split())
    if "'\\t'" in problem:
        return "tabs are not allowed; indent with spaces"
    return f"not YAML ({problem.replace('<', '').replace('>', '')})"


def _find_full_width(text: str, numbers: list[int]) -> tuple[int, str] | None:
    """Find a full-width character in one of some lines, which may be why they are no YAML: its line, and a question."""
    lines = text.splitlines()
    for number in numbers:
        content = lines[number - 1].partition(" #")[0] if 0 < number <= len(lines) else ""
        found = next((c for c in content if c in FULL_WIDTH), None)
        if found is not None:
            return number, f"; is {found!r} meant as {FULL_WIDTH[found]!r}?"
    return None


class _Tree:
    """Builds the tree from the events of the parser, without recursion."""

    def __init__(self, file: str, argument: str) -> None:
        self.file, self.argument = file, argument
        self.root: Node | None = None
        self.problems: list[Problem] = []
        self._stack: list[_Open] = []
        self._num_values = 0

    def refuse(self, line: int, sentence: str) -> None:
        raise Refused(Problem(self._place(line), "", sentence))

    def _place(self, line: int) -> Place:
        return Place(self.file, 0 if self.argument else line, self.argument)

    def _complain(self, place: Place, sentence: str) -> None:
        self.problems.append(Problem(place, "", sentence))

    def take(self, event: Any) -> None:
        """Take the next event."""
        kind = type(event).__name__
        line = event.start_mark.line + 1 if event.start_mark is not None else 1
        if kind in ("MappingEndEvent", "SequenceEndEvent"):
            closed = self._stack.pop()
            self._put(Node(closed.value, closed.place))
        elif kind in ("MappingStartEvent", "SequenceStartEvent", "ScalarEvent", "AliasEvent"):
            self._begin(event, kind, line)
        elif kind == "DocumentStartEvent" and self.root is not None:
            self.refuse(line, "a second document begins; expected one")

    def _begin(self, event: Any, kind: str, line: int) -> None:
        self._num_values += 1
        if self._num_values > MAX_VALUES:
            self.refuse(line, f"more than {MAX_VALUES:,} values")
        place = self._place(line)
        if kind == "AliasEvent":
            self.refuse(line, "aliases are not allowed")
        if event.ctag is not None:
            self._complain(place, "tags are not allowed")
        if event.anchor is not None:
            self._complain(place, "anchors are not allowed")
        above = self._stack[-1] if self._stack else None
        if above is not None and isinstance(above.value, dict) and above.key is None:
            if kind != "ScalarEvent":
                self.refuse(line, "a key must be plain text")
            self._take_key(above, event.value, place)
            return
        if kind == "ScalarEvent":
            value = resolve(event.value) if event.style is None else str(event.value)
            if isinstance(value, str) and NO_TEXT.search(value):
                self._complain(place, "a NUL or half a surrogate pair is not text")
                value = NO_TEXT.sub("\ufffd", value)
            self._put(Node(value, place))
            return
        if len(self._stack) >= MAX_DEPTH:
            self.refuse(line, f"nested deeper than {MAX_DEPTH} levels")
        start = above.key_place if above is not None and above.key_place is not None else place
        self._stack.append(_Open({} if kind == "MappingStartEvent" else [], start))

    def _take_key(self, above: _Open, key: str, place: Place) -> None:
        assert isinstance(above.value, dict)
        if key in above.value:
            where = f" at lines {above.lines[key]} and {place.line}" if place.line else ""
            self._complain(place, f"duplicate key {shorten(key)}{where}")
        if NO_TEXT.search(key):
            self._complain(place, "a NUL or half a surrogate pair is not text")
        above.lines.setdefault(key, place.line)
        above.key, above.key_place = key, place

    def _put(self, node: Node) -> None:
        if not self._stack:
            self.root = node
            return
        above = self._stack[-1]
        if isinstance(above.value, list):
            above.value.append(node)
            return
        assert above.key is not None
        assert above.key_place is not None
        above.value[above.key] = Node(node.value, above.key_place)
        above.key = above.key_place = None


def resolve(text: str) -> Any:
    """Give a plain scalar its type, by the core schema of YAML 1.2."""
    if text in CONSTANTS:
        return CONSTANTS[text]
    if INT.fullmatch(text):
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    if FLOAT.fullmatch(text):
        return float(text.replace(".", "", 1)) if text.lower().endswith(("inf", "nan")) else float(text)
    return text


def from_python(value: Any, place: Place, depth: int = 0) -> Node:
    """Turn mappings, lists and scalars of Python into a tree.

    Raises:
        Refused: A value has no form in YAML, or the nesting is too deep.
    """
    if depth > MAX_DEPTH:
        raise Refused(Problem(place, "", f"nested deeper than {MAX_DEPTH} levels"))
    if isinstance(value, Mapping):
        return Node({_check_key(key, place): from_python(v, place, depth + 1) for key, v in value.items()}, place)
    if isinstance(value, list | tuple):
        return Node([from_python(item, place, depth + 1) for item in value], place)
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    for kind in (bool, int, float, str):  # a subclass, such as a float of numpy, becomes the plain type
        if isinstance(value, kind):
            value = kind(value)
            if isinstance(value, str) and NO_TEXT.search(value):
                raise Refused(Problem(place, "", "a NUL or half a surrogate pair is not text"))
            if isinstance(value, int) and abs(value) >= 10**400:
                raise Refused(Problem(place, "", "a number of more than 400 digits"))
            return Node(value, place)
    if value is None:
        return Node(None, place)
    raise Refused(Problem(place, "", f"a value of type {type(value).__name__} has no form in YAML"))


def _check_key(key: object, place: Place) -> str:
    if not isinstance(key, str):
        raise Refused(Problem(place, "", f"a key must be text, got {show(key)}"))
    return str(key)


def plain(node: Node) -> Any:
    """Turn a tree into mappings, lists and scalars of Python."""
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [plain(child) for child in node.value]
    return node.value


def shorten(text: str) -> str:
    """Quote a text, cut to 40 characters."""
    return repr(_cut(text, 40))


def show(value: object) -> str:
    """Write a value for a message, in the words of YAML."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "[]" if not value else f"a list of {len(value)}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return shorten(value)
    return _cut(repr(value), 40)
