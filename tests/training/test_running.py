"""A run from its recipe to its folder: what it writes, how it goes on, and what it refuses."""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file
from small_runs import read_curve

import llmkit
from llmkit import runfolder
from llmkit.errors import InputError
from llmkit.training import measuring


def weights_of(run, part="final"):
    return runfolder.hash_file(run.path / part / "model.safetensors")


def numbers_of(run):
    """All lines of metrics.jsonl, without what depends on the clock."""
    lines = (run.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "tokens_per_s"} for line in lines]


def test_train_writes_the_run_folder(make_recipe):
    run = llmkit.train(make_recipe(data={"eval_rows": 4}, eval={"every_steps": 3}))
    assert (run.step, run.finished) == (6, True)
    assert sorted(p.name for p in run.path.iterdir() if not p.name.startswith(".")) == [
        "README.md",
        "best",
        "checkpoints",
        "environment.json",
        "final",
        "metrics.jsonl",
        "recipe.yaml",
        "report.html",
    ]
    assert [p.name for p in runfolder.steps(run.path)] == ["step-000006", "step-000004"]
    environment = json.loads((run.path / "environment.json").read_text(encoding="utf-8"))
    assert (environment["num_processes"], environment["device"]) == (1, "cpu")
    curve = read_curve(run.path)
    assert [step for step, _ in curve] == [1, 2, 3, 4, 5, 6]
    assert curve[-1][1] < curve[0][1]
    assert [step for step, _ in read_curve(run.path, "eval_loss")] == [3, 6]
    assert read_curve(run.path, "eval_bits_per_byte")[-1][1] == run.metrics["bits_per_byte"]


def test_final_folder_loads_in_plain_transformers(make_recipe):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = llmkit.train(make_recipe())
    model, info = AutoModelForCausalLM.from_pretrained(run.path / "final", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert len(AutoTokenizer.from_pretrained(run.path / "final")) == model.config.vocab_size
    assert llmkit.generate("the sea", model=run, max_new_tokens=3, seed=0).seed == 0


def test_recipe_of_a_run_has_every_value_settled(make_recipe):
    run = llmkit.train(make_recipe())
    kept = llmkit.read_recipe(run.path / "recipe.yaml")
    assert (kept.data.pack, kept.data.on_long, kept.data.max_length) == (True, "split", 32)
    assert (kept.train.micro_batch_size, kept.train.mixed_precision) == (8, "no")
    assert kept.output_dir == str(run.path)


@pytest.mark.parametrize("micro", [1, 2, 4])
def test_accumulation_changes_nothing_in_float64(make_recipe, tmp_path, micro):
    whole = llmkit.train(make_recipe(model={"dtype": "float64"}))
    parts = make_recipe(model={"dtype": "float64"}, train={"micro_batch_size": micro}, output_dir=str(tmp_path / "b"))
    split = llmkit.train(parts)
    for (_, a), (_, b) in zip(read_curve(whole.path), read_curve(split.path), strict=True):
        assert a == pytest.approx(b, rel=1e-12, abs=1e-12)
    theirs = load_file(split.path / "final" / "model.safetensors")
    for name, tensor in load_file(whole.path / "final" / "model.safetensors").items():
        assert tensor.dtype == torch.float64
        torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=1e-10)


def dropout(make_recipe, **changes):
    pdrops = {"resid_pdrop": 0.2, "embd_pdrop": 0.2, "attn_pdrop": 0.2}
    return make_recipe(model={"config": pdrops}, **changes)


def test_resume_at_every_step_gives_one_run(make_recipe, tmp_path):
    """Steps 1 to 24, with accumulation, dropout, warmup and evaluations: the weights and all numbers, bit for bit."""
    import shutil

    changes = {
        "data": {"eval_rows": 4},
        "train": {"max_steps": 24, "global_batch_size": 4, "micro_batch_size": 2},
        "schedule": {"name": "cosine", "num_warmup_steps": 3},
        "save": {"every_steps": 1, "keep": 24},
        "eval": {"every_steps": 5},
    }
    whole = llmkit.train(dropout(make_recipe, **changes, output_dir=str(tmp_path / "whole")))
    expected, numbers = weights_of(whole), numbers_of(whole)
    for step in range(1, 25):
        folder = tmp_path / f"from-{step}"
        shutil.copytree(whole.path, folder, ignore=shutil.ignore_patterns("final", "best"))
        for later in runfolder.steps(folder):
            if int(later.name.removeprefix("step-")) > step:
                shutil.rmtree(later)
        again = dropout(make_recipe, **{**changes, "save": {"every_steps": 50}}, output_dir=str(folder))
        run = llmkit.train(again, resume="must")
        assert weights_of(run) == expected, step
        assert numbers_of(run) == numbers, step
        shutil.rmtree(folder)


