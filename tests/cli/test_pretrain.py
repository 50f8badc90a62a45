"""`llmkit pretrain`: what it prints, its exit codes, and that it goes on where it stopped."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from small_runs import read_curve

import llmkit
from llmkit.cli.training import _describe
from llmkit.recipe.reading import dump_recipe
from llmkit.training.tracking import Progress


@pytest.fixture
def recipe_file(make_recipe, tmp_path, monkeypatch):
    """A function that writes a recipe to r.yaml in the working folder."""
    monkeypatch.chdir(tmp_path)

    def write(**changes):
        recipe = dump_recipe(llmkit.read_recipe(make_recipe(**changes)))
        (tmp_path / "r.yaml").write_text(recipe, encoding="utf-8")
        return tmp_path / "run"

    return write


def test_pretrain_prints_the_run_folder_and_tells_the_ledger_first(recipe_file, llmkit_cli):
    run = recipe_file(data={"eval_rows": 4}, eval={"every_steps": 3})
    code, out, err = llmkit_cli("pretrain", "r.yaml", "train.max_steps=4", "eval.every_steps=4")
    assert (code, out) == (0, f"{run}\n")
    lines = err.splitlines()
    assert re.fullmatch(r"llmkit: note: .*stories.jsonl", lines[0])
    assert re.fullmatch(r"llmkit: note:   documents  120 read", lines[1])
    assert re.fullmatch(r"llmkit: note:   tokens +[\d,]+ read = [\d,]+ trained on \+ .*", lines[2])
    assert re.fullmatch(
        r"llmkit: note: step 4 evaluated: loss [\d.]+, perplexity [\d.]+, bits_per_byte [\d.]+", lines[3]
    )
    assert [step for step, _ in read_curve(run)] == [1, 2, 3, 4]


def test_pretrain_is_silent_when_quiet(recipe_file, llmkit_cli):
    run = recipe_file()
    assert llmkit_cli("pretrain", "r.yaml", "--quiet") == (0, f"{run}\n", "")


def test_run_folder_serves_generate_as_it_is(recipe_file, llmkit_cli):
    run = recipe_file()
    llmkit_cli("pretrain", "r.yaml")
    code, out, err = llmkit_cli("generate", "今天", "-m", run, "-t", 0, "-n", 4, "--json")
    assert code == 0
    assert len(json.loads(out)["token_ids"]) == 4
    assert err == f"llmkit: note: {run} is a run, using its final\n"


def test_dry_run_says_what_would_be_done_and_trains_nothing(recipe_file, llmkit_cli):
    run = recipe_file()
    code, out, _ = llmkit_cli("pretrain", "r.yaml", "optim.lr=0.5", "--dry-run")
    assert code == 0
    assert re.search(r"^  lr: 0.5 +# command line$", out, re.MULTILINE)
    assert re.search(r"^seed: 3 +# r.yaml:\d+$", out, re.MULTILINE)
    parameters = llmkit.build("r.yaml").model.num_parameters()
    assert f"\nparameters: {parameters:,}\n" in out
    assert "\na step: 8 sequences of up to 32 tokens, 8 at a time; 256 tokens\n" in out
    assert re.search(r"\nsteps: 6, 0\.\d\d passes over \d+ rows\n", out)
    part = r"(\d+ MiB|[\d.]+ GiB)"
    named = ", ".join(f"{name} {part}" for name in ("weights", "gradients", "optimizer", "activations", "logits"))
    assert re.search(rf"\nmemory of a process: {part} \({named}\) of {part}, half of what is free\n", out)
    assert "\ntime: " not in out  # nobody said on what
    assert not run.exists()


def test_dry_run_tells_time_and_cost_on_a_gpu(recipe_file, llmkit_cli):
    run = recipe_file()
    given = ["pretrain", "r.yaml", "train.max_steps=1000000", "train.mixed_precision=null", "--num-processes", "2"]
    code, out, _ = llmkit_cli(*given, "--dry-run", "--gpu", "t4", "--price-per-hour", "0.5")
    assert code == 0
    told = re.search(
        r"\ntime: ([\d.]+) (h|min|s) on 2 x T4 at 30% of the peak, without evaluations; cost: ([\d.]+)\n", out
    )
    hours = float(told[1]) / {"h": 1, "min": 60, "s": 3600}[told[2]]
    assert float(told[3]) == pytest.approx(hours * 2 * 0.5, rel=0.2, abs=0.006)
    assert " of 16.0 GiB\n" in out
    assert re.search(r"^  mixed_precision: \"no\"", out, re.MULTILINE)  # which has no bfloat16 of its own
    out = llmkit_cli("pretrain", "r.yaml", "train.mixed_precision=null", "--dry-run", "--gpu", "H100")[1]
    assert re.search(r"^  mixed_precision: bf16\b", out, re.MULTILINE)
    assert not run.exists()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--gpu", "H100"], "--gpu goes with --dry-run: a run takes the GPUs that it finds"),
        (["--dry-run", "--price-per-hour", "2"], "--price-per-hour goes with --gpu, whose price it is"),
        (
            ["--dry-run", "--gpu", "H100", "--price-per-hour", "-1"],
            "--price-per-hour out of range, got -1.0; expected a number from 0",
        ),
        (["--dry-run", "--gpu", "8800"], "--gpu: no such GPU is known, got '8800'; expected one of H200, H100, A100"),
    ],
)
def test_flags_of_a_dry_run_that_cannot_act_are_refused(recipe_file, llmkit_cli, flags, sentence):
    recipe_file()
    code, out, err = llmkit_cli("pretrain", "r.yaml", *flags)
    assert (code, out) == (2, "")
    assert err.startswith(f"llmkit: error: {sentence}")


def test_dry_run_of_what_does_not_fit_says_so(recipe_file, llmkit_cli, monkeypatch):
    recipe_file()
    monkeypatch.setattr("llmkit.training.fitting.find_room", lambda number: 1000)
    out = llmkit_cli("pretrain", "r.yaml", "--dry-run")[1]
    assert re.search(r"\) of 0 MiB, half of what is free: too much; a smaller train.micro_batch_size takes less\n", out)
    out = llmkit_cli("pretrain", "r.yaml", "train.micro_batch_size=auto", "--dry-run")[1]
    assert ", 1 at a time;" in out


def test_second_run_in_a_folder_is_refused_and_overwrite_moves_the_first_aside(recipe_file, llmkit_cli):
    run = recipe_file()
    llmkit_cli("pretrain", "r.yaml")
    code, out, err = llmkit_cli("pretrain", "r.yaml")
    assert (code, out) == (2, "")
    assert err == (
        f"llmkit: error: {run} is not empty; expected a new or empty folder\n"
        "hint: --resume auto goes on with it, --overwrite moves it aside\n"
    )
    assert llmkit_cli("pretrain", "r.yaml", "--overwrite")[0] == 0
    assert (run.with_name("run.old-1") / "final").is_dir()


def test_max_seconds_pauses_and_resume_auto_goes_on(recipe_file, llmkit_cli):
    run = recipe_file()
    code, out, err = llmkit_cli("pretrain", "r.yaml", "--max-seconds", "1e-6")
    assert (code, out) == (0, f"{run}\n")
    assert err.splitlines()[-1] == "llmkit: note: paused at step 1 of 6"
    code, _, err = llmkit_cli("pretrain", "r.yaml", "--resume", "auto")
    assert code == 0
    assert "llmkit: note: going on from step 1 of 6\n" in err
    code, _, err = llmkit_cli("pretrain", "r.yaml", "--resume", "auto")
    assert code == 0
    assert err == f"llmkit: note: {run} is finished at step 6; a greater train.max_steps goes on\n"


def test_resume_names_the_checkpoint_that_is_not_whole(recipe_file, llmkit_cli):
    run = recipe_file(train={"max_steps": 6})
    llmkit_cli("pretrain", "r.yaml", "--max-seconds", "1e-6", "save.every_steps=1")
    step = run / "checkpoints" / "step-000001"
    content = bytearray((step / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (step / "model.safetensors").write_bytes(content)
    code, out, err = llmkit_cli("pretrain", "r.yaml", "--resume", "must")
    assert (code, out) == (2, "")
    assert "step-000001 is not whole (model.safetensors differs from its sha256)" in err
    code, _, err = llmkit_cli("pretrain", "r.yaml", "--resume", "auto")
    assert code == 0
    assert "llmkit: note: step-000001 is not whole (model.safetensors differs from its sha256)\n" in err


def start(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "llmkit", "pretrain", "r.yaml", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def wait_for_step(run, process):
    for _ in range(1200):
        time.sleep(0.05)
        if (run / "metrics.jsonl").exists() and read_curve(run):
            return
        assert process.poll() is None, process.stderr.read()
    raise AssertionError("no step was taken in a minute")


def test_signal_saves_says_how_to_go_on_and_gives_its_exit_code(recipe_file):
    run = recipe_file()
    process = start("train.max_steps=100000", "save.every_steps=100000")
    wait_for_step(run, process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (143, "")
    (newest,) = (run / "checkpoints").iterdir()
    step = int(newest.name.removeprefix("step-"))
    command = "llmkit pretrain r.yaml train.max_steps=100000 save.every_steps=100000 --resume auto"
    assert err.splitlines()[-1] == f"llmkit: note: step {step} saved; go on with: {command}"
    assert not (run / "final").exists()


def test_second_process_in_a_run_folder_gets_one_sentence(recipe_file, llmkit_cli):
    run = recipe_file()
    process = start("train.max_steps=100000")
    try:
        wait_for_step(run, process)
        code, out, err = llmkit_cli("pretrain", "r.yaml", "--resume", "auto")
        assert (code, out, err) == (2, "", f"llmkit: error: {run} is in use by process {process.pid}\n")
    finally:
        process.kill()
        process.communicate()


def test_full_disk_ends_the_run_with_one_sentence(recipe_file, llmkit_cli, monkeypatch):
    import errno

    from llmkit import runfolder

    run = recipe_file()
    write = runfolder.Disk.write

    def full(self, path, content):
        if "step-000004" in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, path, content)

    monkeypatch.setattr(runfolder.Disk, "write", full)
    code, out, err = llmkit_cli("pretrain", "r.yaml")
    assert (code, out) == (1, "")
    assert err.splitlines()[-1] == "llmkit: error: disk full while saving step 4; step 2 is intact"
    assert [p.name for p in (run / "checkpoints").iterdir()] == ["step-000002"]


def test_number_of_processes_is_checked_before_anything_starts(recipe_file, llmkit_cli):
    run = recipe_file()
    code, out, err = llmkit_cli("pretrain", "r.yaml", "--num-processes", "0")
    assert (code, out) == (2, "")
    assert err == "llmkit: error: --num-processes out of range, got 0; expected a number from 1\n"
    assert llmkit_cli("pretrain", "r.yaml", "--accelerate", "nothing.yaml")[0] == 2
    assert not run.exists()


@pytest.mark.parametrize("flags", [["--num-processes", "2"], ["--accelerate", "8-gpus-ddp", "--num-processes", "2"]])
def test_dry_run_shares_the_batch_among_processes(recipe_file, llmkit_cli, flags):
    run = recipe_file()
    code, out, _ = llmkit_cli("pretrain", "r.yaml", "--dry-run", *flags)
    assert code == 0
    assert "a step: 8 sequences of up to 32 tokens, 4 at a time" in out
    assert not run.exists()


def test_progress_says_targets_where_not_every_token_is_one():
    progress = Progress(3, 10, 2.5, 1e-3, 1234.4, 0.25, 60.0)
    assert _describe(progress) == "step 3 of 10, loss 2.5000, lr 0.001, 1,234 tokens/s, MFU 25%, 60 s left"
    fewer = dataclasses.replace(progress, utilization=None, loss=None)
    assert _describe(fewer) == "step 3 of 10, skipped, lr 0.001, 1,234 targets/s, 60 s left"
