"""The training loop, from top to bottom: read rows, take a step, and from time to time measure and save.

A step is one update from `train.global_batch_size` rows. Its loss is divided by the targets of all micro-batches of all
processes, so that neither accumulation nor the number of processes changes it. What a step computed is read one step
later, so that nothing waits for the device.
"""

import contextlib
import logging
import math
import signal
import time
from collections.abc import Generator, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from llmkit import runtime
from llmkit.errors import LlmkitError, RunError
from llmkit.training import adapting, keeping, optim
from llmkit.training.session import Outcome, Session, describe_saved
from llmkit.training.stopping import SIGNALS

logger = logging.getLogger("llmkit")

GRACE_S = 30  # that a worker goes on after a signal
MAX_SKIPPED = 3  # steps in a row that may change nothing


def run_steps(s: Session) -> keeping.End:
    """Train until the last step, a signal, the last second or the end of patience; say which it was.

    Raises:
        RunError: The loss or the gradient was not finite in more than three steps in a row, or the disk is full.
    """
    s.model.train()
    end = keeping.catch_up(s)
    if end is not None:
        return end
    with contextlib.closing(read_steps(s)) as steps:  # its workers end with it, also where this fails
        return _run(s, steps)


def _run(s: Session, steps: Iterator[list[dict[str, Any]]]) -> keeping.End:
    pending, started = None, time.perf_counter()
    while s.state.step < s.plan.max_steps:
        asked = _is_asked(s, pending)
        outcome = None if _is_stopped(s, pending) else take_step(s, next(steps), pending)
        if outcome is None:
            settle(s, pending)
            keeping.save(s)
            return "signal"
        settle(s, pending, reduced=True)
        pending, s.state.step, now = outcome, outcome.step, time.perf_counter()
        s.state.seconds, started = s.state.seconds + now - started, now
        outcome.seconds = s.state.seconds
        if asked or keeping.is_due(s):
            settle(s, pending)
            pending = None
            end = keeping.measure_and_save(s, asked=asked)
            if end is not None:
                return end
            started = time.perf_counter()
    return "done"


def read_steps(s: Session) -> Generator[list[dict[str, Any]]]:
    """Read the micro-batches of this process, step by step, from where the run stands.

    The rows of a step are the next global_batch_size positions of the order, dealt out in micro-batches to the
    processes in turn. No loader has a state: it begins anywhere.
    """
    train, world, rank = s.plan.recipe.train, s.accelerator.num_processes, s.accelerator.process_index
    micro = int(train.micro_batch_size or train.global_batch_size)
    accumulation = train.global_batch_size // (micro * world)
    starts = range(s.state.step * train.global_batch_size, s.plan.max_steps * train.global_batch_size, micro)
    loader: DataLoader[Any] = DataLoader(
        s.plan.data.train,
        batch_sampler=(range(first, first + micro) for first in starts[rank::world]),
        collate_fn=s.plan.parts.data_collator,
        num_workers=s.plan.recipe.data.num_workers,
        pin_memory=s.accelerator.device.type == "cuda",
        worker_init_fn=_leave_signals,
    )
    batches = iter(loader)
    try:
        for _ in range(s.state.step, s.plan.max_steps):
            yield [next(batches) for _ in range(accumulation)]
    except LlmkitError as err:  # a row of a stream; from a worker it comes with a traceback before its sentence
        sentence = str(err).strip().rpartition(f"{type(err).__name__}: ")[2]
        raise RunError(f"{sentence}; {describe_saved(s)}") from err
    finally:
        # torch 2.13 ends workers when the iterator goes, which the traceback of a row that failed holds on to
        getattr(batches, "_shutdown_workers", lambda: None)()


def _leave_signals(_worker: int) -> None:
    """Leave a signal that all processes of a group are sent, as by `timeout`, to the one that trains: it saves."""
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: signal.alarm(GRACE_S))


def _is_stopped(s: Session, previous: Outcome | None) -> bool:
    """Tell whether a signal came; of several processes, whether one had come to any before the previous step."""
    if s.accelerator.num_processes == 1:
        return s.flag.number > 0
    return previous is not None and bool(previous.stopped)


def _is_asked(s: Session, previous: Outcome | None) -> bool:
    """Tell whether a checkpoint is asked for; of several processes, whether one was before the previous step."""
    if s.accelerator.num_processes == 1:
        return keeping.find_request(s) > 0
    return previous is not None and bool(previous.asked)


