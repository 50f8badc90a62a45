"""What a GenerationConfig asks of the step loop, as logits processors of transformers."""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from transformers import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    GenerationConfig,
    LogitNormalization,
    LogitsProcessorList,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

# transformers' own defaults where a config leaves a field open (GenerationConfig in transformers 5.23).
TOP_K, MAX_NEW_TOKENS = 50, 20

# field, the value that means off, how to build its processor; in the order in which transformers applies them.
# These look at the tokens so far, so each row has its own.
HISTORY: tuple[tuple[str, object, Callable[[Any, int, list[int], torch.device], Any]], ...] = (
    ("sequence_bias", None, lambda v, n, eos, device: SequenceBiasLogitsProcessor(v)),
    ("repetition_penalty", 1.0, lambda v, n, eos, device: RepetitionPenaltyLogitsProcessor(v)),
    ("no_repeat_ngram_size", 0, lambda v, n, eos, device: NoRepeatNGramLogitsProcessor(v)),
    ("bad_words_ids", None, lambda v, n, eos, device: NoBadWordsLogitsProcessor(v, eos_token_id=eos or None)),
    ("min_length", 0, lambda v, n, eos, device: MinLengthLogitsProcessor(v, eos, device=device)),
    ("min_new_tokens", 0, lambda v, n, eos, device: MinNewTokensLengthLogitsProcessor(n, v, eos, device=device)),
    ("suppress_tokens", None, lambda v, n, eos, device: SuppressTokensLogitsProcessor(v, device=device)),
)
# These look at the scores alone, so all rows of one config share them.
WARPERS: tuple[tuple[str, object, Callable[[Any, torch.device], Any]], ...] = (
    ("temperature", 1.0, lambda v, device: TemperatureLogitsWarper(float(v))),
    ("top_k", 0, lambda v, device: TopKLogitsWarper(v)),
    ("top_p", 1.0, lambda v, device: TopPLogitsWarper(v)),
    ("min_p", None, lambda v, device: MinPLogitsWarper(v)),
    ("typical_p", 1.0, lambda v, device: TypicalLogitsWarper(v)),
    ("epsilon_cutoff", 0.0, lambda v, device: EpsilonLogitsWarper(v)),
    ("eta_cutoff", 0.0, lambda v, device: EtaLogitsWarper(v, device=device)),
    ("renormalize_logits", False, lambda v, device: LogitNormalization()),
)
NEED_EOS = {"min_length", "min_new_tokens"}
# Fields that the loop itself carries out, or that say nothing about which tokens are chosen here.
LOOP = {
    *("max_length", "max_new_tokens", "do_sample", "use_cache", "bos_token_id", "eos_token_id", "pad_token_id"),
    *("num_return_sequences", "output_attentions", "output_hidden_states", "output_scores", "output_logits"),
    *("return_dict_in_generate", "transformers_version", "disable_compile", "early_stopping", "length_penalty"),
    *("num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold"),
    *("assistant_lookbehind", "target_lookbehind", "low_memory", "encoder_repetition_penalty"),
    *("encoder_no_repeat_ngram_size", "decoder_start_token_id", "num_beam_groups", "diversity_penalty"),
}


def complete(config: GenerationConfig, model: Any) -> GenerationConfig:
    """Fill a copy of a config: what it leaves open comes from the checkpoint's, as in `model.generate`."""
    filled = copy.deepcopy(config)
    filled.update(**model.generation_config.to_dict(), defaults_only=True)
    return filled


def end_ids(config: GenerationConfig) -> list[int]:
    """List the ids that end a text."""
    ids = config.eos_token_id
    return [] if ids is None else [int(i) for i in ids] if isinstance(ids, Iterable) else [int(ids)]


def asks_only_for_steps(config: GenerationConfig) -> bool:
    """Tell whether every field that is set is one that the step loop carries out.

    Beams, assistants, prompt lookup, guidance, watermarks and the like are not: they go whole to `model.generate`.
    """
    known = LOOP | {field for field, *_ in HISTORY} | {field for field, *_ in WARPERS}
    off: dict[str, object] = {"num_beams": 1}
    return (config.use_cache is not False) and all(
        value is None or value is False or value == off.get(field)  # 0 may be an id
        for field, value in config.to_dict().items()
        if field not in known and not field.startswith("_")
    )


def style(config: GenerationConfig) -> tuple[object, ...]:
    """Name what decides how a token is chosen from its scores; rows of one style are drawn together."""
    return (bool(config.do_sample), *(getattr(config, field, None) for field, *_ in WARPERS if config.do_sample))


def build_history(config: GenerationConfig, prompt_length: int, device: torch.device) -> LogitsProcessorList:
    """Build the processors of one row that look at its tokens."""
    eos = end_ids(config)
    made = LogitsProcessorList()
    for field, off, build in HISTORY:
        value = getattr(config, field, None)
        if value is not None and value != off and (eos or field not in NEED_EOS):
            made.append(build(value, prompt_length, eos, device))
    return made


def build_warpers(config: GenerationConfig, device: torch.device) -> LogitsProcessorList:
    """Build the processors that shape the distribution to draw from; none where nothing is drawn."""
    made = LogitsProcessorList()
    if not config.do_sample:
        return made
    for field, off, build in WARPERS:
        value = getattr(config, field, None)
        if field == "top_k" and value is None:
            value = TOP_K
        if value is not None and value != off:
            made.append(build(value, device))
    return made
