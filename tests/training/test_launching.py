"""A run in several processes: what its launcher says and gives back, however the processes end."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import psutil
import pytest

from llmkit.errors import RunError
from llmkit.training import launching
from llmkit.training.launching import LOST, Ended, Layout, launch


@pytest.fixture
def processes(tmp_path, monkeypatch):
    """A function that launches a few lines of Python, in the place of llmkit, in so many processes."""

    def run(count, lines, **layout):
        package = tmp_path / "llmkit"
        package.mkdir(exist_ok=True)
        (package / "__init__.py").touch()
        head = "import os, signal, sys, time\nfrom pathlib import Path\nrank = int(os.environ['RANK'])\n"
        (package / "__main__.py").write_text(head + textwrap.dedent(lines))
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.chdir(tmp_path)
        return launch(["here"], Layout(count, count, **layout))

    return run


def test_processes_are_told_who_they_are(processes, tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS")
    names = (*names, "TORCH_CPP_LOG_LEVEL")
    monkeypatch.delenv("TORCH_CPP_LOG_LEVEL", raising=False)
    lines = f"Path(f'{{rank}}').write_text(' '.join([*sys.argv[1:], *map(os.environ.get, {names})]))"
    assert processes(2, lines, port=4321, environment={"A": "b"}) == Ended(0)
    threads = max(1, os.cpu_count() // 2)
    told = [(tmp_path / str(rank)).read_text() for rank in range(2)]
    assert told == [f"here {rank} {rank} 2 2 127.0.0.1 4321 {threads} ERROR" for rank in range(2)]


def test_processes_that_cannot_reach_each_other_are_not_started(processes, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr("socket.create_connection", refuse)
    with pytest.raises(RunError) as found:
        processes(2, "Path('started').touch()")
    reason = "processes of this machine cannot reach each other at 127.0.0.1: Network is unreachable"
    assert (str(found.value), found.value.hint) == (reason, "ip link set lo up brings its loopback up")
    assert not (tmp_path / "started").exists()


def test_first_process_alone_is_heard(processes, capfd):
    assert processes(2, "print(rank); print(rank, file=sys.stderr)") == Ended(0)
    assert capfd.readouterr() == ("0\n", "0\n")


FAIL = "Path(os.environ['LLMKIT_SAID']).write_text('disk full'); sys.exit(1)"


@pytest.mark.parametrize(
    ("lines", "ended"),
    [
        ("sys.exit(2)", Ended(2)),
        (f"if rank == 1: {FAIL}\ntime.sleep(60)", Ended(1, "process 1: disk full")),
        (f"if rank == 0: time.sleep(0.5)\n{FAIL}", Ended(1)),
        ("if rank == 1: sys.exit('first\\nlast words')\ntime.sleep(60)", Ended(1, "process 1: last words")),
        ("if rank == 1: os.kill(os.getpid(), 9)\ntime.sleep(60)", Ended(1, "process 1 was ended by SIGKILL")),
        ("if rank == 0: os.kill(os.getpid(), 9)\ntime.sleep(60)", Ended(1, "process 0 was ended by SIGKILL")),
    ],
    ids=["all alike", "one", "all with one sentence", "without a sentence", "killed", "first killed"],
)
def test_launcher_tells_what_failed_first_unless_it_was_said(processes, monkeypatch, lines, ended):
    monkeypatch.setattr(launching, "GRACE_S", 1.0)
    began = time.monotonic()
    assert processes(2, lines) == ended
    assert time.monotonic() - began < 20


def test_processes_end_with_the_one_that_failed_and_have_time_to_do_so(processes, tmp_path, monkeypatch):
    monkeypatch.setattr(launching, "GRACE_S", 1.5)
    lines = """
        Path(f"pid-{rank}").write_text(str(os.getpid()))
        if rank == 2: time.sleep(0.5); sys.exit(1)
        if rank == 1: time.sleep(1); Path("saved").touch(); sys.exit(1)
        time.sleep(60)
    """
    assert processes(3, lines).exit_code == 1
    assert (tmp_path / "saved").exists()
    assert not any(is_there(int((tmp_path / f"pid-{rank}").read_text())) for rank in range(3))


def test_signal_goes_to_all_processes_each_time(processes, tmp_path):
    lines = """
        found = []
        signal.signal(signal.SIGTERM, lambda number, frame: found.append(number))
        Path(f"ready-{rank}").touch()
        if rank == 0:
            while not Path("ready-1").exists(): time.sleep(0.01)
            os.kill(os.getppid(), signal.SIGTERM)
        while not found: time.sleep(0.01)
        Path(f"heard-{rank}").touch()
        sys.exit(143)
    """
    assert processes(2, lines) == Ended(143)
    assert {path.name for path in tmp_path.glob("heard-*")} == {"heard-0", "heard-1"}
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


CHILD = """
from llmkit.training.launching import end_with_launcher
import time
end_with_launcher()
print(1, flush=True)
time.sleep(60)
"""


def is_there(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_process_ends_when_its_launcher_is_gone():
    parent = f"""
import os, subprocess, sys
os.environ["LLMKIT_LAUNCHER"] = str(os.getpid())
child = subprocess.Popen([sys.executable, "-c", {CHILD!r}], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid)
"""
    done = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, check=True)
    deadline = time.monotonic() + 10
    while is_there(int(done.stdout)):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("codes", "said", "ended"),
    [
        ([1, -9], {0: f"{LOST} at step 3"}, Ended(1, "process 1 was ended by SIGKILL")),
        ([1, 1], {0: f"{LOST} at step 3", 1: "disk full"}, Ended(1, "process 1: disk full")),
        ([1, 1], {0: "disk full", 1: f"{LOST} at step 3"}, Ended(1)),
        ([1, 1], {0: "disk full", 1: "disk full"}, Ended(1)),
        ([2, 2], {0: "no such file"}, Ended(2)),
        ([143, 143], {}, Ended(143)),
    ],
    ids=["killed", "failed", "first failed", "both", "others silent", "saved"],
)
def test_of_processes_that_failed_at_once_the_cause_is_told(tmp_path, codes, said, ended):
    for i, sentence in said.items():
        (tmp_path / f"said-{i}").write_text(sentence)
    assert launching._judge(codes, [0, 1], 0, tmp_path) == ended
