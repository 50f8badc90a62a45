"""The optimizer and the schedule: classes of torch and transformers, with the recipe's settings."""

import difflib
import inspect
import math
from typing import Any

import torch
from transformers import get_scheduler

from llmkit.errors import InputError, shorten
from llmkit.recipe.schema import OptimSpec, ScheduleSpec

# what a recipe states outside of optim.kwargs, or what the loop decides
OWN_ARGUMENTS = ("params", "lr", "weight_decay", "betas")
# each of these chooses an implementation; where none is given, the fused one is taken
IMPLEMENTATIONS = ("fused", "foreach", "capturable", "differentiable")
# fused SGD takes memory that nobody filled for a momentum where its first step is skipped (torch 2.13)
FUSED = ("Adam", "AdamW")
BETAS = (0.9, 0.95)


def find_class(spec: OptimSpec) -> type[torch.optim.Optimizer]:
    """Find the class in torch.optim and check the arguments that the recipe gives it.

    Raises:
        InputError: There is no such class, or it takes no such argument.
    """
    classes = {
        name: kind
        for name, kind in vars(torch.optim).items()
        if inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer
    }
    # they need a closure, sparse gradients or matrices alone: not what this loop gives them
    for name in ("LBFGS", "SparseAdam", "Muon"):
        classes.pop(name, None)
    if spec.name not in classes:
        near = difflib.get_close_matches(spec.name.lower(), [c.lower() for c in classes], n=1)
        meant = "".join(f"; did you mean {c!r}?" for c in classes if near and c.lower() == near[0])
        raise InputError(f"optim.name: no such class in torch.optim, got {spec.name!r}{meant}")
    kind: type[torch.optim.Optimizer] = classes[spec.name]
    takes = set(inspect.signature(kind).parameters)
    for key in spec.kwargs:
        if key in OWN_ARGUMENTS:
            raise InputError(f"optim.kwargs.{key}: {key} stands in optim itself; expected optim.{key}")
        if key not in takes:
            near = difflib.get_close_matches(key, takes, n=1)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(f"optim.kwargs.{key}: {spec.name} takes no such argument{meant}")
    if spec.betas is not None and "betas" not in takes:
        raise InputError(f"optim.betas: {spec.name} takes no betas")
    return kind


def settle_betas(spec: OptimSpec) -> tuple[float, float] | None:
    """Settle the betas of a class that takes them."""
    return spec.betas or (BETAS if "betas" in inspect.signature(find_class(spec)).parameters else None)


def skips_on_device(optimizer: torch.optim.Optimizer) -> bool:
    """Tell whether an optimizer's step reads a flag on the device that keeps it from changing anything."""
    return type(optimizer).__name__ in FUSED and bool(optimizer.defaults.get("fused"))


def make_optimizer(spec: OptimSpec, model: torch.nn.Module) -> torch.optim.Optimizer:
    """Make the optimizer of a model, with decay for weight matrices and none for biases, norms and other vectors.

    Raises:
        InputError: The class or its arguments are refused by torch.
    """
    kind = find_class(spec)
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": spec.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    betas, arguments = settle_betas(spec), dict(spec.kwargs)
    if betas is not None:
        arguments["betas"] = tuple(betas)
    if spec.name in FUSED and not any(name in arguments for name in IMPLEMENTATIONS):
        arguments["fused"] = True
    try:
        return kind([g for g in groups if g["params"]], lr=spec.lr, **arguments)
    except (TypeError, ValueError, RuntimeError) as err:
        raise InputError(f"optim: torch.optim.{spec.name} refuses its arguments: {shorten(err)}") from err


def make_schedule(spec: ScheduleSpec, optimizer: torch.optim.Optimizer, num_steps: int) -> Any:
    """Make the schedule of the learning rate, a pure function of the step.

    Raises:
        InputError: transformers.get_scheduler refuses its arguments.
    """
    if spec.kwargs and spec.name in ("constant", "constant_with_warmup"):
        raise InputError(f"schedule.kwargs: {spec.name!r} takes none, got {', '.join(spec.kwargs)}")
    try:
        return get_scheduler(
            spec.name,
            optimizer,
            num_warmup_steps=spec.num_warmup_steps,
            num_training_steps=num_steps,
            scheduler_specific_kwargs=dict(spec.kwargs),
        )
    except (TypeError, ValueError) as err:
        raise InputError(f"schedule: get_scheduler refuses {spec.name!r}: {shorten(err)}") from err


def set_step(schedule: Any, step: int) -> None:
    """Put a schedule, a LambdaLR, where it stands after so many steps."""
    schedule.last_epoch, schedule._step_count = step, step + 1
    rates = [base * rate(step) for base, rate in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)]
    schedule._last_lr = rates
    for group, rate in zip(schedule.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def check_optim(spec: OptimSpec, schedule: ScheduleSpec, num_steps: int) -> None:
    """Have torch and transformers check the optimizer and the schedule: they take a step with a model of one value.

    Raises:
        InputError: One of them refuses.
    """
    model = torch.nn.Linear(1, 1)
    optimizer = make_optimizer(spec, model)
    made = make_schedule(schedule, optimizer, num_steps)
    try:
        rates = [float(made.lr_lambdas[0](step)) for step in (0, num_steps // 2, num_steps)]
    except (TypeError, ValueError, ZeroDivisionError) as err:
        raise InputError(f"schedule: {schedule.name!r} cannot be computed: {shorten(err)}") from err
    if not all(map(math.isfinite, rates)):
        raise InputError(f"schedule: {schedule.name!r} gives a rate that is not finite")
    try:
        model(torch.ones(1, 1)).sum().backward()
        optimizer.step()
    except (TypeError, ValueError, RuntimeError, AssertionError) as err:
        raise InputError(f"optim: torch.optim.{spec.name} cannot take a step: {shorten(err)}") from err
