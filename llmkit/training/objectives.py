"""What is minimised: a loss for each objective, from logits, over the number of targets of the whole batch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

IGNORED = -100  # a label that is no target, in the convention of transformers


def causal_lm_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int) -> torch.Tensor:
    """Compute the negative log-likelihood of each next token, summed and divided by a number of targets.

    Its arguments are those of transformers.Trainer's `compute_loss_func`.

    Args:
        outputs: What the model returned; its logits have Shape: (batch, length, vocabulary).
        labels: Shape: (batch, length); the label at a position is the token at that position, -100 is no target.
        num_items_in_batch: Targets of the global batch: all micro-batches of all processes.

    Returns:
        nats, Shape: (). Summed over a step's micro-batches it is the mean over all targets, however they are split.
    """
    logits = outputs.logits
    logits = logits if logits.dtype == torch.float64 else logits.float()
    # the labels move, not the logits, which would be copied
    next_labels = functional.pad(labels, (0, 1), value=IGNORED)[:, 1:]
    nll = functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), next_labels.reshape(-1), ignore_index=IGNORED, reduction="sum"
    )
    return nll / num_items_in_batch


def causal_targets(labels: torch.Tensor) -> torch.Tensor:
    """List the ids that are targets, Shape: (targets,): labels but the first of a row, which nothing predicts."""
    next_labels = labels[:, 1:]
    return next_labels[next_labels != IGNORED]


@dataclass(frozen=True)
class Objective:
    """Holds what sets a family of losses apart: the task whose models it trains, its loss, its targets."""

    task: str
    loss: Callable[[Any, torch.Tensor, torch.Tensor | int], torch.Tensor]
    targets: Callable[[torch.Tensor], torch.Tensor]


OBJECTIVES: Mapping[str, Objective] = {
    "causal-lm": Objective("generation", causal_lm_loss, causal_targets),
}
