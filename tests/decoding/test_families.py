"""Every family of models decodes as transformers itself does."""

import pytest
import torch
from conftest import SHAPES
from transformers import GenerationConfig

import llmkit
from llmkit.decoding.decoder import Decoder
from llmkit.runtime import quiet

TEXTS = ["Once upon a time, 今天", "It was", "def f(x):\n    return", "人工智能的未来是"]
WITHOUT_A_CACHE = {"openai-gpt"}
WITHOUT_AN_END = {"bloom"}  # its positions are ALiBi's
ENDLESS = {"do_sample": False, "suppress_tokens": [0]}  # greedy, and the end of text is never chosen


@pytest.fixture(params=SHAPES)
def family(request):
    return request.param


@pytest.fixture
def lm(family, loaded):
    return loaded(family)


def generated(model, ids, **fields):
    """What transformers' own generate continues ids with."""
    config = GenerationConfig(**{"do_sample": False, "pad_token_id": 0, **fields})
    with quiet():
        out = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), generation_config=config)
    return out[0, len(ids) :].tolist()


def until_end(tokens):
    return tokens[: tokens.index(0)] if 0 in tokens else tokens


def decode(model, ids, config):
    """Continue ids in a Decoder: a list of steps, each a list of (token, reason)."""
    decoder = Decoder(model)
    decoder.add(ids, config, seed=0)
    steps = []
    while step := decoder.step():
        steps.append([(token, reason) for _, token, reason in step])
    return steps


def continue_all(lm, **settings):
    return [list(llmkit.generate(text, model=lm, **settings).token_ids) for text in TEXTS]


def expect_all(lm, **fields):
    return [until_end(generated(lm.model, lm.tokenizer(text)["input_ids"], **fields)) for text in TEXTS]


def test_generate_equals_transformers_when_greedy(lm):
    made = continue_all(lm, max_new_tokens=24, temperature=0)
    assert made == expect_all(lm, max_new_tokens=24)


def test_generate_equals_transformers_when_searching_with_beams(lm):
    expected = expect_all(lm, max_new_tokens=8, num_beams=3)
    assert continue_all(lm, max_new_tokens=8, num_beams=3) == expected
    assert expected != expect_all(lm, max_new_tokens=8)


def test_decoder_steps_unless_the_family_has_no_cache(lm, family):
    steps = decode(lm.model, [5, 6, 7], GenerationConfig(max_new_tokens=4, **ENDLESS))
    assert [len(step) for step in steps] == ([4] if family in WITHOUT_A_CACHE else [1, 1, 1, 1])


def test_decoder_hands_beams_whole_to_transformers(lm):
    steps = decode(lm.model, [5, 6, 7], GenerationConfig(max_new_tokens=4, num_beams=2, **ENDLESS))
    assert [len(step) for step in steps] == [4]


@torch.no_grad()
def test_decoder_equals_feeding_the_whole_text_at_each_step(lm):
    ids = lm.tokenizer(TEXTS[0])["input_ids"]
    expected = list(ids)
    for _ in range(16):
        scores = lm.model(torch.tensor([expected]), use_cache=False).logits[0, -1]
        expected.append(int(scores[1:].argmax()) + 1)
    steps = decode(lm.model, ids, GenerationConfig(max_new_tokens=16, **ENDLESS))
    assert [token for step in steps for token, _ in step] == expected[len(ids) :]


def test_decoder_ends_with_length_at_the_end_of_the_context(lm, family):
    ids = [7, 8, 9] * 19
    room = 20 if family in WITHOUT_AN_END else 64 - len(ids)
    expected = generated(lm.model, ids, max_new_tokens=room, **ENDLESS)
    steps = decode(lm.model, ids, GenerationConfig(max_new_tokens=20, **ENDLESS))
    events = [event for step in steps for event in step]
    assert events == [*((token, None) for token in expected[:-1]), (expected[-1], "length")]


def test_decoder_finds_the_length_of_the_context(lm, family):
    assert Decoder(lm.model).context == (None if family in WITHOUT_AN_END else 64)
