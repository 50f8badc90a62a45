"""The numbers of a step beside the same by hand: its loss, its learning rate, its clipping and its update."""

import math

import numpy as np
import pytest
import torch
from objective_recipes import BART, objective_recipe
from safetensors.torch import load_file
from small_runs import read_curve

import llmkit
from llmkit import reference, runtime
from llmkit.training import adapting, building

MAX_NORM = 0.8


def by_reference(kind, model, batch):
    """The nats of each target of a batch by the reference's logits, computed row by row and without padding."""
    state, total = model.state_dict(), 0.0
    for i, mask in enumerate(batch["attention_mask"].bool()):
        ids, labels = batch["input_ids"][i : i + 1, mask], batch["labels"][i]
        if kind == "causal-lm":
            logits, labels = reference.gpt2_logits(state, model.config, ids)[0, :-1], labels[mask][1:]
        elif kind == "masked-lm":
            logits, labels = reference.bert_logits(state, model.config, ids)[0], labels[mask]
        else:
            labels = labels[labels != -100]
            fed = torch.cat([torch.tensor([model.config.decoder_start_token_id]), labels[:-1]])[None]
            logits = reference.bart_logits(state, model.config, ids, fed)[0]
        probabilities = logits.softmax(-1)
        total -= sum(math.log(probabilities[t, label]) for t, label in enumerate(labels.tolist()) if label != -100)
    return total


@pytest.mark.parametrize("kind", ["causal-lm", "masked-lm", "seq2seq"])
def test_loss_of_a_batch_is_that_of_the_reference_and_of_transformers(kind, tmp_path):
    recipe = objective_recipe(kind, tmp_path, data={"pack": False} if kind == "causal-lm" else {})
    if kind == "seq2seq":
        recipe["model"]["config"] = {**BART, "max_position_embeddings": 128}
    plan = building.plan(llmkit.read_recipe(recipe))
    parts = plan.parts
    batch = parts.data_collator([plan.data.train[i] for i in range(6)])
    count = int((batch["labels"][:, 1:] if kind == "causal-lm" else batch["labels"]).ne(-100).sum())
    with torch.no_grad(), runtime.quiet():
        found = float(parts.loss(parts.model.eval(), batch, count))
        theirs = float(parts.model(**{k: v for k, v in batch.items() if k != "decoder_input_ids"}).loss)
    assert found == pytest.approx(by_reference(kind, parts.model, batch) / count, rel=1e-12)
    assert theirs == pytest.approx(found, rel=1e-6)  # transformers computes it in float32


def cosine(step, lr=0.01, warmup=5, steps=20):
    """Source: Loshchilov and Hutter 2017, SGDR, equation 5, after a linear warmup."""
    return lr * (step / warmup if step < warmup else 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))))


def test_learning_rate_of_each_step_is_a_function_of_the_step_alone(make_recipe, tmp_path):
    schedule = {"name": "cosine", "num_warmup_steps": 5}

    def rates(name, micro, pauses=0):
        train, changes = {"max_steps": 20, "micro_batch_size": micro}, {"output_dir": str(tmp_path / name)}
        recipe = make_recipe(schedule=schedule, train=train, **changes)
        for _ in range(pauses):
            assert not llmkit.train(recipe, resume="auto", max_seconds=1e-9).finished
        return read_curve(llmkit.train(recipe, resume="auto").path, "lr")

    whole = rates("whole", 8)
    assert [step for step, _ in whole] == list(range(1, 21))
    assert [rate for _, rate in whole] == pytest.approx([cosine(step) for step in range(20)], rel=1e-15)
    assert rates("parts", 2) == whole
    assert rates("resumed", 4, pauses=7) == whole


def test_run_takes_the_steps_of_adamw_over_100_steps(make_recipe, monkeypatch):
    """Each gradient is clipped by the norm over all parameters; matrices alone decay.

    Source: Loshchilov and Hutter 2019, Decoupled Weight Decay Regularization, algorithm 2; Pascanu et al. 2013, On the
    Difficulty of Training Recurrent Neural Networks, algorithm 1, with the 1e-6 of torch's clip_grad_norm_.
    """
    weights, first, second, norms = {}, {}, {}, []

    def follow(model):
        """Take the step by hand, of the gradients as they are before they are clipped."""
        gradients = {name: p.grad.numpy().copy() for name, p in model.named_parameters()}
        norms.append(math.sqrt(sum(float((g**2).sum()) for g in gradients.values())))
        lr, t = cosine(len(norms) - 1, warmup=5, steps=100), len(norms)
        for name, gradient in gradients.items():
            if t == 1:
                weights[name] = model.get_parameter(name).detach().numpy().copy()
            gradient = gradient * min(1.0, MAX_NORM / (norms[-1] + 1e-6))
            first[name] = 0.9 * first.get(name, 0.0) + 0.1 * gradient
            second[name] = 0.95 * second.get(name, 0.0) + 0.05 * gradient**2
            m, v = first[name] / (1 - 0.9**t), second[name] / (1 - 0.95**t)
            decay = 0.1 if gradient.ndim >= 2 else 0.0
            weights[name] = weights[name] * (1 - lr * decay) - lr * m / (np.sqrt(v) + 1e-8)

    monkeypatch.setattr(adapting, "before_step", follow)
    run = llmkit.train(
        make_recipe(
            model={"dtype": "float64"},
            schedule={"name": "cosine", "num_warmup_steps": 5},
            train={"max_steps": 100, "micro_batch_size": 4, "max_grad_norm": MAX_NORM},
        )
    )
    assert [norm for _, norm in read_curve(run.path, "grad_norm")] == pytest.approx(norms, rel=1e-12)
    assert 20 < sum(norm > MAX_NORM for norm in norms) < 80
    found = load_file(run.path / "final" / "model.safetensors")
    assert found.keys() == weights.keys()
    assert max(np.abs(found[name].numpy() - weights[name]).max() for name in found) < 1e-12
