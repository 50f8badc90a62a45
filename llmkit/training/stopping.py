"""Why a run stops before its end: a signal, or the seconds that it was given."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType, TracebackType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """Says that a signal ended a run after it was saved; `step` is the checkpoint to go on from."""

    def __init__(self, number: int, step: int) -> None:
        super().__init__(f"signal {number}, step {step} saved")
        self.number = number
        self.step = step

    @property
    def exit_code(self) -> int:
        """The exit code of a process that this signal ended."""
        return 128 + self.number


class Halted(KeyboardInterrupt):
    """Says that a signal ended a block at once; what it was doing is done again later."""


class StopFlag:
    """Remembers the first SIGINT or SIGTERM until the loop asks; the second ends the process at once.

    Outside of the main thread Python delivers no signals, and none are taken.
    """

    def __init__(self, max_seconds: float | None = None) -> None:
        self.number = 0
        self._halts = False
        self._deadline = None if max_seconds is None else time.monotonic() + max_seconds
        self._kept: dict[int, object] = {}

    def __enter__(self) -> "StopFlag":
        if threading.current_thread() is threading.main_thread():
            self._kept = {number: signal.signal(number, self._remember) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._kept.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal gave back

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            os._exit(128 + number)
        self.number = number
        if self._halts:
            raise Halted

    @contextlib.contextmanager
    def halting(self) -> Iterator[None]:
        """Let a signal end the block at once, where what it computes can be thrown away.

        Raises:
            Halted: One came, in it or before.
        """
        self._halts = True
        try:
            if self.number:
                raise Halted
            yield
        finally:
            self._halts = False

    @property
    def has_deadline(self) -> bool:
        """Whether the run was given a number of seconds."""
        return self._deadline is not None

    @property
    def out_of_time(self) -> bool:
        """Whether the seconds that the run was given are over."""
        return self._deadline is not None and time.monotonic() >= self._deadline
