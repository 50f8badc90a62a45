"""One of two processes is killed with -9 at a random moment: the run ends, leaves nobody, and goes on bit for bit."""

import hashlib
import random
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest
from conftest import byte_level_tokenizer
from small_runs import read_curve, small_recipe, write_stories

from llmkit import runfolder
from llmkit.recipe.reading import dump_recipe, read_recipe

STEPS = 300


@pytest.fixture
def recipe(tmp_path):
    """A recipe with dropout and accumulation, whose every 20th step is saved; it knows no run folder yet."""
    write_stories(tmp_path / "stories.jsonl")
    byte_level_tokenizer().save_pretrained(tmp_path / "tokenizer")
    dropout = {"resid_pdrop": 0.1, "embd_pdrop": 0.1}
    train = {"max_steps": STEPS, "micro_batch_size": 2, "threads": 1}
    made = small_recipe(tmp_path, "run", model={"config": dropout}, train=train, save={"every_steps": 20})
    path = tmp_path / "r.yaml"
    path.write_text(dump_recipe(read_recipe(made)), encoding="utf-8")
    return path


def start(recipe, run, *flags):
    words = [sys.executable, "-m", "llmkit", "pretrain", recipe, f"output_dir={run}", "--num-processes", "2", *flags]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(launcher):
    out, err = launcher.communicate(timeout=120)
    assert launcher.returncode == 0, err
    return out


def kill_and_go_on(recipe, whole, run, draw):
    launcher = start(recipe, run)
    while not (run / "metrics.jsonl").exists():  # the processes train
        assert launcher.poll() is None, launcher.communicate()
        time.sleep(0.01)
    processes = psutil.Process(launcher.pid).children(recursive=True)
    assert len(processes) == 2
    time.sleep(draw.uniform(0, 2))
    rank = draw.randrange(2)
    victim = next(process for process in processes if process.environ()["RANK"] == str(rank))
    victim.send_signal(signal.SIGKILL)
    killed = time.monotonic()
    _, err = launcher.communicate(timeout=60)
    assert launcher.returncode == 1
    assert time.monotonic() - killed < 10
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)
    said = [line for line in err.splitlines() if not line.startswith("hint: ")]
    assert said[-1] == f"llmkit: error: process {rank} was ended by SIGKILL"
    saved = runfolder.newest_whole(run)[0]
    hint = err.splitlines()[-1]
    assert saved is None or re.fullmatch(rf"hint: step {int(saved.name[5:])} saved; go on with: .* --resume auto", hint)
    finish(start(recipe, run, "--resume", "auto"))
    assert read_curve(run) == read_curve(whole)
    weights = [(folder / "final" / "model.safetensors").read_bytes() for folder in (whole, run)]
    assert len({hashlib.sha256(content).hexdigest() for content in weights}) == 1


@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_process_ends_the_run_which_goes_on_bit_for_bit(recipe, tmp_path, kills):
    assert finish(start(recipe, tmp_path / "whole")) == f"{tmp_path / 'whole'}\n"
    draw = random.Random(kills)
    for i in range(kills):
        kill_and_go_on(recipe, tmp_path / "whole", tmp_path / f"run-{i}", draw)
