"""Checkpoints of a run: written so that plain transformers loads them and training goes on from them, bit for bit.

    step-000200/  config.json  model.safetensors  tokenizer.json ...  state/optimizer.safetensors  state/state.json
    step-000200/  adapter_config.json  adapter_model.safetensors  ...  state/adapter.safetensors ...   with an adapter

The functions take the model itself, not what DDP or torch.compile put around it (their parameters are the same), and
every process calls them: shards are gathered by all, process 0 writes. The optimizer's state goes by the names of the
parameters. torch.distributed.checkpoint.state_dict gives the weights; not so the optimizer's state, where torch 2.13
takes a step with zero gradients to make a state that is not there (AdamW saved before its first step would go on with
its count at 1), refuses SGD without momentum, and refuses a parameter that never had a gradient.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import GenerationConfig

from llmkit import runtime
from llmkit.errors import DamagedError
from llmkit.runfolder import DISK, Disk, naming_full_disk, prune, publish
from llmkit.training import adapter_state

FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)


def save_step(
    run: Path,
    step: int,
    model: Any,
    tokenizer: Any,
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, object],
    *,
    keep: int,
    facts: Mapping[str, object] | None = None,
    base: Mapping[str, object] | None = None,
    is_main: bool = True,
    disk: Disk = DISK,
) -> Path:
    """Save a step of a run, then remove the steps that are older than the newest `keep`.

    Args:
        run: The folder of the run.
        step: Optimizer steps that were taken.
        model: The model itself; of one wrapped by DDP or torch.compile, the model inside.
        tokenizer: Saved beside the weights.
        optimizer: Its state is saved with the names of the model's parameters.
        state: What else the run goes on with, as JSON.
        keep: Step folders that stay, this one among them.
        facts: What use has to know of training, written to llmkit.json; None writes none.
        base: Keys of adapter_config.json that name the base under an adapter.
        is_main: Whether this process writes; the others help to gather.
        disk: How the disk is changed.

    Returns:
        The step folder, which is on the disk by then (once process 0 has returned).

    Raises:
        RunError: The disk is full; the steps before are intact.
    """
    target = run / "checkpoints" / f"step-{step:06}"
    write, (tensors, scalars) = _gather_model(model, tokenizer, base=base), _gather_optimizer(model, optimizer)
    trained = adapter_state.gather_state(model) if isinstance(model, PeftModel) else None

    def fill(folder: Path) -> None:
        write(folder)
        if facts is not None:
            _write_json(folder / "llmkit.json", facts)
        (folder / "state").mkdir()
        if trained is not None:
            save_file(trained, folder / "state" / "adapter.safetensors")
        save_file(tensors, folder / "state" / "optimizer.safetensors")
        _write_json(folder / "state" / "state.json", {"step": step, "run": dict(state), "optimizer": scalars})

    if is_main:
        with naming_full_disk(run, f"step {step}"):
            if (run / "metrics.jsonl").is_file():
                disk.sync(run / "metrics.jsonl")  # a curve without a hole before this step
            publish(target, fill, disk)
            prune(run, step, keep, disk)
    return target


def save_checkpoint(
    target: Path,
    model: Any,
    tokenizer: Any,
    facts: Mapping[str, object],
    *,
    dtype: torch.dtype | None = None,
    generation_config: Mapping[str, object] | None = None,
    complete: Callable[[Path], None] | None = None,
    base: Mapping[str, object] | None = None,
    is_main: bool = True,
    disk: Disk = DISK,
) -> None:
    """Save a checkpoint for use, best/ or final/ of a run, in the place of the one that is there.

    Args:
        target: Its folder.
        model: The model itself, as for save_step.
        tokenizer: Saved beside the weights.
        facts: What use has to know of training, written to llmkit.json.
        dtype: The type in which the weights are stored; None: as they are.
        generation_config: Keys of GenerationConfig that are stored with it.
        complete: Is given the folder, whole but not yet in its place, and may add files.
        base: Keys of adapter_config.json that name the base under an adapter.
        is_main: Whether this process writes; the others help to gather.
        disk: How the disk is changed.

    Raises:
        RunError: The disk is full; what was there is intact.
    """
    write = _gather_model(model, tokenizer, dtype=dtype, base=base)

    def fill(folder: Path) -> None:
        write(folder)
        if generation_config:
            _write_generation_config(folder, model, generation_config)
        _write_json(folder / "llmkit.json", facts)
        if complete is not None:
            complete(folder)

    if is_main:
        with naming_full_disk(target.parent, f"{target.name}/"):
            publish(target, fill, disk)


def load_step(folder: Path, model: Any, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Put a model and its optimizer where they stood at a step, bit for bit; both are checked before either changes.

    Args:
        folder: A step folder that save_step wrote, whole.
        model: The model itself, as for save_step.
        optimizer: Of the same class and the same groups as the one saved.

    Returns:
        The `state` that save_step was given.

    Raises:
        DamagedError: The step is that of another model or optimizer.
    """
    kept = json.loads((folder / "state" / "state.json").read_text(encoding="utf-8"))
    adapter = adapter_state.check_state(folder, model) if isinstance(model, PeftModel) else None
    weights = {} if adapter is not None else _read_weights(folder, model)
    tensors = load_file(folder / "state" / "optimizer.safetensors")
    state = _arrange_optimizer(folder, model, optimizer, tensors, kept["optimizer"])
    if adapter is not None:
        _set_trained(model, adapter)
        adapter_state.restore_state(folder, model, adapter)
    else:
        set_model_state_dict(model, weights, options=StateDictOptions(full_state_dict=True))
    optimizer.load_state_dict(state)
    loaded: dict[str, Any] = kept["run"]
    return loaded


