import dataclasses
import gc
import itertools
import shutil

import numpy as np
import pytest
import torch
from conftest import byte_level_tokenizer, tiny_model
from transformers import GenerationConfig

import llmkit
from llmkit import InputError, Loaded, generate, generate_batch, load, stream
from llmkit.encoding import prompts
from llmkit.runtime import quiet
from llmkit.tasks.generation import TextStream, prepare
from llmkit.tasks.sampling import RANGES

TEXT = "Once upon a time"
MISSING = "no/such/checkpoint"  # a call that fails on it has begun to load
CHAT = [{"role": "user", "content": "hello"}]


@pytest.fixture
def lm(loaded):
    return loaded("gpt2")


def timeless(result):
    return dataclasses.replace(result, seconds=0.0)


def fields(config, *names):
    return {name: getattr(config, name) for name in names}


# --- stream


def test_stream_has_no_result_before_its_end(lm):
    text = stream(TEXT, model=lm, max_new_tokens=8, temperature=0)
    next(text)
    with pytest.raises(RuntimeError, match=r"^the stream has not ended yet; read its pieces first$"):
        _ = text.result


def test_stream_has_the_result_after_its_end(lm):
    text = stream(TEXT, model=lm, max_new_tokens=8, temperature=0)
    assert "".join(text) == text.result.text == str(text.result)


def test_stream_gives_no_empty_piece_for_half_a_character(lm):
    ids = lm.tokenizer("😀")["input_ids"]
    configs = [GenerationConfig(max_new_tokens=n, do_sample=False, sequence_bias=force(ids)) for n in (3, 4)]
    assert [list(stream(TEXT, model=lm, config=config)) for config in configs] == [[], ["😀"]]


def test_stream_frees_its_row_when_it_is_dropped_early(lm):
    job = prepare(lm, {"temperature": 0})
    text = TextStream(job, job.encode(TEXT))
    next(text)
    assert len(job.decoder.step()) == 1
    del text
    gc.collect()
    assert job.decoder.step() == []


@pytest.mark.parametrize("settings", [{"max_new_tokens": 0}, {"model": "builtin/none"}])
def test_stream_checks_its_arguments_before_the_first_piece(lm, settings):
    with pytest.raises(InputError):
        stream(TEXT, **{"model": lm, **settings})


# --- the result


def test_generate_says_why_and_how_much(lm):
    result = generate(TEXT, model=lm, max_new_tokens=5, temperature=0)
    ids = lm.tokenizer(TEXT)["input_ids"]
    with quiet():
        whole = lm.model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=5, pad_token_id=0)[0].tolist()
    new = tuple(whole[len(ids) :])
    assert result.seconds > 0
    assert timeless(result) == llmkit.Generation(
        text=lm.tokenizer.decode(new),
        token_ids=new,
        finish_reason="length",
        num_prompt_tokens=len(ids),
        seed=None,
        seconds=0.0,
    )


def test_generate_leaves_a_last_half_character_out_of_the_text_alone(lm, monkeypatch):
    ids = lm.tokenizer("😀")["input_ids"]
    shown = [
        generate(TEXT, model=lm, config=GenerationConfig(max_new_tokens=n, do_sample=False, sequence_bias=force(ids)))
        for n in (3, 4)
    ]
    assert [(g.text, g.token_ids) for g in shown] == [("", tuple(ids[:3])), ("😀", tuple(ids))]


def force(ids):
    """A sequence_bias that lets one sequence alone come, from its first id on."""
    begins = {(ids[0],): 1e4}
    return begins | {tuple(ids[: n + 1]): 1e5 * n for n in range(1, len(ids))}


def test_generate_takes_a_checkpoint_by_its_name(make_checkpoint, lm):
    settings = {"max_new_tokens": 6, "temperature": 0}
    by_name = generate(TEXT, model=str(make_checkpoint("gpt2")), **settings)
    assert timeless(by_name) == timeless(generate(TEXT, model=lm, **settings))


