"""Stop a training with SIGTERM or SIGINT at random moments, resume it, and compare it with the one nobody stopped.

    python tests/stop_and_resume.py [--stops 10] [--steps 12] [--seed 0]

A run is the command line in a fork, with an evaluation every third step. Each second stop is a SIGINT; two of four get
a second signal, which must end the run within half a second though its disk is slow. A stop must end with 143 or 130,
within a step, a save and a second, and the resumed run must have the weights and the curve of the one that nobody
stopped, bit for bit.
"""

import argparse
import json
import os
import pathlib
import random
import signal
import sys
import tempfile
import time

import kill_and_resume

SECOND_SIGNAL = 0.5  # seconds that a run has after it
SLOW = 0.2  # seconds that a slow disk takes for each fsync


def start(recipe, output, *, slow=False):
    """Run the command line in a fork; give its process id."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin without one
        if slow:
            sync = os.fsync
            os.fsync = lambda descriptor: (time.sleep(SLOW), sync(descriptor))
        sys.argv = ["llmkit", "pretrain", str(recipe), "--resume", "auto"]
        from llmkit.cli.main import main

        main()
    except SystemExit as err:
        code = int(err.code or 0)
    except KeyboardInterrupt:  # before the command line begins
        code = 130
    finally:
        os._exit(code)


def wait(process, deadline):
    """Wait for a process; its exit code as a shell gives it, and when it ended; (None, None) at the deadline."""
    while time.monotonic() < deadline:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            code = os.waitstatus_to_exitcode(status)
            return (128 - code if code < 0 else code), time.monotonic()
        time.sleep(0.001)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return None, None


def stop(process, draw, seconds, number, *, twice):
    """Send a signal at a random moment; give the exit code and the seconds that the end took."""
    time.sleep(draw.uniform(0.02, 0.95) * seconds)
    if os.waitpid(process, os.WNOHANG)[0]:
        return 0, 0.0  # it was done before
    os.kill(process, number)
    sent = time.monotonic()
    if twice:
        time.sleep(draw.uniform(0.0, 0.02))
        if os.waitpid(process, os.WNOHANG)[0]:
            return 128 + number, 0.0
        os.kill(process, number)
        sent = time.monotonic()
    code, ended = wait(process, sent + 60)
    return code, 60.0 if ended is None else ended - sent


def write_recipe(folder, run, steps):
    """Write the recipe of kill_and_resume with more evaluations."""
    recipe = kill_and_resume.recipe(folder, run, steps)
    recipe["eval"]["every_steps"] = 3
    path = folder / f"{run.name}.yaml"
    path.write_text(json.dumps(recipe), encoding="utf-8")
    return path


def main(arguments):
    """Print the counts; the exit code is 0 where all is as it must be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stops", type=int, default=10)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    draw = random.Random(given.seed)
    counts = dict.fromkeys(("stops", "right_code", "in_time", "equal_weights", "equal_curves"), 0)
    slowest = 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        kill_and_resume.prepare(folder)
        began = time.monotonic()
        assert wait(start(write_recipe(folder, folder / "whole", given.steps), folder / "out"), began + 120)[0] == 0
        seconds = time.monotonic() - began
        expected, allowed = kill_and_resume.result(folder / "whole"), 1.0 + 2 * seconds / given.steps
        while counts["stops"] < given.stops:
            i = counts["stops"]
            number, twice = (signal.SIGTERM, signal.SIGINT)[i % 2], i % 4 > 1
            recipe = write_recipe(folder, folder / f"run-{draw.random()}", given.steps)
            code, took = stop(start(recipe, folder / "out", slow=twice), draw, seconds, number, twice=twice)
            if code == 0:
                continue
            counts["stops"] += 1
            counts["right_code"] += code == 128 + number
            counts["in_time"] += took <= (SECOND_SIGNAL if twice else allowed)
            slowest = max(slowest, took)
            assert wait(start(recipe, folder / "out"), time.monotonic() + 120)[0] == 0, (folder / "out").read_text()
            found = kill_and_resume.result(folder / recipe.stem)
            counts["equal_weights"] += found[0] == expected[0]
            counts["equal_curves"] += found[1] == expected[1]
    sys.stdout.write(" ".join(f"{key}={value}" for key, value in counts.items()) + f" slowest={slowest:.2f}\n")
    return 0 if len(set(counts.values())) == 1 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
