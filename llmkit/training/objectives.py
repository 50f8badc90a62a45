"""What is minimised: a loss for each objective, from logits, over the number of targets of the whole batch.

A model's own loss is not used: transformers computes it in float32 (2.8e-7 off in float64), and of the classes here
only causal language models can divide it by the targets of several micro-batches (transformers 5.23).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

Batch = Mapping[str, torch.Tensor | bool]
Loss = Callable[[torch.nn.Module, Batch, torch.Tensor | int], torch.Tensor]
IGNORED = -100  # a label that is no target, in the convention of transformers
# Logits of targets are computed for a multiple of this, or for all positions if those are fewer: each number of rows
# takes memory of its own, in oneDNN's cache of kernels (torch 2.13 on a CPU) and among the blocks of an allocator.
WHOLE = 64
LABELS = ("labels", "start_positions", "end_positions")  # what a model is not given


def causal_lm_loss(model: torch.nn.Module, batch: Batch, num_targets: torch.Tensor | int) -> torch.Tensor:
    """Compute the negative log-likelihood of each next token, summed and divided by a number of targets.

    Args:
        model: A causal language model of transformers, or what DDP or torch.compile made of it.
        batch: What the collator gives, on the model's device.
        num_targets: Targets of the global batch: all micro-batches of all processes.

    Returns:
        nats, Shape: (). Summed over a step's micro-batches it is the mean over all targets, however they are split.
    """
    labels = _labels(batch)
    mask = batch.get("attention_mask")
    if isinstance(mask, torch.Tensor) and mask.ndim == 2:  # rows of one sequence: prompts and padding are no targets
        return _sum_at_targets(model, batch, _move_to_left(labels)) / num_targets
    logits = _forward(model, batch).logits[:, -labels.shape[1] :]  # an adapter may put virtual tokens before a text
    return sum_next_nll(logits, labels) / num_targets


def token_loss(model: torch.nn.Module, batch: Batch, num_targets: torch.Tensor | int) -> torch.Tensor:
    """Compute the negative log-likelihood of each label at its own place: of a masked LM, or of a decoder.

    Arguments and result are those of causal_lm_loss.
    """
    return _sum_at_targets(model, batch, _labels(batch)) / num_targets


def classification_loss(model: torch.nn.Module, batch: Batch, num_targets: torch.Tensor | int) -> torch.Tensor:
    """Compute the loss of a classifier by what its labels are.

    Whole numbers, Shape: (batch,), are classes: their negative log-likelihood. Others are values, Shape: (batch,
    labels): the squared error where the config's problem_type is regression, else the binary cross-entropy of each
    label (of `multi_label_classification`).

    Arguments and result are those of causal_lm_loss; a target is a class, or a value.
    """
    logits, labels = _forward(model, batch).logits, _labels(batch)
    if not labels.is_floating_point():
        return sum_nll(logits, labels) / num_targets
    logits = _precise(logits)
    labels = labels.to(logits.dtype).reshape(logits.shape)
    if _config(model).problem_type == "regression":
        return functional.mse_loss(logits, labels, reduction="sum") / num_targets
    return functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum") / num_targets


def question_answering_loss(model: torch.nn.Module, batch: Batch, num_targets: torch.Tensor | int) -> torch.Tensor:
    """Compute the negative log-likelihood of where an answer begins and of where it ends, of which the mean is taken.

    No answer begins in padding: how long the other windows of a batch are does not change the loss of one.

    Arguments and result are those of causal_lm_loss; a target is a window.
    """
    found, padding = _forward(model, batch), _labels(batch, "attention_mask") == 0
    sides = ((found.start_logits, "start_positions"), (found.end_logits, "end_positions"))
    nll = [sum_nll(logits.masked_fill(padding, -torch.inf), _labels(batch, name)) for logits, name in sides]
    return (nll[0] + nll[1]) / (2 * num_targets)


def _forward(model: torch.nn.Module, batch: Batch) -> Any:
    return model(**{name: value for name, value in batch.items() if name not in LABELS})


def _sum_at_targets(model: torch.nn.Module, batch: Batch, labels: torch.Tensor) -> torch.Tensor:
    """Sum the negative log-likelihood of labels, each at its own place, and have the head compute no other logits.

    Over a large vocabulary the head is much of a small model: of masked-lm, six positions in seven are no targets.
    """
    places = (labels != IGNORED).reshape(-1).nonzero()[:, 0]  # the one synchronisation on a GPU
    num_targets = len(places)
    places = functional.pad(places, (0, min(-num_targets % WHOLE, labels.numel() - num_targets)))

    def pick(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
        if inputs[0].ndim != 3:  # no vectors of tokens: the model computes its logits otherwise
            return None
        return _take(inputs[0], labels, places)[None], *inputs[1:]

    head = _find_head(model)
    handle = head.register_forward_pre_hook(pick) if head is not None else None
    try:
        logits = _forward(model, batch).logits
    finally:
        if handle is not None:
            handle.remove()
    if logits.shape[:2] != (1, len(places)):  # those of all tokens
        logits = _take(logits, labels, places)
    wanted = labels.reshape(-1)[places]
    wanted[num_targets:] = IGNORED
    return sum_nll(logits, wanted)


def _take(vectors: torch.Tensor, labels: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Take the vectors at the places of labels; an adapter may have put virtual tokens before a text."""
    return vectors[:, -labels.shape[1] :].reshape(-1, vectors.shape[-1])[places]


