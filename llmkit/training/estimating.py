"""What a run would cost, before it runs: sizes, memory of a process, time and money."""

from typing import Any

import torch

from llmkit.errors import InputError
from llmkit.recipe.reading import dump_recipe
from llmkit.recipe.schema import Recipe
from llmkit.training import building, fitting
from llmkit.training.devices import GPUS, Gpu
from llmkit.training.simulating import StepCost

GIB = 2**30
# Share of a GPU's peak that training reaches. GPT-3 reached 21%, Gopher 33%, Megatron-Turing NLG 30%, PaLM 46%.
# Source: Chowdhery et al. 2022, PaLM, table 3.
UTILIZATION = 0.3


def count_parameters(model: Any) -> int:
    """Count the values of a model, shared ones once."""
    return sum(p.numel() for p in model.parameters())


def count_flops(model: Any, max_length: int) -> float:
    """Estimate the floating-point operations that training takes for each token.

    Six for each parameter that multiplies (forward 2, backward 4), those that are looked up not among them, and twelve
    for each layer, width and position that attention spans. Source: Chowdhery et al. 2022, PaLM, appendix B.
    """
    head = model.get_output_embeddings()
    looked_up = {m.weight for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    looked_up -= {head.weight} if head is not None else set()
    multiplied = sum(p.numel() for p in model.parameters() if p.ndim >= 2 and p not in looked_up)
    layers = getattr(model.config, "num_hidden_layers", 0) or 0
    width = getattr(model.config, "hidden_size", 0) or 0
    return float(6 * multiplied + 12 * layers * width * max_length)


def describe_plan(
    recipe: Recipe,
    *,
    num_processes: int = 1,
    sharded: bool = False,
    gpu: str | None = None,
    price_per_hour: float | None = None,
) -> str:
    """Build a run without training it, and say what it would be: every value and its origin, sizes, data and cost.

    Args:
        recipe: The recipe.
        num_processes: Of the run.
        sharded: Whether weights, gradients and moments are dealt out among them (FSDP2).
        gpu: The kind of GPU that each process would have; None is what this machine has.
        price_per_hour: Of one GPU, in a currency of your own.

    Raises:
        InputError: The recipe, the data or the checkpoint must be mended; or no such GPU is known.
    """
    device = _find_gpu(gpu)
    asked = recipe
    if device is not None and recipe.train.mixed_precision is None and recipe.model.dtype != "float64":
        settled = {"mixed_precision": "no" if device.bf16 is None else "bf16"}
        asked = recipe.model_copy(update={"train": recipe.train.model_copy(update=settled)})
    plan = building.plan(asked, num_processes=num_processes)
    room = fitting.find_room(num_processes) if device is None else device.memory * GIB
    flash = device is not None or torch.cuda.is_available()
    plan, cost = fitting.estimate(plan, recipe, num_processes=num_processes, sharded=sharded, room=room, flash=flash)
    facts = [
        _count(plan.parts.model),
        _describe_step(plan),
        _describe_steps(plan),
        _describe_memory(cost, room, of_cpu=not flash) if isinstance(cost, StepCost) else f"memory: not known, {cost}",
    ]
    if device is not None and isinstance(cost, StepCost):
        facts.append(_describe_time(plan, cost, str(gpu), device, num_processes, price_per_hour))
    facts.append(f"data:\n{plan.data.ledger}")
    return dump_recipe(plan.recipe, lambda key: recipe.origins.get(key, "")) + "\n" + "\n".join(facts) + "\n"


def _find_gpu(name: str | None) -> Gpu | None:
    if name is None:
        return None
    found = {key.lower(): gpu for key, gpu in GPUS.items()}.get(name.lower())
    if found is None:
        raise InputError(f"--gpu: no such GPU is known, got {name!r}; expected one of {', '.join(GPUS)}")
    return found


def _count(model: Any) -> str:
    number, trained = count_parameters(model), sum(p.numel() for p in model.parameters() if p.requires_grad)
    few = f", {trained:,} of them trained" if trained < number else ""
    return f"parameters: {number:,}{few}"


def _describe_step(plan: building.Plan) -> str:
    train, data = plan.recipe.train, plan.recipe.data
    micro, length = int(train.micro_batch_size or 1), int(data.max_length or 0)
    text = f"a step: {train.global_batch_size:,} sequences of up to {length:,} tokens, {micro:,} at a time"
    return f"{text}; {train.global_batch_size * length:,} tokens" if data.pack else text


def _describe_steps(plan: building.Plan) -> str:
    rows = plan.data.train.num_rows
    sequences = plan.max_steps * plan.recipe.train.global_batch_size
    epochs = "" if rows is None else f", {sequences / rows:.2f} passes over {rows:,} rows"
    return f"steps: {plan.max_steps:,}{epochs}"


def _describe_memory(cost: StepCost, room: int, *, of_cpu: bool) -> str:
    names = ("weights", "gradients", "optimizer", "activations", "logits")
    parts = ", ".join(f"{name} {spell_size(getattr(cost, name))}" for name in names)
    more = "" if cost.total <= room else ": too much; a smaller train.micro_batch_size takes less"
    whole = f"{spell_size(room)}{', half of what is free' if of_cpu else ''}"
    return f"memory of a process: {spell_size(cost.total)} ({parts}) of {whole}{more}"


def _describe_time(
    plan: building.Plan, cost: StepCost, name: str, gpu: Gpu, number: int, price_per_hour: float | None
) -> str:
    reached = gpu.peak(str(plan.recipe.train.mixed_precision)) * UTILIZATION
    hours = plan.max_steps * cost.flops / reached / 3600
    price = "" if price_per_hour is None else f"; cost: {hours * number * price_per_hour:,.2f}"
    size, unit = (1, "h") if hours >= 1 else (60, "min") if hours * 60 >= 1 else (3600, "s")
    text = f"{hours * size:,.1f} {unit}"
    return f"time: {text} on {number} x {name.upper()} at {UTILIZATION:.0%} of the peak, without evaluations{price}"


def spell_size(size: float) -> str:
    """Spell a number of bytes."""
    return f"{size / GIB:,.1f} GiB" if size >= GIB else f"{size / 2**20:,.0f} MiB"