def test_generate_takes_a_loaded_made_by_hand():
    tokenizer = byte_level_tokenizer()
    model = tiny_model("llama", len(tokenizer))
    ids = tokenizer(TEXT)["input_ids"]
    with quiet():
        whole = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=6, pad_token_id=0)[0].tolist()
    result = generate(TEXT, model=Loaded(model, tokenizer), max_new_tokens=6, temperature=0)
    assert list(result.token_ids) == whole[len(ids) :]


def test_generate_feeds_ids_and_positions_but_no_token_types_when_the_tokenizer_is_bert_like(loaded):
    lm, seen = loaded("gpt2", "wordpiece"), []
    hook = lm.model.register_forward_pre_hook(lambda _, args, given: seen.append(given), with_kwargs=True)
    try:
        result = generate("hello world", model=lm, max_new_tokens=3, temperature=0)
    finally:
        hook.remove()
    assert "token_type_ids" not in set().union(*seen)
    assert seen[0]["input_ids"].tolist() == [lm.tokenizer.convert_tokens_to_ids(["hello", "world"])]
    assert result.num_prompt_tokens == 2


def test_generate_starts_from_the_begin_token_when_the_prompt_is_empty(lm):
    with quiet():
        whole = lm.model.generate(torch.tensor([[0]]), do_sample=False, max_new_tokens=4, pad_token_id=0)[0].tolist()
    result = generate("", model=lm, max_new_tokens=4, temperature=0)
    assert (result.num_prompt_tokens, list(result.token_ids)) == (1, whole[1:])


def test_generate_answers_a_conversation(lm):
    plain = prompts.render_plain(CHAT)
    settings = {"model": lm, "max_new_tokens": 6, "temperature": 0}
    assert timeless(generate(CHAT, **settings)) == timeless(generate(plain, **settings))


def test_generate_ends_a_conversation_at_the_users_next_turn_when_there_is_no_template(lm, caplog):
    job = prepare(lm, {"stop": ["x"], "temperature": 0})
    with caplog.at_level("INFO", logger="llmkit"):
        assert (job.encode(TEXT).stop, job.encode(CHAT).stop) == (("x",), ("x", "\nUser:"))
    notes = [record.getMessage() for record in caplog.records]
    assert notes == [f"{lm.name} has no chat template; it continues a plain transcript"]


def test_generate_leaves_the_end_of_an_answer_to_the_template(lm, caplog):
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = "{{ messages[0].content }}"
    job = prepare(Loaded(lm.model, tokenizer), {"stop": ["x"], "temperature": 0})
    with caplog.at_level("INFO", logger="llmkit"):
        assert job.encode(CHAT).stop == ("x",)
    assert caplog.records == []


# --- the context


def test_generate_refuses_a_prompt_that_fills_the_context(make_checkpoint):
    folder = make_checkpoint("gpt2")
    lm = load(folder, device="cpu")
    with pytest.raises(InputError) as caught:
        generate("Z" * 64, model=lm)
    assert str(caught.value) == (f"the prompt has 64 tokens, the context of {folder} holds 64 together with the answer")
    assert caught.value.hint == "--truncate left (in Python: truncate='left') drops its beginning"


def test_generate_drops_the_beginning_when_it_may_be_truncated(lm):
    ids = lm.tokenizer("Z" * 70 + "q")["input_ids"]
    job = prepare(lm, {"max_new_tokens": 10, "truncate": "left"})
    assert job.encode("Z" * 70 + "q").ids == ids[-54:]


def test_generate_keeps_half_the_context_when_it_is_truncated_for_a_long_answer(lm):
    ids = lm.tokenizer("Z" * 70 + "q")["input_ids"]
    job = prepare(lm, {"max_new_tokens": 1000, "truncate": "left"})
    assert job.encode("Z" * 70 + "q").ids == ids[-32:]


def test_generate_keeps_bos_when_it_is_truncated(loaded):
    lm = loaded("llama", "fallback", bos_token_id=1, eos_token_id=2)
    job = prepare(lm, {"max_new_tokens": 10, "truncate": "left"})
    ids = lm.tokenizer("lo " * 70)["input_ids"]
    assert job.encode("lo " * 70).ids == [1, *ids[-53:]]


# --- stop


def greedy_text(lm, **settings):
    return generate(TEXT, model=lm, max_new_tokens=16, temperature=0, **settings)