def take_step(s: Session, batches: list[dict[str, Any]], previous: Outcome | None) -> Outcome | None:
    """Compute one update; None where a signal came before it was whole: the weights are as they were, and the run ends.

    The one small collective of a step sums its targets, the loss of the step before, who has a signal, and whether a
    checkpoint is asked for.
    """
    objective, accelerator, parts = s.plan.objective, s.accelerator, s.plan.parts
    targets = sum(objective.targets(batch).numel() for batch in batches)
    asked = keeping.find_request(s) if accelerator.num_processes > 1 else 0.0
    shared = s.share(float(targets), previous.loss if previous else 0.0, float(s.flag.number > 0), asked)
    if previous is not None:
        previous.loss = shared[1]
    # a step may have no target, where masked-lm hides nothing of short rows: its loss is 0 then
    step, num_targets, loss = s.state.step + 1, shared[0].clamp(min=1), torch.zeros_like(shared[0])
    for i, batch in enumerate(batches):
        if s.flag.number and accelerator.num_processes == 1:
            return None
        is_last = i == len(batches) - 1
        with contextlib.nullcontext() if is_last else accelerator.no_sync(s.model):
            # Dropout is a function of seed, step, micro-batch and process: no random state has to be kept.
            torch.manual_seed(runtime.mix_seed(s.plan.recipe.seed, step, i, accelerator.process_index))
            part = s.compute_loss(batch, num_targets)
            accelerator.backward(part * accelerator.num_processes)  # gradients are averaged; the loss is a sum
        loss = loss + part.detach()
    adapting.before_step(s.plain_model)
    norm = accelerator.clip_grad_norm_(s.model.parameters(), s.plan.recipe.train.max_grad_norm)
    outcome = Outcome(
        step, float(parts.scheduler.get_last_lr()[0]), loss, norm, num_targets, stopped=shared[2], asked=shared[3]
    )
    _update(parts.optimizer, broken=~torch.isfinite(loss + norm))
    adapting.after_step(s.plain_model, step)
    parts.optimizer.zero_grad()
    optim.set_step(parts.scheduler, step)
    return outcome


def _update(optimizer: torch.optim.Optimizer, broken: torch.Tensor) -> None:
    """Update the weights, unless the loss or the gradient is not finite."""
    if optim.skips_on_device(optimizer):
        # the fused kernels read this flag on the device and leave weights and moments as they are
        optimizer.found_inf = broken.float()
        optimizer.step()
        del optimizer.found_inf
    elif not bool(broken):
        optimizer.step()


def settle(s: Session, outcome: Outcome | None, *, reduced: bool = False) -> None:
    """Read what a step computed, count it and log it.

    Args:
        s: The run.
        outcome: What the step computed; None where nothing is left to read.
        reduced: Whether its loss is that of all processes already.

    Raises:
        RunError: Too many steps in a row had a loss or a gradient that is not finite.
    """
    if outcome is None:
        return
    loss = float(outcome.loss if reduced else s.share(outcome.loss)[0])
    norm, num_targets, step = float(outcome.norm), int(outcome.num_targets), outcome.step
    finite = math.isfinite(loss) and math.isfinite(norm)
    s.state.tokens += num_targets
    s.state.skipped = 0 if finite else s.state.skipped + 1
    if not finite:
        _report_skipped(s, step, "gradient" if math.isfinite(loss) else "loss")
    due = step % s.plan.recipe.log.every_steps == 0 or step == s.plan.max_steps or not finite
    s.tracker.take_step(
        step,
        loss if finite else None,
        outcome.lr,
        norm if finite else None,
        num_tokens=s.state.tokens,
        seconds=outcome.seconds,
        log=due,
    )


def _report_skipped(s: Session, step: int, what: str) -> None:
    size, skipped = s.plan.recipe.train.global_batch_size, s.state.skipped
    rows, train = f"rows {(step - skipped) * size} to {step * size - 1}", s.plan.data.train
    if train.num_rows is not None:  # a stream would be read again for the name
        rows += f", the last from {train.where((step - 1) * size)}"
    if skipped <= MAX_SKIPPED:
        logger.info(f"step {step} changed nothing, its {what} is not finite ({rows})")
        return
    raise RunError(
        f"the {what} was not finite in {skipped} steps in a row, {step - skipped + 1} to {step} ({rows}); "
        f"{describe_saved(s)}",
        hint="a smaller optim.lr or train.max_grad_norm, or train.mixed_precision=no",
    )