def test_max_seconds_pauses_at_a_step_and_the_run_goes_on_to_the_same_weights(make_recipe, tmp_path, notes):
    whole = llmkit.train(dropout(make_recipe, output_dir=str(tmp_path / "whole")))
    run = llmkit.train(dropout(make_recipe), max_seconds=1e-6)
    assert (run.step, run.finished) == (1, False)
    assert "paused at step 1 of 6" in notes
    assert not (run.path / "final").exists()
    run = llmkit.train(dropout(make_recipe), resume="auto")
    assert (run.finished, weights_of(run)) == (True, weights_of(whole))
    assert numbers_of(run) == numbers_of(whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", [1, 3, 4])
def test_signal_saves_the_run_which_goes_on_to_the_same_weights(make_recipe, tmp_path, number, step):
    whole = llmkit.train(dropout(make_recipe, output_dir=str(tmp_path / "whole")))

    def interrupt(progress):
        if progress.step == step:
            os.kill(os.getpid(), number)

    with pytest.raises(llmkit.Interrupted) as caught:
        llmkit.train(dropout(make_recipe), watch=interrupt)
    assert caught.value.exit_code == 128 + number
    assert caught.value.step in (step, step + 1)
    run = llmkit.train(dropout(make_recipe), resume="must")
    assert (weights_of(run), numbers_of(run)) == (weights_of(whole), numbers_of(whole))


def test_signal_between_micro_batches_leaves_nothing_of_the_step(make_recipe, tmp_path, monkeypatch):
    changes = {"train": {"micro_batch_size": 2}}
    whole = llmkit.train(dropout(make_recipe, **changes, output_dir=str(tmp_path / "whole")))
    from llmkit.training.session import Session

    compute, calls = Session.compute_loss, []

    def interrupted(self, batch, num_targets):
        calls.append(1)
        if len(calls) == 10:  # the second of four, in step 3
            os.kill(os.getpid(), signal.SIGTERM)
        return compute(self, batch, num_targets)

    monkeypatch.setattr(Session, "compute_loss", interrupted)
    with pytest.raises(llmkit.Interrupted) as caught:
        llmkit.train(dropout(make_recipe, **changes))
    assert (caught.value.step, len(calls)) == (2, 10)
    monkeypatch.undo()
    run = llmkit.train(dropout(make_recipe, **changes), resume="must")
    assert (weights_of(run), numbers_of(run)) == (weights_of(whole), numbers_of(whole))


def test_signal_to_the_whole_group_saves_though_workers_read_the_rows(make_recipe, tmp_path):
    changes = {"data": {"num_workers": 1}}
    whole = llmkit.train(make_recipe(**changes, output_dir=str(tmp_path / "whole")))

    def interrupt(progress):
        if progress.step == 2:
            workers = multiprocessing.active_children()
            assert len(workers) == 1
            # as from `timeout`: of a worker's parent torch takes it otherwise
            subprocess.run(["sh", "-c", f"kill -TERM {workers[0].pid}"], check=True)
            time.sleep(0.2)  # torch raises in this process when a worker has died
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(llmkit.Interrupted) as caught:
        llmkit.train(make_recipe(**changes), watch=interrupt)
    assert multiprocessing.active_children() == []  # else the process waits at its end for what heeds no signal
    assert caught.value.exit_code == 143
    run = llmkit.train(make_recipe(**changes), resume="must")
    assert (weights_of(run), numbers_of(run)) == (weights_of(whole), numbers_of(whole))


@pytest.mark.parametrize("early", [True, False])
def test_signal_ends_the_texts_of_an_evaluation_at_once(make_recipe, tmp_path, monkeypatch, early):
    changes = {"eval": {"every_steps": 3, "generate": ["the sea"]}, "data": {"eval_rows": 4}}
    whole = llmkit.train(make_recipe(**changes, output_dir=str(tmp_path / "whole")))
    sample, measure = measuring.sample_texts, measuring.evaluate_loss

    def interrupted(model, *arguments):
        model.eval()
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        finally:
            model.train()

    def signalled(*arguments):
        found = measure(*arguments)
        os.kill(os.getpid(), signal.SIGTERM)
        return found

    if early:
        monkeypatch.setattr(measuring, "evaluate_loss", signalled)
        monkeypatch.setattr(measuring, "sample_texts", lambda *arguments: pytest.fail("it went on"))
    else:
        monkeypatch.setattr(measuring, "sample_texts", interrupted)
    began = time.monotonic()
    with pytest.raises(llmkit.Interrupted) as caught:
        llmkit.train(make_recipe(**changes))
    assert time.monotonic() - began < 30
    assert caught.value.step == 3
    monkeypatch.setattr(measuring, "sample_texts", sample)
    monkeypatch.setattr(measuring, "evaluate_loss", measure)
    run = llmkit.train(make_recipe(**changes), resume="must")
    assert (weights_of(run), numbers_of(run)) == (weights_of(whole), numbers_of(whole))


def test_evaluation_that_fails_leaves_the_steps_before_it(make_recipe, tmp_path, monkeypatch):
    changes = {"data": {"eval_rows": 4}, "save": {"every_steps": 500}}
    whole = llmkit.train(make_recipe(**changes, output_dir=str(tmp_path / "whole")))

    def fail(*arguments):
        raise InputError("it cannot be")

    monkeypatch.setattr(measuring, "sample_texts", fail)
    with pytest.raises(InputError, match="it cannot be"):
        llmkit.train(make_recipe(**changes, eval={"generate": ["the sea"]}))
    monkeypatch.undo()
    run = llmkit.train(make_recipe(**changes), resume="must")
    assert (run.step, weights_of(run), run.metrics) == (6, weights_of(whole), whole.metrics)


def test_signal_in_an_evaluation_repeats_it_when_the_run_goes_on(make_recipe, tmp_path, monkeypatch):
    changes = {"data": {"eval_rows": 8}, "train": {"micro_batch_size": 2}, "eval": {"every_steps": 3}}
    whole = llmkit.train(make_recipe(**changes, output_dir=str(tmp_path / "whole")))
    from llmkit.training.session import Session

    measure, calls = Session.measure, []

    def interrupted(self, batch):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return measure(self, batch)

    monkeypatch.setattr(Session, "measure", interrupted)
    with pytest.raises(llmkit.Interrupted) as caught:
        llmkit.train(make_recipe(**changes))
    assert (caught.value.step, len(calls)) == (3, 2)
    monkeypatch.undo()
    run = llmkit.train(make_recipe(**changes), resume="must")
    assert (weights_of(run), numbers_of(run)) == (weights_of(whole), numbers_of(whole))
    assert weights_of(run, "best") == weights_of(whole, "best")


def test_finished_run_says_so_and_trains_nothing(make_recipe, notes):
    first = llmkit.train(make_recipe())
    before = numbers_of(first)
    again = llmkit.train(make_recipe(), resume="auto")
    assert (again.step, again.finished) == (6, True)
    assert f"{first.path} is finished at step 6; a greater train.max_steps goes on" in notes
    assert numbers_of(again) == before


def test_run_that_went_on_from_an_older_checkpoint_is_not_finished(make_recipe, tmp_path):
    first = llmkit.train(make_recipe())
    older = first.path / "checkpoints" / "step-000004"
    again = llmkit.train(make_recipe(), resume=str(older), max_seconds=1e-6)
    assert (again.step, again.finished) == (5, False)
    steps = []
    last = llmkit.train(make_recipe(), resume="auto", watch=lambda progress: steps.append(progress.step))
    assert (steps, last.finished, weights_of(last)) == ([6], True, weights_of(first))
    assert llmkit.train(make_recipe(), resume="auto", watch=lambda progress: pytest.fail("it trains")).finished


def test_another_metric_chooses_the_best_anew(make_recipe, notes):
    changes = {"data": {"eval_rows": 8}, "eval": {"every_steps": 1}}
    llmkit.train(make_recipe(**changes, train={"max_steps": 3}))
    changes["eval"] |= {"best_metric": "perplexity", "patience": 2}
    run = llmkit.train(make_recipe(**changes, train={"max_steps": 8}), resume="auto")
    assert "the best model was chosen by loss; the next evaluation begins anew by perplexity" in notes
    curve = read_curve(run.path, "eval_perplexity")
    best = min(curve[3:], key=lambda point: point[1])
    assert runfolder.read_facts(run.path / "best")["step"] == best[0] > 3
    assert run.step == 8


def test_finished_run_can_be_lengthened(make_recipe, tmp_path, notes):
    constant = {"schedule": {"name": "constant"}}
    whole = llmkit.train(make_recipe(train={"max_steps": 9}, **constant, output_dir=str(tmp_path / "whole")))
    llmkit.train(make_recipe(**constant))
    run = llmkit.train(make_recipe(train={"max_steps": 9}, **constant), resume="auto")
    assert (run.step, weights_of(run), numbers_of(run)) == (9, weights_of(whole), numbers_of(whole))
    assert not [note for note in notes if "learning rate" in note]


def test_lengthened_run_notes_where_the_learning_rate_jumps(make_recipe, notes):
    llmkit.train(make_recipe(schedule={"name": "linear"}))
    llmkit.train(make_recipe(schedule={"name": "linear"}, train={"max_steps": 12}), resume="auto")
    assert "the learning rate goes from 0 to 0.005, as the schedule has more steps now" in notes


def test_resume_refuses_a_changed_key_with_both_values(make_recipe):
    llmkit.train(make_recipe(), max_seconds=1e-6)
    with pytest.raises(InputError) as caught:
        llmkit.train(make_recipe(optim={"lr": 2e-2}), resume="auto")
    assert "optim.lr" in str(caught.value)
    assert "0.02" in str(caught.value)
    assert "0.01" in str(caught.value)


def test_resume_takes_a_change_of_what_does_not_matter(make_recipe, tmp_path):
    whole = llmkit.train(make_recipe(model={"dtype": "float64"}, output_dir=str(tmp_path / "whole")))
    llmkit.train(make_recipe(model={"dtype": "float64"}), max_seconds=1e-6)
    changed = make_recipe(
        model={"dtype": "float64"}, train={"micro_batch_size": 4}, save={"every_steps": 5}, log={"every_steps": 2}
    )
    run = llmkit.train(changed, resume="must")
    found = load_file(run.path / "final" / "model.safetensors")
    for name, tensor in load_file(whole.path / "final" / "model.safetensors").items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-10)


