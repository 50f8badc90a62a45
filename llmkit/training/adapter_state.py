"""What is kept of an adapter: plain files for peft, and what training goes on from, bit for bit.

A plain file is not enough to go on from: of AdaLoRA's it lacks the ranks that are masked and what is known of each. And
a method that takes its first factors out of the base's weights (PiSSA, OLoRA) is stored as plain LoRA of twice the rank
over the unchanged base: W - s B0 A0 + s B A = W + s [B, -B0] [A; A0]. Source: peft 0.21,
LoraModel.subtract_mutated_init, which leaves out a head that is trained too.
"""

import copy
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor
from transformers.pytorch_utils import Conv1D

from llmkit import runtime
from llmkit.errors import DamagedError

NAME = "default"  # peft's, of the one adapter
TAKEN_OUT = ("pissa", "olora")  # how init_lora_weights begins where the base loses the first factors
IMPORTANCE = ("ipt", "exp_avg_ipt", "exp_avg_unc")  # what AdaLoRA knows of each weight
START = "llmkit_start"  # the attribute of a peft model that holds its first factors


def remember_start(model: PeftModel) -> None:
    """Keep the first factors of a new adapter on its model, where the base has lost them."""
    way = str(getattr(model.peft_config[NAME], "init_lora_weights", "")).lower()
    if way.startswith(TAKEN_OUT):
        setattr(model, START, {name: t.clone() for name, t in _gather(model).items() if _is_factor(name)})


def _is_factor(name: str) -> bool:
    return name.endswith((".lora_A.weight", ".lora_B.weight"))


def _gather(model: PeftModel) -> dict[str, torch.Tensor]:
    """Gather an adapter's tensors by peft's names, whole and on the CPU."""
    with runtime.quiet():
        stored = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: whole(tensor) for name, tensor in stored.items()}


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Gather a tensor that processes share, and bring it to the CPU."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().cpu().contiguous()


def gather_plain(model: PeftModel) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Gather an adapter as plain peft loads it over the unchanged base.

    Returns:
        What adapter_config.json holds, and the tensors.
    """
    tensors = _gather(model)
    config = copy.deepcopy(model.peft_config[NAME])
    start = getattr(model, START, None)
    if start is not None:
        tensors = _add_start(config, tensors, start)
    config.inference_mode = True
    _name_tied(config)
    if getattr(config, "modules_to_save", None):
        config.modules_to_save = list(dict.fromkeys(config.modules_to_save))  # peft adds a head's names once more
    values = {k: sorted(v) if isinstance(v, set) else v for k, v in config.to_dict().items()}
    if config.task_type is None:  # by which peft finds the model's class
        base = model.get_base_model()
        kind = next(kind for kind in type(base).__mro__ if not kind.__name__.startswith("FSDP"))
        values["auto_mapping"] = {"base_model_class": kind.__name__, "parent_library": kind.__module__}
    return values, tensors


def _name_tied(config: PeftConfig) -> None:
    """Name all modules that hold a tied weight: peft 0.21 keeps one name, by which it may not see the tie again."""
    if getattr(config, "modules_to_tie", None):
        config.modules_to_save = [*config.modules_to_save, *sorted(config.modules_to_tie)]
    if getattr(config, "target_modules_to_tie", None) and not isinstance(config.target_modules, str):
        config.target_modules = {*config.target_modules, *config.target_modules_to_tie}


def _add_start(
    config: PeftConfig, tensors: dict[str, torch.Tensor], start: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Turn an adapter over a base without its first factors into plain LoRA of twice the rank over the base."""
    # the scale is alpha / r, under rsLoRA alpha / sqrt(r); it stays as it is
    factor = math.sqrt(2) if config.use_rslora else 2
    config.init_lora_weights, config.r, config.lora_alpha = True, 2 * config.r, factor * config.lora_alpha
    config.rank_pattern = {name: 2 * rank for name, rank in config.rank_pattern.items()}
    config.alpha_pattern = {name: factor * alpha for name, alpha in config.alpha_pattern.items()}
    joined = dict(tensors)
    for name, first in start.items():
        is_a = name.endswith(".lora_A.weight")
        joined[name] = torch.cat([tensors[name], first if is_a else -first], dim=0 if is_a else 1).contiguous()
    return joined


