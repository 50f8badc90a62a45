import copy
import dataclasses
import math

import pytest
import torch
from scipy.stats import chisquare
from transformers import GenerationConfig

import llmkit
from llmkit import reference
from llmkit.decoding import configuring
from llmkit.decoding.configuring import build_warpers
from llmkit.decoding.decoder import Decoder, draw
from llmkit.errors import InputError, RunError
from llmkit.runtime import quiet

TEXT = "Once upon a time"
PROMPT = [5, 200, 31, 77, 140, 9]
WARPED = {"temperature": 0.7, "top_k": 12, "top_p": 0.9}
NUM_DRAWS = 20_000


def greedy(num_tokens, **fields):
    return GenerationConfig(do_sample=False, max_new_tokens=num_tokens, **fields)


def sampled(num_tokens, **fields):
    return GenerationConfig(do_sample=True, max_new_tokens=num_tokens, **fields)


def drain(decoder):
    """Step until no row is left: row -> [(token, reason), ...]."""
    events = {}
    for _ in range(500):
        step = decoder.step()
        if not step:
            return events
        for row, token, reason in step:
            events.setdefault(row, []).append((token, reason))
    raise AssertionError("rows are still there after 500 steps")


def decode(model, config, prompt=PROMPT, seed=0):
    decoder = Decoder(model)
    row = decoder.add(list(prompt), config, seed)
    return drain(decoder)[row]


def tokens_of(events):
    return [token for token, _ in events]


def generated(model, config, prompt=PROMPT):
    """What transformers' own generate continues a prompt with."""
    ids = torch.tensor([prompt])
    with quiet():
        out = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config, pad_token_id=0)
    return out[0, len(prompt) :].tolist()


@pytest.fixture
def model(loaded):
    return loaded("gpt2").model


@pytest.fixture
def path(model):
    """The greedy tokens after PROMPT, all different from the end of text."""
    tokens = generated(model, greedy(12))
    assert len(tokens) == 12
    return tokens


# Rows


def test_decoder_gives_nothing_when_it_has_no_rows(model):
    assert Decoder(model).step() == []


def test_decoder_reports_each_row_once_a_step(model, path):
    decoder = Decoder(model)
    rows = [decoder.add(PROMPT, greedy(3), seed=0), decoder.add(PROMPT[:2], greedy(3), seed=0)]
    assert sorted(row for row, *_ in decoder.step()) == sorted(rows)


def test_decoder_gives_every_row_a_key_of_its_own(model):
    decoder = Decoder(model)
    first = decoder.add(PROMPT, greedy(1), seed=0)
    drain(decoder)
    assert decoder.add(PROMPT, greedy(1), seed=0) != first


def test_decoder_ends_with_length_at_max_new_tokens(model, path):
    expected = [*((token, None) for token in path[:4]), (path[4], "length")]
    assert decode(model, greedy(5)) == expected


def test_decoder_counts_max_length_with_the_prompt(model, path):
    events = decode(model, GenerationConfig(do_sample=False, max_length=len(PROMPT) + 3))
    assert events == [(path[0], None), (path[1], None), (path[2], "length")]


def test_decoder_gives_twenty_tokens_when_no_limit_is_set(model, path):
    events = decode(model, GenerationConfig(do_sample=False))
    assert tokens_of(events) == generated(model, greedy(20))
    assert events[-1][1] == "length"


def test_decoder_ends_with_length_when_the_context_is_full(model):
    prompt = [7, 8, 9] * 20
    events = decode(model, greedy(50), prompt=prompt)
    assert tokens_of(events) == generated(model, greedy(4), prompt)
    assert [reason for _, reason in events] == [None, None, None, "length"]


def test_decoder_equals_transformers_when_a_row_outgrows_the_room_laid_out_for_it(loaded):
    model, config = loaded("gpt2", n_positions=640).model, greedy(300, suppress_tokens=[0])
    assert tokens_of(decode(model, config)) == generated(model, config)


def test_decoder_refuses_a_prompt_without_tokens(model):
    with pytest.raises(InputError, match=r"^the prompt has no tokens; expected at least one$"):
        Decoder(model).add([], greedy(1), seed=0)


