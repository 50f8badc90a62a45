"""The optimizer and the schedule: decay groups, formulas, and what is refused."""

import math

import pytest
import torch

from llmkit.errors import InputError
from llmkit.recipe.schema import OptimSpec, ScheduleSpec
from llmkit.training.optim import check_optim, find_class, make_optimizer, make_schedule, set_step


def refused(**fields):
    with pytest.raises(InputError) as caught:
        find_class(OptimSpec(**fields))
    return str(caught.value)


def test_make_optimizer_decays_matrices_alone(loaded):
    model = loaded("gpt2").model
    optimizer = make_optimizer(OptimSpec(weight_decay=0.1), model)
    names = {id(p): n for n, p in model.named_parameters()}
    decayed, others = ([names[id(p)] for p in g["params"]] for g in optimizer.param_groups)
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.1, 0.0]
    assert all(n.endswith(("wte.weight", "wpe.weight", "attn.weight", "proj.weight", "fc.weight")) for n in decayed)
    assert all(".ln_" in n or n.endswith("bias") for n in others)
    assert len(decayed) + len(others) == len(names)


def test_make_optimizer_leaves_frozen_weights_out():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    model[0].requires_grad_(False)
    optimizer = make_optimizer(OptimSpec(), model)
    assert [[p.shape for p in g["params"]] for g in optimizer.param_groups] == [[(2, 2)], [(2,)]]


def test_make_optimizer_follows_adamw_over_100_steps():
    """Source: Loshchilov & Hutter 2019, Decoupled Weight Decay Regularization, algorithm 2."""
    model = torch.nn.Linear(1, 1, bias=False, dtype=torch.float64)
    optimizer = make_optimizer(OptimSpec(lr=0.01, weight_decay=0.1, betas=(0.9, 0.95)), model)
    w, m, v = model.weight.item(), 0.0, 0.0
    for t in range(1, 101):
        gradient = math.sin(t)
        model.weight.grad = torch.full_like(model.weight, gradient)
        optimizer.step()
        m, v = 0.9 * m + 0.1 * gradient, 0.95 * v + 0.05 * gradient**2
        w -= 0.01 * 0.1 * w + 0.01 * (m / (1 - 0.9**t)) / (math.sqrt(v / (1 - 0.95**t)) + 1e-8)
        assert model.weight.item() == pytest.approx(w, abs=1e-12)


@pytest.mark.parametrize("name", ["AdamW", "Adam", "SGD", "Adafactor", "RMSprop", "NAdam"])
def test_make_optimizer_takes_a_step_with_any_class(name):
    model = torch.nn.Linear(3, 2)
    before = model.weight.detach().clone()
    optimizer = make_optimizer(OptimSpec(name=name), model)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert not torch.equal(model.weight, before)


def test_make_optimizer_fuses_unless_another_form_is_asked_for():
    model = torch.nn.Linear(2, 2)
    assert make_optimizer(OptimSpec(), model).defaults["fused"] is True
    assert not make_optimizer(OptimSpec(kwargs={"foreach": True}), model).defaults["fused"]
    # a fused SGD whose first step is skipped goes on with a momentum that nobody filled
    assert not make_optimizer(OptimSpec(name="SGD", kwargs={"momentum": 0.9}), model).defaults["fused"]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"name": "adamW"}, "optim.name: no such class in torch.optim, got 'adamW'; did you mean 'AdamW'?"),
        ({"name": "LBFGS"}, "optim.name: no such class in torch.optim, got 'LBFGS'"),
        ({"kwargs": {"epss": 1e-6}}, "optim.kwargs.epss: AdamW takes no such argument; did you mean 'eps'?"),
        ({"kwargs": {"lr": 1.0}}, "optim.kwargs.lr: lr stands in optim itself; expected optim.lr"),
        ({"name": "SGD", "betas": (0.9, 0.9)}, "optim.betas: SGD takes no betas"),
    ],
)
def test_find_class_refuses(fields, sentence):
    assert refused(**fields) == sentence


def test_check_optim_gives_the_reason_of_torch():
    with pytest.raises(InputError) as caught:
        check_optim(OptimSpec(kwargs={"eps": -1.0}), ScheduleSpec(), 10)
    assert str(caught.value) == "optim: torch.optim.AdamW refuses its arguments: Invalid epsilon value: -1.0"


def test_check_optim_gives_the_reason_of_transformers():
    with pytest.raises(InputError) as caught:
        check_optim(OptimSpec(), ScheduleSpec(name="warmup_stable_decay"), 10)
    assert "schedule: get_scheduler refuses 'warmup_stable_decay'" in str(caught.value)
    assert "num_decay_steps" in str(caught.value)


def rates(spec, steps, lr=1.0):
    optimizer = make_optimizer(OptimSpec(lr=lr), torch.nn.Linear(1, 1))
    schedule = make_schedule(spec, optimizer, steps)
    found = []
    for step in range(steps + 1):
        set_step(schedule, step)
        assert {group["lr"] for group in optimizer.param_groups} == {schedule.get_last_lr()[0]}
        found.append(schedule.get_last_lr()[0])
    return found


def test_make_schedule_follows_the_closed_form_of_a_cosine_after_a_warmup():
    found = rates(ScheduleSpec(name="cosine", num_warmup_steps=10), 100)
    for step, rate in enumerate(found):
        expected = step / 10 if step < 10 else 0.5 * (1 + math.cos(math.pi * (step - 10) / 90))
        assert rate == pytest.approx(expected, abs=1e-15)
    assert found[-1] == 0.0


@pytest.mark.parametrize("kwargs", [{"min_lr_rate": 0.1}, {"min_lr": 6e-5}])
def test_make_schedule_follows_the_closed_form_of_a_cosine_that_ends_at_a_least_rate(kwargs):
    """Of a rate of 6e-4 a tenth is 6e-5: both ways of stating the least rate mean one schedule."""
    found = rates(ScheduleSpec(name="cosine_with_min_lr", num_warmup_steps=10, kwargs=kwargs), 100, lr=6e-4)
    for step, rate in enumerate(found):
        cosine = 6e-5 + (6e-4 - 6e-5) * 0.5 * (1 + math.cos(math.pi * (step - 10) / 90))
        assert rate == pytest.approx(6e-4 * step / 10 if step < 10 else cosine, abs=1e-18)
    assert [found[step] for step in (0, 5, 10, 55, 100)] == pytest.approx([0, 3e-4, 6e-4, 3.3e-4, 6e-5], abs=1e-18)


def test_make_schedule_follows_the_closed_form_of_a_line():
    assert rates(ScheduleSpec(name="linear", num_warmup_steps=2), 4) == [0.0, 0.5, 1.0, 0.5, 0.0]


def test_set_step_gives_the_rate_of_walking_there():
    walked = torch.nn.Linear(1, 1)
    optimizer = make_optimizer(OptimSpec(lr=3e-4), walked)
    schedule = make_schedule(ScheduleSpec(name="cosine", num_warmup_steps=3), optimizer, 17)
    jumped = make_schedule(ScheduleSpec(name="cosine", num_warmup_steps=3), make_optimizer(OptimSpec(), walked), 17)
    for step in range(17):
        set_step(jumped, step)
        assert jumped.get_last_lr() == schedule.get_last_lr()
        optimizer.step()
        schedule.step()
