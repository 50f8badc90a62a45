import itertools
import math

import pytest
import torch
from conftest import tiny_model
from safetensors.torch import load_file
from torch.overrides import TorchFunctionMode
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from llmkit import reference

LOGITS = {"gpt2": reference.gpt2_logits, "llama": reference.llama_logits}
GPT2 = {"n_embd": 64, "n_layer": 4, "n_head": 4}
LLAMA = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2}
CASES = {
    "gpt2": ("gpt2", GPT2),
    "llama with grouped queries": ("llama", LLAMA),
    "llama with one key head": ("llama", {**LLAMA, "num_key_value_heads": 1}),
    "llama with a tied head": ("llama", {**LLAMA, "tie_word_embeddings": True}),
    "llama with another theta": ("llama", {**LLAMA, "rope_parameters": {"rope_type": "default", "rope_theta": 100.0}}),
}
PROBABILITIES = torch.tensor([0.15, 0.5, 0.05, 0.3], dtype=torch.float64)


class Float64(TorchFunctionMode):
    """Runs a library's code in float64 where it goes to float32 itself, as Llama's norms and rotary angles do."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        def lift(value):
            return torch.float64 if value is torch.float32 else value

        if func is torch.Tensor.float:
            return args[0].double()
        return func(*map(lift, args), **{name: lift(value) for name, value in (kwargs or {}).items()})


@pytest.fixture(params=CASES.values(), ids=CASES)
def case(request, tmp_path):
    """A model in which every parameter matters, ids, and the reference's logits from the file that it saves."""
    family, shape = request.param
    with Float64():  # or rotary speeds would be rounded once and for all
        model = tiny_model(family, 100, **shape)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0
            parameter.copy_(centre + 0.1 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(tmp_path)
    ids = torch.randint(100, (3, 40), generator=generator)
    return model, ids, LOGITS[family](load_file(tmp_path / "model.safetensors"), model.config, ids)


@torch.no_grad()
def test_reference_logits_equal_transformers_when_float64(case):
    model, ids, expected = case
    with Float64():
        logits = model.double()(ids).logits
    assert logits.dtype == torch.float64
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_reference_logits_equal_transformers_when_float32(case):
    model, ids, expected = case
    torch.testing.assert_close(model(ids).logits.double(), expected, rtol=0, atol=1e-5)


def test_reference_logits_are_clear_of_the_tolerance(case):
    assert 1 < float(case[2].abs().max()) < 10


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0.15, 0.5, 0.05, 0.3]),
        ({"temperature": 0.5}, [0.0225 / 0.365, 0.25 / 0.365, 0.0025 / 0.365, 0.09 / 0.365]),
        ({"top_k": 2}, [0.0, 0.625, 0.0, 0.375]),
        ({"top_k": 9}, [0.15, 0.5, 0.05, 0.3]),
        ({"top_p": 0.79}, [0.0, 0.625, 0.0, 0.375]),
        ({"top_p": 0.49}, [0.0, 1.0, 0.0, 0.0]),
        ({"top_p": 1.0}, [0.15, 0.5, 0.05, 0.3]),
        ({"top_k": 2, "top_p": 0.6}, [0.0, 1.0, 0.0, 0.0]),  # 0.5 reaches 0.6 only once top-k has made it 0.625
        ({"temperature": 0.5, "top_p": 0.6}, [0.0, 1.0, 0.0, 0.0]),  # and here once it is 0.25 / 0.365
    ],
    ids=str,
)
def test_warped_distribution_equals_the_sum_by_hand(settings, expected):
    warped = reference.warped_distribution(PROBABILITIES.log(), **settings)
    torch.testing.assert_close(warped, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-15)


def test_warped_distribution_takes_each_row_alone():
    scores = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
    settings = {"temperature": 0.7, "top_k": 6, "top_p": 0.8}
    rows = [reference.warped_distribution(row, **settings) for row in scores.flatten(0, 1)]
    whole = reference.warped_distribution(scores, **settings)
    torch.testing.assert_close(whole, torch.stack(rows).unflatten(0, (3, 5)), rtol=0, atol=1e-15)


