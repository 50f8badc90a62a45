"""This training loop beside transformers.Trainer and a plain loop: tokens a second and peak memory.

All three train the same shape on the same rows, documents kept apart in the same way, with fused AdamW, clipping at 1
and a constant learning rate; only the loops differ.
"""

import argparse
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from benchmarks.pairing import Comparison, describe_processor
from benchmarks.plain import make_plain_optimizer, take_plain_step
from llmkit import runtime
from llmkit.training import building, loop
from llmkit.training.session import Session
from llmkit.training.stopping import StopFlag
from llmkit.training.tracking import Tracker

SHAPES = {
    "small": {"n_layer": 4, "n_embd": 256, "n_head": 4},
    "124m": {"n_layer": 12, "n_embd": 768, "n_head": 12},
}
WAYS = ("llmkit", "Trainer", "plain")


def main(arguments: list[str]) -> None:
    """Print a table of the three loops."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks train", description=__doc__)
    parser.add_argument("--shape", choices=list(SHAPES), default="small")
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8, help="sequences in a step")
    parser.add_argument("--micro", type=int, default=4, help="sequences in a forward pass")
    parser.add_argument("--steps", type=int, default=5, help="steps in a sample")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory-of", choices=WAYS, help="run one loop alone and print its peak memory")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        if given.memory_of:
            _make(given.memory_of, given, Path(folder))()
            print(json.dumps({"peak_mb": _read_peak()}))
            return
        _compare(given, Path(folder))


def _compare(given: Any, folder: Path) -> None:
    ways = {name: _make(name, given, folder / name) for name in WAYS}
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for way in ways.values():
        way()
    for i in range(given.pairs):
        for name in (*WAYS[i % 3 :], *WAYS[: i % 3]):
            seconds[name].append(ways[name]())
    tokens = given.steps * given.batch * (given.length - 1)
    print(f"{describe_processor()}; {given.threads} threads; torch {torch.__version__}")
    print(
        f"GPT-2 {SHAPES[given.shape]}, vocabulary {given.vocab_size}, {given.batch} x {given.length} as {given.micro}s"
    )
    print(f"{given.pairs} samples of {given.steps} steps each, in turn; median of the ratios with its 95 % interval\n")
    print("| loop | target tokens/s | llmkit is times as fast | peak MiB |\n|---|---|---|---|")
    for name in WAYS:
        result = Comparison(tuple(seconds["llmkit"]), tuple(seconds[name]))
        low, high = result.interval
        ratio = "1" if name == "llmkit" else f"{result.ratio:.3f} ({low:.3f}-{high:.3f})"
        print(f"| {name} | {tokens / statistics.median(seconds[name]):.0f} | {ratio} | {_peak(name):.0f} |", flush=True)


def _peak(name: str) -> float:
    """Run one loop in a process of its own and read its peak memory."""
    command = [sys.executable, "-m", "benchmarks", *sys.argv[1:], "--memory-of", name]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(json.loads(out.strip().splitlines()[-1])["peak_mb"])


def _read_peak() -> float:
    """Read the peak memory of this process in MiB; ru_maxrss would begin with that of its parent."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


