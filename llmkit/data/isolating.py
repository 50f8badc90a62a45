"""How a model keeps packed documents apart, found by asking the model itself."""

from typing import Any

import numpy as np
import torch

from llmkit.data.collating import Array, Collator, Isolation
from llmkit.data.order import shuffle_index
from llmkit.heads import context_length
from llmkit.runtime import quiet

ISOLATIONS: tuple[Isolation, ...] = ("position_ids", "mask")
NUM_TOKENS = 4  # of each document, where the model has positions for two of them
MAX_LEAK = 1e-3  # of what one document does to the next where nothing keeps them apart


def find_isolation(model: Any) -> Isolation | None:
    """Find how packed documents are kept apart in a causal language model; None where they cannot be.

    Two documents, A and B, stand in one row as llmkit.data.collating.Collator lays it out. They are apart if another A
    leaves the logits of B as they are, and if these are what B alone gives, its positions too. The first is measured
    against what another A does where nothing keeps them apart, the second against the spread of the logits: so weights
    of any scale will do. A model in which no token sees another, as all its weights are 0, gives None: it cannot tell.

    The model runs on a few tokens without gradients, in its own dtype and on its device, and is left as it was.
    """
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad(), quiet():
            a, other_a, b = _make_documents(model)
            effect = _measure(_compute(model, None, a, b) - _compute(model, None, other_a, b))
            return next((i for i in ISOLATIONS if effect > 0 and _isolates(model, i, (a, other_a, b), effect)), None)
    finally:
        for module, was_training in training.items():
            module.training = was_training


def _isolates(model: Any, isolation: Isolation, documents: tuple[Array, Array, Array], effect: float) -> bool:
    a, other_a, b = documents
    try:
        behind, behind_other = _compute(model, isolation, a, b), _compute(model, isolation, other_a, b)
        alone = _compute(model, isolation, b)
    except torch.OutOfMemoryError:
        raise
    except (TypeError, ValueError, IndexError, RuntimeError):  # it does not take these arguments
        return False
    # Some families round to float32 inside a float64 model.
    noise = max(torch.finfo(torch.float32).eps, torch.finfo(model.dtype).eps) ** 0.5
    spread = _measure(alone - alone.mean(-1, keepdim=True))
    return _measure(behind - behind_other) <= MAX_LEAK * effect and _measure(behind - alone) <= noise * spread


def _make_documents(model: Any) -> tuple[Array, Array, Array]:
    """Make two documents of valid ids that differ at each token, and a third. Shape: (length,) each."""
    length = max(1, min(NUM_TOKENS, (context_length(model.config) or 2 * NUM_TOKENS) // 2))
    vocab_size = model.get_input_embeddings().weight.shape[0]
    ids = np.array([shuffle_index(i % vocab_size, vocab_size, 0) for i in range(2 * length)])
    return ids[:length], (ids[:length] + 1) % vocab_size, ids[length:]


def _compute(model: Any, isolation: Isolation | None, *documents: Array) -> torch.Tensor:
    """Compute the logits of the last document of a row. Shape: (length, vocab_size), float64."""
    numbers = [np.full(len(ids), i if isolation else 0) for i, ids in enumerate(documents)]
    row = {"input_ids": np.concatenate(documents), "document_ids": np.concatenate(numbers)}
    batch = Collator(0, isolation, mask_dtype=model.dtype)([row])
    del batch["labels"]
    moved = {key: v.to(model.device) if isinstance(v, torch.Tensor) else v for key, v in batch.items()}
    return model(**moved).logits[0, -len(documents[-1]) :].double()


def _measure(difference: torch.Tensor) -> float:
    return float(difference.norm())
