"""Translation, summarization and text-to-text generation as transformers 4.57 did them: with beams, texts uncut."""

import copy
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig

from llmkit import runtime
from llmkit.decoding import configuring
from llmkit.encoding import prompts
from llmkit.errors import InputError
from llmkit.loading import Loaded
from llmkit.tasks.compat.examples import is_lazy, read_lazily
from llmkit.tasks.compat.languages import Source, encode_pair, read_pair
from llmkit.tasks.sampling import check_count

MAX_NEW_TOKENS, NUM_BEAMS = 256, 4  # unless given, whatever the checkpoint says
DEFAULT_MAX_LENGTH = 20  # transformers' own; a checkpoint's other one holds in the place of the 256
# task -> the word before _text and _token_ids in what comes back
RETURN_NAMES = {"translation": "translation", "summarization": "summary", "text2text-generation": "generated"}


@dataclass(frozen=True)
class Options:
    """Holds what is no setting of generation; the names are those of transformers 4.

    `return_text` and `num_workers` have no effect; `return_tensors` gives ids in the place of text, as in 4.57.
    """

    return_tensors: bool = False
    return_text: bool = True
    clean_up_tokenization_spaces: bool = False
    truncation: bool | str = False
    stop_sequence: str | None = None
    src_lang: str | None = None
    tgt_lang: str | None = None
    batch_size: int = 1
    num_workers: int = 0


class Text2TextPipeline:
    """Writes a text for a text; called as transformers 4.57's translation, summarization and text2text pipelines were.

    Attributes:
        model: The model, an encoder-decoder.
        tokenizer: Its tokenizer.
        device: Where the model computes.
        task: The task, with its languages where they were named or the checkpoint names them.
        prefix: What stands before each text, such as T5's "summarize: ".
        generation_config: What each call starts from; the checkpoint's own fills what it leaves open.
    """

    framework = "pt"

    def __init__(self, lm: Loaded, task: str, **settings: object) -> None:
        self.model, self.tokenizer = lm
        self.device = self.model.device
        self.task = name_task(task, self._stated())
        self._name = RETURN_NAMES[task.split("_")[0]]
        src_lang, tgt_lang = read_pair(self.task)
        self._options, generate = split(Options(src_lang=src_lang, tgt_lang=tgt_lang), settings)
        self.generation_config, self.prefix, self._fixed = self._prepare(generate)

    def __call__(self, inputs: Any, *args: object, **kwargs: object) -> Any:
        """Write a text for each text.

        Args:
            inputs: A text, a list of texts, or a generator or Dataset of them.
            *args: Ignored, as in 4.57.
            **kwargs: See Options; every other goes to `model.generate`.

        Returns:
            For a text a list of dictionaries, one for each of num_return_sequences; for a list of texts a list of
            dictionaries, or of such lists where there are several a text; for a generator or Dataset an iterator over
            such lists. A dictionary holds `translation_text`, `summary_text` or `generated_text`, or the ids in
            `..._token_ids`.

        Raises:
            InputError: A text or a setting must be mended.
            TypeError: An input is not a text.
        """
        options, generate = split(self._options, kwargs)
        if isinstance(inputs, str):
            return next(self._write([inputs], options, generate))
        if is_lazy(inputs):
            return self._write(read_lazily(inputs), options, generate)
        if not isinstance(inputs, list):
            raise TypeError(f"a text or a list of texts is needed, got {type(inputs).__name__}")
        for i, text in enumerate(inputs):
            check_text(text, f"input {i}")
        results = list(self._write(inputs, options, generate))
        return [records[0] for records in results] if all(len(records) == 1 for records in results) else results

    def _stated(self) -> Mapping[str, Mapping[str, object]]:
        """The settings of single tasks that an old checkpoint keeps in its config."""
        return getattr(self.model.config, "task_specific_params", None) or {}

    def _prepare(self, generate: Mapping[str, object]) -> tuple[GenerationConfig, str, dict[str, object]]:
        """Settle the config that calls start from, the prefix, and what of the settings is no field of a config."""
        model, stated = self.model, dict(self._stated().get(self.task, {}))
        prefix = stated.pop("prefix", None) or getattr(model.config, "prefix", None) or ""
        with runtime.quiet():
            config = GenerationConfig(max_new_tokens=MAX_NEW_TOKENS, num_beams=NUM_BEAMS)
            left: dict[str, object] = config.update(**generate)
            longest = config.max_length if config.max_length is not None else model.generation_config.max_length
            if config.max_new_tokens == MAX_NEW_TOKENS and longest not in (None, DEFAULT_MAX_LENGTH):
                config.max_new_tokens, config.max_length = None, longest
            config.update(**stated)
        if config.pad_token_id is None and model.generation_config.pad_token_id is None:
            config.pad_token_id = self.tokenizer.pad_token_id
        return config, str(prefix), left

    def _write(self, texts: Iterable[Any], options: Options, generate: Mapping[str, object]) -> Iterator[Any]:
        """Write for texts in their order, `batch_size` at a time, reading no further ahead than a batch."""
        config, left = self._config(options, generate)
        waiting = iter(texts)
        while batch := list(itertools.islice(waiting, options.batch_size)):
            sources = [self._encode(text, options) for text in batch]
            for ids in self._generate(sources, config, left):
                yield [self._record(row, options) for row in ids]

    def _config(self, options: Options, generate: Mapping[str, object]) -> tuple[GenerationConfig, dict[str, object]]:
        """Settle the one config of a call; what is no field of a config goes to `model.generate` beside it."""
        asked: dict[str, Any] = {**self._fixed, **generate}
        config = copy.deepcopy(asked.pop("generation_config", None) or self.generation_config)
        with runtime.quiet():
            left: dict[str, object] = config.update(**asked)
        if options.stop_sequence is not None:
            ids = self.tokenizer(options.stop_sequence, add_special_tokens=False)["input_ids"]
            if not ids:
                raise InputError(f"stop_sequence has no tokens, got {options.stop_sequence!r}")
            config.eos_token_id = ids[0]  # the first alone, as in 4.57
        return config, left

    def _encode(self, text: Any, options: Options) -> Source:
        check_text(text, "an input")
        text = prompts.replace_surrogates(text)
        with runtime.quiet():
            if self._name == "translation" and hasattr(self.tokenizer, "_build_translation_inputs"):
                source = encode_pair(self.tokenizer, text, options.src_lang, options.tgt_lang, options.truncation)
            else:
                source = Source(self.tokenizer(self.prefix + text, truncation=options.truncation)["input_ids"])
        if not source.ids:
            raise InputError("the text is empty, and the tokenizer puts nothing around it")
        limit = count_positions(self.model)
        if limit is not None and len(source.ids) > limit:
            raise InputError(
                f"the text has {len(source.ids):,} tokens, the model takes {limit:,}",
                hint="truncation=True cuts it at the tokenizer's model_max_length; llmkit.translate drops nothing",
            )
        return source

    def _generate(
        self, sources: Sequence[Source], config: GenerationConfig, left: Mapping[str, object]
    ) -> Iterator[list[torch.Tensor]]:
        """Generate for a batch padded on the right: the ids of each text's sequences. Shape of each: (length,)."""
        longest, pad = max(len(source.ids) for source in sources), self.tokenizer.pad_token_id or 0
        ids = [[*source.ids, *[pad] * (longest - len(source.ids))] for source in sources]
        mask = [[1] * len(source.ids) + [0] * (longest - len(source.ids)) for source in sources]
        if sources[0].forced_bos is not None:
            config.forced_bos_token_id = sources[0].forced_bos
        with runtime.quiet():
            output = self.model.generate(
                input_ids=torch.tensor(ids, device=self.device),
                attention_mask=torch.tensor(mask, device=self.device),
                generation_config=config,
                **left,
            ).cpu()
            settled = configuring.complete(config, self.model)
        for group in output.unflatten(0, (len(sources), -1)):
            yield list(cut_padding(group, settled) if len(sources) > 1 else group)

    def _record(self, ids: torch.Tensor, options: Options) -> dict[str, Any]:
        if options.return_tensors:
            return {f"{self._name}_token_ids": ids}
        clean = options.clean_up_tokenization_spaces
        text = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=clean)
        return {f"{self._name}_text": text}


