"""The gradient that a step gives the optimizer: of each objective the slope of its loss, however the step is split."""

import itertools

import pytest
import torch
from objective_recipes import BART, KINDS, objective_recipe, sentence, write_rows
from small_runs import read_curve

import llmkit
from llmkit.training import adapting, loop
from llmkit.training.session import Session

STEP = 1e-3
VALUES = {
    "regression": [[0.5, -1.5], [2.0, 0.25], [-0.75, 1.0]],
    "multi_label_classification": [["good"], [], ["bad", "good"]],
}


def smooth_recipe(kind, folder):
    """A recipe whose loss has a slope everywhere and is computed in float64 throughout.

    T5's has kinks, those of its ReLU, and transformers computes its norms in float32.
    """
    if kind in VALUES:
        rows = [{"text": sentence(i, 3 + i % 9), "label": VALUES[kind][i % 3]} for i in range(24)]
        data = {"path": str(write_rows(folder / "v.jsonl", rows))}
        return objective_recipe("classification", folder, model={"problem_type": kind}, data=data)
    recipe = objective_recipe(kind, folder)
    if recipe["objective"] == "seq2seq":
        recipe["model"]["config"] = {**BART, "max_position_embeddings": 128}
    return recipe


def follow_slope(loss, parameter, index):
    """The slope of a loss along one number of a parameter, by central differences whose error is of order STEP^4.

    Source: Fornberg 1988, Generation of Finite Difference Formulas on Arbitrarily Spaced Grids, table 1.
    """
    flat = parameter.data.view(-1)
    before, found = flat[index].item(), {}
    for distance in (-2, -1, 1, 2):
        flat[index] = before + distance * STEP
        found[distance] = loss()
    flat[index] = before
    return (8 * (found[1] - found[-1]) - (found[2] - found[-2])) / (12 * STEP)


def draw_places(model, number):
    """Draw numbers of parameters, each parameter as likely as any other."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    generator = torch.Generator().manual_seed(0)
    for _ in range(number):
        parameter = parameters[int(torch.randint(len(parameters), (), generator=generator))]
        yield parameter, int(torch.randint(parameter.numel(), (), generator=generator))


def measure_slopes(monkeypatch, recipe):
    """The gradient of the third step of a run beside the slope of its loss, at 50 numbers of its parameters."""
    take_step, expected, found = loop.take_step, [], []

    def take(s, batches, previous):
        if s.state.step == 2:
            total = sum(s.plan.objective.targets(batch).numel() for batch in batches)
            with torch.no_grad():
                loss = lambda: sum(float(s.compute_loss(batch, total)) for batch in batches)  # noqa: E731
                expected.extend(follow_slope(loss, *place) for place in draw_places(s.plain_model, 50))
        return take_step(s, batches, previous)

    steps = itertools.count()

    def keep(model):
        if next(steps) == 2:
            found.extend(float(p.grad.reshape(-1)[i]) for p, i in draw_places(model, 50))

    monkeypatch.setattr(loop, "take_step", take)
    monkeypatch.setattr(adapting, "before_step", keep)
    recipe["train"] |= {"max_steps": 3, "global_batch_size": 4, "micro_batch_size": 2, "max_grad_norm": 0.01}
    llmkit.train(recipe)
    return found, expected


@pytest.mark.parametrize("kind", [*KINDS, *VALUES])
def test_gradient_is_the_slope_of_the_loss(kind, tmp_path, monkeypatch):
    found, expected = measure_slopes(monkeypatch, smooth_recipe(kind, tmp_path))
    assert len(found) == len(expected) == 50
    assert sum(abs(slope) > 1e-6 for slope in expected) >= 25
    for gradient, slope in zip(found, expected, strict=True):  # four losses in float64 leave 1e-11 of a slope of 0
        assert gradient == pytest.approx(slope, rel=1e-6, abs=1e-11)


LENGTHS = (2, 100, 3, 7, 50, 2, 90, 31)


def train_rows(make_recipe, folder, monkeypatch, dtype, micro):
    """Take a step on rows of different lengths: its loss, and its gradient in one vector."""
    rows = [{"input_ids": [3 + (i + 7 * j * j) % 250 for j in range(length)]} for i, length in enumerate(LENGTHS)]
    model = {"dtype": dtype, "config": {"n_positions": 128}}
    train = {"max_steps": 1, "global_batch_size": 8, "micro_batch_size": micro}
    data = {"max_length": 128, "pack": False, "end_of_text": False}
    found = []
    with monkeypatch.context() as patch:
        keep = lambda model: found.append(torch.cat([p.grad.reshape(-1) for p in model.parameters()]))  # noqa: E731
        patch.setattr(adapting, "before_step", keep)
        run = llmkit.train(make_recipe(model=model, train=train, data=data, output_dir=str(folder)), dataset=rows)
    return read_curve(run.path)[0][1], found[0]


def difference(one, other):
    """The norm of a difference of gradients, relative to that of the second."""
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
def test_gradient_of_rows_of_2_to_100_tokens_does_not_depend_on_micro_batches(
    make_recipe, tmp_path, monkeypatch, dtype, tolerance
):
    loss, gradient = train_rows(make_recipe, tmp_path / "whole", monkeypatch, dtype, 8)
    for micro in (1, 2, 4):
        its_loss, its_gradient = train_rows(make_recipe, tmp_path / f"{micro}", monkeypatch, dtype, micro)
        assert its_loss == pytest.approx(loss, rel=tolerance)
        assert difference(its_gradient, gradient) <= tolerance

    compute = Session.compute_loss

    def naive(self, batch, num_targets):
        return compute(self, batch, 8 * self.plan.objective.targets(batch).numel())

    with monkeypatch.context() as patch:  # the mean of the means of micro-batches
        patch.setattr(Session, "compute_loss", naive)
        wrong = train_rows(make_recipe, tmp_path / "naive", monkeypatch, dtype, 1)
    assert difference(wrong[1], gradient) > 0.1
