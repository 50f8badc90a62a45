"""A peft adapter in training: checked before a model is loaded, laid over it, and what its method needs at a step."""

import copy
import difflib
import importlib.util
import inspect
import re
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from peft import (
    PEFT_TYPE_TO_CONFIG_MAPPING,
    NoMatchingPeftModuleError,
    PeftConfig,
    PeftModel,
    get_peft_model,
    initialize_lora_eva_weights,
)
from peft.utils.constants import EMBEDDING_LAYER_NAMES
from transformers import BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D

from llmkit import runtime
from llmkit.adapters import TASK_TYPES
from llmkit.errors import InputError, shorten
from llmkit.training import adapter_state
from llmkit.training.objectives import LABELS

# what a config says of its run or its base
OWN_KEYS = {"task_type", "inference_mode", "base_model_name_or_path", "auto_mapping", "peft_version", "revision"}
OWN_KEYS |= {"runtime_config", "megatron_config", "megatron_core"}  # the last two name code to run
# ways to begin that need a pass over data of their own, or a base in few bits
NEED_A_PASS = ("corda", "lora_ga", "loftq")
KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
NO_ADAPTER = "adapter.peft_type: missing; add one such as LORA"


def check_adapter(adapter: Mapping[str, Any] | None, quantization: Mapping[str, Any] | None) -> list[str]:
    """Check the keys and values of a recipe's adapter and quantization against peft's and transformers' configs.

    Returns:
        A sentence for each problem, beginning with its key.
    """
    problems = [] if adapter is None else _check_config(adapter)
    return problems + ([] if quantization is None else _check_quantization(quantization, adapter))


def _check_config(adapter: Mapping[str, Any]) -> list[str]:
    kind, names = adapter.get("peft_type"), [str(name.value) for name in PEFT_TYPE_TO_CONFIG_MAPPING]
    if kind is None:
        return [NO_ADAPTER]
    if kind not in names:
        return [f"adapter.peft_type: peft has no such method, got {kind!r}{_suggest(str(kind).upper(), names)}"]
    keys = [key for key in adapter if key != "peft_type"]
    known = set(inspect.signature(PEFT_TYPE_TO_CONFIG_MAPPING[kind]).parameters) - OWN_KEYS - {"peft_type"}
    problems = [f"adapter.{key}: llmkit sets it itself" for key in keys if key in OWN_KEYS]
    unknown = [key for key in keys if key not in known | OWN_KEYS]
    problems += [f"adapter.{key}: {kind} has no such key{_suggest(key, known)}" for key in unknown]
    problems += _check_types(kind, {key: adapter[key] for key in keys if key in known})
    way = adapter.get("init_lora_weights")
    if str(way).lower() in NEED_A_PASS:
        problems.append(f"adapter.init_lora_weights: {way} needs a pass of its own before training; llmkit has none")
    if kind == "ADALORA":
        problems += _check_budget(adapter)
    if not problems:
        try:
            config = make_config(adapter)
            if config.is_prompt_learning and not config.num_virtual_tokens:
                problems.append(f"adapter.num_virtual_tokens: missing; {kind} needs a number such as 20")
        except Exception as err:  # configs are checked by their classes, each in its own way
            problems.append(f"adapter: {kind} refuses it: {shorten(err)}")
    return problems


def _check_types(kind: str, adapter: Mapping[str, Any]) -> list[str]:
    """Compare plain values with the types that a config class states; peft itself compares none."""
    hints, problems = typing.get_type_hints(PEFT_TYPE_TO_CONFIG_MAPPING[kind]), []
    for key, value in adapter.items():
        hint = hints.get(key)
        is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
        kinds = typing.get_args(hint) if is_union else (hint,)
        plain = [k for k in kinds if k is not type(None)]
        if len(plain) != 1 or plain[0] not in KINDS or (value is None and type(None) in kinds):
            continue
        wanted = float if key == "lora_alpha" else plain[0]  # a scale, which peft calls a whole number
        fits = type(value) in (int, float) if wanted is float else type(value) is wanted
        if not fits:
            problems.append(f"adapter.{key}: expected {KINDS[wanted]}, got {value!r}")
    return problems


def _check_budget(adapter: Mapping[str, Any]) -> list[str]:
    """Check what AdaLoRA needs to allot its ranks; one that it has none to take away from fails amid training."""
    if adapter.get("total_step") is None:
        return ["adapter.total_step: missing; ADALORA needs the number of steps, such as train.max_steps"]
    first, last = adapter.get("init_r", 12), adapter.get("target_r", 8)
    if isinstance(first, int) and isinstance(last, int) and last >= first:
        return [f"adapter.target_r: {last} must be below init_r, {first}"]
    return []


