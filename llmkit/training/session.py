"""What a run holds while it trains, and how far it is."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from llmkit.data.examples import Example
from llmkit.training import measuring
from llmkit.training.building import Plan
from llmkit.training.stopping import StopFlag
from llmkit.training.tracking import Tracker


@dataclass
class State:
    """Counts how far a run is; each checkpoint keeps it.

    The next row to read has the position `step * global_batch_size`. `tokens` are the targets of all steps, `seconds`
    those spent; `best` is the best value of `best_metric`, `without_better` the evaluations since, `measured` the step
    of the last one and `metrics` what it gave; `skipped` are the steps in a row that changed nothing because a number
    was not finite.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best: float | None = None
    best_metric: str = ""
    best_step: int = 0
    without_better: int = 0
    measured: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    skipped: int = 0


@dataclass
class Outcome:
    """Holds what a step computed, still on the device: this process's part of the loss, the norm, the targets.

    `stopped` is above 0 where a process had a signal when the step began, `asked` where there was a request for a
    checkpoint (both are read where there are several processes); `seconds` are those that the run has trained
    when the step was given to the device.
    """

    step: int
    lr: float
    loss: torch.Tensor
    norm: torch.Tensor
    num_targets: torch.Tensor
    stopped: torch.Tensor
    asked: torch.Tensor
    seconds: float = 0.0


@dataclass(eq=False)
class Session:
    """Holds a run: its plan, its folder, and the model as accelerate prepared it."""

    plan: Plan
    folder: Path
    accelerator: Accelerator
    model: Any
    flag: StopFlag
    tracker: Tracker
    identity: dict[str, Any]  # what a checkpoint records of the data and the machine
    state: State = field(default_factory=State)
    saved: int | None = None  # the newest checkpoint

    @functools.cached_property
    def num_bytes(self) -> torch.Tensor | None:
        """The bytes of each id of the vocabulary, Shape: (vocabulary,); None where targets are no tokens."""
        return measuring.count_bytes(self.plan.parts.tokenizer) if self.plan.objective.predicts_tokens else None

    @functools.cached_property
    def held_examples(self) -> Sequence[Example]:
        """The examples behind the rows to evaluate on; none of documents."""
        read = self.plan.data.read_held
        return [] if read is None else read()

    @property
    def plain_model(self) -> Any:
        """The user's model, under what accelerate and torch.compile lay over it."""
        return self.accelerator.unwrap_model(self.model, keep_torch_compile=False)

    @property
    def device_name(self) -> str:
        """The device as `--device` takes it; accelerate numbers CPUs by process."""
        device = self.accelerator.device
        return device.type if device.type == "cpu" else str(device)

    def count_measured(self, size: int) -> int:
        """Count the rows of an evaluation out of so many: the same for any number of processes and micro-batches."""
        most = self.plan.recipe.eval.num_batches
        return size if most is None else min(size, most * self.plan.recipe.train.global_batch_size)

    def share(self, *values: torch.Tensor | float) -> torch.Tensor:
        """Sum numbers over all processes; Shape: (number of values,)."""
        exact = self.plan.recipe.model.dtype == "float64" or self.accelerator.device.type == "cpu"
        kind = torch.float64 if exact else torch.float32
        together = torch.stack([torch.as_tensor(v, dtype=kind, device=self.accelerator.device) for v in values])
        return self.accelerator.reduce(together) if self.accelerator.num_processes > 1 else together

    def compute_loss(self, batch: dict[str, Any], num_targets: torch.Tensor | int) -> torch.Tensor:
        """Compute the loss of a batch: its nats over the number of targets given."""
        device = self.accelerator.device
        moved = {k: v.to(device, non_blocking=True) if torch.is_tensor(v) else v for k, v in batch.items()}
        low = self.plan.recipe.train.mixed_precision == "bf16"
        with torch.autocast(device.type, torch.bfloat16, enabled=low):
            return self.plan.objective.loss(self.model, moved, num_targets)

    def measure(self, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the summed nats of a batch, Shape: (), and list its targets, Shape: (targets,)."""
        return self.compute_loss(batch, 1), self.plan.objective.targets(batch)


def describe_saved(s: Session) -> str:
    """Say which checkpoint a run that fails leaves behind."""
    return "no checkpoint was written" if s.saved is None else f"step {s.saved} is intact"
