"""A base in few bits under an adapter: its gradients, and a run from its first step to its use.

bitsandbytes is not among what the tests install, since peft imports it at each start: pip install bitsandbytes==0.50.2
"""

import importlib.util

import pytest
import torch
from small_adapters import FAMILIES, METHODS, make_batch
from small_runs import read_curve

import llmkit
from llmkit.loading import load, load_tokenizer
from llmkit.recipe.schema import ModelSpec
from llmkit.training import adapting
from llmkit.training.models import make_model

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)
BITS = {"four": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "eight": {"load_in_8bit": True}}


def lay(model):
    """An adapter that is no longer without effect."""
    wrapped = adapting.wrap(model, METHODS["lora"], task="generation", seed=0)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
    return wrapped.train()


def read_in_full(base, model):
    """The base with the weights that the few bits stand for."""
    full = load(base, device="cpu").model
    for name, module in model.named_modules():
        if type(module).__name__ in ("Linear4bit", "Linear8bitLt"):
            with torch.no_grad():
                found = module(torch.eye(module.in_features)) - (0 if module.bias is None else module.bias)
            place = full.get_submodule(name)
            place.weight.data = found if type(place).__name__ == "Conv1D" else found.T
    return full


def find_gradients(model):
    torch.manual_seed(2)  # of dropout
    model(**make_batch()).loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("bits", BITS.values(), ids=BITS)
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_after_an_evaluation_are_those_of_the_weights_in_full(make_checkpoint, family, bits):
    base = make_checkpoint(family, FAMILIES[family])
    spec = ModelSpec(name=str(base))
    model = make_model(spec, load_tokenizer(base), task="generation", seed=0, quantization=bits)
    full = lay(read_in_full(base, model.train()))
    model = lay(model)
    with torch.no_grad():
        model.eval()(**make_batch())
    found, expected = find_gradients(model.train()), find_gradients(full)
    assert float((found - expected).norm() / expected.norm()) < 1e-4


def test_a_run_over_few_bits_goes_on_to_the_same_weights_and_is_used(make_checkpoint, make_recipe, tmp_path):
    base = str(make_checkpoint("gpt2"))
    changes = {
        "model": {"name": base, "config": None, "tokenizer": None},
        "adapter": METHODS["lora"],
        "quantization": BITS["four"],
        "data": {"eval_rows": 4},
        "eval": {"every_steps": 2},
    }
    run = llmkit.train(make_recipe(**changes))
    curve = read_curve(run.path)
    assert curve[-1][1] < curve[0][1]
    again = llmkit.train(make_recipe(**changes, output_dir=str(tmp_path / "b")), max_seconds=1e-3)
    assert not again.finished
    again = llmkit.train(make_recipe(**changes, output_dir=str(tmp_path / "b")), resume="must")
    first, second = (one.path / "final" / "adapter_model.safetensors" for one in (run, again))
    assert first.read_bytes() == second.read_bytes()
    assert llmkit.generate("the sea", model=run, max_new_tokens=3, seed=0).seed == 0