def test_resume_refuses_other_data(make_recipe, stories, tmp_path):
    other = tmp_path / "stories.jsonl"
    text = (stories / "stories.jsonl").read_text(encoding="utf-8")
    other.write_text(text, encoding="utf-8")
    llmkit.train(make_recipe(data={"path": str(other)}), max_seconds=1e-6)
    other.write_text(text + text, encoding="utf-8")
    with pytest.raises(InputError, match=r"the data have changed since .*step-000001 was written"):
        llmkit.train(make_recipe(data={"path": str(other)}), resume="auto")


def test_data_that_are_given_to_a_finished_run_are_told_not_to_be_read(make_recipe, caplog):
    run = llmkit.train(make_recipe())
    rows = [{"text": "another"}]
    told = "it was finished before: the data set that is given now is not read"
    assert llmkit.train(make_recipe(), resume="auto").finished
    assert told not in caplog.messages
    assert llmkit.train(make_recipe(), dataset=rows, resume="auto").step == run.step
    assert told in caplog.messages


def test_run_lies_below_the_home_of_the_user_where_the_recipe_says_so(make_recipe, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    recipe = make_recipe(output_dir="~/runs/x")
    run = llmkit.train(recipe)
    assert run.path == tmp_path / "runs" / "x"
    again = llmkit.train(recipe, resume="~/runs/x/checkpoints/step-000004", max_seconds=1e-6)
    assert (again.path, again.step) == (run.path, 5)
    assert list((tmp_path / "here").iterdir()) == []


def test_callers_random_state_and_threads_stay_and_change_nothing(make_recipe, tmp_path):
    torch.manual_seed(1)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    recipe = dropout(make_recipe, train={"threads": threads + 1})
    run = llmkit.train(recipe)
    assert (torch.equal(torch.get_rng_state(), before), torch.get_num_threads()) == (True, threads)
    with pytest.raises(InputError):
        llmkit.train(recipe | {"output_dir": str(tmp_path / "b")}, dataset=[{"text": "a few"}])
    assert (torch.equal(torch.get_rng_state(), before), torch.get_num_threads()) == (True, threads)
    llmkit.build(recipe)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again = llmkit.train(recipe | {"output_dir": str(tmp_path / "c")})
    assert (weights_of(again), numbers_of(again)) == (weights_of(run), numbers_of(run))


def test_train_refuses_fewer_rows_than_a_batch(make_recipe):
    with pytest.raises(InputError, match=r"^\d+ rows < batch 4096; give more data or set train.global_batch_size$"):
        llmkit.train(make_recipe(train={"global_batch_size": 4096}))


def test_train_leaves_no_folder_behind_where_nothing_was_started(make_recipe, tmp_path):
    with pytest.raises(InputError):
        llmkit.train(make_recipe(data={"path": str(tmp_path / "none.jsonl")}))
    assert not (tmp_path / "run").exists()


def patient(make_recipe, **changes):
    """A run that gets worse, so that patience ends it."""
    return make_recipe(
        data={"eval_rows": 4},
        optim={"lr": 3.0},
        train={"max_steps": 40},
        eval={"every_steps": 2, "patience": 1},
        save={"every_steps": 5},
        **changes,
    )


def test_run_killed_before_its_final_folder_ends_where_patience_did(make_recipe, tmp_path):
    import shutil

    whole = llmkit.train(patient(make_recipe, output_dir=str(tmp_path / "whole")))
    run = llmkit.train(patient(make_recipe))
    shutil.rmtree(run.path / "final")
    again = llmkit.train(patient(make_recipe), resume="auto")
    assert (again.step, again.finished, weights_of(again)) == (whole.step, True, weights_of(whole))
    assert again.metrics == whole.metrics
    facts = runfolder.read_facts(whole.path / "final")
    assert runfolder.read_facts(again.path / "final") == facts
    assert llmkit.train(patient(make_recipe), resume="auto") == again


def test_run_that_patience_ended_goes_on_with_more_of_it(make_recipe, notes):
    run = llmkit.train(patient(make_recipe))
    llmkit.train(patient(make_recipe), resume="auto")
    assert f"{run.path} is finished at step {run.step}; a greater eval.patience goes on" in notes
    recipe = patient(make_recipe)
    recipe["eval"]["patience"] = 2
    assert llmkit.train(recipe, resume="auto").step > run.step


def interrupt_evaluation(monkeypatch, call):
    """Send a signal in an evaluation, at this call of its measuring."""
    from llmkit.training.session import Session

    measure, calls = Session.measure, []

    def interrupted(self, batch):
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGTERM)
        return measure(self, batch)

    monkeypatch.setattr(Session, "measure", interrupted)