def _find_head(model: Any) -> torch.nn.Module | None:
    """Find the module that makes logits of the vectors of tokens; None of a compiled model, whose shapes are fixed."""
    while not hasattr(model, "_orig_mod"):
        if hasattr(model, "get_output_embeddings"):
            head = model.get_output_embeddings()
            return head if isinstance(head, torch.nn.Module) else None
        if not hasattr(model, "module"):
            return None
        model = model.module
    return None


def _labels(batch: Batch, name: str = "labels") -> torch.Tensor:
    labels = batch[name]
    assert isinstance(labels, torch.Tensor)
    return labels


def _config(model: Any) -> Any:
    """Find the config of a model, or of what DDP or torch.compile put around it."""
    while not hasattr(model, "config"):
        model = model.module if hasattr(model, "module") else model._orig_mod
    return model.config


def _precise(logits: torch.Tensor) -> torch.Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def sum_nll(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sum the negative log-likelihood of labels, in float32, or in float64 where the logits are.

    Args:
        logits: Shape: (..., classes).
        labels: The class of each, -100 where it is no target. Shape: (...).

    Returns:
        nats, Shape: ().
    """
    return functional.cross_entropy(
        _precise(logits).reshape(-1, logits.shape[-1]), labels.reshape(-1), ignore_index=IGNORED, reduction="sum"
    )


def sum_next_nll(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sum the negative log-likelihood of each next token, in float32, or in float64 where the logits are.

    Args:
        logits: Shape: (batch, length, vocabulary).
        labels: The token at each position, -100 where it is no target. Shape: (batch, length).

    Returns:
        nats, Shape: ().
    """
    return sum_nll(logits, _move_to_left(labels))


def _move_to_left(labels: torch.Tensor) -> torch.Tensor:
    """Move labels to the tokens that predict them; the logits, which would be copied, stay."""
    return functional.pad(labels, (0, 1), value=IGNORED)[:, 1:]


def causal_targets(batch: Batch) -> torch.Tensor:
    """List the ids that are targets, Shape: (targets,): labels but the first of a row, which nothing predicts."""
    next_labels = _labels(batch)[:, 1:]
    return next_labels[next_labels != IGNORED]


def token_targets(batch: Batch) -> torch.Tensor:
    """List the ids that are targets, Shape: (targets,)."""
    labels = _labels(batch)
    return labels[labels != IGNORED]


def value_targets(batch: Batch) -> torch.Tensor:
    """List the classes, or the values of several labels. Shape: (targets,)."""
    return _labels(batch).reshape(-1)


def window_targets(batch: Batch) -> torch.Tensor:
    """List where the answers begin, one for each window. Shape: (windows,)."""
    return _labels(batch, "start_positions")


@dataclass(frozen=True)
class Objective:
    """Holds what sets a family of losses apart.

    Attributes:
        task: The task whose models it trains.
        loss: Its loss.
        targets: Lists the targets of a batch.
        predicts_tokens: Whether a target is a token, so that a loss is one of text.
    """

    task: str
    loss: Loss
    targets: Callable[[Batch], torch.Tensor]
    predicts_tokens: bool = False


OBJECTIVES: Mapping[str, Objective] = {
    "causal-lm": Objective("generation", causal_lm_loss, causal_targets, predicts_tokens=True),
    "masked-lm": Objective("masked-lm", token_loss, token_targets, predicts_tokens=True),
    "seq2seq": Objective("translation", token_loss, token_targets, predicts_tokens=True),
    "classification": Objective("classification", classification_loss, value_targets),
    "question-answering": Objective("question-answering", question_answering_loss, window_targets),
}
