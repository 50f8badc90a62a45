"""What may not change the numbers of a run: the kind of attention, activations computed again, bfloat16 for a while."""

import pytest
import torch
from objective_recipes import BART, LLAMA, objective_recipe
from small_runs import read_curve

import llmkit

PRECISIONS = [("float64", 1e-12), ("float32", 1e-5)]
# kind of model -> the objective that trains it, and the dropout of its config
MODELS = {
    "gpt2": ("causal-lm", ("resid_pdrop", "embd_pdrop", "attn_pdrop")),
    "llama": ("causal-lm", ("attention_dropout",)),
    "bert": ("masked-lm", ("hidden_dropout_prob", "attention_probs_dropout_prob")),
    "t5": ("seq2seq", ("dropout_rate",)),
    "bart": ("seq2seq", ("dropout", "attention_dropout", "activation_dropout")),
}
CONFIGS = {"llama": LLAMA, "bart": {**BART, "max_position_embeddings": 128}}  # where the recipe's is of another kind


def train(kind, folder, *, dropout=0.0, model=None, **changes):
    """Train a model of a kind for four steps; loss and gradient norm of each, in nats a target."""
    objective, keys = MODELS[kind]
    folder.mkdir()
    recipe = objective_recipe(objective, folder, **changes)
    recipe["train"]["mixed_precision"] = "no"
    recipe["model"] |= model or {}
    recipe["model"]["config"] = {**CONFIGS.get(kind, recipe["model"]["config"]), **dict.fromkeys(keys, dropout)}
    run = llmkit.train(recipe)
    return [value for key in ("loss", "grad_norm") for _, value in read_curve(run.path, key)]


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("kind", MODELS)
def test_sdpa_trains_as_eager_attention_does(kind, tmp_path, monkeypatch, dtype, tolerance):
    attend, softmax, calls = torch.nn.functional.scaled_dot_product_attention, torch.nn.functional.softmax, []
    # Llama's eager attention takes its softmax in float32 whatever the model's type, sdpa does not (transformers 5.23)
    monkeypatch.setattr(torch.nn.functional, "softmax", lambda scores, dim, dtype=None: softmax(scores, dim))

    def counted(*arguments, **options):
        calls.append(1)
        return attend(*arguments, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    eager = train(kind, tmp_path / "eager", model={"dtype": dtype, "attn_implementation": "eager"})
    assert (len(eager), len(calls)) == (8, 0)
    sdpa = train(kind, tmp_path / "sdpa", model={"dtype": dtype, "attn_implementation": "sdpa"})
    assert len(calls) > 0
    assert sdpa == pytest.approx(eager, rel=tolerance)


@pytest.fixture
def count_calls():
    """The number of calls of modules so far."""
    calls = []
    handle = torch.nn.modules.module.register_module_forward_hook(lambda *_: calls.append(1))
    yield lambda: len(calls)
    handle.remove()


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("kind", MODELS)
def test_gradient_checkpointing_trains_as_without_it_with_dropout(kind, tmp_path, count_calls, dtype, tolerance):
    changes, steps = {"dropout": 0.2, "model": {"dtype": dtype}}, {"micro_batch_size": 4}
    kept = train(kind, tmp_path / "kept", **changes, train=steps)
    calls = count_calls()
    again = train(kind, tmp_path / "again", **changes, train={**steps, "gradient_checkpointing": True})
    assert again == pytest.approx(kept, rel=tolerance)
    assert count_calls() - calls > 1.3 * calls  # the blocks were computed again
    assert kept != pytest.approx(train(kind, tmp_path / "none", model={"dtype": dtype}, train=steps), rel=0.001)


def test_bfloat16_stays_within_a_hundredth_of_float32_over_200_steps(tmp_path):
    losses = {}
    for precision in ("no", "bf16"):
        folder = tmp_path / precision
        folder.mkdir()
        recipe = objective_recipe(
            "causal-lm",
            folder,
            model={"dtype": "float32"},
            optim={"lr": 3e-3},
            schedule={"name": "cosine", "num_warmup_steps": 10},
            train={"max_steps": 200, "mixed_precision": precision},
        )
        losses[precision] = [loss for _, loss in read_curve(llmkit.train(recipe).path)]
    assert len(losses["no"]) == 200
    assert losses["no"][-1] < losses["no"][0] / 2
    differences = [abs(low / full - 1) for low, full in zip(losses["bf16"], losses["no"], strict=True)]
    assert 0 < max(differences) <= 0.01