def test_second_signal_in_the_same_evaluation_still_repeats_it(make_recipe, tmp_path, monkeypatch):
    """At the last step: the run is not finished before it is measured."""
    changes = {"data": {"eval_rows": 8}, "train": {"micro_batch_size": 2}}
    whole = llmkit.train(make_recipe(**changes, output_dir=str(tmp_path / "whole")))
    for resume in ("never", "must"):
        interrupt_evaluation(monkeypatch, 2)
        with pytest.raises(llmkit.Interrupted):
            llmkit.train(make_recipe(**changes), resume=resume)
        monkeypatch.undo()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run = llmkit.train(make_recipe(**changes), resume="must")
    assert (weights_of(run), numbers_of(run), run.metrics) == (weights_of(whole), numbers_of(whole), whole.metrics)


def test_kill_after_a_repeated_evaluation_leaves_one_line_of_it(make_recipe, tmp_path, monkeypatch):
    changes = {"data": {"eval_rows": 8}, "train": {"micro_batch_size": 2}, "eval": {"every_steps": 3}}
    whole = llmkit.train(make_recipe(**changes, output_dir=str(tmp_path / "whole")))
    interrupt_evaluation(monkeypatch, 2)
    with pytest.raises(llmkit.Interrupted):
        llmkit.train(make_recipe(**changes))
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    from llmkit.training import keeping

    with monkeypatch.context() as patch:
        patch.setattr(keeping, "save", lambda s: (_ for _ in ()).throw(RuntimeError("killed")))
        with pytest.raises(RuntimeError, match="killed"):
            llmkit.train(make_recipe(**changes), resume="must")
    run = llmkit.train(make_recipe(**changes), resume="must")
    assert numbers_of(run) == numbers_of(whole)


