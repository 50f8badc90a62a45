"""The model and the tokenizer of a run: from a checkpoint, or new from a config."""

import difflib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from llmkit import runtime
from llmkit.encoding.prompts import end_of_text
from llmkit.errors import InputError
from llmkit.heads import AUTO_CLASSES
from llmkit.loading import load, load_tokenizer
from llmkit.locating import locate
from llmkit.recipe.schema import ModelSpec

# config key -> the attribute of a tokenizer that decides it
SPECIAL_IDS = {"bos_token_id": "bos_token_id", "eos_token_id": "eos_token_id", "pad_token_id": "pad_token_id"}
# arguments of from_pretrained that stand elsewhere in a recipe, or that loading decides
OWN_KWARGS = {
    "attn_implementation",
    "config",
    "dtype",
    "local_files_only",
    "output_loading_info",
    "revision",
    "return_unused_kwargs",
    "torch_dtype",
    "trust_remote_code",
    "use_safetensors",
}
# the tasks whose head a checkpoint need not have, as it is trained anew
NEW_HEADS = ("classification", "question-answering")
# older names of keys that configs with rotary positions still take
ROTARY_KEYS = {"rope_theta", "rope_scaling"}


def read_tokenizer(name: str | Path) -> Any:
    """Load the tokenizer that a recipe names, or that lies with token shards.

    Raises:
        InputError: There is none, or it cannot be read.
    """
    found = locate(str(name), weights=False)
    with found.naming(), runtime.quiet():
        return load_tokenizer(found.path)


def check_config(config: Mapping[str, Any]) -> list[str]:
    """Check the keys and values of model.config against the config class of transformers.

    Returns:
        A sentence for each problem, beginning with its key.
    """
    kind = str(config.get("model_type"))
    if kind not in transformers.CONFIG_MAPPING:
        meant = _suggest(kind, set(transformers.CONFIG_MAPPING.keys()))
        return [f"model.config.model_type: transformers has no model_type {kind!r}{meant}"]
    known = _list_keys(kind)
    problems = [
        f"model.config.{key}: {kind} has no such key{_suggest(key, known)}" for key in config if key not in known
    ]
    if not problems:
        try:
            with runtime.quiet():
                transformers.AutoConfig.for_model(**config)
        except Exception as err:  # configs are checked by their classes, each in its own way
            problems.append(f"model.config: {kind} refuses it: {_join_lines(err)}")
    return problems


def check_generation(settings: Mapping[str, Any]) -> list[str]:
    """Check the keys and values of save.generation_config against GenerationConfig, which itself takes any key.

    Returns:
        A sentence for each problem, beginning with its key.
    """
    key, known = "save.generation_config", set(transformers.GenerationConfig().to_dict())
    problems = [f"{key}.{k}: GenerationConfig has no such key{_suggest(k, known)}" for k in settings if k not in known]
    if not problems:
        try:
            with runtime.quiet():
                transformers.GenerationConfig(**settings).validate(strict=True)
        except (TypeError, ValueError) as err:
            problems.append(f"{key}: GenerationConfig refuses it: {_join_lines(err)}")
    return problems