def test_decoder_refuses_a_prompt_that_fills_the_context(model):
    with pytest.raises(InputError, match=r"^the prompt has 64 tokens, the context holds 64 with the answer$"):
        Decoder(model).add([1] * 64, greedy(1), seed=0)


def test_decoder_takes_a_prompt_that_leaves_one_token_of_the_context(model):
    prompt = [7, 8, 9] * 21
    assert decode(model, greedy(5), prompt=prompt) == [(generated(model, greedy(1), prompt)[0], "length")]


def test_decoder_leaves_prompt_and_config_as_they_were(model):
    prompt, config = list(PROMPT), sampled(3, repetition_penalty=1.3)
    before = config.to_dict()
    decoder = Decoder(model)
    decoder.add(prompt, config, seed=0)
    drain(decoder)
    assert (prompt, config.to_dict()) == (PROMPT, before)


# Ends


def test_decoder_ends_with_eos_at_the_end_of_text(model, path):
    end = path[5]
    stop = path.index(end)
    expected = [*((token, None) for token in path[:stop]), (end, "eos")]
    assert decode(model, greedy(12, eos_token_id=end)) == expected


def test_decoder_ends_at_the_first_that_comes_of_several_eos_ids(model, path):
    ends = [path[7], 399, path[3]]
    stop = min(path.index(path[7]), path.index(path[3]))
    expected = [*((token, None) for token in path[:stop]), (path[stop], "eos")]
    assert decode(model, greedy(12, eos_token_id=ends)) == expected


def test_decoder_ends_with_eos_when_the_limit_is_reached_too(model, path):
    stop = path.index(path[5])
    assert decode(model, greedy(stop + 1, eos_token_id=path[5]))[-1] == (path[5], "eos")


def test_decoder_takes_eos_from_the_checkpoint_when_the_config_names_none(model, path, monkeypatch):
    monkeypatch.setattr(model.generation_config, "eos_token_id", path[5])
    assert decode(model, greedy(12))[-1] == (path[5], "eos")


def test_generate_leaves_eos_out_of_the_token_ids(loaded, path):
    lm = loaded("gpt2")
    prompt = lm.tokenizer.decode(PROMPT)
    config = greedy(12)
    plain = llmkit.generate(prompt, model=lm, config=config)
    end = plain.token_ids[5]
    ended = llmkit.generate(prompt, model=lm, config=greedy(12, eos_token_id=end))
    stop = plain.token_ids.index(end)
    assert (ended.token_ids, ended.finish_reason) == (plain.token_ids[:stop], "eos")


@pytest.mark.parametrize("beyond", [400, 50256, [50256, 400]])
def test_generate_ends_at_the_tokenizers_end_when_the_checkpoints_is_beyond_the_vocabulary(loaded, beyond, monkeypatch):
    lm = loaded("gpt2")
    assert (lm.model.config.vocab_size, lm.tokenizer.eos_token_id) == (400, 0)
    monkeypatch.setattr(lm.model.generation_config, "eos_token_id", beyond)
    config = greedy(12, sequence_bias=[[[0], 1000.0]])
    ended = llmkit.generate("Once", model=lm, config=config)
    assert (ended.token_ids, ended.finish_reason) == ((), "eos")


def test_generate_keeps_of_several_eos_ids_those_in_the_vocabulary(loaded, path, monkeypatch):
    lm = loaded("gpt2")
    monkeypatch.setattr(lm.model.generation_config, "eos_token_id", [50256, 33])
    ended = llmkit.generate("Once", model=lm, config=greedy(12, sequence_bias=[[[33], 1000.0]]))
    assert (ended.token_ids, ended.finish_reason) == ((), "eos")


# Removal


def test_decoder_reports_a_removed_row_no_more(model, path):
    decoder = Decoder(model)
    gone, stays = decoder.add([1, 2, 3], greedy(8), seed=0), decoder.add(PROMPT, greedy(8), seed=0)
    first = {row: token for row, token, _ in decoder.step()}
    decoder.remove(gone)
    rest = drain(decoder)
    assert set(rest) == {stays}
    assert [first[stays], *tokens_of(rest[stays])] == path[:8]


def test_decoder_never_starts_a_row_that_was_removed_before_its_first_step(model):
    decoder = Decoder(model)
    decoder.remove(decoder.add(PROMPT, greedy(3), seed=0))
    assert decoder.step() == []