def test_warped_distribution_keeps_ties_at_the_border_of_top_k():
    warped = reference.warped_distribution(torch.tensor([1.0, 1.0, 1.0, 0.0]), top_k=2)
    torch.testing.assert_close(warped, torch.tensor([1, 1, 1, 0], dtype=torch.float64) / 3, rtol=0, atol=1e-15)


def smallest_set(probabilities, mass):
    """Try every set of tokens: the fewest that reach the mass, and of these the most probable."""
    tokens = range(len(probabilities))
    for size in range(1, len(probabilities) + 1):
        sets = itertools.combinations(tokens, size)
        best = max(sets, key=lambda chosen: math.fsum(probabilities[i] for i in chosen))
        if math.fsum(probabilities[i] for i in best) >= mass:
            return set(best)
    return set(tokens)


@pytest.mark.parametrize("top_p", [0.05, 0.3, 0.6, 0.9, 0.99])
def test_warped_distribution_keeps_the_smallest_set_that_reaches_top_p(top_p):
    for scores in torch.randn(20, 7, generator=torch.Generator().manual_seed(1)).double():
        kept = reference.warped_distribution(scores, top_p=top_p).nonzero().flatten().tolist()
        assert set(kept) == smallest_set(scores.softmax(-1).tolist(), top_p)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("top_k", [1, 5, 40])
@pytest.mark.parametrize("top_p", [0.2, 0.9, 1.0])
def test_warped_distribution_equals_the_warpers_of_transformers(temperature, top_k, top_p):
    scores = torch.randn(50, 40, generator=torch.Generator().manual_seed(2)).double()
    warpers = [TemperatureLogitsWarper(temperature), TopKLogitsWarper(top_k), TopPLogitsWarper(top_p)]
    expected = LogitsProcessorList(warpers)(None, scores).softmax(-1)
    warped = reference.warped_distribution(scores, temperature, top_k, top_p)
    torch.testing.assert_close(warped, expected, rtol=0, atol=1e-14)
    assert torch.equal(warped > 0, expected > 0)


def test_warped_distribution_becomes_greedy_as_temperature_falls():
    scores = torch.randn(50, 40, generator=torch.Generator().manual_seed(3))
    warped = reference.warped_distribution(scores, 1e-6)
    assert torch.equal(warped, torch.nn.functional.one_hot(scores.argmax(-1), 40).double())


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_reference_of_a_masked_lm_equals_transformers(dtype):
    from transformers import BertConfig, BertForMaskedLM

    shape = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128}
    model = varied(BertForMaskedLM(BertConfig(vocab_size=100, **shape)))
    ids = torch.randint(100, (3, 40), generator=torch.Generator().manual_seed(1))
    expected = reference.bert_logits(model.state_dict(), model.config, ids)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(model.to(dtype)(ids).logits.double(), expected, rtol=0, atol=tolerance)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_reference_of_an_encoder_decoder_equals_transformers(dtype):
    from transformers import BartConfig, BartForConditionalGeneration

    sides = {f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in
             {"layers": 2, "attention_heads": 4, "ffn_dim": 128}.items()}  # fmt: skip
    config = BartConfig(vocab_size=100, d_model=64, max_position_embeddings=64, **sides)
    model = varied(BartForConditionalGeneration(config))
    generator = torch.Generator().manual_seed(1)
    ids, decoder_ids = (torch.randint(3, 100, (3, length), generator=generator) for length in (40, 17))
    expected = reference.bart_logits(model.state_dict(), model.config, ids, decoder_ids)
    found = model.to(dtype)(input_ids=ids, decoder_input_ids=decoder_ids).logits.double()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12 if dtype == torch.float64 else 1e-4)


def varied(model):
    """A model in which every parameter matters, without dropout."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        centre = 1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0
        parameter.data = centre + 0.1 * torch.randn(parameter.shape, generator=generator)
    model.tie_weights()
    return model.double().eval()
