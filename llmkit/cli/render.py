"""Answers to stdout, everything else to stderr as `llmkit: note: ...` or `llmkit: error: ...`."""

import dataclasses
import json
import logging
import os
import sys
import time

MAX_ERROR = 300


class Notes(logging.Handler):
    """Keeps notes until they are shown, joined to one line, each once in a command."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.quiet = False
        self._kept: list[str] = []
        self._seen: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one note that was not shown before."""
        sentence = record.getMessage()
        if sentence not in self._seen:
            self._seen.add(sentence)
            self._kept.append(sentence)

    def begin(self) -> None:
        """Forget all notes."""
        self.quiet = False
        self._kept.clear()
        self._seen.clear()

    def show(self) -> None:
        """Show the notes kept so far."""
        kept, self._kept = self._kept, []
        if kept and not self.quiet:
            say("note", "; ".join(kept))


NOTES = Notes()


def listen() -> None:
    """Send what llmkit logs to the notes."""
    logger = logging.getLogger("llmkit")
    logger.setLevel(logging.INFO)
    logger.propagate = False
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


def show_error(message: str, hint: str | None = None) -> None:
    """Write an error, and its hint, each on one line."""
    say("error", message if len(message) <= MAX_ERROR else message[: MAX_ERROR - 1] + "…")
    if hint:
        write_aside(f"hint: {hint}\n")


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


class Progress:
    """Shows how many of how many rows are done: a line rewritten on a terminal, a plain line every 10 s elsewhere."""

    EVERY_S = 10.0

    def __init__(self, total: int | None, *, quiet: bool) -> None:
        self._total, self._quiet = total, quiet
        self._on_terminal = sys.stderr.isatty()
        self._started = self._shown = time.monotonic()
        self._done = 0

    def update(self, done: int) -> None:
        """Take the number of rows done; if it is time, show the one before, since rows come in bursts."""
        now, (done, self._done) = time.monotonic(), (self._done, done)
        if self._quiet or now - self._shown < (0.2 if self._on_terminal else self.EVERY_S):
            return
        self._shown = now
        rate = done / max(now - self._started, 1e-9)
        left = f", {(self._total - done) / rate:.0f} s left" if self._total and rate > 0 else ""
        line = f"{done:,} of {self._total:,} rows{left}" if self._total else f"{done:,} rows"
        if self._on_terminal:
            write_aside(f"\r\x1b[K{line}")
        else:
            say("note", line)

    def close(self) -> None:
        """Clear the line."""
        if self._on_terminal and self._shown != self._started:
            write_aside("\r\x1b[K")
