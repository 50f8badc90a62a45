"""The pieces of a stream join to the text of generate and generate_batch, and its result is theirs."""

import dataclasses

import pytest
from conftest import SHAPES
from transformers import GenerationConfig

import llmkit

TEXTS = ["Once upon a time", "人工智能的未来是什么？", "def f(x):\n    return"]
TOKENIZERS = ["byte-level", "fallback", "wordpiece"]
SETTINGS = {
    "greedy": {"temperature": 0},
    "sampled": {"temperature": 4.0, "seed": 7},
    "sampled from few": {"temperature": 2.0, "top_k": 20, "top_p": 0.9, "seed": 8},
    "beams": {"num_beams": 2},
    "beams that draw": {"num_beams": 2, "temperature": 2.0, "seed": 9},
}


def drain(text, **settings):
    """The pieces of a stream and its result without the time."""
    stream = llmkit.stream(text, **settings)
    pieces = list(stream)
    return pieces, dataclasses.replace(stream.result, seconds=0.0)


def generate(text, **settings):
    """What generate and generate_batch both return, without the time."""
    one = dataclasses.replace(llmkit.generate(text, **settings), seconds=0.0)
    (same,) = (dataclasses.replace(g, seconds=0.0) for g in llmkit.generate_batch([text], **settings))
    assert one == same
    return one


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("family", SHAPES)
def test_stream_equals_generate_in_every_family(loaded, family, settings):
    settings = {**settings, "model": loaded(family), "max_new_tokens": 10}
    pieces, result = drain(TEXTS[0], **settings)
    assert result == generate(TEXTS[0], **settings)
    assert "".join(pieces) == result.text != ""


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_stream_equals_generate_with_every_tokenizer(loaded, tokenizer, text):
    lm = loaded("gpt2", tokenizer)
    for seed in range(4):  # among them texts that end within a character
        settings = {"model": lm, "max_new_tokens": 12, "temperature": 4.0, "seed": seed}
        pieces, result = drain(text, **settings)
        assert result == generate(text, **settings)
        assert "".join(pieces) == result.text


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_stream_equals_generate_when_a_stop_string_ends_it(loaded, tokenizer):
    settings = {"model": loaded("gpt2", tokenizer), "max_new_tokens": 24, "temperature": 4.0, "seed": 5}
    whole = generate(TEXTS[0], **settings).text
    stop = whole[5:8]
    pieces, result = drain(TEXTS[0], **settings, stop=stop)
    assert result == generate(TEXTS[0], **settings, stop=stop)
    assert result.finish_reason == "stop"
    assert "".join(pieces) == result.text == whole[: whole.index(stop)]


def test_stream_equals_generate_when_a_stop_string_never_comes(loaded):
    settings = {"model": loaded("gpt2"), "max_new_tokens": 12, "temperature": 4.0, "seed": 3}
    plain = generate(TEXTS[0], **settings)
    stop = plain.text[-2:] + "that it does not go on with"  # its beginning is held back until the end
    pieces, result = drain(TEXTS[0], **settings, stop=stop)
    assert ("".join(pieces), result) == (plain.text, plain)


def test_stream_equals_generate_when_the_text_ends(loaded):
    lm = loaded("gpt2")
    config = GenerationConfig(do_sample=True, max_new_tokens=40, temperature=4.0, eos_token_id=list(range(0, 400, 9)))
    pieces, result = drain(TEXTS[0], model=lm, config=config, seed=1)
    assert result == generate(TEXTS[0], model=lm, config=config, seed=1)
    assert ("".join(pieces), result.finish_reason) == (result.text, "eos")


def test_stream_equals_generate_when_the_prompt_is_a_conversation(loaded):
    messages = [{"role": "user", "content": TEXTS[0]}]
    settings = {"model": loaded("gpt2"), "max_new_tokens": 12, "temperature": 4.0, "seed": 3}
    pieces, result = drain(messages, **settings)
    assert result == generate(messages, **settings)
    assert "".join(pieces) == result.text


def test_stream_yields_once_when_searching_with_beams(loaded):
    pieces, result = drain(TEXTS[0], model=loaded("gpt2"), max_new_tokens=12, num_beams=3)
    assert pieces == [result.text]


def test_stream_yields_piece_by_piece(loaded):
    pieces, _ = drain(TEXTS[0], model=loaded("gpt2"), max_new_tokens=12, temperature=4.0, seed=3)
    assert len(pieces) > 6


def test_stream_yields_no_empty_piece_when_the_last_token_adds_no_text(loaded):
    lm = loaded("gpt2")
    plain = generate(TEXTS[0], model=lm, config=GenerationConfig(do_sample=False, max_new_tokens=6))
    config = GenerationConfig(do_sample=False, max_new_tokens=6, eos_token_id=plain.token_ids[4])
    pieces, result = drain(TEXTS[0], model=lm, config=config)
    assert (result.finish_reason, "" in pieces) == ("eos", False)


def test_stream_has_given_a_piece_when_the_next_token_is_not_computed_yet(loaded):
    lm, steps = loaded("gpt2"), []
    hook = lm.model.register_forward_hook(lambda *_: steps.append(1))
    stream = llmkit.stream(TEXTS[0], model=lm, max_new_tokens=12, temperature=0)
    assert steps == []
    next(stream)
    early = len(steps)
    list(stream)
    hook.remove()
    assert (early < 4, len(steps)) == (True, 12)


def test_stream_has_no_result_before_its_end(loaded):
    stream = llmkit.stream(TEXTS[0], model=loaded("gpt2"), max_new_tokens=12, temperature=0)
    next(stream)
    with pytest.raises(RuntimeError, match=r"^the stream has not ended yet; read its pieces first$"):
        _ = stream.result


def test_stream_runs_beside_another_on_the_same_model(loaded):
    settings = {"model": loaded("gpt2"), "max_new_tokens": 12, "temperature": 4.0}
    streams = [llmkit.stream(text, **settings, seed=5) for text in TEXTS[:2]]
    pieces = [[], []]
    for _ in range(13):
        for stream, kept in zip(streams, pieces, strict=True):
            kept.append(next(stream, ""))
    assert ["".join(kept) for kept in pieces] == [generate(text, **settings, seed=5).text for text in TEXTS[:2]]
