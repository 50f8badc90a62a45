"""What is minimised: a loss for each objective, from logits, over the number of targets of the whole batch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch.nn import functional

Loss = Callable[[torch.nn.Module, Mapping[str, torch.Tensor | bool], torch.Tensor | int], torch.Tensor]
IGNORED = -100  # a label that is no target, in the convention of transformers


def causal_lm_loss(
    model: torch.nn.Module, batch: Mapping[str, torch.Tensor | bool], num_targets: torch.Tensor | int
) -> torch.Tensor:
    """Compute the negative log-likelihood of each next token, summed and divided by a number of targets.

    Args:
        model: A causal language model of transformers, or what DDP or torch.compile made of it.
        batch: What the collator gives, on the model's device.
        num_targets: Targets of the global batch: all micro-batches of all processes.

    Returns:
        nats, Shape: (). Summed over a step's micro-batches it is the mean over all targets, however they are split.
    """
    labels = batch["labels"]
    assert isinstance(labels, torch.Tensor)
    logits = model(**{name: value for name, value in batch.items() if name != "labels"}).logits
    return sum_next_nll(logits, labels) / num_targets


def sum_next_nll(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sum the negative log-likelihood of each next token, in float32, or in float64 where the logits are.

    Args:
        logits: Shape: (batch, length, vocabulary).
        labels: The token at each position, -100 where it is no target. Shape: (batch, length).

    Returns:
        nats, Shape: ().
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    # the labels move, not the logits, which would be copied
    next_labels = functional.pad(labels, (0, 1), value=IGNORED)[:, 1:]
    return functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), next_labels.reshape(-1), ignore_index=IGNORED, reduction="sum"
    )


def causal_targets(labels: torch.Tensor) -> torch.Tensor:
    """List the ids that are targets, Shape: (targets,): labels but the first of a row, which nothing predicts."""
    next_labels = labels[:, 1:]
    return next_labels[next_labels != IGNORED]


@dataclass(frozen=True)
class Objective:
    """Holds what sets a family of losses apart: the task whose models it trains, its loss, its targets."""

    task: str
    loss: Loss
    targets: Callable[[torch.Tensor], torch.Tensor]


OBJECTIVES: Mapping[str, Objective] = {
    "causal-lm": Objective("generation", causal_lm_loss, causal_targets),
}