def test_decoder_feeds_a_removed_row_no_more(model):
    fed = []
    hook = model.register_forward_pre_hook(
        lambda m, args, kwargs: fed.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    decoder = Decoder(model)
    rows = [decoder.add(PROMPT, greedy(8), seed=0) for _ in range(3)]
    decoder.step()
    decoder.remove(rows[1])
    decoder.step()
    hook.remove()
    assert fed == [3, 2]


def test_decoder_stays_the_same_when_a_row_is_removed_twice(model, path):
    decoder = Decoder(model)
    gone, stays = decoder.add(PROMPT, greedy(2), seed=0), decoder.add(PROMPT, greedy(4), seed=0)
    decoder.remove(gone)
    decoder.remove(gone)
    events = drain(decoder)
    decoder.remove(stays)
    assert {row: tokens_of(e) for row, e in events.items()} == {stays: path[:4]}


def test_decoder_starts_anew_when_all_rows_are_removed(model, path):
    decoder = Decoder(model)
    rows = [decoder.add([1, 2], greedy(8), seed=0), decoder.add([3], greedy(8), seed=0)]
    decoder.step()
    for row in rows:
        decoder.remove(row)
    assert decoder.step() == []
    row = decoder.add(PROMPT, greedy(4), seed=0)
    assert {key: tokens_of(events) for key, events in drain(decoder).items()} == {row: path[:4]}


# Scores that are not finite


def broken(model, value):
    """A copy of a model whose scores all take this value."""
    copied = copy.deepcopy(model)
    with torch.no_grad():
        copied.transformer.ln_f.bias.fill_(value)
    return copied


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("config", [greedy(3), sampled(3), sampled(3, top_k=5, top_p=0.9, temperature=0.5)])
def test_decoder_raises_when_the_model_gives_scores_that_are_not_finite(model, value, config):
    decoder = Decoder(broken(model, value))
    decoder.add(PROMPT, config, seed=0)
    with pytest.raises(RunError, match=r"^the model gave scores that are not finite$"):
        decoder.step()


@pytest.mark.parametrize("fields", [{}, {"do_sample": True, "temperature": 0.7}], ids=["greedy", "sampled"])
def test_decoder_raises_when_a_row_that_goes_whole_meets_scores_that_are_not_finite(model, fields):
    decoder = Decoder(broken(model, math.nan))
    decoder.add(PROMPT, GenerationConfig(num_beams=2, max_new_tokens=4, **fields), seed=0)
    with pytest.raises(RunError, match=r"^the model gave scores that are not finite$"):
        decoder.step()


def test_decoder_refuses_what_transformers_refuses(model):
    decoder = Decoder(model)
    decoder.add(PROMPT, GenerationConfig(max_new_tokens=4, stop_strings=["e"]), seed=0)
    with pytest.raises(InputError, match=r"^transformers refuses this GenerationConfig: .*tokenizer"):
        decoder.step()


@pytest.mark.parametrize("temperature", [0, 0.8])
def test_generate_raises_when_the_model_gives_scores_that_are_not_finite(loaded, temperature):
    lm = dataclasses.replace(loaded("gpt2"), model=broken(loaded("gpt2").model, float("nan")))
    with pytest.raises(RunError, match=r"^the model gave scores that are not finite$"):
        llmkit.generate("Once", model=lm, temperature=temperature, seed=0)


# Sampling


def scores_of(model, prompt=PROMPT):
    """The reference's scores of the next token. Shape: (vocabulary,)."""
    return reference.gpt2_logits(model.state_dict(), model.config, torch.tensor([prompt]))[0, -1]


def check_frequencies(tokens, probabilities):
    """No token outside the support, and inside it the frequencies that a fair draw gives, by a chi-square test."""
    observed = torch.bincount(torch.tensor(tokens), minlength=len(probabilities))
    support = probabilities > 0
    assert observed[~support].sum() == 0
    expected = probabilities[support] * len(tokens)
    assert expected.min() > 5  # or the test would not hold
    assert chisquare(observed[support].numpy(), expected.numpy()).pvalue > 1e-4


def test_draw_follows_the_warped_distribution():
    scores = torch.randn(32, generator=torch.Generator().manual_seed(0))
    warped = build_warpers(sampled(1, **WARPED), scores.device)(None, scores[None])
    tokens = draw(warped.expand(NUM_DRAWS, -1), [torch.Generator().manual_seed(1)] * NUM_DRAWS)
    check_frequencies(tokens, reference.warped_distribution(scores, **WARPED))


def test_decoder_follows_the_warped_distribution_over_consecutive_seeds(model):
    settings = {"temperature": 5.0, "top_k": 20, "top_p": 0.9}
    decoder = Decoder(model)
    for seed in range(4000):
        decoder.add(PROMPT, sampled(1, **settings), seed)
    tokens = [token for _, token, _ in decoder.step()]
    check_frequencies(tokens, reference.warped_distribution(scores_of(model), **settings))


@pytest.mark.parametrize("number", [0.0, 0.5, 1 - 2**-53])
def test_draw_never_takes_a_token_of_probability_zero(monkeypatch, number):
    monkeypatch.setattr(torch, "rand", lambda *size, **kwargs: torch.tensor([number], dtype=torch.float64))
    scores = torch.full((1, 300), -float("inf"))
    scores[0, 100:200] = torch.linspace(-1, 1, 100)
    (token,) = draw(scores, [torch.Generator()])
    assert token == {0.0: 100, 1 - 2**-53: 199}.get(number, token)
    assert 100 <= token < 200


def test_draw_gives_a_row_the_same_among_others():
    scores = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    alone = [draw(row[None], [torch.Generator().manual_seed(i)])[0] for i, row in enumerate(scores)]
    assert draw(scores, [torch.Generator().manual_seed(i) for i in range(5)]) == alone
    assert len(set(alone)) > 1


def test_draw_raises_when_no_token_is_left():
    with pytest.raises(RunError, match=r"^the model gave scores that are not finite$"):
        draw(torch.full((1, 4), -float("inf")), [torch.Generator()])


def entropy(probabilities):
    return -sum(p * math.log(p) for p in probabilities)


# setting -> value -> whether a probability among all of them is kept, from the setting's definition
KEEPS = {
    "top_k": lambda k, p, every: sum(q > p for q in every) < k,
    "top_p": lambda mass, p, every: sum(q for q in every if q > p) < mass,
    "min_p": lambda share, p, every: p >= share * max(every),
    "epsilon_cutoff": lambda least, p, every: p >= least,
    "eta_cutoff": lambda least, p, every: p >= min(least, math.sqrt(least) * math.exp(-entropy(every))),
    "typical_p": lambda mass, p, every: (
        sum(q for q in every if abs(-math.log(q) - entropy(every)) < abs(-math.log(p) - entropy(every))) < mass
    ),
}


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *[("top_k", 1), ("top_k", 7), ("top_p", 0.1), ("top_p", 0.5), ("top_p", 0.95), ("min_p", 0.1), ("min_p", 0.6)],
        *[("epsilon_cutoff", 0.05), ("eta_cutoff", 0.1), ("typical_p", 0.2), ("typical_p", 0.8)],
    ],
)
def test_draw_takes_every_token_that_a_setting_keeps_and_no_other(setting, value):
    scores = torch.randn(12, generator=torch.Generator().manual_seed(4))
    probabilities = scores.double().softmax(-1).tolist()
    kept = {token for token, p in enumerate(probabilities) if KEEPS[setting](value, p, probabilities)}
    assert 0 < len(kept) < 12
    config = sampled(1, **{"top_k": 0, setting: value})
    warped = build_warpers(config, scores.device)(None, scores[None])
    assert set(draw(warped.expand(4000, -1), [torch.Generator().manual_seed(5)] * 4000)) == kept


