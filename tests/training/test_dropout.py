"""Dropout: none in an evaluation, another in each micro-batch of training, and the same again with the same seed.

All rows are alike and the learning rate is too small to change a weight, so that dropout alone tells two losses apart.
"""

import pytest
import torch
from objective_recipes import BART, objective_recipe, write_rows
from small_runs import read_curve

import llmkit
from llmkit.training.session import Session

TEXT = "the sea was cold and grey so the captain said good morning to nobody"
ROW = {"text": TEXT, "label": 1, "source": TEXT, "target": "good morning"}
DROPOUT = {
    "gpt2": ("resid_pdrop", "embd_pdrop", "attn_pdrop"),
    "bert": ("hidden_dropout_prob", "attention_probs_dropout_prob"),
    "t5": ("dropout_rate",),
    "bart": ("dropout", "attention_dropout", "activation_dropout"),
}
KINDS = {"gpt2": "causal-lm", "bert": "classification", "t5": "seq2seq", "bart": "seq2seq"}


@pytest.fixture
def train(tmp_path, monkeypatch):
    """A function that trains three steps of two micro-batches: each loss of training in order, and of evaluation."""
    losses, compute = [], Session.compute_loss

    def kept(self, batch, num_targets):
        loss = compute(self, batch, num_targets)
        if torch.is_grad_enabled():
            losses.append(float(loss.detach()))
        return loss

    monkeypatch.setattr(Session, "compute_loss", kept)

    def run(kind, name, *, dropout=0.3, dtype="float64", start=None, seed=5):
        folder = tmp_path / name
        folder.mkdir()
        recipe = objective_recipe(KINDS[kind], folder)
        config = {**BART, "max_position_embeddings": 128} if kind == "bart" else recipe["model"]["config"]
        new = {"config": {**config, **dict.fromkeys(DROPOUT[kind], dropout)}}
        rows = {"path": str(write_rows(folder / "alike.jsonl", [ROW] * 9)), "eval_rows": 1}
        recipe |= {
            "seed": seed,
            "model": {**recipe["model"], **new, "dtype": dtype} if start is None else {"name": str(start)},
            "data": {**recipe["data"], **rows, **({"pack": False} if kind == "gpt2" else {})},
            "optim": {"lr": 1e-30},
            "train": {"max_steps": 3, "global_batch_size": 4, "micro_batch_size": 2, "mixed_precision": "no"},
            "eval": {"every_steps": 1, "metrics": ["loss"]},
        }
        losses.clear()
        made = llmkit.train(recipe)
        return list(losses), [value for _, value in read_curve(made.path, "eval_loss")]

    return run


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_has_no_dropout_and_training_has_another_in_each_micro_batch(kind, train):
    trained, measured = train(kind, "with")
    plain, its_measured = train(kind, "without", dropout=0.0)
    assert measured == its_measured == [measured[0]] * 3
    assert plain == [plain[0]] * 6
    assert plain[0] * 2 == pytest.approx(measured[0], rel=1e-12)
    assert len(set(trained)) == 6
    assert min(abs(one - plain[0]) for one in trained) > 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_comes_again_with_the_seed_alone(kind, train, tmp_path):
    torch.manual_seed(1)
    first, _ = train(kind, "first", dtype="float32")
    torch.manual_seed(2)
    assert train(kind, "again", dtype="float32")[0] == first
    weights = tmp_path / "first" / "run" / "final"
    same, other = (train(kind, f"seed-{seed}", start=weights, seed=seed)[0] for seed in (5, 6))
    assert same == first
    assert not set(other) & set(first)
