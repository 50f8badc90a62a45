"""Several processes of one run on this machine: they are started, watched, and ended together.

process 0   speaks: its notes, progress and errors are those of the command
the others  are heard only where one of them is the first to fail; its sentence comes last
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmkit.errors import RunError

ASK_EVERY_S = 0.1
GRACE_S = 5.0  # in which the others end by themselves after one has failed
# what a process is told beside torchrun's variables: who watches over it, and the file for the sentence of its error
LAUNCHER, SAID = "LLMKIT_LAUNCHER", "LLMKIT_SAID"
LOST = "another process of this run was lost"
STOPPED = frozenset({128 + signal.SIGINT, 128 + signal.SIGTERM})  # saved, and to be gone on with


@dataclass(frozen=True)
class Layout:
    """Holds which processes of a run are started here.

    Attributes:
        num_processes: Those of the run, on all machines.
        num_local: Those on this machine.
        first_rank: The rank of the first of these.
        address: Where the first process of the run is met.
        port: Its port; 0 takes a free one, on one machine.
        environment: What the processes are told beside this.
    """

    num_processes: int
    num_local: int
    first_rank: int = 0
    address: str = "127.0.0.1"
    port: int = 0
    environment: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Ended:
    """Says how a run of several processes ended: an exit code, and the sentence of what failed unless it was said."""

    exit_code: int
    sentence: str | None = None


def launch(command: Sequence[str], layout: Layout) -> Ended:
    """Run a command of llmkit in several processes until all have ended.

    A signal to this process goes to all of them. Where one fails, the others have 5 s to end by themselves.

    Args:
        command: The words after `llmkit`.
        layout: Which processes there are.
    """
    with tempfile.TemporaryDirectory(prefix="llmkit-") as folder, _passing_signals() as signals:
        processes: list[subprocess.Popen[bytes]] = []
        try:
            for i, environment in enumerate(_list_environments(layout, Path(folder))):
                log = None if layout.first_rank + i == 0 else Path(folder, f"stderr-{i}")
                processes.append(_start(command, environment, log))
            codes, failed = _watch(processes, signals)
        finally:
            for process in processes:
                process.kill()
                process.wait()
        return _judge(codes, failed, layout.first_rank, Path(folder))


def _list_environments(layout: Layout, folder: Path) -> Iterator[dict[str, str]]:
    """List what each process is told: the variables of torchrun, and its share of the cores."""
    port = layout.port or _find_port()
    threads = str(max(1, (os.cpu_count() or 1) // layout.num_local))
    for i in range(layout.num_local):
        yield {
            "OMP_NUM_THREADS": threads,
            "TORCH_CPP_LOG_LEVEL": "ERROR",  # its store warns where the machine's name cannot be looked up
            **os.environ,
            **(layout.environment or {}),
            "RANK": str(layout.first_rank + i),
            "LOCAL_RANK": str(i),
            "WORLD_SIZE": str(layout.num_processes),
            "LOCAL_WORLD_SIZE": str(layout.num_local),
            "MASTER_ADDR": layout.address,
            "MASTER_PORT": str(port),
            LAUNCHER: str(os.getpid()),
            SAID: str(folder / f"said-{i}"),
        }


def _find_port() -> int:
    """Find a free port by which processes of this machine can meet."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as found:
            address: tuple[str, int] = found.getsockname()
            socket.create_connection(address, timeout=5).close()
            return address[1]
    except OSError as err:
        raise RunError(
            f"processes of this machine cannot reach each other at 127.0.0.1: {err.strerror or err}",
            hint="ip link set lo up brings its loopback up",
        ) from err


def _start(command: Sequence[str], environment: dict[str, str], log: Path | None) -> "subprocess.Popen[bytes]":
    """Start a process in a group of its own, so that Ctrl-C reaches it through this one alone."""
    with contextlib.nullcontext() if log is None else log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "llmkit", *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=None if log is None else subprocess.DEVNULL,
            stderr=file,
            start_new_session=True,
        )


@contextlib.contextmanager
def _passing_signals() -> Iterator[list[int]]:
    """Collect the signals that this process gets until the block ends."""
    found: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    kept = {number: signal.signal(number, lambda got, frame: found.append(got)) for number in numbers}
    try:
        yield found
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _watch(processes: "Sequence[subprocess.Popen[bytes]]", signals: list[int]) -> tuple[list[int | None], list[int]]:
    """Wait until all have ended, or one failed and its time is over; give the exit codes and who failed first."""
    failed: list[int] = []
    deadline = float("inf")
    while True:
        while signals:
            number = signals.pop(0)
            for process in processes:
                process.send_signal(number)
        codes = [process.poll() for process in processes]
        if not failed:
            failed = [i for i, code in enumerate(codes) if code]
            deadline = time.monotonic() + GRACE_S if failed else deadline
        if None not in codes or time.monotonic() > deadline:
            return codes, failed
        time.sleep(ASK_EVERY_S)


def _judge(codes: Sequence[int | None], failed: Sequence[int], first_rank: int, folder: Path) -> Ended:
    """Find the exit code, and what the process that failed first said, unless process 0 has said it.

    Of several that failed at once it is not one that says that it lost another.
    """
    if not failed:
        return Ended(0)
    said = {i: _read(folder / f"said-{i}") or _read(folder / f"stderr-{i}").rpartition("\n")[2] for i in failed}
    first = min(failed, key=lambda i: ((codes[i] or 0) >= 0, said[i].startswith(LOST), i))
    code, name = codes[first], f"process {first_rank + first}"
    assert code is not None
    if code < 0:
        return Ended(1, f"{name} was ended by {signal.Signals(-code).name}")
    is_known = first_rank + first == 0 or (first_rank == 0 and said[first] == _read(folder / "said-0"))
    return Ended(code, None if code in STOPPED or is_known or not said[first] else f"{name}: {said[first]}")


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace").strip() if path.exists() else ""


def leave(message: str) -> None:
    """Leave the sentence of this process's error where its launcher finds it, if it has one."""
    if path := os.environ.get(SAID):
        Path(path).write_text(message, encoding="utf-8")


def end_with_launcher() -> None:
    """End this process when its launcher, if it has one, is gone."""
    launcher = os.environ.get(LAUNCHER)
    if launcher is None:
        return

    def watch() -> None:
        while os.getppid() == int(launcher):
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
