"""Kill a training with -9 at random moments, resume it, and compare it with the one that was not killed.

    python tests/kill_and_resume.py [--kills 20] [--in-a-row 1] [--steps 12] [--seed 0]
                                    [--without fsync|manifest|counter]

A run is killed once, every second one while it saves, and every third again after its resume; it goes on until a
quarter of the kills asked for fell into a save and a quarter after a resume, three times as many kills at most. After a
kill, what was not yet synced to the disk is torn, as a loss of power would; after every fourth, one bit of the newest
checkpoint is flipped too. Then the run is resumed to its end: its weights and its curve must be those of the run that
nobody touched, bit for bit, and a checkpoint that stood there whole must not be lost. With `--in-a-row` each run is
killed so many times, one resume after the other. `--without` takes out one of the things that this rests on; the script
must then find it out.
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

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")


def prepare(folder):
    """Import all that a run needs, once, and make its data; a run is a fork of this process."""
    from conftest import byte_level_tokenizer
    from small_runs import write_stories

    import llmkit.training.starting

    assert llmkit.training.starting
    write_stories(folder / "stories.jsonl")
    byte_level_tokenizer().save_pretrained(folder / "tokenizer")


def recipe(folder, run, steps):
    """A small GPT-2 with dropout, accumulation, a schedule and evaluations; each step is saved."""
    from small_runs import small_recipe

    return small_recipe(
        folder,
        run,
        model={"config": {"resid_pdrop": 0.1, "embd_pdrop": 0.1}},
        data={"eval_rows": 4},
        train={"max_steps": steps, "global_batch_size": 4, "micro_batch_size": 2, "threads": 1},
        schedule={"name": "cosine", "num_warmup_steps": 4},
        save={"every_steps": 1, "keep": 2},
        eval={"every_steps": steps // 4},
    )


def start(folder, run, steps, without):
    """Train or resume a run in a fork; give its process id."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        log = (folder / "synced").open("a", buffering=1, encoding="utf-8")
        note_syncs(log, without)
        take_out(without)
        import llmkit

        llmkit.train(recipe(folder, run, steps), resume="auto")
        code = 0
    except BaseException as err:
        sys.stderr.write(f"the run failed: {type(err).__name__}: {err}\n")
    finally:
        os._exit(code)


def note_syncs(log, without):
    """Write down what each fsync brought to the disk: inode, size and time of the last change."""
    sync = os.fsync

    def noted(descriptor):
        if without == "fsync":
            return
        sync(descriptor)
        status = os.fstat(descriptor)
        log.write(f"{status.st_ino} {status.st_size} {status.st_mtime_ns}\n")

    os.fsync = noted


def take_out(without):
    """Take out a part that resuming rests on."""
    from llmkit import claiming, runfolder
    from llmkit.training import saving

    if without == "manifest":
        claiming.find_damage = runfolder.find_damage = lambda folder: None
    if without == "counter":
        load = saving.load_step

        def forgetful(*arguments):
            kept = load(*arguments)
            return {**kept, "state": {**kept["state"], "step": max(kept["state"]["step"] - 1, 0)}}

        saving.load_step = forgetful


def tear(folder, run, draw):
    """Leave of each file what was synced, and perhaps a part of what came after."""
    synced = {}
    for line in (folder / "synced").read_text(encoding="utf-8").splitlines():
        inode, size, changed = map(int, line.split())
        synced[inode] = (size, changed)
    for path in run.rglob("*"):
        if not path.is_file() or path.name == ".lock":
            continue
        status = path.stat()
        size, changed = synced.get(status.st_ino, (0, 0))
        if (size, changed) == (status.st_size, status.st_mtime_ns):
            continue
        size = min(size, status.st_size)
        with path.open("r+b") as file:
            file.truncate(draw.randint(size, max(size, status.st_size - 1)))


