"""Continue text with a causal language model: generate, stream and generate_batch."""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Unpack

from transformers import GenerationConfig

from llmkit import runtime
from llmkit.decoding import configuring
from llmkit.decoding.decoder import Decoder
from llmkit.decoding.text import Request, run
from llmkit.defaults import default_checkpoint
from llmkit.encoding import prompts
from llmkit.encoding.prompts import Prompt
from llmkit.errors import InputError
from llmkit.loading import Checkpoint, Loaded, load
from llmkit.tasks.results import Generation
from llmkit.tasks.sampling import MAX_NEW_TOKENS, TEMPERATURE, Sampling, check_count, check_settings

logger = logging.getLogger("llmkit")


def generate(prompt: Prompt, *, model: Checkpoint | None = None, **settings: Unpack[Sampling]) -> Generation:
    """Continue a text, or answer a conversation.

    Args:
        prompt: A text, or a list of {"role", "content"}, which goes through the checkpoint's chat template.
        model: A checkpoint's name, loaded at each call, or a Loaded; None takes the default.
        **settings: See Sampling.

    Raises:
        InputError: A setting is out of range, or the prompt does not fit.
    """
    text = stream(prompt, model=model, **settings)
    for _ in text:
        pass
    return text.result


def stream(prompt: Prompt, *, model: Checkpoint | None = None, **settings: Unpack[Sampling]) -> "TextStream":
    """Continue a text piece by piece: an iterator of str whose pieces join to the text that generate returns.

    Arguments and errors are those of generate; they are checked before the first piece. `.result` is the Generation.
    """
    if isinstance(prompt, Sequence) and not isinstance(prompt, str) and any(isinstance(p, str) for p in prompt):
        raise TypeError("the prompt must be a text or a conversation, got a list of texts; generate_batch takes those")
    job = prepare(model, settings)
    return TextStream(job, job.encode(prompt))


def generate_batch(
    prompts: Sequence[Prompt],
    *,
    model: Checkpoint | None = None,
    num_samples: int = 1,
    batch_size: int = 16,
    **settings: Unpack[Sampling],
) -> list[Generation]:
    """Continue many prompts; the results come in the order given, each what generate returns for it alone.

    Args:
        prompts: Texts, or conversations.
        model: As for generate.
        num_samples: So many texts a prompt, with the seeds seed, seed + 1, ..., prompt by prompt.
        batch_size: At most so many rows at a time.
        **settings: See Sampling.

    Raises:
        TypeError: A prompt is neither a text nor a conversation; names its index, and nothing is started.
        InputError: A setting is out of range, or a prompt does not fit.
    """
    if isinstance(prompts, str) or not isinstance(prompts, Sequence):
        raise TypeError(f"prompts must be a list of prompts, got {type(prompts).__name__}")
    for i, prompt in enumerate(prompts):
        if not isinstance(prompt, str | list | tuple):
            raise TypeError(f"prompt {i} must be a text or a list of messages, got {type(prompt).__name__}")
    check_count("num_samples", num_samples)
    check_count("batch_size", batch_size)
    job = prepare(model, settings)
    encoded = []
    for i, prompt in enumerate(prompts):
        try:
            encoded.append(job.encode(prompt))
        except InputError as err:
            raise InputError(f"prompt {i}: {err}", hint=err.hint) from None
    return job.run(encoded, num_samples=num_samples, batch_size=batch_size)


class TextStream:
    """Iterates over the pieces of a text as they are decoded; `result` is the Generation once they are at an end."""

    def __init__(self, job: "Job", start: "Start") -> None:
        self._pieces = job.stream(start)
        self._result: Generation | None = None

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        for piece in self._pieces:
            if isinstance(piece, Generation):
                self._result = piece
            elif piece:
                return piece
        raise StopIteration

    @property
    def result(self) -> Generation:
        """The whole Generation.

        Raises:
            RuntimeError: The pieces are not at an end yet.
        """
        if self._result is None:
            raise RuntimeError("the stream has not ended yet; read its pieces first")
        return self._result


@dataclass(frozen=True)
class Start:
    """Holds what one prompt became: its ids and the strings that end its text."""

    ids: list[int]
    stop: tuple[str, ...]


