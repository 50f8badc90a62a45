"""Continue text with a causal language model: generate, stream and generate_batch."""

import copy
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Unpack

from transformers import GenerationConfig

from llmkit import runtime
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

    def __init__(self, job: "Job", prompt_ids: list[int]) -> None:
        self._pieces = job.stream(prompt_ids)
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

    def encode(self, prompt: Prompt) -> list[int]:
        """Encode a prompt and make it fit.

        Raises:
            InputError: It does not fit and may not be cut.
        """
        ids = prompts.encode_prompt(self.lm.tokenizer, prompt)
        context = self.decoder.context
        if context is None or len(ids) < context:
            return ids
        if not self.truncate:
            raise InputError(
                f"the prompt has {len(ids):,} tokens, the context of {self.lm.name or 'the model'} holds {context:,} "
                "together with the answer",
                hint="--truncate left (in Python: truncate='left') drops its beginning",
            )
        room = self.config.max_new_tokens or MAX_NEW_TOKENS
        return prompts.cut_left(self.lm.tokenizer, ids, max(context - room, context // 2, 1))

    def run(self, encoded: Sequence[list[int]], *, num_samples: int = 1, batch_size: int = 16) -> list[Generation]:
        """Continue encoded prompts; `num_samples` results for each, prompt by prompt."""
        started = time.perf_counter()
        rows = [(ids, (self.seed + i) % (runtime.MAX_SEED + 1)) for ids in encoded for i in range(num_samples)]
        texts: list[list[str]] = [[] for _ in rows]
        results: dict[int, Generation] = {}
        for update in run(self.decoder, self.lm.tokenizer, self._requests(rows), batch_size):
            texts[update.index].append(update.text)
            if update.finish_reason is not None:
                ids, seed = rows[update.index]
                results[update.index] = Generation(
                    text="".join(texts[update.index]),
                    token_ids=update.token_ids,
                    finish_reason=update.finish_reason,
                    num_prompt_tokens=len(ids),
                    seed=seed if self.seed_drawn else None,
                    seconds=time.perf_counter() - started,
                )
        return [results[i] for i in range(len(rows))]

    def _requests(self, rows: Iterable[tuple[list[int], int]]) -> Iterator[Request]:
        return (Request(ids, self.config, seed, self.stop) for ids, seed in rows)

    def stream(self, prompt_ids: list[int]) -> Iterator[str | Generation]:
        """Continue one prompt: its pieces, then the Generation."""
        started, texts = time.perf_counter(), []
        for update in run(self.decoder, self.lm.tokenizer, self._requests([(prompt_ids, self.seed)]), 1):
            texts.append(update.text)
            yield update.text
            if update.finish_reason is not None:
                yield Generation(
                    text="".join(texts),
                    token_ids=update.token_ids,
                    finish_reason=update.finish_reason,
                    num_prompt_tokens=len(prompt_ids),
                    seed=self.seed if self.seed_drawn else None,
                    seconds=time.perf_counter() - started,
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
    stated = lm.model.generation_config
    with runtime.quiet():
        given = settings.get("config")
        config = copy.deepcopy(given) if given is not None else _from_settings(settings, stated)
        config.update(**stated.to_dict(), defaults_only=True)
    vocabulary = lm.model.get_input_embeddings().num_embeddings
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    ends = [i for i in ends if i is not None and i < vocabulary]  # GPT-2's default 50256 stands in many small configs
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
