"""A plain training loop in the manner of nanoGPT, the yardstick of the loops compared with it.

Random windows of one token stream, fused AdamW, cosine, clipping, over transformers' GPT2LMHeadModel; nothing stands
between it and torch. As a command it trains what a recipe of llmkit says (one text file, packed) and measures it on the
same held-out tokens.
"""

import argparse
import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import GPT2LMHeadModel

Tokens = np.ndarray[Any, Any]


def draw_batch(tokens: Tokens, size: int, length: int, generator: torch.Generator) -> dict[str, Any]:
    """Draw windows at random: ids and the ids that follow as labels, each Shape: (size, length)."""
    starts = torch.randint(len(tokens) - length, (size,), generator=generator).tolist()
    inputs = torch.stack([torch.from_numpy(tokens[i : i + length].astype(np.int64)) for i in starts])
    targets = torch.stack([torch.from_numpy(tokens[i + 1 : i + 1 + length].astype(np.int64)) for i in starts])
    return {"input_ids": inputs, "labels": targets, "use_cache": False}


def make_plain_optimizer(
    model: GPT2LMHeadModel, lr: float, weight_decay: float, betas: tuple[float, float] = (0.9, 0.95)
) -> torch.optim.AdamW:
    """Make AdamW with decay for matrices alone."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)


def rate(step: int, lr: float, warmup: int, steps: int) -> float:
    """Compute the learning rate of a step: a linear rise, then half a cosine down to 0."""
    if step < warmup:
        return lr * step / warmup
    return lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


def take_plain_step(
    model: GPT2LMHeadModel, optimizer: torch.optim.AdamW, batches: list[dict[str, Any]], clip: float
) -> float:
    """Take one step from micro-batches; return its loss in nats, the mean over all its targets.

    A batch holds input_ids, what else the model is to be given, and labels: the ids to predict, Shape: (size, length).
    """
    count, total = sum(int((batch["labels"] >= 0).sum()) for batch in batches), 0.0
    for batch in batches:
        inputs = {key: value for key, value in batch.items() if key != "labels"}
        logits = model(**inputs).logits
        nll = functional.cross_entropy(logits.view(-1, logits.size(-1)), batch["labels"].view(-1), reduction="sum")
        loss = nll / count
        loss.backward()
        total += float(loss.detach())
    torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total


def train_plain(
    model: GPT2LMHeadModel,
    tokens: Tokens,
    *,
    steps: int,
    size: int,
    length: int,
    lr: float,
    warmup: int,
    weight_decay: float,
    betas: tuple[float, float],
    seed: int,
) -> Iterator[float]:
    """Train step by step; yield each loss in nats."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = make_plain_optimizer(model, lr, weight_decay, betas)
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, lr, warmup, steps)
        yield take_plain_step(model, optimizer, [draw_batch(tokens, size, length, generator)], clip=1.0)


def measure_plain(model: GPT2LMHeadModel, tokens: Tokens, length: int) -> float:
    """Measure the loss in nats over consecutive windows of a token stream, each token predicted once."""
    model.eval()
    nll, count = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(tokens) - 1, length):
            ids = torch.from_numpy(tokens[start : start + length + 1].astype(np.int64))[None]
            logits = model(ids[:, :-1], use_cache=False).logits
            nll += float(functional.cross_entropy(logits[0], ids[0, 1:], reduction="sum"))
            count += ids.shape[1] - 1
    model.train()
    return nll / count


def main(arguments: list[str]) -> None:
    """Train what a recipe says with the plain loop, and print its held-out loss."""
    from llmkit import read_recipe
    from llmkit.training import building

    parser = argparse.ArgumentParser(prog="python -m benchmarks plain", description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("keys", nargs="*", help="key=value, as for llmkit pretrain")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    plan = building.plan(read_recipe(given.recipe, given.keys))
    recipe, length = plan.recipe, int(plan.recipe.data.max_length or 0)
    tokens, held = _flatten(plan.parts.train_dataset), _flatten(plan.parts.eval_dataset)
    torch.manual_seed(recipe.seed)
    started = time.perf_counter()
    losses = train_plain(
        plan.parts.model,
        tokens,
        steps=plan.max_steps,
        size=recipe.train.global_batch_size,
        length=length - 1,  # so that a step has as many targets
        lr=recipe.optim.lr,
        warmup=recipe.schedule.num_warmup_steps,
        weight_decay=recipe.optim.weight_decay,
        betas=recipe.optim.betas or (0.9, 0.95),
        seed=recipe.seed,
    )
    for step, loss in enumerate(losses, 1):
        if step % 100 == 0:
            print(f"step {step}: loss {loss:.4f}", flush=True)
    seconds = time.perf_counter() - started
    loss = measure_plain(plan.parts.model, held, length - 1)
    print(f"{len(tokens):,} training tokens, {seconds:.0f} s; held-out loss {loss:.4f}")


def _flatten(rows: Any) -> Tokens:
    """Join rows, each of which begins with the last token of the one before."""
    ids = [np.asarray(row["input_ids"]) for row in rows]
    return np.concatenate([ids[0], *(row[1:] for row in ids[1:])])
