"""Log-probabilities of given tokens under a causal language model, in nats."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch

from llmkit import batching, runtime
from llmkit.batching import Budget
from llmkit.heads import unwrap


def score_continuations(
    model: Any,
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    budget: Budget | None = None,
) -> list[list[float]]:
    """Compute the natural logarithm of the probability of each token of continuations, each after its prompt.

    The logits are normalized in float32, or in the model's dtype where that is finer. Rows that feed the same ids, as
    one prompt with several continuations of one token, take one forward together.

    Args:
        model: A causal language model.
        prompts: The ids before each continuation; at least one.
        continuations: The ids that are scored, one sequence a prompt; an empty one has no scores.
        budget: What a batch may hold; None finds it from the free memory.

    Returns:
        For each continuation a number a token.

    Raises:
        ValueError: A prompt is empty: nothing gives the probability of a first token.
    """
    if not all(prompts):
        raise ValueError("a prompt has no tokens; expected at least one before a continuation")
    askers: dict[tuple[int, ...], list[int]] = {}  # what is fed (the last token need not be) -> the rows it serves
    for i, (prompt, continuation) in enumerate(zip(prompts, continuations, strict=True)):
        if continuation:
            askers.setdefault((*prompt, *continuation[:-1]), []).append(i)
    rows = list(askers)

    def call(batch: list[int]) -> list[list[list[float]]]:
        first = min(len(prompts[i]) - 1 for k in batch for i in askers[rows[k]])
        logits = _compute_logits(model, [rows[k] for k in batch], first)
        return [
            [_pick(logits[n], len(prompts[i]) - 1 - first, continuations[i]) for i in askers[rows[k]]]
            for n, k in enumerate(batch)
        ]

    budget = budget or Budget(runtime.token_budget(model))
    found = batching.run([len(row) for row in rows], budget, call, is_full=runtime.is_out_of_memory)
    scores: list[list[float]] = [[] for _ in prompts]
    for row, row_scores in zip(rows, found, strict=True):
        for i, numbers in zip(askers[row], row_scores, strict=True):
            scores[i] = numbers
    return scores


def sees_ahead(model: Any) -> bool:
    """Tell whether a later token changes what a model says of an earlier one, as in BERT without is_decoder."""
    size = model.get_input_embeddings().weight.shape[0]
    ids = torch.arange(4, device=model.device)[None] % size
    other = ids.clone()
    other[0, -1] = (ids[0, -1] + 1) % size
    with runtime.evaluating(model), torch.no_grad(), runtime.quiet():
        difference = (model(input_ids=ids).logits - model(input_ids=other).logits)[0].double()
    return bool(difference[0].norm() > 1e-5 * difference[-1].norm())


def _compute_logits(model: Any, rows: Sequence[Sequence[int]], first: int) -> torch.Tensor:
    """Compute the logits from position `first` on, rows padded on the right. Shape: (rows, width - first, vocab_size).

    What stands to the right of a token has no part in a causal model, so any id will do as padding.
    """
    takes = inspect.signature(unwrap(model).forward).parameters
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=model.device)
    given: dict[str, Any] = {}
    if "attention_mask" in takes:
        given["attention_mask"] = torch.tensor(
            [[1] * len(row) + [0] * (width - len(row)) for row in rows], device=model.device
        )
    if "use_cache" in takes:
        given["use_cache"] = False
    if "logits_to_keep" in takes:
        given["logits_to_keep"] = torch.arange(first, width, device=model.device)
    with torch.inference_mode(), runtime.quiet():
        logits: torch.Tensor = model(input_ids=ids, **given).logits
    return logits if "logits_to_keep" in takes else logits[:, first:]


def _pick(logits: torch.Tensor, start: int, continuation: Sequence[int]) -> list[float]:
    """Take the log-probability of each token of a continuation, whose first is given by the logits at `start`."""
    ids = torch.tensor(list(continuation), device=logits.device)
    rows = logits[start : start + len(ids)]
    log_probabilities = rows.to(torch.promote_types(rows.dtype, torch.float32)).log_softmax(-1)
    return [float(x) for x in log_probabilities.gather(-1, ids[:, None])[:, 0]]