def test_resume_refuses_an_end_before_the_checkpoint(make_recipe):
    run = llmkit.train(make_recipe())
    (run.path / "final").rename(run.path / "moved")
    with pytest.raises(InputError, match=r"train.max_steps: the run is at step 6 already, got 2"):
        llmkit.train(make_recipe(train={"max_steps": 2}), resume="auto")


def test_evaluation_that_is_not_finite_ends_the_run(make_recipe):
    recipe = make_recipe(
        data={"eval_rows": 4}, optim={"lr": 1e30}, eval={"every_steps": 1, "generate": ["the"]}, save={"every_steps": 9}
    )
    with pytest.raises(llmkit.RunError, match=r"(the evaluation at step 1|the weight .*) .*not finite.*no checkpoint"):
        llmkit.train(recipe)


def test_bad_row_of_a_stream_is_told_without_a_traceback(make_recipe, stories, tmp_path):
    text = (stories / "stories.jsonl").read_text(encoding="utf-8")
    (tmp_path / "s.jsonl").write_text(text + '{"text": 5}\n', encoding="utf-8")
    for workers in (0, 1):
        data = {"path": str(tmp_path / "s.jsonl"), "streaming": True, "num_workers": workers}
        recipe = make_recipe(data=data, train={"max_steps": 99}, output_dir=str(tmp_path / f"{workers}"))
        with pytest.raises(llmkit.RunError) as caught:
            llmkit.train(recipe)
        assert re.fullmatch(r".*s\.jsonl row 121: expected text, got a number; .*", str(caught.value))
        assert "\n" not in str(caught.value)


