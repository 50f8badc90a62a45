"""From a claimed run folder to a session: parts are built or restored, trained, and the final model is kept."""

import contextlib
import json
import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedType
from accelerate.tracking import TensorBoardTracker

from llmkit import runfolder, runtime
from llmkit.errors import InputError, LlmkitError, RunError
from llmkit.recipe import keys
from llmkit.recipe.reading import dump_recipe
from llmkit.recipe.rules import predicts_documents
from llmkit.recipe.schema import Recipe
from llmkit.training import (
    building,
    devices,
    estimating,
    fitting,
    keeping,
    loop,
    models,
    optim,
    report,
    saving,
    sharding,
)
from llmkit.training.launching import LOST
from llmkit.training.layouts import DEEPSPEED
from llmkit.training.peers import Peers
from llmkit.training.running import Run
from llmkit.training.session import Session, State, describe_saved
from llmkit.training.simulating import StepCost
from llmkit.training.stopping import Interrupted, StopFlag
from llmkit.training.tracking import Progress, Tracker

logger = logging.getLogger("llmkit")

TENSORBOARD = "tensorboard"  # its folder in the run's


def train_in(
    folder: Path,
    recipe: Recipe,
    start: Path | None,
    peers: Peers,
    *,
    dataset: object,
    eval_dataset: object,
    max_seconds: float | None,
    accelerator: Accelerator | None,
    watch: Callable[[Progress], None] | None,
) -> Run:
    """Train in a claimed folder, from a checkpoint of it or from the start.

    Raises:
        InputError: The recipe, the data or the checkpoint must be mended; nothing was started.
        RunError: It failed while running.
        Interrupted: A signal came; the run was saved.
    """
    if recipe.train.threads is not None:
        torch.set_num_threads(recipe.train.threads)
    num_processes = peers.size if accelerator is None else accelerator.num_processes
    peers.heartbeat.stage = "preparing the model and the data"

    def prepare() -> tuple[building.Plan, StepCost | str | None]:
        _check_devices()
        plan = building.plan(recipe, dataset=dataset, eval_dataset=eval_dataset, num_processes=num_processes)
        return fitting.begin(plan, recipe, num_processes)

    plan, cost = peers.together(prepare)
    for line in str(plan.data.ledger).splitlines():
        logger.info(line)
    peers.heartbeat.stage = "starting the process group"
    accelerator = accelerator or _make_accelerator(plan.recipe, folder)
    _check_accelerator(accelerator, plan.recipe)
    with StopFlag(max_seconds) as flag:
        s = _open_session(plan, folder, accelerator, flag, watch)
        peers.heartbeat.stage = lambda: f"at step {s.state.step:,}"
        with _naming_lost_peers(s):
            if start is not None:
                _restore(s, start)
            if cost is not None:
                fitting.settle(s, cost)
            s.tracker.begin(s.state.step, s.state.tokens, s.state.seconds)
            _write_facts(s)
            end = loop.run_steps(s)
            for tracker in accelerator.trackers:
                tracker.finish()
            if end == "signal":
                _write_report(s)
                raise Interrupted(flag.number or signal.SIGTERM, s.state.step)  # of several, another had it
            if end == "time":
                logger.info(f"paused at step {s.state.step} of {plan.max_steps}")
            else:
                train = plan.recipe.train
                length = {"max_steps": plan.max_steps, "num_epochs": train.num_epochs}
                keeping.keep_final(s, **length, end=end, patience=plan.recipe.eval.patience)
            _write_report(s)
    return Run(folder, s.state.step, end != "time", s.state.metrics)


@contextlib.contextmanager
def _naming_lost_peers(s: Session) -> Iterator[None]:
    """Say in one sentence that another process is gone, where torch says which socket was closed."""
    try:
        yield
    except RuntimeError as err:
        if s.accelerator.num_processes == 1 or isinstance(err, LlmkitError):
            raise
        if not isinstance(err, torch.distributed.DistError) and "gloo" not in str(err):
            raise
        raise RunError(f"{LOST} at step {s.state.step}; {describe_saved(s)}") from err


def _make_accelerator(recipe: Recipe, folder: Path) -> Accelerator:
    """Make an Accelerator that neither accumulates nor casts: the loop does both, so that a process can train twice."""
    trackers: list[Any] = [name for name in recipe.log.to if name not in ("jsonl", TENSORBOARD)]
    trackers += [TensorBoardTracker(TENSORBOARD, folder)] if TENSORBOARD in recipe.log.to else []
    with runtime.quiet():
        return Accelerator(
            cpu=int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.accelerator.is_available(),
            gradient_accumulation_steps=1,
            log_with=trackers or None,
            project_dir=folder if trackers else None,
        )


def _check_devices() -> None:
    """Refuse more processes than a machine has GPUs, if it has any.

    Raises:
        InputError: There are more.
    """
    here, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if 0 < gpus < here:
        raise InputError(f"{here} processes share this machine, which has {gpus} GPUs; expected at most {gpus}")


