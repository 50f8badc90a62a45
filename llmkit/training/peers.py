"""The processes of one run before they can talk through torch: who they are, what the first decides, what all must do.

A launcher (`--num-processes`, accelerate launch, torchrun) tells each process its rank by RANK, WORLD_SIZE, MASTER_ADDR
and MASTER_PORT. Until all are ready to train they speak through torch's key-value store: preparing the data may take
hours, and nothing that is waited for there has a time limit.
"""

import contextlib
import functools
import itertools
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from llmkit.claiming import claim
from llmkit.errors import InputError, LlmkitError, RunError
from llmkit.training.launching import end_with_launcher

if TYPE_CHECKING:
    from torch.distributed import Store

logger = logging.getLogger("llmkit")

BEAT_S = 10.0  # after so many seconds at one thing the first process says what that is
START_S = 600  # within which all processes have to be there
LINGER_S = 5.0
ASK_EVERY_S = 0.1

Result = TypeVar("Result")


class OthersFailed(LlmkitError):
    """Says in one process that another has said why all of them end."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("another process of this run says why it ends")
        self.exit_code = exit_code


class Heartbeat:
    """Says what the first of several processes is at, where that has not changed for a while.

    `stage` is its name, or gives it, as the step that a run is at.
    """

    def __init__(self, stage: str | Callable[[], str] = "") -> None:
        self.stage = stage

    @contextlib.contextmanager
    def beating(self) -> Iterator[None]:
        """Speak until the block ends."""
        ended = threading.Event()

        def beat() -> None:
            before, since = "", time.monotonic()
            while not ended.wait(BEAT_S):
                now = self.stage if isinstance(self.stage, str) else self.stage()
                if now == before:
                    logger.info(f"{now} ({time.monotonic() - since:.0f} s)")
                else:
                    before, since = now, time.monotonic()

        threading.Thread(target=beat, daemon=True).start()
        try:
            yield
        finally:
            ended.set()


@dataclass(frozen=True)
class Peers:
    """Holds this process's rank among the processes of a run, and their store; of one process there is none."""

    rank: int = 0
    size: int = 1
    store: "Store | None" = None
    heartbeat: Heartbeat = field(default_factory=Heartbeat)

    @contextlib.contextmanager
    def claim(self, folder: Path, *, resume: str, overwrite: bool) -> Iterator[Path | None]:
        """Have the first process take the folder of a run for all, and find the step to go on from.

        Raises:
            InputError: The folder cannot be taken so.
            OthersFailed: The first process says why.
        """
        if self.rank > 0:
            told = self._hear("claim")
            if "exit_code" in told:
                raise self._leave(told["exit_code"])
            yield Path(told["start"]) if told["start"] is not None else None
            return
        with contextlib.ExitStack() as stack:
            try:
                start, passed_over = stack.enter_context(claim(folder, resume=resume, overwrite=overwrite))
            except LlmkitError as err:
                self._tell("claim", {"exit_code": err.exit_code})
                self._linger()
                raise
            self._tell("claim", {"start": None if start is None else str(start)})
            for sentence in passed_over:
                logger.info(sentence)
            yield start

    def together(self, call: Callable[[], Result]) -> Result:
        """Do what every process must do before any goes on; where one fails all do, and the first says why.

        Raises:
            LlmkitError: It failed here, or in another process while this is the first.
            OthersFailed: The first process says why.
        """
        if self.size == 1:
            return call()
        try:
            result, problem = call(), None
        except LlmkitError as err:
            problem = err
        self._tell(f"ready/{self.rank}", _describe(problem))
        if self.rank > 0:
            verdict = self._hear("verdict")
            if verdict:
                raise self._leave(verdict["exit_code"])
            return result
        others = {rank: self._hear(f"ready/{rank}", f"waiting for process {rank}") for rank in range(1, self.size)}
        failed = next((rank for rank, told in others.items() if told), None)
        if problem is None and failed is not None:
            problem = _rebuild(failed, others[failed])
        self._tell("verdict", _describe(problem))
        if problem is not None:
            self._linger()
            raise problem
        return result

    def disperse(self) -> None:
        """End without a group: the first process, which holds the store, waits until the others have heard enough."""
        if self.rank > 0:
            self._tell(f"left/{self.rank}", {})
        else:
            self._linger()

    def _leave(self, exit_code: int) -> OthersFailed:
        self._tell(f"left/{self.rank}", {})
        return OthersFailed(exit_code)

    def _linger(self) -> None:
        """Wait a little until the others have heard that all end: the store ends with this process."""
        deadline, keys = time.monotonic() + LINGER_S, [f"left/{rank}" for rank in range(1, self.size)]
        while self.store is not None and not self.store.check(keys) and time.monotonic() < deadline:
            time.sleep(ASK_EVERY_S)

    def _tell(self, key: str, value: dict[str, Any]) -> None:
        if self.store is not None:
            self.store.set(key, json.dumps(value))

    def _hear(self, key: str, stage: str = "waiting for the first process") -> dict[str, Any]:
        """Wait for what another process tells, and let signals through."""
        assert self.store is not None
        self.heartbeat.stage = stage
        try:
            while not self.store.check([key]):
                time.sleep(ASK_EVERY_S)
            told: dict[str, Any] = json.loads(self.store.get(key))
        except RuntimeError as err:  # the store lies in the first process, or in its launcher
            raise RunError("the first process of this run has ended") from err
        return told


def _describe(err: LlmkitError | None) -> dict[str, Any]:
    if err is None:
        return {}
    return {"exit_code": err.exit_code, "message": str(err), "hint": err.hint, "details": err.details}


def _rebuild(rank: int, told: dict[str, Any]) -> LlmkitError:
    kind = InputError if told["exit_code"] == InputError.exit_code else RunError
    return kind(f"process {rank}: {told['message']}", hint=told["hint"], details=tuple(told["details"]))


@contextlib.contextmanager
def meet() -> Iterator[Peers]:
    """Find the processes that a launcher started beside this one, and wait until all are there.

    Raises:
        InputError: The launcher's variables are not whole.
        RunError: They did not come.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if size < 2:
        yield Peers()
        return
    end_with_launcher()
    heartbeat = Heartbeat("waiting for the other processes to start")
    with heartbeat.beating() if rank == 0 else contextlib.nullcontext():
        yield Peers(rank, size, _open_store(next(_numbers)), heartbeat)


_numbers = itertools.count()  # of the runs of this process: each has keys of its own


def _open_store(number: int) -> "Store":
    from torch.distributed import PrefixStore

    return PrefixStore(f"llmkit/{number}", _connect())


@functools.cache
def _connect() -> "Store":
    from torch.distributed import rendezvous

    try:
        store: Store = next(rendezvous("env://", timeout=timedelta(seconds=START_S)))[0]
    except ValueError as err:  # a variable is missing
        raise InputError(f"the launcher of this process left something out: {err}") from err
    except RuntimeError as err:
        address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise RunError(f"the processes of this run did not meet at {address} within {START_S} s") from err
    return store


def part() -> None:
    """End the process group, where there is one: the last thing that a process of several does."""
    import torch.distributed

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
