"""One process has a run folder, and goes on where it stood."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmkit import runfolder
from llmkit.claiming import claim
from llmkit.errors import DamagedError, InputError
from llmkit.runfolder import Disk


@pytest.fixture
def run(tmp_path):
    return tmp_path / "runs" / "x"


def save(run, *steps):
    """A run that has saved these steps."""
    run.mkdir(parents=True, exist_ok=True)
    (run / "recipe.yaml").touch()
    for step in steps:
        runfolder.publish(run / "checkpoints" / f"step-{step:06}", lambda folder: (folder / "a").touch())
    return run


def refused(run, error=InputError, **options):
    with pytest.raises(error) as caught, claim(run, **options):
        pass
    assert type(caught.value) is error
    return str(caught.value)


def names(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("resume", ["never", "auto"])
@pytest.mark.parametrize("there", [(), ("",), (".lock",), (".lock", ".tmp-recipe.yaml")])
def test_claim_starts_in_a_folder_that_is_new_or_empty(run, resume, there):
    for name in there:
        run.mkdir(parents=True, exist_ok=True)
        if name:
            (run / name).touch()
    with claim(run, resume=resume) as (start, passed_over):
        assert (start, passed_over) == (None, [])
        assert names(run) == [".lock"]
        (run / "recipe.yaml").touch()
    assert names(run) == ["recipe.yaml"]


def test_claim_takes_away_what_it_made_when_nothing_was_put_there(run, tmp_path):
    with claim(run):
        pass
    assert names(tmp_path) == []
    run.mkdir(parents=True)
    with claim(run):
        pass
    assert names(run) == []


def test_claim_leaves_what_another_process_made_at_the_same_time(run, tmp_path, monkeypatch):
    make = Disk.make_folder

    def make_after_another(self, folder):
        if folder == run.parent:
            folder.mkdir()
        make(self, folder)

    monkeypatch.setattr(Disk, "make_folder", make_after_another)
    with claim(run):
        assert names(run) == [".lock"]
    assert names(tmp_path) == ["runs"]
    assert names(run.parent) == []


def test_never_refuses_a_folder_that_is_not_empty(run):
    save(run)
    with pytest.raises(InputError) as caught, claim(run):
        pass
    assert str(caught.value) == f"{run} is not empty; expected a new or empty folder"
    assert caught.value.hint == "--resume auto goes on with it, --overwrite moves it aside"


def test_overwrite_moves_aside_and_never_removes(run):
    for number in (1, 2):
        save(run, number)
        with claim(run, overwrite=True) as (start, _):
            assert start is None
            assert names(run) == [".lock"]
            (run / "recipe.yaml").touch()
    assert names(run.parent) == ["x", "x.old-1", "x.old-2"]
    assert [runfolder.find_damage(run.parent / f"x.old-{n}/checkpoints/step-00000{n}") for n in (1, 2)] == [None, None]


def test_overwrite_of_a_folder_that_is_not_there_starts_one(run):
    with claim(run, overwrite=True) as (start, _):
        assert start is None
        (run / "recipe.yaml").touch()
    assert names(run.parent) == ["x"]


@pytest.mark.parametrize("resume", ["auto", "must", "runs/x/checkpoints/step-000001"])
def test_overwrite_and_resume_contradict(run, resume):
    sentence = f"overwrite starts a new run, resume {resume!r} goes on with one; expected one of the two"
    assert refused(run, resume=resume, overwrite=True) == sentence
    assert not run.exists()


@pytest.mark.parametrize("resume", ["auto", "must"])
def test_resume_takes_the_newest_whole_step_and_names_the_others(run, resume):
    save(run, 1, 2, 3)
    (run / "checkpoints" / "step-000003" / "a").unlink()
    with claim(run, resume=resume) as found:
        step = run / "checkpoints" / "step-000002"
        assert found == (step, ["step-000003 is not whole (a is missing)"])


def test_resume_brings_the_folder_in_order_first(run):
    save(run, 1, 2)
    for old, new in (("step-000002", ".old-step-000002"), ("step-000001", ".tmp-step-000001")):
        (run / "checkpoints" / old).rename(run / "checkpoints" / new)
    with claim(run, resume="auto") as (start, _):
        assert start == run / "checkpoints" / "step-000002"
    assert names(run / "checkpoints") == ["step-000002"]


def test_auto_starts_where_no_step_was_saved(run):
    with claim(save(run), resume="auto") as found:
        assert found == (None, [])


@pytest.mark.parametrize("there", [False, True])
def test_must_refuses_a_run_without_a_step(run, there):
    if there:
        save(run)
    assert refused(run, resume="must") == f"no whole step to resume from in {run}"
    assert run.exists() is there


def test_must_says_what_is_wrong_with_the_newest(run):
    save(run, 1)
    (run / "checkpoints" / "step-000001" / "a").unlink()
    sentence = f"no whole step to resume from in {run}; step-000001 is not whole (a is missing)"
    assert refused(run, resume="must") == sentence


@pytest.mark.parametrize("resume", ["auto", "must"])
def test_resume_refuses_a_folder_that_is_no_run_and_leaves_it(run, resume):
    run.mkdir(parents=True)
    (run / ".tmp-mine").touch()
    sentence = f"{run} is not empty and holds no run (no recipe.yaml); expected a run or a new folder"
    assert refused(run, resume=resume) == sentence
    assert ".tmp-mine" in names(run)


def test_resume_takes_the_step_that_is_given(run, monkeypatch):
    save(run, 1, 2)
    monkeypatch.chdir(run.parent)
    with claim(run, resume="x/checkpoints/step-000001") as found:
        assert found == (Path("x/checkpoints/step-000001"), [])
    assert len(runfolder.steps(run)) == 2


def test_resume_takes_a_step_below_the_home_of_the_user(run, monkeypatch):
    step = save(run, 1, 2) / "checkpoints" / "step-000001"
    monkeypatch.setenv("HOME", str(run.parent))
    with claim(run, resume="~/x/checkpoints/step-000001") as found:
        assert found == (step, [])


def test_resume_refuses_a_given_step_that_is_damaged(run):
    given = save(run, 1, 2) / "checkpoints" / "step-000001"
    (given / "a").unlink()
    assert refused(run, DamagedError, resume=str(given)) == f"{given} is damaged: a is missing"


@pytest.mark.parametrize("given", ["latest", "runs/y/checkpoints/step-000001"])
def test_resume_refuses_what_is_no_step_of_the_run(run, given, monkeypatch, tmp_path):
    save(run, 1)
    save(run.with_name("y"), 1)
    monkeypatch.chdir(tmp_path)
    assert refused(run, resume=given) == (
        f"no step to resume from at {given}; expected a step folder of this run, as {run}/checkpoints/step-000200"
    )


def test_claim_refuses_a_file_in_its_place(run):
    run.parent.mkdir()
    run.touch()
    assert refused(run) == f"{run} is a file; expected a folder of a run"


def test_claim_refuses_a_place_below_a_file(run):
    run.parent.touch()
    assert refused(run) == f"{run} cannot be written: Not a directory; expected a folder of a run"


@pytest.mark.skipif(sys.platform != "linux", reason="the folder that none may write to is /proc")
def test_claim_refuses_a_place_where_nothing_can_be_written():
    assert refused(Path("/proc/runs")).startswith("/proc/runs cannot be written: ")
    assert refused(Path("/proc")).startswith("/proc cannot be written: ")


HOLD = """
import sys, time
from pathlib import Path
from llmkit.claiming import claim
with claim(Path(sys.argv[1]), resume="auto"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def hold(run):
    """A function that starts a process which has the run until its standard input ends."""
    started = []

    def start():
        command = [sys.executable, "-c", HOLD, str(run)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout.readline() == b"held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_claim_refuses_a_run_that_another_process_has_until_that_ends(run, hold):
    save(run, 1)
    holder = hold()
    for resume, overwrite in (("auto", False), ("never", True), ("never", False), ("must", False)):
        assert refused(run, resume=resume, overwrite=overwrite) == f"{run} is in use by process {holder.pid}"
    assert names(run.parent) == ["x"]
    holder.communicate()
    with claim(run, resume="auto") as (start, _):
        assert start.name == "step-000001"


def test_claim_takes_the_run_of_a_process_that_was_killed(run, hold):
    save(run, 1)
    holder = hold()
    holder.kill()
    holder.wait()
    assert (run / ".lock").read_text(encoding="utf-8") == str(holder.pid)
    with claim(run, resume="auto"):
        assert (run / ".lock").read_text(encoding="utf-8") == str(os.getpid())


def test_claim_keeps_others_out_of_a_new_folder_too(run, hold):
    holder = hold()
    assert refused(run, resume="auto") == f"{run} is in use by process {holder.pid}"
    holder.communicate()
    assert not run.exists()


def test_claim_does_not_lock_a_file_that_its_holder_takes_away(run, hold, monkeypatch):
    holder, lockf = hold(), fcntl.lockf

    def end_first(file, how):
        holder.communicate()  # nothing was put into the folder: it goes, between opening and locking
        run.mkdir(parents=True, exist_ok=True)
        return lockf(file, how)

    monkeypatch.setattr(fcntl, "lockf", end_first)
    with claim(run, resume="auto"):
        assert (run / ".lock").read_text(encoding="utf-8") == str(os.getpid())


def test_overwrite_keeps_others_out_of_the_new_folder_and_the_old(run):
    save(run, 1)
    with claim(run, overwrite=True):
        for folder in (run, run.with_name("x.old-1")):
            command = [sys.executable, "-c", HOLD, str(folder)]
            other = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
            assert f"{folder} is in use by process {os.getpid()}" in other.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_claim_does_not_pass_to_a_child_that_outlives_its_parent(run):
    save(run, 1)
    code = """
import os, sys, time
from pathlib import Path
from llmkit.claiming import claim
with claim(Path(sys.argv[1]), resume="auto"):
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    print(child, flush=True)
    os.kill(os.getpid(), 9)
"""
    parent = subprocess.Popen([sys.executable, "-c", code, str(run)], stdout=subprocess.PIPE)
    child = int(parent.stdout.readline())
    parent.wait()
    try:
        with claim(run, resume="auto") as (start, _):
            assert start.name == "step-000001"
    finally:
        os.kill(child, 9)
        parent.stdout.close()


def test_claim_brings_the_old_run_back_where_nothing_was_put_into_the_new(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "mine").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="bad data"), claim(run, overwrite=True):
        raise InputError("bad data")
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    assert [p.name for p in run.iterdir()] == ["mine"]


def test_claim_moves_a_link_and_not_what_it_names(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "mine").write_text("mine", encoding="utf-8")
    (tmp_path / "run").symlink_to(tmp_path / "far")
    with claim(tmp_path / "run", overwrite=True):
        (tmp_path / "run" / "recipe.yaml").write_text("x", encoding="utf-8")
    assert (tmp_path / "run.old-1").is_symlink()
    assert [p.name for p in (tmp_path / "far").iterdir()] == ["mine"]
    assert not (tmp_path / "run").is_symlink()
