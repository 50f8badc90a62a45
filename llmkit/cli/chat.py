"""`llmkit chat`: a conversation, on a terminal turn by turn, else one question and its answer."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from llmkit.cli import generate as generation
from llmkit.cli import options, render, rows
from llmkit.errors import InputError

if TYPE_CHECKING:
    from llmkit.tasks.generation import Job

System = Annotated[str | None, typer.Option("--system", help="What the assistant is told before the conversation.")]
Question = Annotated[
    str | None, typer.Argument(metavar="[TEXT]", show_default=False, help="The question; else it is piped, or asked.")
]
Encoding = Annotated[str, typer.Option("--encoding", help="The encoding of piped input.")]


def chat(
    text: Question = None,
    model: options.Model = None,
    adapter: options.Adapter = None,
    system: System = None,
    max_new_tokens: options.MaxNewTokens = None,
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    top_k: options.TopK = None,
    num_beams: options.NumBeams = None,
    stop: options.Stop = None,
    seed: options.Seed = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    tokenizer: options.Tokenizer = None,
    offline: options.Offline = False,
    encoding: Encoding = "utf-8",
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Talk to a model: TEXT or piped input is one question; on a terminal, turn by turn until end of input."""
    render.NOTES.quiet = quiet
    settings = generation.given(
        locals(), "max_new_tokens", "temperature", "top_p", "top_k", "num_beams", "stop", "seed"
    )
    generation.check(settings)
    on_terminal = text is None and sys.stdin is not None and sys.stdin.isatty()
    question = None if on_terminal else rows.read_whole(text, encoding)
    settings.setdefault("max_new_tokens", _whole_turn())
    job = generation.open_job(
        model, settings, use="chat", adapter=adapter, tokenizer=tokenizer, device=device, dtype=dtype, offline=offline
    )
    messages = [{"role": "system", "content": system}] if system else []
    render.NOTES.show()
    if question is not None:
        _answer(job, messages, question)
        return
    if hasattr(sys.stdin, "reconfigure"):  # half a character, as a terminal leaves it, does not end the conversation
        sys.stdin.reconfigure(errors="replace")
    render.note("an empty line or end of input (Ctrl-D) ends the conversation")
    while (question := _ask()) is not None:
        try:
            _answer(job, messages, question)
        except InputError as err:  # one message too long does not end the conversation
            render.show_error(str(err), err.hint)
            messages.pop()


def _whole_turn() -> int:
    from llmkit.tasks.sampling import LIMIT

    return LIMIT  # an answer runs to the end of its turn; the context is the bound


def _ask() -> str | None:
    render.write_aside("> ")
    line = sys.stdin.readline()
    return line.rstrip("\r\n") or None


def _answer(job: Job, messages: list[dict[str, str]], question: str) -> None:
    from llmkit.tasks.conversation import fit_history
    from llmkit.tasks.generation import TextStream

    messages.append({"role": "user", "content": question})
    kept, dropped = fit_history(job, messages)
    if dropped:
        render.note(f"{dropped} of the oldest messages no longer fit the context")
        messages[:] = [dict(m) for m in kept]
    stream = TextStream(job, job.encode(kept))
    render.NOTES.show()
    for piece in stream:
        render.write(piece)
    render.write("\n")
    messages.append({"role": "assistant", "content": stream.result.text.strip()})
