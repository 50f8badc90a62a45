"""A run that is killed with -9 and resumed equals the one that was not: tests/kill_and_resume.py, short and long."""

import pathlib
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).resolve().parents[1] / "kill_and_resume.py"


def run(*arguments):
    done = subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False)
    counts = dict(pair.split("=") for pair in done.stdout.split())
    return done.returncode, {key: int(value) for key, value in counts.items()}, done.stderr


def assert_all_equal(kills, arguments):
    code, counts, errors = run("--kills", str(kills), *arguments)
    assert (code, errors) == (0, ""), counts
    assert counts["kills"] == counts["equal_weights"] == counts["equal_curves"] >= kills
    assert counts["lost"] == 0
    assert counts["inside_save"] >= kills // 4
    assert counts["killed_again_after_resume"] >= kills // 4


def test_run_killed_20_times_equals_the_one_that_was_not():
    assert_all_equal(20, [])


@pytest.mark.slow
def test_run_killed_200_times_equals_the_one_that_was_not():
    assert_all_equal(200, ["--steps", "24", "--seed", "1"])


@pytest.mark.slow
def test_50_runs_killed_5_times_each_equal_the_one_that_was_not():
    assert_all_equal(50, ["--in-a-row", "5", "--seed", "2"])


@pytest.mark.slow
@pytest.mark.parametrize("part", ["fsync", "manifest", "counter"])
def test_script_finds_out_what_is_taken_out(part):
    code, _, _ = run("--kills", "8", "--without", part)
    assert code == 1