def _check_accelerator(accelerator: Accelerator, recipe: Recipe) -> None:
    """Refuse an Accelerator that would cast or accumulate in another way than the recipe.

    Raises:
        InputError: It would.
    """
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        raise InputError(f"distributed_type: {DEEPSPEED}")
    if os.environ.get("ACCELERATE_USE_FSDP") == "true" and accelerator.distributed_type != DistributedType.FSDP:
        raise InputError("distributed_type: accelerate shards on GPUs alone, and there are none; expected MULTI_CPU")
    own, wanted = accelerator.mixed_precision, recipe.train.mixed_precision
    if own not in ("no", wanted):
        raise InputError(f"train.mixed_precision: {wanted} in the recipe, {own} in this process's Accelerator")
    if accelerator.gradient_accumulation_steps != 1:
        steps = accelerator.gradient_accumulation_steps
        raise InputError(
            f"gradient_accumulation_steps of the Accelerator, got {steps}; expected 1, the loop accumulates"
        )


def _open_session(
    plan: building.Plan,
    folder: Path,
    accelerator: Accelerator,
    flag: StopFlag,
    watch: Callable[[Progress], None] | None,
) -> Session:
    model, train = plan.parts.model, plan.recipe.train
    if train.gradient_checkpointing:
        models.checkpoint_activations(model)
    # Loader and schedule are not prepared: accelerate would shard rows that are dealt out already and step the
    # schedule once for each process.
    if accelerator.distributed_type == DistributedType.FSDP:
        prepared = sharding.shard(accelerator, model, plan.parts.optimizer)
    else:
        prepared = accelerator.prepare(model)
    precision = str(train.mixed_precision)
    share = None
    if watch is not None and predicts_documents(plan.recipe):
        share = estimating.count_flops(model, int(plan.recipe.data.max_length or 0))
        share /= devices.find_peak(accelerator.device, precision) * accelerator.num_processes
    identity = {
        "data": plan.data.fingerprint,
        "threads": torch.get_num_threads(),
        "num_processes": accelerator.num_processes,
        "versions": runtime.describe_environment(),
    }
    return Session(
        plan=plan,
        folder=folder,
        accelerator=accelerator,
        model=torch.compile(prepared) if train.compile else prepared,
        flag=flag,
        tracker=Tracker(folder, accelerator, plan.max_steps, share, watch),
        identity=identity,
    )


def _restore(s: Session, start: Path) -> None:
    """Put weights, optimizer, schedule and counters where a checkpoint left them.

    Raises:
        InputError: The checkpoint belongs to other data or another model.
    """
    kept = saving.load_step(start, s.plain_model, s.plan.parts.optimizer)
    if kept["data"] != s.identity["data"]:
        raise InputError(
            f"the data have changed since {start} was written; expected the same files, options and tokenizer"
        )
    s.state = State(**kept["state"])
    s.saved = s.state.step
    if s.state.step > s.plan.max_steps:
        raise InputError(f"train.max_steps: the run is at step {s.state.step} already, got {s.plan.max_steps}")
    before = s.plan.parts.optimizer.param_groups[0]["lr"]
    optim.set_step(s.plan.parts.scheduler, s.state.step)
    after = s.plan.parts.optimizer.param_groups[0]["lr"]
    logger.info(f"going on from step {s.state.step} of {s.plan.max_steps}")
    if before != after and s.state.step < s.plan.max_steps:
        logger.info(f"the learning rate goes from {before:.3g} to {after:.3g}, as the schedule has more steps now")
    if kept["threads"] != s.identity["threads"]:
        logger.info(f"{kept['threads']} threads before, {s.identity['threads']} now: the last bits will differ")


def _write_facts(s: Session) -> None:
    """Write recipe.yaml and environment.json, and cut metrics.jsonl where the run goes on."""
    if not s.accelerator.is_main_process:
        return
    recipe = s.plan.recipe.model_copy(update={"output_dir": str(s.folder)})
    runfolder.write_text(s.folder / "recipe.yaml", dump_recipe(recipe))
    environment = {
        **s.identity["versions"],
        "device": s.device_name,
        "threads": torch.get_num_threads(),
        "num_processes": s.accelerator.num_processes,
        "data": str(s.plan.data.ledger).splitlines(),
    }
    text = json.dumps(environment, indent=2, ensure_ascii=False) + "\n"
    runfolder.write_text(s.folder / "environment.json", text)
    runfolder.truncate_metrics(s.folder / "metrics.jsonl", s.state.step, measured=s.state.measured)
    _start_trackers(s)


def _start_trackers(s: Session) -> None:
    """Start the trackers of accelerate, and tell them what the recipe states."""
    recipe = s.plan.recipe
    for tracker in s.accelerator.log_with:
        if isinstance(tracker, TensorBoardTracker):
            tracker.init_kwargs["purge_step"] = s.state.step + 1
    s.accelerator.init_trackers(recipe.name)
    for tracker in s.accelerator.trackers:
        if not isinstance(tracker, TensorBoardTracker):  # which would make a second run of it
            tracker.store_init_configuration({key: str(keys.get(recipe, key)) for key in recipe.origins})


def _write_report(s: Session) -> None:
    if s.accelerator.is_main_process:
        runfolder.write_text(s.folder / "report.html", report.write_report(s.folder))
