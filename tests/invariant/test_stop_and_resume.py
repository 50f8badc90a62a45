"""A run that SIGTERM or SIGINT stops saves and goes on bit for bit: tests/stop_and_resume.py, short and long."""

import pathlib
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).resolve().parents[1] / "stop_and_resume.py"


@pytest.mark.parametrize("stops", [4, pytest.param(200, marks=pytest.mark.slow)])
def test_stopped_runs_equal_the_one_that_was_not(stops):
    done = subprocess.run([sys.executable, SCRIPT, "--stops", str(stops)], capture_output=True, text=True, check=False)
    *counts, _ = done.stdout.split()
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert [int(count.partition("=")[2]) for count in counts] == [stops] * 5
