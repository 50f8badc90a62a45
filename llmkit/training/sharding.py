"""FSDP2: accelerate deals out weights, gradients and moments to the processes; here is what it stumbles over."""

from collections import defaultdict
from typing import Any

import torch
from accelerate import Accelerator

from llmkit.errors import InputError
from llmkit.heads import unwrap


def shard(accelerator: Accelerator, model: Any, optimizer: torch.optim.Optimizer) -> Any:
    """Deal out a model and the parameters of its optimizer, in units of its blocks.

    Raises:
        InputError: Weights are shared in a way that cannot be dealt out.
    """
    _check_shared(model)
    plugin = accelerator.state.fsdp_plugin
    if plugin.transformer_cls_names_to_wrap is None:
        plugin.transformer_cls_names_to_wrap = _list_blocks(model)
    prepared, _ = accelerator.prepare(model, optimizer)
    return prepared


def _list_blocks(model: Any) -> list[str]:
    """List the classes that a model wants whole, but those around the embedding, which accelerate deals out itself."""
    named, embedding = set(unwrap(model)._no_split_modules or ()), model.get_input_embeddings()
    found = {type(m).__name__ for m in model.modules() if embedding not in set(m.modules())}
    return sorted(named & found)


def _check_shared(model: Any) -> None:
    """Refuse weights that are shared by other modules than the embedding and the head (accelerate 1.15, torch 2.13)."""
    owners: dict[torch.nn.Parameter, list[str]] = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners[parameter].append(name)
    ends = {id(end.weight) for end in (model.get_input_embeddings(), model.get_output_embeddings()) if end is not None}
    for parameter, names in owners.items():
        if len(names) > 2 or (len(names) == 2 and id(parameter) not in ends):
            kind = unwrap(model).config.model_type
            shared = ", ".join(names)
            raise InputError(
                f"distributed_type: FSDP cannot deal out {kind}, in which {shared} are one; expected MULTI_GPU"
            )
