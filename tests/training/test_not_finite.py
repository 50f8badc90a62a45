"""Numbers that are not finite: a step changes nothing, is never logged as a loss, and too many in a row end the run."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file

import llmkit
from llmkit import runfolder
from llmkit.errors import RunError
from llmkit.training import loop
from llmkit.training.session import Session

STEPS = 12


def poison(monkeypatch, steps, place, value):
    """Make a number of these steps what it should not be: the loss, a gradient, a weight's gradient, an embedding."""
    compute = Session.compute_loss

    def poisoned(self, batch, num_targets):
        loss = compute(self, batch, num_targets)
        if self.state.step + 1 not in steps or not torch.is_grad_enabled():
            return loss
        if place == "loss":
            return loss + value
        if place == "loss, without a gradient":
            return loss + torch.tensor(value).detach()
        parameters = list(self.model.parameters())
        chosen = parameters[0] if place == "first gradient" else parameters[-1]
        handle = chosen.register_hook(lambda gradient: torch.full_like(gradient, value))
        monkeypatch.setattr(self, "_handles", [*getattr(self, "_handles", []), handle], raising=False)
        return loss

    def step_and_unhook(s, batches, previous, take=loop.take_step):
        outcome = take(s, batches, previous)
        for handle in getattr(s, "_handles", []):
            handle.remove()
        return outcome

    monkeypatch.setattr(Session, "compute_loss", poisoned)
    monkeypatch.setattr(loop, "take_step", step_and_unhook)


def read_lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def assert_all_finite(folder):
    for path in [*folder.rglob("model.safetensors"), *folder.rglob("optimizer.safetensors")]:
        for name, tensor in load_file(path).items():
            assert bool(torch.isfinite(tensor).all()), (path, name)


CASES = [
    (optimizer, place, value)
    for optimizer in ("AdamW", "RMSprop")
    for place in ("loss", "loss, without a gradient", "first gradient", "last gradient")
    for value in (math.nan, math.inf, -math.inf)
]


@pytest.mark.parametrize(("optimizer", "place", "value"), CASES)
def test_step_that_is_not_finite_changes_nothing(make_recipe, monkeypatch, notes, optimizer, place, value):
    recipe = make_recipe(optim={"name": optimizer}, train={"max_steps": STEPS, "micro_batch_size": 4})
    poison(monkeypatch, {5}, place, value)
    weights, step = {}, loop.take_step

    def kept(s, batches, previous):
        before = [p.detach().clone() for p in s.model.parameters()]
        outcome = step(s, batches, previous)
        weights[outcome.step] = all(map(torch.equal, before, s.model.parameters()))
        return outcome

    monkeypatch.setattr(loop, "take_step", kept)
    run = llmkit.train(recipe)
    assert [n for n, same in weights.items() if same] == [5]
    skipped = [line for line in read_lines(run.path) if line["step"] == 5]
    assert [{k for k in line if k != "tokens_per_s"} for line in skipped] == [{"step", "skipped", "lr"}]
    assert all(line["loss"] > 1 for line in read_lines(run.path) if line["step"] != 5)
    what = "loss" if "loss" in place else "gradient"
    sentence = f"step 5 changed nothing, its {what} is not finite (rows 32 to 39, the last from "
    assert [note for note in notes if note.startswith(sentence)]
    assert_all_finite(run.path)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_more_than_three_in_a_row_end_the_run_and_leave_the_last_checkpoint(make_recipe, monkeypatch, value):
    poison(monkeypatch, range(7, STEPS + 1), "loss", value)
    recipe = make_recipe(train={"max_steps": STEPS}, save={"every_steps": 3})
    with pytest.raises(RunError) as caught:
        llmkit.train(recipe)
    sentence = str(caught.value)
    assert "the loss was not finite in 4 steps in a row, 7 to 10 (rows 48 to 79, the last from " in sentence
    assert sentence.endswith("step 9 is intact")
    run = runfolder.Path(recipe["output_dir"])
    assert runfolder.newest_whole(run)[0].name == "step-000009"
    assert not (run / "final").exists()
    assert_all_finite(run)


def test_three_in_a_row_do_not_end_the_run(make_recipe, monkeypatch):
    poison(monkeypatch, {2, 3, 4, 6, 7, 8}, "loss", math.nan)
    assert llmkit.train(make_recipe(train={"max_steps": STEPS})).finished


def test_count_of_skipped_steps_goes_on_after_a_resume(make_recipe, monkeypatch):
    poison(monkeypatch, range(3, STEPS + 1), "loss", math.nan)
    recipe = make_recipe(train={"max_steps": STEPS}, save={"every_steps": 5})
    with pytest.raises(RunError, match="3 to 6"):
        llmkit.train(recipe)
    with pytest.raises(RunError, match="3 to 6"):
        llmkit.train(recipe, resume="auto")


def test_weight_that_is_not_finite_is_never_saved(make_recipe, monkeypatch):
    update = loop._update

    def broken(optimizer, broken):
        update(optimizer, broken)
        with torch.no_grad():
            optimizer.param_groups[0]["params"][0][0, 0] = math.nan

    monkeypatch.setattr(loop, "_update", broken)
    recipe = make_recipe(save={"every_steps": 1})
    with pytest.raises(RunError, match=r"the weight transformer.wte.weight is not finite after step 1; no checkpoint"):
        llmkit.train(recipe)
    assert not list(runfolder.Path(recipe["output_dir"]).rglob("model.safetensors"))