def test_patience_ends_the_run_and_best_keeps_the_best(make_recipe):
    recipe = make_recipe(
        data={"eval_rows": 4},
        optim={"lr": 3.0},
        train={"max_steps": 40},
        eval={"every_steps": 2, "patience": 3},
    )
    run = llmkit.train(recipe)
    curve = read_curve(run.path, "eval_loss")
    best = min(curve, key=lambda point: point[1])
    assert run.finished
    assert run.step == best[0] + 6 < 40
    assert runfolder.read_facts(run.path / "best")["step"] == best[0]
    assert runfolder.read_facts(run.path / "final")["step"] == run.step


def test_evaluation_is_the_same_for_every_micro_batch(make_recipe, tmp_path):
    values = []
    for micro in (1, 4, 8):
        changes = {"data": {"eval_rows": 7}, "train": {"micro_batch_size": micro}, "model": {"dtype": "float64"}}
        run = llmkit.train(make_recipe(**changes, output_dir=str(tmp_path / f"{micro}")))
        values.append(run.metrics)
    for name in ("loss", "perplexity", "bits_per_byte"):
        assert [v[name] for v in values] == pytest.approx([values[0][name]] * 3, rel=1e-12)


def test_num_batches_of_an_evaluation_are_the_same_rows_for_every_micro_batch(make_recipe, tmp_path):
    values = []
    for micro in (1, 4, 8):
        changes = {"data": {"eval_rows": 20}, "eval": {"num_batches": 2}, "train": {"micro_batch_size": micro}}
        changes |= {"model": {"dtype": "float64"}, "output_dir": str(tmp_path / f"{micro}")}
        values.append(llmkit.train(make_recipe(**changes)).metrics["loss"])
    assert values == pytest.approx([values[0]] * 3, rel=1e-12)
    changes = {"data": {"eval_rows": 20}, "model": {"dtype": "float64"}, "output_dir": str(tmp_path / "whole")}
    assert llmkit.train(make_recipe(**changes)).metrics["loss"] != pytest.approx(values[0], rel=1e-6)


def test_second_signal_ends_the_process_at_once(make_recipe, tmp_path):
    """The first is remembered, since the step that is being computed takes an hour here."""
    script = """
import os, signal, sys, time
from llmkit.training.stopping import StopFlag
with StopFlag() as flag:
    print("ready", flush=True)
    while True:
        time.sleep(0.01)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    process.send_signal(signal.SIGTERM)
    assert process.wait(5) == 143
    process.stdout.close()


def test_run_goes_over_num_epochs_of_the_rows(make_recipe):
    recipe = make_recipe(train={"num_epochs": 2, "global_batch_size": 64})
    del recipe["train"]["max_steps"]
    parts = llmkit.build(recipe)
    run = llmkit.train(recipe)
    assert run.step == 2 * len(parts.train_dataset) // 64