def write_plain(
    folder: Path, values: dict[str, Any], tensors: Mapping[str, torch.Tensor], base: Mapping[str, object] | None
) -> None:
    """Write adapter_config.json, with the keys that name the base, and adapter_model.safetensors."""
    text = json.dumps({**values, **(base or {})}, indent=2, sort_keys=True, ensure_ascii=False)
    (folder / "adapter_config.json").write_text(text + "\n", encoding="utf-8")
    alone = {name: t if t.is_contiguous() else t.contiguous() for name, t in tensors.items()}
    seen: set[int] = set()
    for name, tensor in alone.items():  # safetensors refuses tensors that share memory
        if tensor.data_ptr() in seen:
            alone[name] = tensor.clone()
        seen.add(tensor.data_ptr())
    save_file(alone, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def gather_state(model: PeftModel) -> dict[str, torch.Tensor]:
    """Gather all that training goes on from: what is trained, the first factors, what AdaLoRA knows."""
    state = {f"trained/{name}": whole(p) for name, p in model.named_parameters() if p.requires_grad}
    state |= {f"start/{name}": tensor for name, tensor in getattr(model, START, {}).items()}
    allocator = getattr(model.base_model, "rankallocator", None)
    for kind in IMPORTANCE if allocator is not None else ():
        state |= {f"importance/{kind}/{name}": whole(t) for name, t in getattr(allocator, kind).items()}
    return state


def check_state(folder: Path, model: PeftModel) -> dict[str, torch.Tensor]:
    """Read what gather_state gave from a step, and compare it with a model.

    Raises:
        DamagedError: The step is that of another model or adapter.
    """
    state: dict[str, torch.Tensor] = load_file(folder / "state" / "adapter.safetensors")
    here = {name: p for name, p in model.named_parameters() if p.requires_grad}
    there = {name.removeprefix("trained/"): t for name, t in state.items() if name.startswith("trained/")}
    for name in [*here, *there]:
        pair = [describe(there.get(name)), describe(here.get(name))]
        if pair[0] != pair[1]:
            raise DamagedError(f"{folder} is of another adapter: {name} is {pair[0]} there, expected {pair[1]}")
    return state


def describe(tensor: torch.Tensor | None) -> str:
    """Say what a tensor is, for an error: its type and shape."""
    return "missing" if tensor is None else f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def restore_state(folder: Path, model: PeftModel, state: dict[str, torch.Tensor]) -> None:
    """Put an adapter, but for what is trained, where it stood at a step that check_state read.

    What is trained is set by the caller, who knows how it is spread over processes.
    """
    start = {name.removeprefix("start/"): t.clone() for name, t in state.items() if name.startswith("start/")}
    if start:
        _put_start(model, start)
    allocator = getattr(model.base_model, "rankallocator", None)
    if allocator is None:
        return
    for kind in IMPORTANCE:
        place = f"importance/{kind}/"
        known = {name.removeprefix(place): t.clone() for name, t in state.items() if name.startswith(place)}
        device = model.device
        setattr(allocator, kind, {name: tensor.to(device) for name, tensor in known.items()})
    kept = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    model.peft_config[NAME].rank_pattern = kept["rank_pattern"]


def _put_start(model: PeftModel, start: dict[str, torch.Tensor]) -> None:
    """Take the first factors of a step out of the base, where this machine drew others in the last bits."""
    drawn = getattr(model, START)
    for name in [name for name in start if name.endswith(".lora_A.weight")]:
        other = name.replace(".lora_A.", ".lora_B.")
        if torch.equal(start[name], drawn[name]) and torch.equal(start[other], drawn[other]):
            continue
        layer = model.get_submodule(name.removesuffix(".lora_A.weight"))
        weight, scale = layer.get_base_layer().weight, layer.scaling[NAME]
        change = scale * (drawn[other] @ drawn[name] - start[other] @ start[name])
        weight.data += (change.T if isinstance(layer.get_base_layer(), Conv1D) else change).to(weight)
    setattr(model, START, start)
