"""What a run costs: parameters, arithmetic a token, and how much of a device's speed is used."""

import time
from typing import Any

import torch

from llmkit.recipe.reading import dump_recipe
from llmkit.recipe.schema import Recipe
from llmkit.training import building

# Dense bfloat16 FLOP/s as the makers state them. Source: NVIDIA's data sheets of these products.
PEAK_FLOPS = {
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "V100": 125e12,
    "T4": 65e12,
}


def count_parameters(model: Any) -> int:
    """Count the values of a model, shared ones once."""
    return sum(p.numel() for p in model.parameters())


def count_flops(model: Any, max_length: int) -> float:
    """Estimate the floating-point operations that training takes for each token.

    Six for each parameter that multiplies (forward 2, backward 4), the look-up of embeddings not among them, and twelve
    for each layer, width and position that attention spans. Source: Chowdhery et al. 2022, PaLM, appendix B.
    """
    embeddings = model.get_input_embeddings().weight.numel()
    head = model.get_output_embeddings()
    tied = head is not None and head.weight is model.get_input_embeddings().weight
    multiplied = sum(p.numel() for p in model.parameters() if p.ndim >= 2) - (0 if tied else embeddings)
    layers = getattr(model.config, "num_hidden_layers", 0) or 0
    width = getattr(model.config, "hidden_size", 0) or 0
    return float(6 * multiplied + 12 * layers * width * max_length)


def find_peak(device: torch.device, mixed_precision: str) -> float:
    """Find the FLOP/s that a device can reach: stated by its maker, or measured with matrix products where unknown."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        known = next((peak for key, peak in PEAK_FLOPS.items() if key in name), None)
        if known is not None:
            return known
    size, repeats = (512 if device.type == "cpu" else 4096), 3
    dtype = torch.bfloat16 if mixed_precision == "bf16" else torch.float32
    square = torch.ones(size, size, device=device, dtype=dtype)
    square @ square
    started = time.perf_counter()
    for _ in range(repeats):
        (square @ square)[0, 0].item()
    return repeats * 2 * size**3 / max(time.perf_counter() - started, 1e-9)


def describe_plan(recipe: Recipe, *, num_processes: int = 1) -> str:
    """Build a run without training it, and say what it would be: every value and its origin, sizes and data.

    Raises:
        InputError: The recipe, the data or the checkpoint must be mended.
    """
    plan = building.plan(recipe, num_processes=num_processes)
    train, rows = plan.recipe.train, plan.data.train.num_rows
    sequences = plan.max_steps * train.global_batch_size
    epochs = "" if rows is None else f", {sequences / rows:.2f} passes over {rows:,} rows"
    micro, length = int(train.micro_batch_size or 1), int(plan.recipe.data.max_length or 0)
    facts = (
        f"parameters: {count_parameters(plan.parts.model):,}",
        f"a step: {train.global_batch_size:,} sequences of up to {length:,} tokens, {micro:,} at a time",
        f"steps: {plan.max_steps:,}{epochs}",
        f"data:\n{plan.data.ledger}",
    )
    return dump_recipe(plan.recipe, lambda key: recipe.origins.get(key, "")) + "\n" + "\n".join(facts) + "\n"
