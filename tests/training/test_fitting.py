"""micro_batch_size: auto finds the largest that fits, and the run is that of the same number written down."""

import dataclasses

import pytest
import torch
from accelerate.utils import DistributedType
from objective_recipes import objective_recipe
from small_runs import read_curve

import llmkit
from llmkit.errors import InputError
from llmkit.recipe.reading import read_recipe
from llmkit.training import building, fitting, simulating
from llmkit.training.session import Session
from llmkit.training.simulating import StepCost

KEY = "train.micro_batch_size"
COST = StepCost(weights=800, gradients=400, optimizer=1600, activations=10_000, logits=5000, flops=1)


@pytest.fixture
def small_memory(monkeypatch):
    """A device whose memory holds at most so many sequences."""

    def limit(number):
        compute = Session.compute_loss

        def full(self, batch, num_targets):
            if len(batch["labels"]) > number:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return compute(self, batch, num_targets)

        monkeypatch.setattr(Session, "compute_loss", full)

    return limit


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_auto_finds_the_largest_that_fits_and_trains_as_that_number_does(make_recipe, tmp_path, notes, small_memory):
    base = make_recipe()["model"]["config"]
    config = {**base, "resid_pdrop": 0.1, "attn_pdrop": 0.1}  # masks depend on how a batch is cut
    recipe = make_recipe(model={"config": config}, output_dir=str(tmp_path / "explicit"))
    explicit = llmkit.train({**recipe, "train": {**recipe["train"], "micro_batch_size": 2}})
    small_memory(3)
    found = llmkit.train({**recipe, "train": {**recipe["train"], "micro_batch_size": "auto"}, "output_dir": "found"})
    assert notes.count(f"{KEY}: 2, the largest that fits") == 1
    assert read_curve(found.path) == read_curve(explicit.path)
    assert read_recipe(found.path / "recipe.yaml", own_data=True).train.micro_batch_size == 2


def test_nothing_that_fits_is_said_before_a_step(make_recipe, tmp_path, small_memory):
    small_memory(0)
    with pytest.raises(InputError, match=f"{KEY}: not even one sequence of 32 tokens fits"):
        llmkit.train(make_recipe(train={"micro_batch_size": "auto"}))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_run_that_goes_on_keeps_what_was_found(make_recipe, tmp_path, small_memory, notes):
    recipe = make_recipe(train={"micro_batch_size": "auto", "max_steps": 2})
    small_memory(3)
    run = llmkit.train(recipe)
    small_memory(100)  # as many as are asked for
    again = {**recipe, "train": {**recipe["train"], "max_steps": 4}}
    llmkit.train(again, resume="must")
    assert read_recipe(run.path / "recipe.yaml", own_data=True).train.micro_batch_size == 2
    assert notes.count(f"{KEY}: 2, the largest that fits") == 1


def test_estimate_takes_the_first_size_that_goes_into_the_room(tmp_path):
    recipe = building.as_recipe(objective_recipe("causal-lm", tmp_path, train={"micro_batch_size": "auto"}))
    plan = building.plan(recipe)
    totals = {size: simulating.simulate(fitting.set_micro(plan, size)).total for size in (8, 4, 2, 1)}
    assert totals[8] > totals[4] > totals[2] > totals[1]
    for room, size in ((totals[8], 8), (totals[8] - 1, 4), (totals[2], 2), (totals[2] - 1, 1), (0, 1)):
        found, cost = fitting.estimate(plan, recipe, num_processes=1, room=room)
        assert found.recipe.train.micro_batch_size == size
        assert cost.total == totals[size]


def test_model_whose_code_needs_values_is_told(tmp_path, monkeypatch):
    recipe = building.as_recipe(objective_recipe("causal-lm", tmp_path, train={"micro_batch_size": "auto"}))
    plan = building.plan(recipe)
    forward = type(plan.parts.model).forward
    needs = lambda self, *a, **k: forward(self, *a, **k) if k["input_ids"].max().item() > 0 else None  # noqa: E731
    monkeypatch.setattr(type(plan.parts.model), "forward", needs)
    found, cost = fitting.estimate(plan, recipe, num_processes=1, room=0)
    assert found.recipe.train.micro_batch_size == 8  # there remains to try
    assert isinstance(cost, str)
    assert "DataDependentOutputException" in cost


def test_ddp_holds_gradients_twice_and_fsdp_a_share_and_two_blocks():
    block = torch.nn.TransformerEncoderLayer(4, 1, 8)
    model = torch.nn.Sequential(torch.nn.Embedding(10, 4), block, torch.nn.TransformerEncoderLayer(4, 1, 8))
    model._no_split_modules = ["TransformerEncoderLayer"]
    model[0].requires_grad_(False)
    weight = 4 * sum(p.numel() for p in block.parameters())
    cost = dataclasses.replace(COST, weights=160 + 2 * weight)
    assert fitting._add_buckets(model, cost) == dataclasses.replace(cost, gradients=400 + 2 * weight)
    held = (160 + 2 * weight) * (1 + 2 * weight / cost.weights)
    dealt = fitting._deal(model, cost, 8, accumulates=False)
    assert dealt.weights == cost.weights // 8 + int(held)
    assert (dealt.gradients, dealt.optimizer, dealt.activations) == (50, 200, 10_000)
    assert fitting._deal(model, cost, 8, accumulates=True).gradients == 400  # whole until the last micro-batch


def test_fsdp_needs_a_number():
    session = type("S", (), {"accelerator": type("A", (), {"distributed_type": DistributedType.FSDP})})
    with pytest.raises(InputError, match=f"{KEY}: auto tries each process for itself, which FSDP cannot"):
        fitting.settle(session, COST)


@pytest.mark.parametrize("value", [0, -1, "automatic", 1.5])
def test_other_values_are_refused(make_recipe, value):
    with pytest.raises(InputError, match=KEY):
        llmkit.build(make_recipe(train={"micro_batch_size": value}))