@pytest.mark.parametrize("listed", [False, True])
def test_generate_cuts_at_a_stop_string(lm, listed):
    whole = greedy_text(lm)
    stop = whole.text[4:7]
    result = greedy_text(lm, stop=[stop, "never that"] if listed else stop)
    assert (result.text, result.finish_reason) == (whole.text[: whole.text.index(stop)], "stop")
    assert result.token_ids == whole.token_ids[: len(result.token_ids)] != whole.token_ids


def test_generate_gives_the_whole_text_when_the_stop_string_does_not_come(lm):
    whole = greedy_text(lm)
    assert timeless(greedy_text(lm, stop=whole.text[-1] + "never that")) == timeless(whole)


@pytest.mark.parametrize("stop", ["", ["a", ""], 5, ["a", 5], [b"a"]])
def test_generate_refuses_what_is_no_stop_string(stop):
    with pytest.raises(InputError) as caught:
        generate(TEXT, model=MISSING, stop=stop)
    assert str(caught.value) == f"stop must be a text or several, none of them empty, got {stop!r}"


# --- settings out of range

BAD = {
    "max_new_tokens": [0, -1, 1_000_001, 2.5, True, "8"],
    "temperature": [-0.1, float("inf"), float("nan"), True, "hot"],
    "top_p": [0, 1.01, -1, float("nan"), True, "0.9"],
    "top_k": [0, -1, 1.5, True, "5"],
    "num_beams": [0, 1001, 1.5, True, "2"],
}
EXPECTED = {
    "max_new_tokens": "a whole number from 1 to 1,000,000",
    "temperature": "a number from 0, which is greedy",
    "top_p": "a number above 0 and at most 1",
    "top_k": "a whole number from 1",
    "num_beams": "a whole number from 1 to 1,000",
}
CALLS = {
    "generate": lambda **settings: generate(TEXT, **settings),
    "stream": lambda **settings: stream(TEXT, **settings),
    "generate_batch": lambda **settings: generate_batch([TEXT], **settings),
}


def test_every_range_is_tried():
    assert set(BAD) == set(EXPECTED) == set(RANGES)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_generate_refuses_a_setting_out_of_range_before_anything_is_loaded(call, name, value):
    with pytest.raises(InputError) as caught:
        call(model=MISSING, **{name: value})
    assert str(caught.value) == f"{name} out of range, got {value!r}; expected {EXPECTED[name]}"


@pytest.mark.parametrize("value", [-1, 2**63, 1.5, True, "7"])
def test_generate_refuses_a_seed_out_of_range(value):
    with pytest.raises(InputError) as caught:
        generate(TEXT, model=MISSING, seed=value)
    assert str(caught.value) == f"seed out of range, got {value!r}; expected a whole number from 0 to 2**63 - 1"


