"""A run keeps each weight bit for bit and in its type, and what modules share it stores once and loads as one."""

import pytest
import torch
from objective_recipes import BART, LLAMA, objective_recipe
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

import llmkit
from llmkit.training import adapting

KINDS = {
    "gpt2": ("causal-lm", AutoModelForCausalLM),
    "llama": ("causal-lm", AutoModelForCausalLM),
    "bert": ("masked-lm", AutoModelForMaskedLM),
    "t5": ("seq2seq", AutoModelForSeq2SeqLM),
    "bart": ("seq2seq", AutoModelForSeq2SeqLM),
}
CONFIGS = {"llama": LLAMA, "bart": {**BART, "max_position_embeddings": 128}}  # where the recipe's is of another kind


def bits(state):
    """All of a state dict, to be compared."""
    return {name: (tensor.dtype, tensor.contiguous().view(torch.uint8).tolist()) for name, tensor in state.items()}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_run_keeps_weights_bit_for_bit_and_shared_ones_once(kind, tmp_path, monkeypatch, dtype):
    objective, auto = KINDS[kind]
    recipe = objective_recipe(objective, tmp_path, model={"dtype": dtype})
    recipe["model"]["config"] = CONFIGS.get(kind, recipe["model"]["config"])
    trained = []
    monkeypatch.setattr(adapting, "after_step", lambda model, step: trained.append(model))
    run = llmkit.train(recipe)
    model = trained[-1]
    parts = {tensor.data_ptr(): tensor.numel() for tensor in model.state_dict().values()}
    for part in ("final", "checkpoints/step-000004"):
        stored = load_file(run.path / part / "model.safetensors")
        assert sum(tensor.numel() for tensor in stored.values()) == sum(parts.values())
        loaded, info = auto.from_pretrained(run.path / part, output_loading_info=True)
        assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert loaded.dtype == getattr(torch, dtype)
        assert bits(loaded.state_dict()) == bits(model.state_dict())
        assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