def test_decoder_draws_from_the_fifty_most_probable_tokens_when_top_k_is_not_set(model):
    decoder = Decoder(model)
    for seed in range(1000):
        decoder.add(PROMPT, sampled(1, temperature=50.0), seed)
    tokens = {token for _, token, _ in decoder.step()}
    assert tokens == set(scores_of(model).topk(50).indices.tolist())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_decoder_becomes_greedy_as_temperature_falls(model, path, seed):
    assert tokens_of(decode(model, sampled(12, temperature=1e-4), seed=seed)) == path


def test_generate_is_greedy_when_temperature_is_zero(loaded):
    lm = loaded("gpt2")
    made = llmkit.generate(TEXT, model=lm, max_new_tokens=12, temperature=0)
    assert list(made.token_ids) == generated(lm.model, greedy(12), lm.tokenizer(TEXT)["input_ids"])


def test_decoder_gives_one_seed_the_same_and_another_something_else(model):
    first, again, other = (tokens_of(decode(model, sampled(12), seed=seed)) for seed in (3, 3, 4))
    assert first == again
    assert first != other


@pytest.mark.parametrize("config", [sampled(6), sampled(6, num_beams=2)], ids=["step by step", "whole"])
def test_decoder_neither_reads_nor_moves_the_global_generator(model, config):
    torch.manual_seed(1)
    first, before = tokens_of(decode(model, config, seed=3)), torch.get_rng_state()
    torch.manual_seed(2)
    assert tokens_of(decode(model, config, seed=3)) == first
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), before)


