"""The decoder beside `model.generate`: GPT-2 124M shape, random weights, float32, greedy.

Both run the same model object on the same prompts; the tokens must be the same.
"""

import argparse
import statistics

import torch
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel

from benchmarks.pairing import compare, describe_processor
from llmkit import runtime
from llmkit.decoding.decoder import Decoder

BATCHES = {
    "batch 1": [64],
    "batch 8, equal": [64] * 8,
    "batch 8, mixed 8-256": [8, 16, 32, 64, 96, 128, 192, 256],
}


def main(arguments: list[str]) -> None:
    """Print a table of tokens a second for each kind of batch."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks decode", description=__doc__)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=list(BATCHES))
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config()).eval()
    print(f"{describe_processor()}; {given.threads} threads; torch {torch.__version__}")
    print(f"prompts of random ids, {given.new_tokens} new tokens each, {given.pairs} pairs in turn")
    print("| | llmkit, tokens/s | model.generate, tokens/s | times as fast (interval) |\n|---|---|---|---|")
    for name, lengths in BATCHES.items():
        if given.only in (None, name):
            _measure(model, name, lengths, given.new_tokens, given.pairs)


def _measure(model: GPT2LMHeadModel, name: str, lengths: list[int], new_tokens: int, pairs: int) -> None:
    rows = [torch.randint(0, 50_000, (n,)).tolist() for n in lengths]
    config = GenerationConfig(max_new_tokens=new_tokens, do_sample=False, eos_token_id=None, pad_token_id=0)
    model.generation_config.eos_token_id = None  # so that every row makes all its tokens
    ours = decode(model, rows, config)
    theirs = generate(model, rows, config)
    assert ours == theirs, "the two ways gave different tokens"
    result = compare(lambda: decode(model, rows, config), lambda: generate(model, rows, config), pairs)
    made = new_tokens * len(rows)
    low, high = result.interval
    ours_rate, their_rate = made / statistics.median(result.a), made / statistics.median(result.b)
    print(f"| {name} | {ours_rate:.1f} | {their_rate:.1f} | {result.ratio:.2f} ({low:.2f}-{high:.2f}) |", flush=True)


def decode(model: GPT2LMHeadModel, rows: list[list[int]], config: GenerationConfig) -> list[list[int]]:
    """Decode all rows together with llmkit's decoder."""
    decoder = Decoder(model)
    made: dict[int, list[int]] = {decoder.add(ids, config, 0): [] for ids in rows}
    while events := decoder.step():
        for row, token, _ in events:
            made[row].append(token)
    return list(made.values())


def generate(model: GPT2LMHeadModel, rows: list[list[int]], config: GenerationConfig) -> list[list[int]]:
    """Decode all rows together with transformers: left padding and an attention mask."""
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(r)) + r for r in rows])
    mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows])
    with runtime.quiet():
        out = model.generate(ids, attention_mask=mask, generation_config=config)
    return [[int(t) for t in row] for row in out[:, width:].tolist()]