def _suggest(key: str, known: set[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _list_keys(kind: str) -> set[str]:
    with runtime.quiet():
        plain = transformers.AutoConfig.for_model(kind)
    keys = {*plain.to_dict(), *inspect.signature(type(plain)).parameters, *plain.attribute_map, "model_type"}
    keys |= {"decoder_start_token_id"} if plain.is_encoder_decoder else set()  # of which T5 states nothing
    return keys | (ROTARY_KEYS if "rope_parameters" in keys else set())


def make_model(
    spec: ModelSpec, tokenizer: Any, *, task: str, seed: int, quantization: Mapping[str, Any] | None = None
) -> Any:
    """Make the model of a run: the checkpoint's weights, or new ones drawn with the seed, on the CPU.

    A head that a checkpoint lacks is drawn with the seed too, for the tasks that begin with a new one.

    Raises:
        InputError: The checkpoint or the config cannot be used with this tokenizer.
    """
    torch.manual_seed(seed)
    if spec.name is not None:
        model = _load(spec, tokenizer, task, quantization)
        if task == "classification":
            _settle_padding(model.config.get_text_config(), tokenizer)
        return model
    config = {**describe_labels(spec), **(spec.config or {})}
    for key, value in {"vocab_size": len(tokenizer), **_special_ids(tokenizer)}.items():
        if config.setdefault(key, value) != value:
            raise InputError(f"model.config.{key}: the tokenizer has {value}, got {config[key]}; leave it out")
    auto = getattr(transformers, AUTO_CLASSES[task])
    more = {} if spec.attn_implementation is None else {"attn_implementation": spec.attn_implementation}
    try:
        with runtime.quiet():
            made = transformers.AutoConfig.for_model(**config)
            if made.is_encoder_decoder:
                _settle_decoder(made, config)
            if task == "classification":
                _settle_padding(made.get_text_config(), tokenizer)
            return auto.from_config(made, dtype=getattr(torch, spec.dtype), trust_remote_code=False, **more)
    except Exception as err:  # as above; a model may refuse what its config allows
        raise InputError(f"model.config: {config['model_type']} cannot be built: {_join_lines(err)}") from err


def _settle_padding(config: Any, tokenizer: Any) -> None:
    """Name a padding id where a decoder's config has none: its classifier reads the last token that is no padding.

    Without one it takes no batch (`GenericForSequenceClassification` of transformers 5.23). GPT-2 and its kind pad with
    the end of text, which no row of a classifier holds.
    """
    if config.pad_token_id is None:
        config.pad_token_id = end_of_text(tokenizer) if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        if config.pad_token_id is None:
            raise InputError("the tokenizer has no token for padding or the end of text, which a classifier needs")


def _settle_decoder(config: Any, given: Mapping[str, Any]) -> None:
    """Settle what a decoder begins with: the padding id, as T5's and Marian's do, where the recipe does not say."""
    if config.pad_token_id is None:
        config.pad_token_id = config.eos_token_id
    config.decoder_start_token_id = given.get("decoder_start_token_id", config.pad_token_id)
    config.forced_eos_token_id = given.get("forced_eos_token_id")  # of another vocabulary, in the defaults of BART


def describe_labels(spec: ModelSpec) -> dict[str, Any]:
    """Give the keys of a config that the labels of a recipe decide; none where it states none."""
    facts: dict[str, Any] = {} if spec.problem_type is None else {"problem_type": spec.problem_type}
    if spec.labels is not None:
        facts |= {"num_labels": len(spec.labels), "id2label": dict(enumerate(spec.labels))}
        facts["label2id"] = {label: i for i, label in enumerate(spec.labels)}
    return facts


def _load(spec: ModelSpec, tokenizer: Any, task: str, quantization: Mapping[str, Any] | None) -> Any:
    few_bits = {} if quantization is None else {"quantization_config": transformers.BitsAndBytesConfig(**quantization)}
    model = load(
        str(spec.name),
        task=task,
        dtype=spec.dtype,
        device="cpu",
        tokenizer=spec.tokenizer,
        revision=spec.revision,
        kwargs={**describe_labels(spec), **few_bits, **spec.kwargs},
        new_head=task in NEW_HEADS,
    ).model
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        rows = model.get_input_embeddings().weight.shape[0]
        raise InputError(
            f"model.tokenizer: it has {len(tokenizer):,} tokens, the embedding of {spec.name} {rows:,} rows"
        )
    if quantization is not None:
        _keep_gradients(model)
    if spec.attn_implementation is not None:
        try:
            model.set_attn_implementation(spec.attn_implementation)
        except (ValueError, ImportError) as err:
            raise InputError(f"model.attn_implementation: {_join_lines(err)}") from err
    return model


def _keep_gradients(model: Any) -> None:
    """Keep 4-bit weights on a CPU as they are: packed for reading, at the first evaluation, they pass no gradient on.

    Source: `Linear4bit.forward` and `matmul_4bit` of bitsandbytes 0.50.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _special_ids(tokenizer: Any) -> dict[str, int | None]:
    ids = {key: getattr(tokenizer, attribute) for key, attribute in SPECIAL_IDS.items()}
    if ids["eos_token_id"] is None:
        ids["eos_token_id"] = end_of_text(tokenizer)
    return ids


def checkpoint_activations(model: Any) -> None:
    """Have a model compute activations again in the backward pass, with the same dropout."""
    # transformers 5.23 gave it this name; before, and until v6, it is gradient_checkpointing_enable
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def _join_lines(err: BaseException) -> str:
    lines = [line.strip() for line in str(err).splitlines() if line.strip()] or [type(err).__name__]
    return " ".join(lines[:2])[:180]