@pytest.mark.parametrize("name", ["num_samples", "batch_size"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_generate_batch_refuses_a_number_of_rows_out_of_range(name, value):
    with pytest.raises(InputError) as caught:
        generate_batch([TEXT], model=MISSING, **{name: value})
    assert str(caught.value) == f"{name} out of range, got {value!r}; expected a whole number from 1"


@pytest.mark.parametrize(
    "settings",
    [
        {"max_new_tokens": 1},
        {"temperature": 1e-6, "top_p": 1, "top_k": 1},
        {"temperature": 0},
        {"num_beams": 1, "seed": 0},
        {"seed": 2**63 - 1},
        {"max_new_tokens": 1_000_000, "temperature": 0, "stop": "never that"},
        {"truncate": "left"},
    ],
)
def test_generate_takes_a_setting_at_the_end_of_its_range(lm, settings):
    assert len(generate("Z" * 62, model=lm, **settings).token_ids) <= 2


def test_generate_refuses_another_side_to_truncate():
    with pytest.raises(InputError) as caught:
        generate(TEXT, model=MISSING, truncate="right")
    assert str(caught.value) == "truncate can only be 'left', got 'right'"


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_generate_refuses_an_unknown_setting(call):
    with pytest.raises(TypeError) as caught:
        call(model=MISSING, temprature=1)
    assert str(caught.value) == (
        "no such setting: temprature; expected config, max_new_tokens, num_beams, seed, stop, temperature, top_k, "
        "top_p, truncate (did you mean temperature?)"
    )


@pytest.mark.parametrize(
    ("setting", "meant"),
    [
        ("do_sample", "temperature"),
        ("num_samples", "llmkit.generate_batch(prompts, num_samples=...)"),
        ("device", "llmkit.load(name, device=...)"),
        ("max_tokens", "max_new_tokens"),
        ("beam", "num_beams"),
    ],
)
def test_generate_says_where_a_setting_of_another_name_stands(setting, meant):
    with pytest.raises(TypeError) as caught:
        generate(TEXT, model=MISSING, **{setting: 1})
    assert str(caught.value).endswith(f" (did you mean {meant}?)")


def test_what_another_call_takes_is_told_by_the_verb_that_has_it_alone():
    with pytest.raises(TypeError, match=r"src_lang, tgt_lang \(did you mean tgt_lang\?\)$"):
        llmkit.translate("a", model=MISSING, to="zh")
    with pytest.raises(TypeError, match=r"stride$"):
        llmkit.classify("a", model=MISSING, num_samples=2)


def test_generate_says_what_takes_several_texts():
    with pytest.raises(TypeError, match=r"got a list of texts; generate_batch takes those$"):
        generate(["a", "b"], model=MISSING)


def test_generate_takes_a_seed_of_numpy_and_gives_it_back_as_a_plain_number(lm):
    seed = generate(TEXT, model=lm, max_new_tokens=2, seed=np.int64(7)).seed
    assert (seed, type(seed)) == (7, int)


@pytest.mark.parametrize(
    "setting", [{"max_new_tokens": 4}, {"temperature": 0}, {"top_p": 0.5}, {"top_k": 4}, {"num_beams": 2}]
)
def test_generate_refuses_a_config_beside_what_it_replaces(setting):
    with pytest.raises(InputError) as caught:
        generate(TEXT, model=MISSING, config=GenerationConfig(), **setting)
    assert str(caught.value) == f"config is used alone, got {next(iter(setting))} beside it"


# --- config, defaults


def test_generate_takes_a_config_alone(lm):
    config = GenerationConfig(max_new_tokens=9, do_sample=False)
    direct = generate(TEXT, model=lm, max_new_tokens=9, temperature=0)
    assert timeless(generate(TEXT, model=lm, config=config)) == timeless(direct)


def test_generate_takes_seed_and_stop_beside_a_config(lm):
    config = GenerationConfig(max_new_tokens=16, do_sample=True, temperature=3.0)
    whole = generate(TEXT, model=lm, config=config, seed=5)
    again = generate(TEXT, model=lm, config=config, seed=5, stop=whole.text[4:7])
    assert (again.text, again.seed) == (whole.text[: whole.text.index(whole.text[4:7])], 5)


def test_generate_leaves_a_config_as_it_was(lm):
    config = GenerationConfig(max_new_tokens=2)
    before = config.to_dict()
    generate(TEXT, model=lm, config=config)
    assert config.to_dict() == before


@pytest.fixture
def stating(make_checkpoint, tmp_path):
    """A function that gives a checkpoint whose generation_config.json says what it is told."""

    def make(**stated):
        folder = shutil.copytree(make_checkpoint("gpt2"), tmp_path / "stating")
        GenerationConfig(eos_token_id=0, **stated).save_pretrained(folder)
        return load(folder, device="cpu")

    return make


STATED = {"do_sample": True, "max_new_tokens": 5, "temperature": 0.3, "top_p": 0.5, "top_k": 7}


def test_generate_takes_what_is_unset_from_the_checkpoint(stating):
    lm = stating(**STATED, repetition_penalty=1.5)
    assert fields(prepare(lm, {}).config, *STATED, "repetition_penalty") == {**STATED, "repetition_penalty": 1.5}
    assert len(generate(TEXT, model=lm, seed=0).token_ids) == 5


def test_generate_prefers_what_is_set_to_the_checkpoint(stating):
    settings = {"max_new_tokens": 6, "temperature": 0.9, "top_p": 0.8, "top_k": 3}
    assert fields(prepare(stating(**STATED), settings).config, *STATED) == {**settings, "do_sample": True}


def test_generate_is_greedy_when_the_checkpoint_says_so(stating):
    lm = stating(do_sample=False, max_new_tokens=5)
    assert timeless(generate(TEXT, model=lm)) == timeless(generate(TEXT, model=lm, temperature=0))


def test_generate_draws_when_the_checkpoint_is_greedy_but_a_temperature_is_set(stating):
    config = prepare(stating(do_sample=False), {"temperature": 0.5}).config
    assert fields(config, "do_sample", "temperature") == {"do_sample": True, "temperature": 0.5}


def test_generate_searches_when_the_checkpoint_says_so(stating):
    config = prepare(stating(num_beams=3), {}).config
    assert fields(config, "num_beams", "do_sample") == {"num_beams": 3, "do_sample": False}


def test_generate_has_defaults_of_its_own_when_the_checkpoint_says_nothing(lm):
    assert fields(prepare(lm, {}).config, "max_new_tokens", "temperature", "do_sample", "num_beams") == {
        "max_new_tokens": 64,
        "temperature": 0.8,
        "do_sample": True,
        "num_beams": 1,
    }


def test_generate_draws_from_fifty_tokens_when_nobody_says_how_many(lm):
    ids = lm.tokenizer(TEXT)["input_ids"]
    with torch.inference_mode():
        best = set(lm.model(torch.tensor([ids])).logits[0, -1].topk(50).indices.tolist())
    results = generate_batch(
        [TEXT], model=lm, num_samples=400, batch_size=100, max_new_tokens=1, temperature=100.0, seed=0
    )
    drawn = {token for result in results for token in result.token_ids}
    assert drawn <= best
    assert len(drawn) > 40


# --- drawing and searching


def test_generate_has_no_seed_when_it_is_greedy(lm):
    assert [generate(TEXT, model=lm, max_new_tokens=2, temperature=0, seed=s).seed for s in (None, 3)] == [None, None]


def test_generate_keeps_the_seed_it_drew_which_gives_the_text_again(lm):
    settings = {"model": lm, "max_new_tokens": 12, "temperature": 4.0}
    first = generate(TEXT, **settings)
    assert timeless(generate(TEXT, seed=first.seed, **settings)) == timeless(first)


def test_generate_draws_another_seed_each_time(lm):
    assert len({generate(TEXT, model=lm, max_new_tokens=1).seed for _ in range(8)}) > 1


def test_generate_says_which_seed_it_drew(lm, caplog):
    with caplog.at_level("INFO", logger="llmkit"):
        drawn = generate(TEXT, model=lm, max_new_tokens=1).seed
        generate(TEXT, model=lm, max_new_tokens=1, seed=4)
        generate(TEXT, model=lm, max_new_tokens=1, temperature=0)
    assert [record.getMessage() for record in caplog.records] == [f"seed {drawn}"]


def test_generate_gives_another_text_for_another_seed(lm):
    texts = {generate(TEXT, model=lm, max_new_tokens=12, temperature=4.0, seed=seed).text for seed in range(4)}
    assert len(texts) == 4


def test_generate_searches_without_drawing_when_it_has_beams(lm):
    result = generate(TEXT, model=lm, num_beams=3, max_new_tokens=8)
    ids = lm.tokenizer(TEXT)["input_ids"]
    with quiet():
        whole = lm.model.generate(torch.tensor([ids]), do_sample=False, num_beams=3, max_new_tokens=8, pad_token_id=0)[
            0
        ].tolist()
    assert (list(result.token_ids), result.seed) == (whole[len(ids) :], None)


def test_generate_draws_with_beams_when_a_temperature_is_set(lm):
    config = prepare(lm, {"num_beams": 3, "temperature": 2.0}).config
    assert fields(config, "num_beams", "do_sample", "temperature") == {
        "num_beams": 3,
        "do_sample": True,
        "temperature": 2.0,
    }
    assert generate(TEXT, model=lm, num_beams=3, temperature=2.0, max_new_tokens=4, seed=6).seed == 6


def test_generate_searches_without_drawing_when_it_has_beams_at_temperature_zero(lm):
    settings = {"model": lm, "num_beams": 3, "max_new_tokens": 8}
    assert timeless(generate(TEXT, temperature=0, **settings)) == timeless(generate(TEXT, **settings))


# --- generate_batch


@pytest.mark.parametrize("wrong", [5, None, b"x", {"role": "user"}, object()])
def test_generate_batch_names_a_prompt_of_a_wrong_type_before_anything_is_loaded(wrong):
    with pytest.raises(TypeError) as caught:
        generate_batch([TEXT, CHAT, wrong], model=MISSING)
    assert str(caught.value) == f"prompt 2 must be a text or a list of messages, got {type(wrong).__name__}"


@pytest.mark.parametrize("wrong", [TEXT, 5, None, {TEXT}, itertools.repeat(TEXT)])
def test_generate_batch_refuses_what_is_no_list_of_prompts(wrong):
    with pytest.raises(TypeError) as caught:
        generate_batch(wrong, model=MISSING)
    assert str(caught.value) == f"prompts must be a list of prompts, got {type(wrong).__name__}"


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        ("Z" * 64, "prompt 1: the prompt has 64 tokens, the context of the model holds 64 together with the answer"),
        ([], "prompt 1: the conversation is empty; expected at least one message"),
    ],
)
def test_generate_batch_names_a_prompt_that_cannot_be_continued_before_the_first_is(lm, prompt, sentence):
    fed, nameless = [], Loaded(lm.model, lm.tokenizer)
    hook = lm.model.register_forward_pre_hook(lambda *_: fed.append(1))
    try:
        with pytest.raises(InputError) as caught:
            generate_batch([TEXT, prompt], model=nameless)
    finally:
        hook.remove()
    assert (str(caught.value), fed) == (sentence, [])


