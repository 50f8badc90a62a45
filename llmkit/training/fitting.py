"""The largest micro-batch that fits: by the memory that a step would take, then by taking it."""

import contextlib
import dataclasses
import logging
import os
from typing import Any

import torch
from accelerate import DistributedType
from accelerate.utils import gather
from accelerate.utils.memory import clear_device_cache

from llmkit import runtime
from llmkit.errors import InputError
from llmkit.heads import unwrap
from llmkit.recipe.schema import Recipe
from llmkit.training import simulating
from llmkit.training.building import Plan
from llmkit.training.session import Session
from llmkit.training.simulating import StepCost

logger = logging.getLogger("llmkit")

KEY = "train.micro_batch_size"
# Of the free memory of a CPU: with its holes glibc's heap holds twice what a step of a model that fills a memory needs,
# and more of a small one (docs/reference/estimates.md).
CPU_SHARE = 0.5


def find_room(num_processes: int = 1) -> int:
    """Find the bytes that one of several processes of this machine can have."""
    if torch.cuda.is_available():
        return runtime.free_memory(torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))))
    here = int(os.environ.get("LOCAL_WORLD_SIZE", num_processes))
    return int(runtime.free_memory(torch.device("cpu")) * CPU_SHARE) // here


def begin(plan: Plan, recipe: Recipe, num_processes: int) -> tuple[Plan, StepCost | str | None]:
    """Estimate which micro-batch to begin with, where the recipe has auto; else the plan stays, without a cost."""
    if recipe.train.micro_batch_size != "auto":
        return plan, None
    room, on_gpu = find_room(num_processes), torch.cuda.is_available()
    return estimate(plan, recipe, num_processes=num_processes, room=room, flash=on_gpu)


def estimate(
    plan: Plan, recipe: Recipe, *, num_processes: int, room: int, sharded: bool = False, flash: bool = False
) -> tuple[Plan, StepCost | str]:
    """Estimate a step of a plan, and where its recipe has micro_batch_size auto, of the largest that fits.

    Args:
        plan: The run, with the whole share of a process in one micro-batch where the recipe has auto.
        recipe: The recipe as it was given.
        num_processes: Of the run.
        room: Bytes that a process can have.
        sharded: As for describe_plan.
        flash: As for simulate.

    Returns:
        The plan with a number, and the cost or the reason why none can be told.
    """
    cost = _try(plan, num_processes, sharded=sharded, flash=flash)
    if recipe.train.micro_batch_size != "auto":
        return plan, cost
    for size in list_sizes(plan.recipe.train.global_batch_size // num_processes)[1:]:
        if isinstance(cost, str) or cost.total <= room:
            break
        plan = set_micro(plan, size)
        cost = _try(plan, num_processes, sharded=sharded, flash=flash)
    return plan, cost


def list_sizes(share: int) -> list[int]:
    """List the micro-batches into which a process's share of the global batch can be cut, the largest first."""
    return [size for size in range(share, 0, -1) if share % size == 0]


def set_micro(plan: Plan, micro: int) -> Plan:
    """Give a plan another micro-batch."""
    train = plan.recipe.train.model_copy(update={"micro_batch_size": micro})
    return dataclasses.replace(plan, recipe=plan.recipe.model_copy(update={"train": train}))


def _try(plan: Plan, num_processes: int, *, sharded: bool, flash: bool) -> StepCost | str:
    """Simulate a step; give the first line of the reason where that cannot be done."""
    try:
        cost = simulating.simulate(plan, num_processes=num_processes, flash=flash)
    except (RuntimeError, TypeError, ValueError) as err:  # a model's code may need values
        return f"{type(err).__name__}: {(str(err).splitlines() or [''])[0][:120]}"
    if num_processes == 1:
        return cost
    if not sharded:
        return _add_buckets(plan.parts.model, cost)
    train = plan.recipe.train
    accumulates = train.global_batch_size > int(train.micro_batch_size or 1) * num_processes
    return _deal(plan.parts.model, cost, num_processes, accumulates=accumulates)


def _add_buckets(model: Any, cost: StepCost) -> StepCost:
    """Add the buckets in which DDP sums gradients, which are as large as these."""
    return dataclasses.replace(cost, gradients=cost.gradients + _weigh(model, trained_alone=True))


def _deal(model: Any, cost: StepCost, num_processes: int, *, accumulates: bool) -> StepCost:
    """Deal weights, gradients and moments out, and add what FSDP2 gathers: what is in no block, and two blocks.

    Gradients that are accumulated stay whole until the last micro-batch (torch 2.13).
    """
    named = set(unwrap(model)._no_split_modules or ())
    blocks = [_weigh(m) for m in model.modules() if type(m).__name__ in named]
    root, block = max(cost.weights - sum(blocks), 0), max(blocks, default=0)
    held = (root + 2 * block) * (1 + _weigh(model, trained_alone=True) / max(cost.weights, 1))
    return dataclasses.replace(
        cost,
        weights=cost.weights // num_processes + int(held),
        gradients=cost.gradients // (1 if accumulates else num_processes),
        optimizer=cost.optimizer // num_processes,
    )


def _weigh(module: torch.nn.Module, *, trained_alone: bool = False) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters() if p.requires_grad or not trained_alone)


def settle(s: Session, cost: StepCost | str) -> None:
    """Try micro-batches with the longest rows, from that of the plan on, until one fits; the same for all processes.

    Args:
        s: The run, before its first step.
        cost: What was estimated; on a GPU room is kept for the optimizer's state.

    Raises:
        InputError: Not even one sequence fits, or the processes share the model.
    """
    accelerator = s.accelerator
    if accelerator.distributed_type == DistributedType.FSDP:
        raise InputError(f"{KEY}: auto tries each process for itself, which FSDP cannot; expected a number")
    train = s.plan.recipe.train
    sizes = list_sizes(train.global_batch_size // accelerator.num_processes)
    start = int(gather(torch.tensor([int(train.micro_batch_size or 1)], device=accelerator.device)).min())
    for size in sizes[sizes.index(start) :]:
        s.plan = set_micro(s.plan, size)
        fits = _take_one(s, size, cost.optimizer if isinstance(cost, StepCost) else 0)
        if bool(gather(torch.tensor([fits], device=accelerator.device)).all()):
            logger.info(f"{KEY}: {size}, the largest that fits")
            return
    raise InputError(f"{KEY}: not even one sequence of {s.plan.recipe.data.max_length} tokens fits into memory")


def _take_one(s: Session, size: int, optimizer_bytes: int) -> bool:
    """Compute the gradient of the longest micro-batch, and forget it; tell whether there was memory for it."""
    batch, beside = dict(simulating.find_longest(s.plan, size)[0]), None
    try:
        if s.accelerator.device.type == "cuda":
            beside = torch.empty(optimizer_bytes, dtype=torch.uint8, device=s.accelerator.device)
        with s.accelerator.no_sync(s.model) if s.accelerator.num_processes > 1 else contextlib.nullcontext():
            s.accelerator.backward(s.compute_loss(batch, 1))
    except torch.OutOfMemoryError:
        return False
    finally:
        del beside
        s.plan.parts.optimizer.zero_grad()
        clear_device_cache(garbage_collection=True)
    return True