def split(options: Options, settings: Mapping[str, object]) -> tuple[Options, dict[str, object]]:
    """Split settings into options, changed by those given, and what is for generation."""
    names = {option.name for option in dataclasses.fields(Options)}
    changes = {name: value for name, value in settings.items() if name in names and value is not None}
    if "batch_size" in changes:
        check_count("batch_size", changes["batch_size"])  # type: ignore[arg-type]
    changed = dataclasses.replace(options, **changes)  # type: ignore[arg-type]
    return changed, {name: value for name, value in settings.items() if name not in names}


def name_task(task: str, stated: Iterable[str]) -> str:
    """Name the languages of a plain translation task where a checkpoint keeps settings for a pair: its first."""
    return next((name for name in stated if task == "translation" and name.startswith("translation")), task)


def check_text(text: object, what: str) -> None:
    """Check that an input is a text.

    Raises:
        TypeError: It is something else.
    """
    if not isinstance(text, str):
        raise TypeError(f"{what} must be a text, got {type(text).__name__}")


def count_positions(model: Any) -> int | None:
    """Count the tokens that an encoder's table of positions holds; None where positions are computed or relative."""
    table = getattr(model.get_encoder(), "embed_positions", None)
    if not isinstance(table, torch.nn.Embedding):
        return None
    return int(table.num_embeddings) - int(getattr(table, "offset", 0))


def cut_padding(group: torch.Tensor, config: GenerationConfig) -> torch.Tensor:
    """Cut what one text's sequences were padded with to the length of others. Shape: (sequences, length)."""
    pads = (group == config.pad_token_id).all(dim=0).flip(0)
    count = int(pads.long().cumprod(0).sum())
    if count and config.pad_token_id in configuring.end_ids(config):
        count -= 1  # the first of them is the end itself
    return group[:, : group.shape[1] - count]