def _set_trained(model: torch.nn.Module, adapter: Mapping[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(_shard(adapter[f"trained/{name}"], parameter))


def _gather_model(
    model: Any, tokenizer: Any, *, dtype: torch.dtype | None = None, base: Mapping[str, object] | None = None
) -> Callable[[Path], None]:
    """Gather what is stored of a model on all processes; return what writes it on one.

    Args:
        model: The model itself; of a peft model the adapter is stored alone.
        tokenizer: Saved beside it.
        dtype: The type in which it is stored; None: as it is.
        base: Keys of adapter_config.json that name the base under an adapter.
    """
    if isinstance(model, PeftModel):
        values, tensors = adapter_state.gather_plain(model)
        tensors = tensors if dtype is None else _cast(tensors, dtype)
    else:
        weights = _gather_weights(model)
        weights = weights if dtype is None else _cast(weights, dtype)

    def write(folder: Path) -> None:
        with runtime.quiet():
            tokenizer.save_pretrained(folder)
            if isinstance(model, PeftModel):
                adapter_state.write_plain(folder, values, tensors, base)
                return
            model.save_pretrained(folder, state_dict=dict(weights))
        if dtype is not None:  # save_pretrained states the type of the model, not of the weights that it is given
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            _write_json(folder / "config.json", {**config, "dtype": str(dtype).removeprefix("torch.")})

    return write


def _write_generation_config(folder: Path, model: Any, settings: Mapping[str, object]) -> None:
    """Store keys of GenerationConfig above those that the model has; beside an adapter there is none yet."""
    path = folder / "generation_config.json"
    own = getattr(model, "generation_config", None)
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else own.to_diff_dict() if own else {}
    GenerationConfig.from_dict({**kept, **settings}).save_pretrained(folder)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, allow_nan=False, indent=1) + "\n", encoding="utf-8")


def _cast(weights: Mapping[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Cast weights; what shares a tensor shares the new one, so that it is stored once."""
    new = {id(tensor): tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in weights.values()}
    return {name: new[id(tensor)] for name, tensor in weights.items()}


def _gather_weights(model: Any) -> dict[str, torch.Tensor]:
    """Gather the whole weights on the CPU; names that share a weight in the model share its tensor."""
    gathered, first = get_model_state_dict(model, options=FULL), _first_names(model)
    return {name: gathered[first.get(name, name)] for name in gathered}


def _first_names(model: torch.nn.Module) -> dict[str, str]:
    """Map each name of a parameter to the first that the same parameter has."""
    first: dict[int, str] = {}
    return {
        name: first.setdefault(id(parameter), name)
        for name, parameter in model.named_parameters(remove_duplicate=False)
    }


def _read_weights(folder: Path, model: Any) -> dict[str, torch.Tensor]:
    # by transformers, which gives some families other names, or shapes, in a file than in the model
    plain: Any = next(kind for kind in type(model).__mro__ if not kind.__name__.startswith("FSDP"))
    with runtime.quiet():
        read = plain.from_pretrained(
            folder, dtype="auto", local_files_only=True, trust_remote_code=False, use_safetensors=True
        )
        stored = read.state_dict()
    expected = model.state_dict()
    for name in [*expected, *stored]:
        here, there = adapter_state.describe(expected.get(name)), adapter_state.describe(stored.get(name))
        if here != there:
            raise DamagedError(f"{folder} is of another model: {name} is {there} there, expected {here}")
    weights: dict[str, torch.Tensor] = stored
    return weights


def _gather_optimizer(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Gather an optimizer's state: tensors under `parameter/name`, and what JSON can hold."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    tensors, values = {}, {}
    for parameter, entries in optimizer.state.items():
        for key, value in entries.items():
            name = f"{names[id(parameter)]}/{key}"
            if isinstance(value, torch.Tensor):
                tensors[name] = adapter_state.whole(value)
            else:
                values[name] = value
    groups = [{**group, "params": [names[id(p)] for p in group["params"]]} for group in optimizer.param_groups]
    return tensors, {"values": values, "groups": groups}


def _arrange_optimizer(
    folder: Path,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, torch.Tensor],
    scalars: Mapping[str, Any],
) -> dict[str, Any]:
    """Arrange what was saved as the optimizer's own state_dict, where parameters go by their number."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    order = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if [[names[id(p)] for p in g["params"]] for g in optimizer.param_groups] != [
        g["params"] for g in scalars["groups"]
    ]:
        raise DamagedError(f"{folder} is of another optimizer: its groups hold other parameters than those of this run")
    numbers = {names[id(parameter)]: number for number, parameter in enumerate(order)}
    state: dict[int, dict[str, Any]] = {}
    for name, value in {**tensors, **scalars["values"]}.items():
        parameter, _, key = name.rpartition("/")
        if parameter not in numbers:
            raise DamagedError(f"{folder} is of another model: it has {parameter}, which is not trained here")
        entry = _shard(value, order[numbers[parameter]]) if isinstance(value, torch.Tensor) else value
        state.setdefault(numbers[parameter], {})[key] = entry
    groups = optimizer.state_dict()["param_groups"]
    for group, saved in zip(groups, scalars["groups"], strict=True):
        for key in saved.keys() - {"params"}:
            # JSON has no tuples
            group[key] = tuple(saved[key]) if isinstance(group.get(key), tuple) else saved[key]
    return {"state": state, "param_groups": groups}


def _shard(value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    if isinstance(parameter, DTensor) and value.shape == parameter.shape:
        return distribute_tensor(value, parameter.device_mesh, parameter.placements)
    if value.shape != parameter.shape:
        return value.clone()  # memory of its own, in place of the file's
    # in the parameter's order of memory: a fused optimizer goes through both without a look at their strides
    return torch.empty_like(parameter, dtype=value.dtype, device=value.device).copy_(value)
