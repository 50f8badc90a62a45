"""A peft adapter over a model: whether it was made for it, and laying it there; peft is imported for that alone."""

import logging
from collections.abc import Mapping
from typing import Any

from llmkit import checking, runfolder
from llmkit.errors import InputError, LlmkitError, shorten
from llmkit.locating import Located, locate

logger = logging.getLogger("llmkit")

# task -> peft's task_type, which has none for a masked LM
TASK_TYPES = {
    "generation": "CAUSAL_LM",
    "translation": "SEQ_2_SEQ_LM",
    "classification": "SEQ_CLS",
    "question-answering": "QUESTION_ANS",
}
# what families call the last layer of a classifier
CLASSIFIERS = ("score.weight", "classifier.weight", "classifier.out_proj.weight", "classification_head.out_proj.weight")
# of the names of a base's tensors in an adapter; the shorter one where the adapter lies before a model, not in it
PREFIXES = ("base_model.model.", "base_model.")


def lay(model: Any, over: Located, base: Located) -> Any:
    """Lay an adapter over a model; the peft model that holds both.

    Raises:
        InputError: It was made for another base.
    """
    config, tensors = checking.check_adapter(over.path)
    _check_base(over, base)
    if not config.get("layer_replication"):  # else peft makes the modules that some factors belong to
        _check_fit(model, over.name, tensors)
    from peft import PeftModel, get_peft_model_state_dict
    from transformers import GenerationConfig

    settings = over.path / "generation_config.json"
    if settings.is_file():
        model.generation_config = GenerationConfig.from_dict(checking.read_json(settings))
    try:
        laid = PeftModel.from_pretrained(model, str(over.path), torch_device="cpu")
    except Exception as err:  # peft's configs are checked by their tuners, each in its own way
        raise InputError(f"the adapter {over.name} does not fit {base.name}: {shorten(err)}") from err
    # unset, peft asks the hub for the base's config, and wants embeddings that are not trained
    missing = sorted(set(get_peft_model_state_dict(laid, save_embedding_layers=False)) - set(tensors))
    if missing:
        count = "1 tensor" if len(missing) == 1 else f"{len(missing)} tensors"
        fit = f"the adapter {over.name} was made for another base than {base.name}"
        raise InputError(f"{fit}: it holds nothing for {count}, such as {missing[0]}")
    return laid


def locate_base(adapter: Located, *, offline: bool) -> Located:
    """Find the base that an adapter names.

    Raises:
        InputError: It names none, or that is not at hand.
        HubError: The hub cannot give it.
    """
    with adapter.naming():
        base = checking.name_base(adapter.path)
        revision = checking.read_json(adapter.path / "adapter_config.json").get("revision")
    hint = "-m BASE -a ADAPTER names both"
    if base is None:
        raise InputError(f"{adapter.name} is an adapter that names no base", hint=hint)
    try:
        found = locate(base, revision=revision if isinstance(revision, str) else None, offline=offline)
    except LlmkitError as err:
        if base.startswith("package:"):
            hint = err.hint or hint  # how it is installed
        raise type(err)(f"the base of the adapter {adapter.name} is not at hand: {err}", hint=hint) from err
    for note in found.notes:
        logger.info(note)
    return found


def find_task(over: Located) -> str | None:
    """Find the task that an adapter was made for, by what peft's config states."""
    stated = checking.read_json(over.path / "adapter_config.json").get("task_type")
    return next((task for task, kind in TASK_TYPES.items() if kind == stated), None)


def list_brought(over: Located) -> set[str]:
    """List the tensors of a model that an adapter holds whole, as those of a head; the base may lack them."""
    tensors = checking.read_header(over.path / "adapter_model.safetensors")
    return {name.removeprefix(prefix) for name in tensors for prefix in PREFIXES if name.startswith(prefix)}


def describe_labels(over: Located, facts: Mapping[str, object]) -> dict[str, Any]:
    """Give the keys of a classifier's config that an adapter decides: by llmkit.json, else by the shape of its head."""
    labels, kind = facts.get("labels"), facts.get("problem_type")
    described: dict[str, Any] = {"problem_type": kind} if isinstance(kind, str) else {}
    if isinstance(labels, list) and labels and all(isinstance(label, str) for label in labels):
        ids = {label: i for i, label in enumerate(labels)}
        return {**described, "num_labels": len(labels), "id2label": dict(enumerate(labels)), "label2id": ids}
    tensors = checking.read_header(over.path / "adapter_model.safetensors")
    names = [prefix + name for name in CLASSIFIERS for prefix in PREFIXES]
    rows = [tensors[name].shape[0] for name in names if name in tensors]
    return {**described, "num_labels": rows[0]} if rows else described


def _check_base(over: Located, base: Located) -> None:
    """Refuse a base of the same shape with other weights, where llmkit.json keeps the hash of the right one."""
    facts = runfolder.read_facts(over.path)
    expected = [facts[key] for key in ("base_sha256", "base_copy_sha256") if facts.get(key) is not None]
    if not expected:
        logger.info(f"the adapter {over.name} does not say which weights it was made for; only shapes were compared")
    elif checking.hash_weights(base.path) not in expected:
        raise InputError(f"the adapter {over.name} was made for other weights than {base.name} (its sha256 differs)")


def _check_fit(model: Any, name: str, tensors: dict[str, checking.Tensor]) -> None:
    """Compare the LoRA factors, A (rank, inputs) and B (outputs, rank), with the modules that they belong to."""
    modules = dict(model.named_modules())
    for key, tensor in tensors.items():
        path, _, factor = key.removeprefix(PREFIXES[0]).removesuffix(".weight").rpartition(".")
        if factor not in ("lora_A", "lora_B"):
            continue
        if path not in modules:
            raise InputError(f"the adapter {name} was made for another base: this one has no module {path}")
        rows, columns = modules[path].weight.shape[-2:]
        outputs, inputs = (columns, rows) if type(modules[path]).__name__ == "Conv1D" else (rows, columns)
        has, needs, what = (
            (tensor.shape[-1], inputs, "inputs") if factor == "lora_A" else (tensor.shape[0], outputs, "outputs")
        )
        if has != needs:
            raise InputError(f"the adapter {name} was made for {has} {what} at {path}, the base has {needs}")
