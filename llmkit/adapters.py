"""A peft adapter over a model: whether it was made for it, and laying it there; peft is imported for that alone."""

import logging
from typing import Any

from llmkit import checking, runfolder
from llmkit.errors import InputError
from llmkit.locating import Located

logger = logging.getLogger("llmkit")


def lay(model: Any, over: Located, base: Located) -> Any:
    """Lay an adapter over a model; the peft model that holds both.

    Raises:
        InputError: It was made for another base.
    """
    _, tensors = checking.check_adapter(over.path)
    _check_base(over, base)
    _check_fit(model, over.name, tensors)
    from peft import PeftModel, get_peft_model_state_dict

    try:
        laid = PeftModel.from_pretrained(model, str(over.path), torch_device="cpu")
    except Exception as err:  # peft's configs are checked by their tuners, each in its own way
        raise InputError(f"the adapter {over.name} does not fit {base.name}: {shorten(err)}") from err
    missing = sorted(set(get_peft_model_state_dict(laid)) - set(tensors))
    if missing:
        count = "1 tensor" if len(missing) == 1 else f"{len(missing)} tensors"
        fit = f"the adapter {over.name} was made for another base than {base.name}"
        raise InputError(f"{fit}: it holds nothing for {count}, such as {missing[0]}")
    return laid


def _check_base(over: Located, base: Located) -> None:
    """Refuse a base of the same shape with other weights, where llmkit.json keeps the hash of the right one."""
    expected = runfolder.read_facts(over.path).get("base_sha256")
    if expected is None:
        logger.info(f"the adapter {over.name} does not say which weights it was made for; only shapes were compared")
    elif checking.hash_weights(base.path) != expected:
        raise InputError(f"the adapter {over.name} was made for other weights than {base.name} (its sha256 differs)")


def _check_fit(model: Any, name: str, tensors: dict[str, checking.Tensor]) -> None:
    """Compare the LoRA factors, A (rank, inputs) and B (outputs, rank), with the modules that they belong to."""
    modules = dict(model.named_modules())
    for key, tensor in tensors.items():
        path, _, factor = key.removeprefix("base_model.model.").removesuffix(".weight").rpartition(".")
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


def shorten(err: BaseException) -> str:
    """Take the first line of a library's error, with the next where it ends in a colon; at most 160 characters."""
    lines = [line.strip() for line in str(err).splitlines() if line.strip()] or [type(err).__name__]
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1])[:160]
