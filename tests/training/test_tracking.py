"""The log of a run: metrics.jsonl, progress, and the trackers of accelerate."""

import importlib.machinery
import importlib.util
import json
import sys
import types

import accelerate
import pytest
from accelerate.utils import LoggerType
from objective_recipes import objective_recipe
from small_runs import read_curve

import llmkit
from llmkit.errors import InputError


def test_log_every_steps_leaves_out_the_steps_between_but_not_the_last(make_recipe):
    run = llmkit.train(make_recipe(train={"max_steps": 7}, log={"every_steps": 3}))
    assert [step for step, _ in read_curve(run.path)] == [3, 6, 7]


def test_evaluation_has_a_line_of_its_own_without_a_loss(make_recipe):
    prompts = ["the sea", "今天"]
    run = llmkit.train(make_recipe(data={"eval_rows": 4}, eval={"every_steps": 6, "generate": prompts}))
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    (line,) = [line for line in lines if "eval_loss" in line]
    assert set(line) == {"step", "eval_loss", "eval_perplexity", "eval_bits_per_byte", "samples"}
    assert [sample["prompt"] for sample in line["samples"]] == prompts
    assert all(set(line) == {"step", "loss", "lr", "grad_norm", "tokens_per_s"} for line in lines if "loss" in line)


def test_eval_metrics_chooses_what_is_logged(make_recipe):
    changes = {"data": {"eval_rows": 4}, "eval": {"metrics": ["bits_per_byte"], "best_metric": "bits_per_byte"}}
    run = llmkit.train(make_recipe(**changes))
    assert set(run.metrics) == {"bits_per_byte"}


def test_watch_is_given_each_step(make_recipe):
    seen = []
    llmkit.train(make_recipe(train={"max_steps": 5}, log={"every_steps": 5}), watch=seen.append)
    assert [(p.step, p.max_steps) for p in seen] == [(i, 5) for i in range(1, 6)]
    assert all(p.tokens_per_s > 0 and p.utilization > 0 and p.seconds_left >= 0 for p in seen)
    assert seen[-1].seconds_left == 0


def test_tensorboard_gets_the_same_numbers(make_recipe):
    pytest.importorskip("tensorboard", reason="not installed: pip install tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = llmkit.train(make_recipe(log={"to": ["jsonl", "tensorboard"]}))
    (events,) = {path.parent for path in run.path.rglob("events.out.tfevents.*")}
    found = EventAccumulator(str(events)).Reload()
    logged = [(event.step, event.value) for event in found.Scalars("loss")]
    assert logged == [(step, pytest.approx(loss, rel=1e-6)) for step, loss in read_curve(run.path)]


def test_tensorboard_that_is_not_installed_is_named_before_anything_is_loaded(make_recipe, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tensorboard" else find(name))
    with pytest.raises(
        InputError, match=r"log.to: tensorboard is not installed \(pip install .llmkit\[tensorboard\].\)"
    ):
        llmkit.train(make_recipe(log={"to": ["tensorboard"]}))


@pytest.mark.parametrize("kind", ["completion", "masked-lm", "classification"])
def test_watch_is_given_no_utilization_where_not_every_token_is_a_target(kind, tmp_path):
    seen = []
    llmkit.train(objective_recipe(kind, tmp_path), watch=seen.append)
    assert seen and all(p.tokens_per_s > 0 and p.utilization is None for p in seen)


def test_trackers_of_accelerate_get_the_recipe_and_the_same_numbers(make_recipe, tmp_path, monkeypatch):
    told = {"config": {}, "logged": [], "finished": 0}
    stub = types.ModuleType("wandb")
    stub.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
    stub.config = types.SimpleNamespace(update=lambda values, **_: told["config"].update(values))
    run = types.SimpleNamespace(
        log=lambda values, step: told["logged"].append((step, values)),
        finish=lambda: told.update(finished=told["finished"] + 1),
    )
    stub.init = lambda project: told.update(project=project) or run
    monkeypatch.setitem(sys.modules, "wandb", stub)
    monkeypatch.setattr(accelerate.tracking, "is_wandb_available", lambda: True)
    monkeypatch.setattr(accelerate.tracking, "_available_trackers", [LoggerType.WANDB])
    recipe = make_recipe(log={"to": ["jsonl", "wandb", "tensorboard"]}, data={"eval_rows": 4})
    folder = llmkit.train(recipe).path
    assert told["project"] == "recipe"
    assert told["finished"] == 1
    assert told["config"]["optim.lr"] == "0.01"
    for key in ("loss", "eval_loss"):
        assert [(step, values[key]) for step, values in told["logged"] if key in values] == read_curve(folder, key)
    assert len(list(folder.glob("tensorboard/events.out.tfevents.*"))) == 1


@pytest.mark.parametrize("name", ["wandb", "mlflow", "swanlab"])
def test_tracker_that_is_not_installed_is_named(make_recipe, monkeypatch, name):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda asked: None if asked == name else find(asked))
    with pytest.raises(InputError, match=rf"log.to: {name} is not installed \(pip install {name}\)"):
        llmkit.build(make_recipe(log={"to": ["jsonl", name]}))
