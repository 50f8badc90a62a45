"""From an adapter over its base to one model that plain transformers loads."""

import json
from pathlib import Path
from typing import Any

from llmkit import checking, runfolder, runtime
from llmkit.errors import InputError, RunError, shorten
from llmkit.loading import load
from llmkit.locating import locate

BASE_FACTS = ("base", "base_sha256", "base_copy_sha256")  # of llmkit.json, which a whole model has no need of


def export_merge(checkpoint: str, out: Path, *, adapter: str | None = None, offline: bool = False) -> list[Path]:
    """Write an adapter and its base as one model: weights, tokenizer, generation config, and llmkit.json.

    It is merged and stored in float32, also over a base in fewer bits, where the merge would drift; in float64 where
    either is stored in that.

    Args:
        checkpoint: A run with an adapter, an adapter, or the base of `adapter`.
        out: A folder that does not exist yet.
        adapter: The adapter, where `checkpoint` is the base.
        offline: As for load.

    Returns:
        The weight files that were written.

    Raises:
        InputError: There is no adapter, it cannot be merged, or `out` exists or cannot be made.
        DamagedError: The files of either are damaged.
    """
    if out.exists():
        raise InputError(f"{out} exists already; expected a new folder")
    above = next(folder for folder in out.parents if folder.exists())
    if not above.is_dir():
        raise InputError(f"cannot write to {out.parent}: {above} is no folder")
    found = locate(checkpoint if adapter is None else adapter, offline=offline)
    if not checking.is_adapter(found.path):
        raise InputError(f"{found.name} is no adapter; expected a run with one, or its folder")
    dtype = "float64" if _is_double(found.path) else "float32"
    loaded = load(checkpoint, adapter=adapter, dtype=dtype, device="cpu", offline=offline)
    model = merge(loaded.model, found.name)
    facts = {key: value for key, value in (loaded.facts or {}).items() if key not in BASE_FACTS}

    def fill(folder: Path) -> None:
        with runtime.quiet():
            model.save_pretrained(folder)
            loaded.tokenizer.save_pretrained(folder)
        text = json.dumps(facts, ensure_ascii=False, indent=1) + "\n"
        (folder / "llmkit.json").write_text(text, encoding="utf-8")

    try:
        runfolder.publish(out, fill)
    except PermissionError as err:
        raise InputError(f"cannot write to {out.parent}: {err.strerror}") from err
    except Exception as err:  # safetensors has an error of its own for a full disk
        raise RunError(f"{out} cannot be written: {str(err)[-160:]}") from err
    return sorted(out.glob("*.safetensors"))


def _is_double(adapter: Path) -> bool:
    return any(tensor.dtype == "F64" for tensor in checking.check_adapter(adapter)[1].values())


def merge(model: Any, name: str = "the adapter") -> Any:
    """Merge an adapter into the model under it; the model, changed, without the adapter.

    Args:
        model: A peft model.
        name: What the error calls the adapter.

    Raises:
        InputError: Its method cannot be merged.
    """
    config = model.active_peft_config
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    if config.is_prompt_learning:
        raise InputError(f"{name} cannot be merged: {kind} adds tokens to a text and changes no weight")
    _put_modules(model)
    try:
        with runtime.quiet():
            return model.merge_and_unload(safe_merge=True)
    except Exception as err:  # methods refuse in their own ways
        raise InputError(f"{name} cannot be merged: {kind}: {shorten(err)}") from err


def _put_modules(model: Any) -> None:
    """Put modules that were trained whole, and one of two over a tied weight, in the places of what holds them.

    peft 0.21 takes the first of some methods for a single layer, and would add the same change twice to a tied weight.
    """
    from peft.tuners.trainable_tokens import TrainableTokensLayer
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    seen: set[int] = set()
    for name, module in list(model.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):
            model.set_submodule(name, module.modules_to_save[model.active_adapter])
        elif isinstance(module, TrainableTokensLayer):
            continue  # within a wrapper, which peft merges by itself
        elif isinstance(module, BaseTunerLayer) and hasattr(module.get_base_layer(), "weight"):
            weight = id(module.get_base_layer().weight)
            if weight in seen:
                model.set_submodule(name, module.get_base_layer())
            seen.add(weight)
