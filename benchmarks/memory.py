"""Memory that `--dry-run` foretells, beside the peak that a run has: twelve configurations, each in its own process.

GPT-2, BERT and T5, trained whole and with LoRA, activations kept and computed again; sizes are drawn with the seed.
What is measured is the highest resident memory over three steps, less what the process held before it made the model,
after a small run of the same kind had loaded the libraries: once with MALLOC_MMAP_THRESHOLD_ at 1 MiB, so that glibc
gives back at once what is freed, and once with glibc's own setting, by which it keeps holes in its heap.
"""

import argparse
import ctypes
import gc
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from benchmarks.pairing import describe_processor
from benchmarks.train import open_session, take_steps
from llmkit.recipe.schema import ModelSpec
from llmkit.training import building, loop, models, simulating
from llmkit.training.objectives import OBJECTIVES

KINDS = {"gpt2": "causal-lm", "bert": "masked-lm", "t5": "seq2seq"}
TARGETS = {"gpt2": ["c_attn", "c_proj", "c_fc"], "bert": "all-linear", "t5": "all-linear"}
STEPS = 3
EXACT = {"MALLOC_MMAP_THRESHOLD_": "1048576"}
MIB = 2**20


def main(arguments: list[str]) -> None:
    """Print a table of what was foretold and what was measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks memory", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", help="measure one configuration, given as JSON, in this process")
    given = parser.parse_args(arguments)
    if given.only:
        torch.set_num_threads(given.threads)
        logging.disable(logging.WARNING)
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(_measure(json.loads(given.only), Path(folder))))
        return
    print(f"{describe_processor()}; {given.threads} threads; torch {torch.__version__}; seed {given.seed}\n")
    print("| model | trained | activations | sizes | foretold MiB | measured MiB | foretold is | with glibc's heap |")
    print("|---|---|---|---|---|---|---|---|")
    worst = 0.0
    for shape in _draw(given.seed):
        exact, plain = (_run(shape, given.threads, environment) for environment in (EXACT, {}))
        foretold, off = exact["foretold"], exact["foretold"] / exact["measured"] - 1
        worst = max(worst, abs(off))
        sizes = "{layers} x {width}, vocabulary {vocab_size:,}, {micro} x {length} tokens, {accumulation} times"
        trained, kept = "LoRA" if shape["lora"] else "whole", "again" if shape["checkpointing"] else "kept"
        print(
            f"| {shape['kind']} | {trained} | {kept} | {sizes.format(**shape)} | {foretold / MIB:,.0f} "
            f"| {exact['measured'] / MIB:,.0f} | {off:+.1%} | {plain['measured'] / MIB:,.0f} |",
            flush=True,
        )
    print(f"\nfurthest off: {worst:.1%}")


def _run(shape: Mapping[str, Any], threads: int, environment: Mapping[str, str]) -> dict[str, int]:
    """Measure one configuration in a process of its own."""
    command = [sys.executable, "-m", "benchmarks", "memory", "--only", json.dumps(shape), "--threads", str(threads)]
    told = {**os.environ, **environment}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=told)
    found: dict[str, int] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _draw(seed: int) -> list[dict[str, Any]]:
    """Draw the sizes of the twelve."""
    draw = np.random.default_rng(seed)
    drawn = []
    for kind, lora, checkpointing in product(KINDS, (False, True), (False, True)):
        heads = int(draw.integers(4, 9))
        shape = {
            "layers": draw.integers(3, 7),
            "heads": heads,
            "width": 64 * heads,
            "vocab_size": draw.integers(40, 320) * 100,
            "length": draw.integers(8, 33) * 16,
            "micro": draw.integers(4, 9),
            "accumulation": draw.integers(1, 3),
            "dropout": draw.choice([0.0, 0.1]),
        }
        facts = {"kind": kind, "lora": lora, "checkpointing": checkpointing}
        drawn.append(facts | {key: getattr(value, "item", lambda v=value: v)() for key, value in shape.items()})
    return drawn


def _measure(shape: Mapping[str, Any], folder: Path) -> dict[str, int]:
    """Train a small model and then the one that is asked for."""
    small = {"layers": 1, "heads": 1, "width": 64, "vocab_size": 500, "length": 64, "micro": 2}
    accelerator = Accelerator(mixed_precision="no", cpu=True)
    _train({**shape, **small}, folder / "small", accelerator)
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = _read("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # VmHWM begins again
    plan = _train(shape, folder / "asked", accelerator)
    measured = _read("VmHWM") - before
    return {"foretold": simulating.simulate(plan).total, "measured": measured}


def _train(shape: Mapping[str, Any], folder: Path, accelerator: Accelerator) -> building.Plan:
    folder.mkdir()
    plan = building.plan(building.as_recipe(_recipe(shape, folder), own_data=True), dataset=_write(shape))
    if shape["checkpointing"]:
        models.checkpoint_activations(plan.parts.model)
    session = open_session(plan, folder, accelerator)
    take_steps(session, loop.read_steps(session))
    return plan


def _recipe(shape: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    adapter = {"peft_type": "LORA", "r": 8, "target_modules": TARGETS[shape["kind"]]}
    lengths = {"max_length": shape["length"], "on_long": "cut"}
    pairs = {"source_column": "source", "target_column": "target", "max_target_length": shape["length"]}
    return {
        "version": 1,
        "objective": KINDS[shape["kind"]],
        "model": _write_base(shape, folder) if shape["lora"] else _describe_model(shape, folder),
        "data": {**lengths, **(pairs if shape["kind"] == "t5" else {"on_long": "split"})},
        **({"adapter": adapter} if shape["lora"] else {}),
        "optim": {"lr": 1e-4},
        "schedule": {"name": "constant"},
        "train": {
            "max_steps": STEPS,
            "global_batch_size": shape["micro"] * shape["accumulation"],
            "micro_batch_size": shape["micro"],
            "mixed_precision": "no",
            "gradient_checkpointing": shape["checkpointing"],
        },
        "log": {"every_steps": 10**6},
        "save": {"every_steps": 10**6},
    }


def _describe_model(shape: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    return {"config": _config(shape), "tokenizer": str(_write_tokenizer(shape["vocab_size"], folder))}


def _write_base(shape: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Write a checkpoint for an adapter to stand on."""
    spec = ModelSpec.model_validate(_describe_model(shape, folder))
    tokenizer = models.read_tokenizer(str(spec.tokenizer))
    task = OBJECTIVES[KINDS[shape["kind"]]].task
    models.make_model(spec, tokenizer, task=task, seed=0).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    return {"name": str(folder / "base")}