# Configs


def test_decoder_equals_the_formula_when_repetition_is_penalised(loaded):
    lm, penalty = loaded("gpt2"), 1.7
    ids = lm.tokenizer(TEXT)["input_ids"]
    expected = list(ids)
    for _ in range(12):  # Keskar et al. 2019 (arXiv 1909.05858), section 4.1; a negative score is multiplied instead
        scores = scores_of(lm.model, expected)
        for token in set(expected):
            scores[token] = scores[token] / penalty if scores[token] > 0 else scores[token] * penalty
        expected.append(int(scores.argmax()))
    config = greedy(12, repetition_penalty=penalty)
    assert list(llmkit.generate(TEXT, model=lm, config=config).token_ids) == expected[len(ids) :]
    assert generated(lm.model, greedy(12), ids) != expected[len(ids) :]


# fields of a config, made from the tokens of the plain greedy path so that each of them matters
FIELDS = {
    "sequence_bias": lambda path: {"sequence_bias": [[[path[1]], -900.0], [[path[0], 33], 900.0]]},
    "repetition_penalty": lambda path: {"repetition_penalty": 1.7},
    "no_repeat_ngram_size": lambda path: {"no_repeat_ngram_size": 1},
    "bad_words_ids": lambda path: {"bad_words_ids": [[path[4]], [path[1], path[2]]]},
    "min_length": lambda path: {"min_length": 14, "eos_token_id": path[1]},
    "min_new_tokens": lambda path: {"min_new_tokens": 8, "eos_token_id": path[1]},
    "suppress_tokens": lambda path: {"suppress_tokens": [path[0], path[5]]},
}
FIELDS["all of them"] = lambda path: {name: v for make in list(FIELDS.values())[:-1] for name, v in make(path).items()}


@pytest.mark.parametrize("name", FIELDS)
def test_generate_equals_transformers_when_the_config_has(loaded, name):
    lm = loaded("gpt2")
    ids = lm.tokenizer(TEXT)["input_ids"]
    fields = FIELDS[name](generated(lm.model, greedy(24), ids))
    config, ends = greedy(24, **fields), {"eos_token_id": fields["eos_token_id"]} if "eos_token_id" in fields else {}
    expected = generated(lm.model, config, ids)
    assert expected != generated(lm.model, greedy(24, **ends), ids)
    made = llmkit.generate(TEXT, model=lm, config=config)
    closing = [fields.get("eos_token_id", 0)] if made.finish_reason == "eos" else []
    assert [*made.token_ids, *closing] == expected
    assert tokens_of(decode(lm.model, config, ids)) == expected


# fields with a value that asks for more than steps; an id or a number may be 0
WHOLE = [
    ("num_beams", 2),
    ("max_time", 60.0),
    ("max_time", 0.0),
    ("stop_strings", ["x"]),
    ("use_cache", False),
    ("cache_implementation", "static"),
    ("top_h", 0.5),
    ("forced_bos_token_id", 0),
    ("forced_eos_token_id", 0),
    ("forced_eos_token_id", [3, 4]),
    ("remove_invalid_values", True),
    ("exponential_decay_length_penalty", (2, 1.1)),
    ("begin_suppress_tokens", [3]),
    ("token_healing", True),
    ("guidance_scale", 1.5),
    ("guidance_scale", 0.0),
    ("watermarking_config", {"bias": 2.5}),
    ("prompt_lookup_num_tokens", 3),
    ("assistant_early_exit", 1),
    ("penalty_alpha", 0.6),
    ("dola_layers", "low"),
    ("prefill_chunk_size", 2),
    ("a_field_of_tomorrow", 1),
]