def _make(name: str, given: Any, folder: Path) -> Callable[[], float]:
    """Make a function that takes so many steps of a loop and returns their seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    makers = {"llmkit": _make_llmkit, "Trainer": _make_trainer, "plain": _make_plain}
    return makers[name](given, folder)


def _plan(given: Any, folder: Path) -> building.Plan:
    """Build the same plan for all: random documents of 20 to 400 tokens, packed."""
    draw = np.random.default_rng(0)
    lengths = draw.integers(20, 400, 4000)
    documents = [{"input_ids": draw.integers(1, given.vocab_size, n).tolist()} for n in lengths]
    recipe = {
        "version": 1,
        "objective": "causal-lm",
        "model": {"config": _config(given), "tokenizer": str(_write_tokenizer(given.vocab_size, folder))},
        "data": {"max_length": given.length},
        "optim": {"lr": 1e-4},
        "schedule": {"name": "constant"},
        "train": {
            "max_steps": 10**6,
            "global_batch_size": given.batch,
            "micro_batch_size": given.micro,
            "mixed_precision": "no",
        },
        "log": {"every_steps": 10**6},
        "save": {"every_steps": 10**6},
    }
    return building.plan(building.as_recipe(recipe, own_data=True), dataset=documents)


def _config(given: Any) -> dict[str, Any]:
    dropouts = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return {"model_type": "gpt2", "n_positions": given.length, **SHAPES[given.shape], **dropouts}


def _write_tokenizer(vocab_size: int, folder: Path) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {f"w{i}": i for i in range(1, vocab_size)} | {"<|endoftext|>": 0}
    backend = Tokenizer(models.WordLevel(words, unk_token="<|endoftext|>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    end = "<|endoftext|>"
    PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=end, eos_token=end).save_pretrained(
        folder / "tokenizer"
    )
    return folder / "tokenizer"


def _make_llmkit(given: Any, folder: Path) -> Callable[[], float]:
    plan = _plan(given, folder)
    session = open_session(plan, folder, Accelerator(mixed_precision="no", cpu=True))

    def run() -> float:
        steps = loop.read_steps(replace_max_steps(session, given.steps))
        started = time.perf_counter()
        take_steps(session, steps)
        return time.perf_counter() - started

    return run


def open_session(plan: building.Plan, folder: Path, accelerator: Accelerator) -> Session:
    """Open a session that logs nothing and saves nothing."""
    session = Session(
        plan=plan,
        folder=folder,
        accelerator=accelerator,
        model=accelerator.prepare(plan.parts.model),
        flag=StopFlag(),
        tracker=Tracker(folder, accelerator, plan.max_steps, 0.0, None),
        identity={},
    )
    session.model.train()
    return session


def take_steps(session: Session, steps: Iterable[list[dict[str, Any]]]) -> None:
    """Take steps as the loop of a run does, without evaluations and checkpoints."""
    pending = None
    for batches in steps:
        outcome = loop.take_step(session, batches, pending)
        assert outcome is not None
        loop.settle(session, pending, reduced=True)
        pending, session.state.step = outcome, outcome.step
    loop.settle(session, pending)


def replace_max_steps(session: Session, more: int) -> Session:
    """Let a session end after so many more steps."""
    session.plan = replace(session.plan, max_steps=session.state.step + more)
    return session


class _Clock(TrainerCallback):  # type: ignore[misc]  # transformers is not followed
    """Notes when the first step begins and the last one ends."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note the first step."""
        if state.global_step == 0:
            self.began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note each step; the last one stays."""
        self.ended = time.perf_counter()


def _make_trainer(given: Any, folder: Path) -> Callable[[], float]:
    parts = _plan(given, folder).parts

    def run() -> float:
        arguments = TrainingArguments(
            output_dir=str(folder / "out"),
            max_steps=given.steps,
            per_device_train_batch_size=given.micro,
            gradient_accumulation_steps=given.batch // given.micro,
            learning_rate=1e-4,
            lr_scheduler_type="constant",
            max_grad_norm=1.0,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            remove_unused_columns=False,
            use_cpu=True,
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        clock = _Clock()
        with runtime.quiet():
            trainer = Trainer(
                model=parts.model,
                args=arguments,
                train_dataset=parts.train_dataset,
                data_collator=parts.data_collator,
                optimizers=(parts.optimizer, parts.scheduler),
                callbacks=[clock],
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        return clock.ended - clock.began

    return run


def _make_plain(given: Any, folder: Path) -> Callable[[], float]:
    plan = _plan(given, folder)
    parts, place = plan.parts, [0]
    optimizer = make_plain_optimizer(parts.model, 1e-4, 0.1)
    parts.model.train()

    def read() -> dict[str, Any]:
        rows = [plan.data.train[i] for i in range(place[0], place[0] + given.micro)]
        place[0] += given.micro
        batch = dict(parts.data_collator(rows))
        batch["labels"] = torch.nn.functional.pad(batch["labels"], (0, 1), value=-100)[:, 1:].contiguous()
        return batch

    def run() -> float:
        started = time.perf_counter()
        for _ in range(given.steps):
            take_plain_step(parts.model, optimizer, [read() for _ in range(given.batch // given.micro)], clip=1.0)
        return time.perf_counter() - started

    return run
