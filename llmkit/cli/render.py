"""Answers to stdout, everything else to stderr as `llmkit: note: ...` or `llmkit: error: ...`."""

import dataclasses
import json
import logging
import os
import sys
import time

MAX_ERROR = 300


class Notes(logging.Handler):
    """Keeps notes until they are shown, joined to one line, each once in a command; or shows each `at_once`."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.quiet = False
        self.at_once = False
        self.line: Line | None = None  # a line of progress that a note must not be glued to
        self._kept: list[str] = []
        self._seen: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one note that was not shown before."""
        sentence = record.getMessage()
        if sentence not in self._seen:
            self._seen.add(sentence)
            self._kept.append(sentence)
        if self.at_once:
            self.show()

    def begin(self) -> None:
        """Forget all notes."""
        self.quiet = self.at_once = False
        self._kept.clear()
        self._seen.clear()

    def show(self) -> None:
        """Show the notes kept so far."""
        kept, self._kept = self._kept, []
        if kept and not self.quiet:
            if self.line is not None:
                self.line.close()
            say("note", "; ".join(kept))


NOTES = Notes()


def listen() -> None:
    """Send what llmkit logs to the notes."""
    logger = logging.getLogger("llmkit")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of a kernel that it can do without
    NOTES.begin()
    if NOTES not in logger.handlers:
        logger.addHandler(NOTES)


def say(kind: str, sentence: str) -> None:
    """Write one line to stderr."""
    line = " ".join(sentence.split("\n"))
    write_aside(f"llmkit: {kind}: {line}\n")


def note(sentence: str) -> None:
    """Write one note at once, after those kept so far."""
    logging.getLogger("llmkit").info(sentence)
    NOTES.show()


def write_aside(text: str) -> None:
    """Write to stderr at once."""
    sys.stderr.write(text)
    sys.stderr.flush()


def show_error(message: str, hint: str | None = None, details: tuple[str, ...] = ()) -> None:
    """Write an error, its details and its hint, each on one line."""
    say("error", _bound(message))
    for detail in details:
        write_aside(f"  {_bound(detail)}\n")
    if hint:
        write_aside(f"hint: {hint}\n")


def _bound(sentence: str) -> str:
    line = " ".join(sentence.split("\n"))
    return line if len(line) <= MAX_ERROR else line[: MAX_ERROR - 1] + "…"


def to_json(result: object) -> str:
    """Write a result as one line of JSON: the fields of a dataclass, UTF-8 unescaped."""
    fields: object = dataclasses.asdict(result) if dataclasses.is_dataclass(result) else result  # type: ignore[arg-type]
    return json.dumps(fields, ensure_ascii=False)


def escape(text: str) -> str:
    r"""Write a text on one line: a line break as \n, and a backslash as \\ so that it can be read back."""
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")


class ReaderGone(Exception):
    """Says that nobody reads stdout any more, as after `| head`."""


def write(text: str) -> None:
    """Write to stdout at once.

    Raises:
        ReaderGone: The pipe is closed (raised in the place of BrokenPipeError, which typer takes for a failure).
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the last flush finds a reader
        raise ReaderGone from None


class Line:
    """Shows how far a command is: a line rewritten on a terminal, a plain line every 10 s elsewhere."""

    EVERY_S = 10.0

    def __init__(self, *, quiet: bool) -> None:
        self._quiet, self._on_terminal = quiet, sys.stderr.isatty()
        self._began = self._shown = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether it is time to show it again."""
        return not self._quiet and time.monotonic() - self._shown >= (0.2 if self._on_terminal else self.EVERY_S)

    def show(self, text: str) -> None:
        """Show a text in the place of the one before."""
        self._shown = time.monotonic()
        if self._on_terminal:
            write_aside(f"\r\x1b[K{text}")
        else:
            say("note", text)

    def close(self) -> None:
        """Clear the line."""
        if self._on_terminal and self._shown != self._began:
            write_aside("\r\x1b[K")
            self._shown = self._began


class Progress:
    """Shows how many of how many rows are done; `first` of them were done before it began."""

    def __init__(self, total: int | None, *, quiet: bool, first: int = 0) -> None:
        self._total, self._line = total, Line(quiet=quiet)
        self._started = time.monotonic()
        self._first = self._done = first

    def update(self, done: int) -> None:
        """Take the number of rows done; if it is time, show the one before, since rows come in bursts."""
        done, self._done = self._done, done
        if not self._line.is_due:
            return
        rate = (done - self._first) / max(time.monotonic() - self._started, 1e-9)
        left = f", {(self._total - done) / rate:.0f} s left" if self._total and rate > 0 else ""
        self._line.show(f"{done:,} of {self._total:,} rows{left}" if self._total else f"{done:,} rows")

    def close(self) -> None:
        """Clear the line."""
        self._line.close()