def _check_quantization(quantization: Mapping[str, Any], adapter: Mapping[str, Any] | None) -> list[str]:
    known = set(inspect.signature(BitsAndBytesConfig).parameters) - {"kwargs"}
    problems = [] if adapter is not None else ["quantization: goes with an adapter; add adapter, or leave it out"]
    unknown = [key for key in quantization if key not in known]
    problems += [f"quantization.{key}: BitsAndBytesConfig has no such key{_suggest(key, known)}" for key in unknown]
    if importlib.util.find_spec("bitsandbytes") is None:
        problems.append("quantization: bitsandbytes is not installed (pip install bitsandbytes)")
    elif not problems:
        try:
            BitsAndBytesConfig(**quantization)
        except Exception as err:  # it raises what getattr and its own checks raise
            problems.append(f"quantization: BitsAndBytesConfig refuses it: {shorten(err)}")
    return problems


def _suggest(key: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(key, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def make_config(adapter: Mapping[str, Any], *, task: str | None = None) -> PeftConfig:
    """Make peft's config from a recipe's adapter; peft changes the lists in it, so it gets its own."""
    values = {key: copy.deepcopy(value) for key, value in adapter.items() if key != "peft_type"}
    with runtime.quiet():
        return PEFT_TYPE_TO_CONFIG_MAPPING[adapter["peft_type"]](**values, task_type=TASK_TYPES.get(task or ""))


def wrap(model: Any, adapter: Mapping[str, Any], *, task: str, seed: int) -> PeftModel:
    """Lay a new adapter over a model, drawn with a seed; the adapter, and a head for the task, are what is trained.

    Args:
        model: A model of transformers, which is changed.
        adapter: peft_type and the keys of its config, as check_adapter passed them.
        task: What the model is trained for.
        seed: Decides the first weights of the adapter.

    Raises:
        InputError: The adapter cannot act on this model.
    """
    if isinstance(model, PeftModel):
        raise InputError("model.name: it is an adapter itself", hint="llmkit export merge RUN OUT makes it one model")
    kind, family, config = adapter["peft_type"], model.config.model_type, make_config(adapter, task=task)
    _check_names(config, model)
    _check_prompt(config, kind, task)
    if task in ("classification", "question-answering"):
        config.modules_to_save = list(dict.fromkeys([*(config.modules_to_save or []), *_list_heads(model)]))
    _keep_tied(config, kind, model)
    torch.manual_seed(seed)
    try:
        with runtime.quiet():
            wrapped = get_peft_model(model, config)
    except Exception as err:  # tuners refuse in their own ways: ValueError, TypeError, KeyError
        if isinstance(err, NoMatchingPeftModuleError) or "target_modules" in str(err):
            given = getattr(config, "target_modules", None) is not None
            reason = f"nothing in {family} matches" if given else f"missing; peft knows none of {family} for {kind}"
            linear = ", ".join(_list_linear(model))
            raise InputError(f"adapter.target_modules: {reason}; its linear modules are {linear}") from err
        raise InputError(f"adapter: {kind} cannot act on this {family}: {shorten(err)}") from err
    for name, p in wrapped.named_parameters():
        if ".ranknum." in name:  # a number of AdaLoRA, which peft 0.21 would train where it casts it to float64
            p.requires_grad_(False)
    _check_start(str(getattr(config, "init_lora_weights", "")).lower(), wrapped, family)
    if not any(p.requires_grad for p in wrapped.parameters()):
        raise InputError(f"adapter: {kind} leaves nothing to train in this {family}")
    _try_out(wrapped, kind)
    adapter_state.remember_start(wrapped)
    return wrapped


def _check_start(way: str, model: PeftModel, family: str) -> None:
    """Refuse factors that begin with a base's own weights where peft 0.21 finds or takes out none."""
    if way == "olora" and _has_conv1d(model):
        raise InputError(f"adapter.init_lora_weights: olora cannot act on the Conv1D weights of {family}")
    factor = next((name for name, _ in model.named_parameters() if ".lora_embedding_A." in name), None)
    if way.startswith(("pissa", "olora")) and factor is not None:
        module = factor.partition(".lora_embedding_A.")[0].rpartition(".")[2]
        raise InputError(f"adapter.init_lora_weights: {way} cannot act on an embedding, and {module} is one")


def _check_names(config: PeftConfig, model: Any) -> None:
    """Refuse a name that no module has; peft passes over it where another name has one."""
    modules = [name for name, _ in model.named_modules()]
    last = {name.rpartition(".")[2] for name in modules}
    for key in ("target_modules", "modules_to_save"):
        names = getattr(config, key, None)
        for name in sorted(names) if isinstance(names, list | set | tuple) else []:
            if not any(_is_named(module, [name]) for module in modules):
                meant = _suggest(name, last) or f"; its linear modules are {', '.join(_list_linear(model))}"
                raise InputError(f"adapter.{key}: {model.config.model_type} has no module {name!r}{meant}")


def _check_prompt(config: PeftConfig, kind: str, task: str) -> None:
    """Refuse to put virtual tokens before a text where each token of it has an answer of its own."""
    has_answers = task == "masked-lm" or (task == "question-answering" and kind != "PREFIX_TUNING")
    if config.is_prompt_learning and has_answers:
        raise InputError(f"adapter.peft_type: {kind} adds tokens to a text, which {task} cannot use; expected LORA")


def _list_heads(model: Any) -> list[str]:
    """List the modules of a head that is trained anew; BERT's pooler, which a masked LM does not have, is one."""
    parts = [(name, part) for name, part in model.named_children() if name != model.base_model_prefix]
    heads = [name for name, part in parts if next(part.parameters(), None) is not None]
    return heads + [name for name, _ in model.named_modules() if name.endswith(".pooler")]


def _list_linear(model: Any) -> list[str]:
    linear = (torch.nn.Linear, Conv1D)
    return sorted({name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, linear)})


def _has_conv1d(model: Any) -> bool:
    return any(isinstance(getattr(module, "base_layer", None), Conv1D) for module in model.modules())


def _keep_tied(config: PeftConfig, kind: str, model: Any) -> None:
    """Have peft train embeddings and an output that are one weight as one."""
    tied = _list_tied(model)
    chosen = [name for name in tied if _is_chosen(config, name)]
    if not chosen or getattr(config, "trainable_token_indices", None) is not None:  # of which peft takes care
        return
    # peft 0.21 looks for a tie where a name is one of these
    known = next((name for name in tied if name.rpartition(".")[2] in EMBEDDING_LAYER_NAMES), None)
    if known is None or not hasattr(config, "ensure_weight_tying") or isinstance(config.target_modules, str):
        short = ", ".join(name.rpartition(".")[2] for name in tied)
        raise InputError(
            f"adapter: {kind} cannot train {chosen[0]} here: {short} are one weight, which LORA keeps one in a list"
        )
    config.ensure_weight_tying = True
    config.modules_to_tie = config.target_modules_to_tie = None  # what peft's config sets where it is given
    if any(_is_named(name, config.modules_to_save) for name in tied):
        others = [one for one in config.modules_to_save if not any(_is_named(name, [one]) for name in tied)]
        config.modules_to_save = [*others, known]
    else:
        config.target_modules = {*config.target_modules, known}


def _list_tied(model: Any) -> list[str]:
    """List the modules that hold the input embedding, if more than one does."""
    shared = model.get_input_embeddings().weight
    holders = [name for name, module in model.named_modules() if getattr(module, "weight", None) is shared]
    return holders if len(holders) > 1 else []


def _is_chosen(config: PeftConfig, name: str) -> bool:
    targets = getattr(config, "target_modules", None)
    is_target = bool(re.fullmatch(targets, name)) if isinstance(targets, str) else _is_named(name, targets)
    return is_target or _is_named(name, getattr(config, "modules_to_save", None))


def _is_named(name: str, names: Iterable[str] | None) -> bool:
    return any(name == one or name.endswith(f".{one}") for one in names or [])


def _try_out(model: PeftModel, kind: str) -> None:
    """Run the model on four tokens: some adapters show only there that they cannot act.

    Raises:
        InputError: It fails.
    """
    base = model.get_base_model()
    ids = torch.arange(4, device=base.device)[None] % base.get_input_embeddings().weight.shape[0]
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if base.config.is_encoder_decoder:
        batch["decoder_input_ids"] = ids
    try:
        with runtime.evaluating(model), torch.random.fork_rng(devices=[]), torch.no_grad(), runtime.quiet():
            model(**batch)
    except Exception as err:  # whatever a shape or a missing input raises
        raise InputError(f"adapter: {kind} cannot act on this {base.config.model_type}: {shorten(err)}") from err


def count_virtual_tokens(adapter: Mapping[str, Any] | None) -> int:
    """Count the tokens that an adapter puts before each text: they take places of the context and have logits."""
    config = None if adapter is None else make_config(adapter)
    return int(config.num_virtual_tokens) if config is not None and config.is_prompt_learning else 0


def initialize(model: Any, batches: Iterable[Mapping[str, Any]]) -> None:
    """Begin an EVA adapter with what its inputs vary in; others stay as they are.

    Args:
        model: What wrap gave, before it has an optimizer.
        batches: What the collator gives. They are read again and again until the directions stand still.

    Raises:
        InputError: The batches hold fewer tokens than it needs.
    """
    if not isinstance(model, PeftModel) or getattr(model.active_peft_config, "init_lora_weights", None) != "eva":
        return
    held, config = [dict(batch) for batch in batches], model.active_peft_config
    rank = round(config.r * config.eva_config.rho)
    if not held or min(int(_mark_tokens(batch).sum()) for batch in held) < rank:
        raise InputError(f"adapter: EVA needs batches of at least {rank} tokens, r times rho; add rows to a batch")
    try:
        with runtime.quiet():
            initialize_lora_eva_weights(
                model,
                held,
                forward_fn=_forward,
                prepare_model_inputs_fn=lambda batch, _: _mark_tokens(batch),
                prepare_layer_inputs_fn=_pick_inputs,
                gather_distributed_inputs=False,  # every process reads the same batches
                show_progress_bar=False,
            )
    except ValueError as err:  # a rank above the width of a layer
        raise InputError(f"adapter: EVA cannot begin with these batches: {shorten(err)}") from err


def _forward(model: Any, batch: Mapping[str, Any]) -> Any:
    return model(**{k: v for k, v in batch.items() if k not in LABELS})


def _mark_tokens(batch: Mapping[str, Any]) -> torch.Tensor:
    """Mark what is no padding. Shape: (batch, length)."""
    mask = batch.get("attention_mask")
    return (mask if mask is not None and mask.dim() == 2 else torch.ones_like(batch["input_ids"])).bool()


def _pick_inputs(inputs: Any, mask: torch.Tensor, _: str) -> torch.Tensor:
    """Pick the vectors of tokens; those of a decoder, or of whole texts, all count. Shape: (vectors, width)."""
    vectors = inputs[0] if isinstance(inputs, tuple | list) else inputs
    return vectors[mask] if vectors.shape[:2] == mask.shape else vectors.reshape(-1, vectors.shape[-1])


def before_step(model: Any) -> None:
    """Add the gradient of AdaLoRA's regularisation, once a step, after the last backward pass and before clipping.

    orth_reg_weight times the mean over all A and B of the Frobenius norm of A A^T - I, or B^T B - I. Source: Zhang et
    al. 2023, AdaLoRA, equation 4; the mean and the unsquared norm are those of peft 0.21, which adds it to a loss that
    the model computes itself, and so not to ours.
    """
    config = _find_adalora(model)
    if config is None or config.orth_reg_weight == 0:
        return
    factors = {name: p for name, p in model.named_parameters() if p.requires_grad and re.search(r"\.lora_[AB]\.", name)}
    norms = []
    for name, p in factors.items():
        square = p @ p.T if ".lora_A." in name else p.T @ p
        norms.append((square - torch.eye(len(square), dtype=p.dtype, device=p.device)).norm())
    gradients = torch.autograd.grad(config.orth_reg_weight * torch.stack(norms).mean(), list(factors.values()))
    for p, gradient in zip(factors.values(), gradients, strict=True):
        p.grad = gradient if p.grad is None else p.grad + gradient


def after_step(model: Any, step: int) -> None:
    """Have AdaLoRA allot its ranks, once a step, after the update and before the gradients are dropped.

    A step whose gradient is not finite tells nothing of importance, and is passed over.

    Args:
        model: The model itself, not what DDP or torch.compile put around it.
        step: The step just taken, from 1.
    """
    if _find_adalora(model) is None:
        return
    trained = [p.grad for name, p in model.named_parameters() if p.requires_grad and ".lora_" in name]
    if all(g is not None and bool(torch.isfinite(g).all()) for g in trained):
        model.base_model.update_and_allocate(step)


def _find_adalora(model: Any) -> Any:
    config = model.active_peft_config if isinstance(model, PeftModel) else None
    return config if getattr(config, "peft_type", None) == "ADALORA" else None
