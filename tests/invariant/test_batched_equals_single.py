"""A row in a batch is the row alone, whoever joins, leaves or is taken out beside it."""

import dataclasses

import pytest
import torch
from conftest import SHAPES, tiny_model
from test_reference import Float64
from transformers import GenerationConfig

import llmkit
from llmkit.decoding.decoder import Decoder

SIZES = [(3, 8), (17, 5), (1, 10), (8, 2), (25, 6), (5, 1), (40, 7)]  # tokens of the prompt, tokens to come
# when each of these joins, in steps; once all are in, rows leave one by one
ORDERS = {
    "all at once": [0, 0, 0, 0, 0, 0, 0],
    "one a step": [0, 1, 2, 3, 4, 5, 6],
    "one a step, the longest prompt first": [6, 5, 4, 3, 2, 1, 0],
    "in two groups": [0, 3, 0, 3, 0, 3, 3],
    "the longest prompt late": [0, 0, 0, 0, 0, 0, 6],
    "some when others have left": [0, 12, 0, 12, 12, 0, 25],
}
SETTINGS = {
    "greedy": [{}],
    "sampled": [{"do_sample": True, "temperature": 4.0}],
    "each otherwise": [
        {"do_sample": True, "temperature": 4.0, "top_p": 0.7},
        {"repetition_penalty": 1.8},
        {"do_sample": True, "temperature": 2.0, "top_k": 9, "eos_token_id": list(range(0, 400, 9))},
        {"no_repeat_ngram_size": 1, "eos_token_id": list(range(0, 400, 5))},
        {"num_beams": 2},
        {"do_sample": True, "temperature": 4.0, "min_p": 0.01, "repetition_penalty": 1.3},
        {"bad_words_ids": [[7], [9, 11]], "min_new_tokens": 4, "eos_token_id": list(range(0, 400, 3))},
    ],
}
TEXTS = [
    "Once upon a time",
    "人工智能的未来是什么？没有人知道。",
    "x",
    "It was a cold morning, and the sea was grey",
    "def",
]


def make_requests(settings):
    """Prompts of several lengths with configs of several limits: [(ids, config), ...]."""
    generator = torch.Generator().manual_seed(0)
    requests = []
    for i, (length, limit) in enumerate(SIZES):
        fields = {"do_sample": False, **settings[i % len(settings)], "max_new_tokens": limit}
        ids = torch.randint(1, 400, (length,), generator=generator).tolist()
        requests.append((ids, GenerationConfig(**fields)))
    return requests


def decode(model, requests, joins, takes_out=None):
    """Decode requests that join at these steps, each seeded by its place: (token, reason) of each, as they come."""
    decoder, places = Decoder(model), {}
    events = [[] for _ in requests]
    for step in range(40):
        for place, (ids, config) in enumerate(requests):
            if joins[place] == step:
                places[decoder.add(ids, config, seed=place)] = place
        for row, token, reason in decoder.step():
            events[places[row]].append((token, reason))
        for row, place in places.items():
            if (takes_out or {}).get(place) == step:
                decoder.remove(row)
    return events


def decode_alone(model, requests):
    """Decode each request when no other is there."""
    return [decode(model, requests, [0 if i == place else None for i in range(7)])[place] for place in range(7)]


@pytest.fixture(scope="module", params=SHAPES)
def lm(request, loaded):
    return loaded(request.param)


@pytest.fixture(scope="module", params=SETTINGS)
def case(request, lm):
    """A model, requests, and what each gives alone."""
    requests = make_requests(SETTINGS[request.param])
    return lm.model, requests, decode_alone(lm.model, requests)


@pytest.mark.parametrize("order", ORDERS)
def test_decoder_gives_a_row_among_others_what_it_gives_alone(case, order):
    model, requests, alone = case
    assert decode(model, requests, ORDERS[order]) == alone


def test_decoder_gives_the_other_rows_the_same_when_some_are_taken_out(case):
    model, requests, alone = case
    events = decode(model, requests, [0, 0, 1, 0, 2, 2, 0], takes_out={6: 1, 0: 3, 2: 9})  # the longest prompt at first
    taken_out = [0, 2, 6]
    assert [row for place, row in enumerate(events) if place not in taken_out] == [alone[i] for i in (1, 3, 4, 5)]
    assert [events[i] for i in taken_out] == [alone[i][: len(events[i])] for i in taken_out]


@pytest.mark.parametrize("order", ["one a step, the longest prompt first", "in two groups"])
@pytest.mark.parametrize("family", sorted(set(SHAPES) - {"openai-gpt"}))
@torch.no_grad()
def test_decoder_computes_the_scores_of_a_row_without_padding_and_cache(family, order):
    with Float64():
        model = tiny_model(family, 400).double()
        requests = make_requests(SETTINGS["greedy"])
        given = []
        hook = model.register_forward_hook(lambda module, args, out: given.append(out.logits[:, -1].clone()))
        events = decode(model, requests, ORDERS[order])
        hook.remove()
        seen = torch.cat(given)
        for (ids, _), row in zip(requests, events, strict=True):
            whole = torch.tensor([ids + [token for token, _ in row]])
            expected = model(whole, use_cache=False).logits[0, len(ids) - 1 : -1]
            nearest = (seen[:, None] - expected).abs().amax(-1).amin(0)  # rows stand in an order of the decoder's own
            assert float(nearest.max()) < 1e-12


SAMPLED = {"temperature": 3.0, "max_new_tokens": 8, "seed": 7}


def without_time(generations):
    return [dataclasses.replace(generation, seconds=0.0) for generation in generations]


@pytest.fixture(scope="module", params=[SAMPLED, {"temperature": 0, "max_new_tokens": 8}], ids=["sampled", "greedy"])
def texts(request, lm):
    """A model, settings, and what each text gives alone."""
    return lm, request.param, without_time(llmkit.generate(text, model=lm, **request.param) for text in TEXTS)


@pytest.mark.parametrize("batch_size", [3, 16])
def test_generate_batch_gives_each_prompt_what_generate_gives(texts, batch_size):
    lm, settings, alone = texts
    made = llmkit.generate_batch(TEXTS, model=lm, batch_size=batch_size, **settings)
    assert without_time(made) == alone


def test_generate_batch_gives_the_same_when_the_prompts_are_turned_round(texts):
    lm, settings, alone = texts
    made = llmkit.generate_batch(TEXTS[::-1], model=lm, batch_size=2, **settings)
    assert without_time(made) == alone[::-1]


def test_generate_batch_gives_the_second_prompt_what_generate_gives(lm):
    first, second = TEXTS[:2]
    pair = llmkit.generate_batch([first, second], model=lm, seed=7, max_new_tokens=8)
    assert pair[1].token_ids == llmkit.generate(second, model=lm, seed=7, max_new_tokens=8).token_ids


def test_generate_batch_seeds_the_samples_one_by_one_prompt_by_prompt(lm):
    settings = {**SAMPLED, "model": lm}
    made = llmkit.generate_batch(TEXTS[:2], num_samples=3, batch_size=4, **settings)
    alone = [llmkit.generate(text, **{**settings, "seed": seed}) for text in TEXTS[:2] for seed in (7, 8, 9)]
    assert [generation.seed for generation in made] == [7, 8, 9, 7, 8, 9]
    assert without_time(made) == without_time(alone)


def test_generate_batch_gives_equal_prompts_equal_texts(lm):
    made = llmkit.generate_batch([TEXTS[0], TEXTS[1], TEXTS[0]], model=lm, **SAMPLED)
    assert made[0].token_ids == made[2].token_ids != made[1].token_ids
