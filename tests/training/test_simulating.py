"""A step without values holds what the same step holds with them, and takes as many operations as a formula says."""

import copy

import pytest
import torch
from objective_recipes import KINDS, objective_recipe, sentence, write_rows

import llmkit
from llmkit.training import building, estimating, models, simulating


def plan_of(kind, folder, **changes):
    recipe = objective_recipe(kind, folder, **changes)
    if kind == "classification":  # of different lengths: where a batch has no padding the model leaves its mask out
        rows = [{"text": sentence(i, 3 + 7 * i % 31), "label": i % 2} for i in range(48)]
        recipe["data"]["path"] = str(write_rows(folder / "l.jsonl", rows))
    return building.plan(building.as_recipe(recipe))


def hold_with_values(plan, accumulation):
    """Take the same steps with values."""
    model = copy.deepcopy(plan.parts.model).train()
    if plan.recipe.train.gradient_checkpointing:
        models.checkpoint_activations(model)
    batch, _ = simulating.find_longest(plan, plan.recipe.train.micro_batch_size)
    low = plan.recipe.train.mixed_precision == "bf16"

    def compute_loss():
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            return plan.objective.loss(model, dict(batch), 1)

    return simulating._take_steps(plan, model, compute_loss, accumulation=accumulation, targets=None)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("micro", [8, 2])
def test_step_without_values_holds_what_one_with_values_holds(kind, micro, tmp_path):
    plan = plan_of(kind, tmp_path, train={"micro_batch_size": micro})
    held = hold_with_values(plan, 8 // micro)
    cost = simulating.simulate(plan)
    assert cost.total == held.total > 0
    assert (cost.weights, cost.gradients, cost.optimizer) == (held.weights, held.gradients, held.optimizer)
    assert (cost.activations, cost.logits) == (held.activations, held.logits)


@pytest.mark.parametrize("kind", ["causal-lm", "masked-lm", "seq2seq"])
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_so_does_one_with_dropout_an_adapter_or_activations_computed_again(kind, precision, tmp_path):
    names = {"causal-lm": "attn_pdrop", "masked-lm": "attention_probs_dropout_prob", "seq2seq": "dropout_rate"}
    base = objective_recipe(kind, tmp_path)
    config = {**base["model"]["config"], names[kind]: 0.1}
    llmkit.build({**base, "model": {**base["model"], "config": config}}).model.save_pretrained(tmp_path / "base")
    changes = {
        "model": {"name": str(tmp_path / "base"), "dtype": "float32"},
        "adapter": {"peft_type": "LORA", "r": 2, "target_modules": "all-linear"},
        "train": {"micro_batch_size": 4, "gradient_checkpointing": True, "mixed_precision": precision},
    }
    recipe = {**base, **changes, "train": {**base["train"], **changes["train"]}}
    recipe["model"]["tokenizer"] = base["model"]["tokenizer"]
    plan = building.plan(building.as_recipe(recipe))
    held, cost = hold_with_values(plan, 2), simulating.simulate(plan)
    trained = sum(p.numel() for p in plan.parts.model.parameters() if p.requires_grad)
    assert cost.total == held.total
    assert 0 < cost.gradients <= 4 * trained
    assert cost.optimizer == 8 * trained + 4 * len([p for p in plan.parts.model.parameters() if p.requires_grad])


def test_weights_moments_and_logits_are_what_arithmetic_says(tmp_path):
    plan = plan_of("causal-lm", tmp_path, train={"micro_batch_size": 4})
    cost, model = simulating.simulate(plan), plan.parts.model
    number = model.num_parameters()
    assert cost.weights == 8 * number  # float64
    assert cost.gradients == cost.weights  # of the micro-batch before
    assert cost.optimizer == 16 * number + 4 * len(list(model.parameters()))  # and a count of steps each
    longest = simulating.find_longest(plan, 4)[0]["labels"].numel()
    # the logarithms of the softmax, the gradient that comes to them and the one that goes on
    assert cost.logits == 3 * 8 * longest * model.config.vocab_size


def test_operations_are_those_of_the_usual_formula(tmp_path):
    plan = plan_of("causal-lm", tmp_path, data={"max_length": 64}, train={"micro_batch_size": 4})
    cost = simulating.simulate(plan)
    longest, mean = simulating.find_longest(plan, 4)
    assert mean == 1  # packed rows are all as long
    tokens, length = 2 * longest["labels"].numel(), longest["labels"].shape[1]
    config = plan.parts.model.config
    # flash attention computes its scores again in the backward pass: two products of six more than the formula has
    again = 2 * config.n_layer * config.n_embd * length * tokens
    assert cost.flops == estimating.count_flops(plan.parts.model, length) * tokens + again


def test_frozen_weights_and_activations_computed_again_change_the_operations(tmp_path):
    whole = simulating.simulate(plan_of("masked-lm", tmp_path))
    again = simulating.simulate(plan_of("masked-lm", tmp_path, train={"gradient_checkpointing": True}))
    assert 1.2 < again.flops / whole.flops < 1.4  # a forward pass more: of 2 + 4, another 2
    assert again.activations < whole.activations


def test_padded_rows_are_reckoned_by_their_mean(tmp_path, monkeypatch):
    plan = plan_of("classification", tmp_path, train={"micro_batch_size": 2})
    batch, mean = simulating.find_longest(plan, 2)
    lengths = [len(plan.data.train[i]["input_ids"]) for i in range(48)]
    pairs = [max(lengths[i : i + 2]) for i in range(0, 48, 2)]
    assert batch["input_ids"].shape[1] == max(pairs)
    assert mean == pytest.approx(sum(pairs) / len(pairs) / max(pairs))
    cost = simulating.simulate(plan)
    monkeypatch.setattr(simulating, "find_longest", lambda plan, micro: (batch, 1.0))
    assert cost.flops == pytest.approx(simulating.simulate(plan).flops * mean, rel=1e-6)


def test_attention_that_is_fused_holds_no_square(tmp_path):
    base = objective_recipe("causal-lm", tmp_path)["model"]["config"]
    plan = plan_of("causal-lm", tmp_path, model={"config": {**base, "attn_pdrop": 0.1}})
    assert simulating.simulate(plan, flash=True).activations < simulating.simulate(plan).activations