def flip(step, draw):
    """Flip one bit of a file of a checkpoint."""
    path = draw.choice(sorted(p for p in step.rglob("*.safetensors")))
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content) // 2, len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def is_saving(run):
    """Tell whether a checkpoint is being written."""
    return any((run / "checkpoints").glob(".tmp-step-*"))


def kill(process, after, run=None):
    """Kill a process with -9 after so many seconds, or in the next save after them; tell whether it still ran."""
    deadline = time.monotonic() + after
    while time.monotonic() < deadline or (run is not None and not is_saving(run)):
        if os.waitpid(process, os.WNOHANG)[0]:
            return False
        time.sleep(0.0005)
    os.kill(process, signal.SIGKILL)
    return os.waitpid(process, 0)[1] == signal.SIGKILL


def finish(process):
    """Wait for a process to end well."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0


def result(run):
    """The sha256 of the final weights and the lines of the curve, without what depends on the clock."""
    from llmkit.runfolder import hash_file

    lines = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    curve = [{k: v for k, v in line.items() if k != "tokens_per_s"} for line in lines]
    return hash_file(run / "final" / "model.safetensors"), curve


def newest(run):
    """The newest step folder, whole or not."""
    from llmkit.runfolder import steps

    return next(iter(steps(run)), None)


def disturb(folder, run, draw, seconds, counts, *, steps, times, damage, without):
    """Kill a run at random moments, so many times, tear and damage its folder, and resume it to its end."""
    from llmkit.runfolder import find_damage

    aim = run if counts["kills"] % 2 else None  # every second kill falls into a save
    while not kill(start(folder, run, steps, without), draw.uniform(0.1, 1.0) * seconds, aim) or newest(run) is None:
        if (run / "final").exists():  # it was done before; begin anew
            return None
    for round_ in range(times):
        if round_:
            if not kill(start(folder, run, steps, without), draw.uniform(0.05, 1.0 / times) * seconds):
                break
            counts["killed_again_after_resume"] += 1
        counts["inside_save"] += is_saving(run)
        stood = newest(run)
        tear(folder, run, draw)
        counts["lost"] += find_damage(stood) is not None
    if damage and len(list((run / "checkpoints").glob("step-*"))) > 1:
        flip(newest(run), draw)
        counts["damaged"] += 1
    return result(run) if finish(start(folder, run, steps, without)) else (None, None)


def few(counts, enough):
    """Tell whether too few kills fell into a save, or into a resumed run: where they fall is the clock's to say."""
    return min(counts["inside_save"], counts["killed_again_after_resume"]) < enough


def main(arguments):
    """Print the counts; the exit code is 0 where all is as it must be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--in-a-row", type=int, default=1)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--without", choices=["fsync", "manifest", "counter"])
    given = parser.parse_args(arguments)
    draw = random.Random(given.seed)
    enough = given.kills // 4
    counts = dict.fromkeys(
        ("kills", "inside_save", "killed_again_after_resume", "equal_weights", "equal_curves", "damaged", "lost"), 0
    )
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        prepare(folder)
        began = time.monotonic()
        assert finish(start(folder, folder / "whole", given.steps, None))
        seconds = time.monotonic() - began
        expected = result(folder / "whole")
        while counts["kills"] < given.kills or (few(counts, enough) and counts["kills"] < 3 * given.kills):
            run = folder / f"run-{draw.random()}"
            i = counts["kills"]
            found = disturb(
                folder,
                run,
                draw,
                seconds,
                counts,
                times=max(given.in_a_row, 2 if i % 3 == 0 or i >= given.kills else 1),
                damage=i % 4 == 0,
                steps=given.steps,
                without=given.without,
            )
            if found is None:
                continue
            counts["kills"] += 1
            counts["equal_weights"] += found[0] == expected[0]
            counts["equal_curves"] += found[1] == expected[1]
    sys.stdout.write(" ".join(f"{key}={value}" for key, value in counts.items()) + "\n")
    good = counts["equal_weights"] == counts["equal_curves"] == counts["kills"] and counts["lost"] == 0
    return 0 if good and not few(counts, enough) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