def test_generate_batch_gives_nothing_for_no_prompts(lm):
    assert generate_batch([], model=lm) == []


def test_generate_batch_takes_texts_and_conversations_together(lm):
    settings = {"model": lm, "max_new_tokens": 5, "temperature": 0}
    batch = generate_batch([TEXT, CHAT], **settings)
    assert [timeless(g) for g in batch] == [timeless(generate(prompt, **settings)) for prompt in (TEXT, CHAT)]


def test_generate_batch_seeds_the_samples_of_a_prompt_one_by_one(lm):
    settings = {"model": lm, "max_new_tokens": 6, "temperature": 4.0}
    batch = generate_batch([TEXT, "It was"], num_samples=2, seed=8, **settings)
    alone = [generate(prompt, seed=seed, **settings) for prompt in (TEXT, "It was") for seed in (8, 9)]
    assert [timeless(g) for g in batch] == [timeless(g) for g in alone]


def test_generate_refuses_an_unknown_setting_though_its_value_is_none(lm):
    with pytest.raises(TypeError, match=r"^no such setting: temprature; expected "):
        llmkit.generate("x", model=lm, temprature=None)


def test_a_job_gives_each_result_as_soon_as_those_before_it_are_there(lm):
    job = prepare(lm, {"temperature": 0, "max_new_tokens": 20, "stop": []})
    long = generate(TEXT, model=lm, temperature=0, max_new_tokens=20)
    job = dataclasses.replace(job, config=GenerationConfig(max_new_tokens=3, do_sample=False))
    results = job.run_in_order([job.encode(TEXT), job.encode("It was"), job.encode("Z" * 5)], batch_size=1)
    assert next(results).token_ids == long.token_ids[:3]
    assert job.decoder._next_key == 1  # the second is not begun before it is asked for
    assert [len(result.token_ids) for result in results] == [3, 3]


def test_a_job_gives_results_in_order_though_a_later_one_ends_first(lm):
    ends = generate("It was", model=lm, temperature=0, max_new_tokens=1).token_ids[0]
    config = GenerationConfig(max_new_tokens=6, do_sample=False, eos_token_id=ends)
    job = prepare(lm, {"config": config})
    prompts_ = [TEXT, "It was"]
    results = job.run([job.encode(prompt) for prompt in prompts_], batch_size=2)
    assert [r.num_prompt_tokens for r in results] == [len(job.encode(p).ids) for p in prompts_]
    assert len(results[0].token_ids) > len(results[1].token_ids)