@dataclass(frozen=True)
class Job:
    """Holds what all prompts of one call share: the model, the settled config, the stop strings and the seed."""

    lm: Loaded
    decoder: Decoder
    config: GenerationConfig
    stop: tuple[str, ...]
    seed: int
    truncate: bool

    @property
    def seed_drawn(self) -> bool:
        """Whether the seed has an effect."""
        return bool(self.config.do_sample)

    def encode(self, prompt: Prompt) -> Start:
        """Encode a prompt and make it fit; a conversation without a template ends where the user's next turn begins.

        Raises:
            InputError: It does not fit and may not be cut.
        """
        stop = self.stop
        if not isinstance(prompt, str) and not self.lm.tokenizer.chat_template:
            logger.info(f"{self.lm.name or 'the model'} has no chat template; it continues a plain transcript")
            stop = (*stop, prompts.PLAIN_STOP)
        ids = prompts.encode_prompt(self.lm.tokenizer, prompt)
        context = self.decoder.context
        if context is None or len(ids) < context:
            return Start(ids, stop)
        if not self.truncate:
            raise InputError(
                f"the prompt has {len(ids):,} tokens, the context of {self.lm.name or 'the model'} holds {context:,} "
                "together with the answer",
                hint="--truncate left (in Python: truncate='left') drops its beginning",
            )
        room = self.config.max_new_tokens or MAX_NEW_TOKENS
        return Start(prompts.cut_left(self.lm.tokenizer, ids, max(context - room, context // 2, 1)), stop)

    def run(self, starts: Sequence[Start], *, num_samples: int = 1, batch_size: int = 16) -> list[Generation]:
        """Continue encoded prompts; `num_samples` results for each, prompt by prompt."""
        return list(self.run_in_order(starts, num_samples=num_samples, batch_size=batch_size))

    def run_in_order(
        self, starts: Sequence[Start], *, num_samples: int = 1, batch_size: int = 16
    ) -> Iterator[Generation]:
        """Continue encoded prompts; each result comes as soon as it and all before it are there."""
        requests = [self._request(start, i) for start in starts for i in range(num_samples)]
        waiting: dict[int, Generation] = {}
        following = 0
        for i, piece in self._pieces(requests, batch_size):
            if isinstance(piece, Generation):
                waiting[i] = piece
            while following in waiting:
                yield waiting.pop(following)
                following += 1

    def stream(self, start: Start) -> Iterator[str | Generation]:
        """Continue one prompt: its pieces, then the Generation."""
        return (piece for _, piece in self._pieces([self._request(start, 0)], 1))

    def _request(self, start: Start, sample: int) -> Request:
        return Request(start.ids, self.config, (self.seed + sample) % (runtime.MAX_SEED + 1), start.stop)

    def _pieces(self, requests: Sequence[Request], width: int) -> Iterator[tuple[int, str | Generation]]:
        """Give the pieces of each request as they come, by its number, and its Generation after the last."""
        started = time.perf_counter()
        texts: list[list[str]] = [[] for _ in requests]
        for update in run(self.decoder, self.lm.tokenizer, requests, width):
            request, i = requests[update.index], update.index
            texts[i].append(update.text)
            yield i, update.text
            if update.finish_reason is not None:
                yield (
                    i,
                    Generation(
                        text="".join(texts[i]),
                        token_ids=update.token_ids,
                        finish_reason=update.finish_reason,
                        num_prompt_tokens=len(request.prompt_ids),
                        seed=request.seed if self.seed_drawn else None,
                        seconds=time.perf_counter() - started,
                    ),
                )


def prepare(model: Checkpoint | None, settings: Sampling) -> Job:
    """Check the settings, load the model where only its name is given, and settle what the checkpoint leaves open.

    Raises:
        InputError: A setting is out of range, or config is given beside others.
    """
    check_settings(settings)
    lm = load(model if model is not None else default_checkpoint("generation"), task="generation")
    config = _settle(lm, settings)
    stop = settings.get("stop") or ()
    drawn = settings.get("seed") is None and bool(config.do_sample)
    seed = runtime.check_seed(settings.get("seed")) if drawn or settings.get("seed") is not None else 0
    if drawn:
        logger.info(f"seed {seed}")
    return Job(
        lm=lm,
        decoder=Decoder(lm.model),
        config=config,
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        seed=seed,
        truncate=settings.get("truncate") == "left",
    )


def _settle(lm: Loaded, settings: Sampling) -> GenerationConfig:
    """Build the one GenerationConfig that is passed on."""
    given = settings.get("config")
    with runtime.quiet():
        asked = given if given is not None else _from_settings(settings, lm.model.generation_config)
        config = configuring.complete(asked, lm.model)
    vocabulary = lm.model.get_input_embeddings().num_embeddings
    ends = [i for i in configuring.end_ids(config) if i < vocabulary]  # GPT-2's 50256 stands in many small configs
    fallback = prompts.end_of_text(lm.tokenizer)
    config.eos_token_id = ends or ([fallback] if fallback is not None and fallback < vocabulary else None)
    return config


def _from_settings(settings: Sampling, stated: GenerationConfig) -> GenerationConfig:
    def choose(name: str, ours: float | None) -> float | None:
        value: float | None = settings.get(name)  # type: ignore[assignment]
        return value if value is not None else getattr(stated, name, None) or ours

    temperature, num_beams = choose("temperature", TEMPERATURE), choose("num_beams", 1)
    if settings.get("temperature") is not None:
        sample = bool(temperature)
    else:
        sample = num_beams == 1 and stated.do_sample is not False
    fields = {"max_new_tokens": choose("max_new_tokens", MAX_NEW_TOKENS), "num_beams": num_beams, "do_sample": sample}
    if sample:
        fields |= {"temperature": temperature, "top_p": choose("top_p", None), "top_k": choose("top_k", None)}
    return GenerationConfig(**fields)