def _config(shape: Mapping[str, Any]) -> dict[str, Any]:
    layers, width, heads, drop = shape["layers"], shape["width"], shape["heads"], shape["dropout"]
    if shape["kind"] == "gpt2":
        drops = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), drop)
        return {"model_type": "gpt2", "n_positions": 512, "n_layer": layers, "n_embd": width, "n_head": heads, **drops}
    if shape["kind"] == "bert":
        drops = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), drop)
        sizes = {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads}
        return {"model_type": "bert", "max_position_embeddings": 512, "intermediate_size": 4 * width, **sizes, **drops}
    sizes = {"num_layers": layers, "d_model": width, "num_heads": heads, "d_kv": 64, "d_ff": 4 * width}
    return {"model_type": "t5", **sizes, "dropout_rate": drop}


def _write(shape: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Write rows of words, as long as a row may be or longer."""
    draw = np.random.default_rng(1)
    number = STEPS * shape["micro"] * shape["accumulation"] + 8

    def text() -> str:
        return " ".join(f"w{i}" for i in draw.integers(5, shape["vocab_size"], shape["length"] + 8))

    if shape["kind"] == "t5":
        return [{"source": text(), "target": text()} for _ in range(number)]
    return [{"text": text()} for _ in range(number)]


def _write_tokenizer(vocab_size: int, folder: Path) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]"]
    words = {word: i for i, word in enumerate(special)} | {f"w{i}": i for i in range(5, vocab_size)}
    backend = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(single="$A [SEP]", special_tokens=[("[SEP]", 2)])
    names = {"pad": "[PAD]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]", "unk": "[UNK]", "eos": "[SEP]"}
    made = PreTrainedTokenizerFast(tokenizer_object=backend, **{f"{k}_token": v for k, v in names.items()})
    made.save_pretrained(folder / "tokenizer")
    return folder / "tokenizer"


def _read(name: str) -> int:
    """Read a size of this process from /proc, in bytes."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(next(line for line in status.splitlines() if line.startswith(name)).split()[1]) * 1024