@pytest.mark.parametrize(("name", "value"), WHOLE)
def test_decoder_hands_a_row_whole_to_transformers_when_the_config_has(model, name, value, monkeypatch):
    asked = []

    def generate(ids, generation_config, **kwargs):
        asked.append(getattr(generation_config, name))
        return torch.cat([ids, torch.tensor([[11, 12, 13]])], dim=1)

    monkeypatch.setattr(model, "generate", generate)
    with quiet():
        config = greedy(3, **{name: value})
    decoder = Decoder(model)
    row = decoder.add(PROMPT, config, seed=0)
    assert decoder.step() == [(row, 11, None), (row, 12, None), (row, 13, "length")]
    assert asked == [getattr(config, name)]


# fields that leave a row to the step loop whatever they hold: the loop's own, its processors', and those that say
# nothing without beams, an encoder or an assistant
STEPS = {
    *("max_length", "max_new_tokens", "do_sample", "bos_token_id", "eos_token_id", "pad_token_id", "use_cache"),
    *("sequence_bias", "repetition_penalty", "no_repeat_ngram_size", "bad_words_ids"),
    *("min_length", "min_new_tokens", "suppress_tokens"),
    *("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "renormalize_logits"),
    *("num_return_sequences", "output_attentions", "output_hidden_states", "output_scores", "output_logits"),
    *("return_dict_in_generate", "transformers_version", "disable_compile", "low_memory"),
    *("early_stopping", "length_penalty", "num_beam_groups", "diversity_penalty"),
    *("encoder_repetition_penalty", "encoder_no_repeat_ngram_size", "decoder_start_token_id"),
    *("num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold"),
    *("assistant_lookbehind", "target_lookbehind"),
}


def test_asks_only_for_steps_holds_for_these_fields_of_a_config_alone():
    steps = set()
    for name in GenerationConfig().to_dict():
        config = GenerationConfig()
        setattr(config, name, 7)
        if configuring.asks_only_for_steps(config) and not name.startswith("_"):
            steps.add(name)
    assert steps == STEPS


@pytest.mark.parametrize(
    "fields",
    [{"guidance_scale": 1.5}, {"prompt_lookup_num_tokens": 3}, {"begin_suppress_tokens": [0, 3]}, {"num_beams": 4}],
    ids=lambda fields: next(iter(fields)),
)
def test_generate_equals_transformers_when_the_row_goes_whole(loaded, fields):
    lm, config = loaded("gpt2"), greedy(12, **fields)
    made = llmkit.generate(TEXT, model=lm, config=config)
    expected = generated(lm.model, config, lm.tokenizer(TEXT)["input_ids"])
    assert (list(made.token_ids), made.finish_reason) == (expected, "length")


def test_generate_ends_with_the_forced_end_of_text_when_its_id_is_zero(loaded):
    lm = loaded("gpt2")
    plain = llmkit.generate(TEXT, model=lm, config=greedy(5))
    made = llmkit.generate(TEXT, model=lm, config=greedy(5, forced_eos_token_id=0))
    assert (made.token_ids, made.finish_reason) == (plain.token_ids[:4], "eos")


def test_decoder_steps_rows_while_another_goes_whole(model, path):
    decoder = Decoder(model)
    steps, whole = decoder.add(PROMPT, greedy(6), seed=0), decoder.add(PROMPT, greedy(6, num_beams=3), seed=0)
    events = drain(decoder)
    assert tokens_of(events[steps]) == path[:6]
    assert tokens_of(events[whole]) == generated(model, greedy(6, num_beams=3))


def test_decoder_gives_a_whole_row_its_seed(model):
    config = sampled(8, num_beams=2)
    first, again, other = (tokens_of(decode(model, config, seed=seed)) for seed in (3, 3, 4))
    assert first == again
    assert first != other
