"""What a run does from time to time: measure itself, keep the best model and write checkpoints."""

import contextlib
import dataclasses
import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from llmkit import runfolder
from llmkit.errors import InputError, RunError
from llmkit.evaluation.keys import Task
from llmkit.training import bases, card, measuring, saving
from llmkit.training.session import Session, describe_saved
from llmkit.training.stopping import Halted

logger = logging.getLogger("llmkit")

# objective -> the task that its model is asked to do in evaluations, and the metrics of answers
TASKS: Mapping[str, Task] = {
    "seq2seq": "translation",
    "classification": "classification",
    "question-answering": "question-answering",
}
ANSWERED = frozenset({"accuracy", "f1_macro", "exact_match", "f1", "bleu", "chrf"})
REQUEST = "checkpoint-now"
End = Literal["done", "signal", "time", "patience"]


def is_due(s: Session) -> bool:
    """Tell whether this step ends with an evaluation or a checkpoint."""
    return (
        _is_last(s) or _is_out_of_time(s) or _is_time_to_measure(s) or _is_multiple(s, s.plan.recipe.save.every_steps)
    )


def _is_last(s: Session) -> bool:
    return s.state.step >= s.plan.max_steps


def _is_out_of_time(s: Session) -> bool:
    """Tell whether the seconds are over; of several processes, whether they are for any."""
    late = s.flag.out_of_time
    return late if s.accelerator.num_processes == 1 or not s.flag.has_deadline else bool(s.share(float(late)).item())


def _is_time_to_measure(s: Session) -> bool:
    due = _is_last(s) or _is_multiple(s, s.plan.recipe.eval.every_steps)
    has_measures = s.plan.parts.eval_dataset is not None or bool(s.plan.recipe.eval.generate)
    return due and has_measures and s.state.measured != s.state.step


def _is_multiple(s: Session, every_steps: int | None) -> bool:
    return every_steps is not None and s.state.step % every_steps == 0


def catch_up(s: Session) -> End | None:
    """Do what an interruption left undone at the step that the run goes on from; say why it ends here, if it does.

    Raises:
        InputError: The base under the adapter has changed since.
    """
    if s.accelerator.is_main_process:
        _begin_base(s)
    wanted = s.plan.recipe.eval.best_metric
    if s.state.best is not None and s.state.best_metric not in ("", wanted):
        logger.info(f"the best model was chosen by {s.state.best_metric}; the next evaluation begins anew by {wanted}")
        s.state.best, s.state.without_better = None, 0
    if s.state.step and _is_time_to_measure(s):
        if not evaluate(s):
            return "signal"
        s.saved = None
        save(s)
    return "patience" if _is_out_of_patience(s) and not _is_last(s) else None


def _begin_base(s: Session) -> None:
    """Find the base under the adapter of a run once, before its folder can go; refuse another than a step's."""
    bases.find_base.cache_clear()
    base = _find_base(s)
    if base is None or not s.saved:
        return
    facts = runfolder.read_facts(s.folder / "checkpoints" / f"step-{s.saved:06}")
    if facts.get("base_sha256") not in (None, base.facts["base_sha256"]):
        name = s.plan.recipe.model.name
        raise InputError(f"model.name: the weights of {name} have changed since step {s.saved} (their sha256 differs)")


def _find_base(s: Session) -> bases.Base | None:
    """Find the base under the adapter of a run; None where all weights are trained."""
    recipe = s.plan.recipe
    if recipe.adapter is None or recipe.model.name is None:
        return None
    return bases.find_base(recipe.model.name, s.folder, recipe.model.revision)


def _is_out_of_patience(s: Session) -> bool:
    patience = s.plan.recipe.eval.patience
    return patience is not None and s.state.measured == s.state.step and s.state.without_better >= patience


def find_request(s: Session) -> float:
    """Tell by 1 or 0 whether a checkpoint is asked for, by a file of that name in the run folder; process 0 looks."""
    return float(s.accelerator.is_main_process and (s.folder / REQUEST).exists())


def measure_and_save(s: Session, *, asked: bool = False) -> End | None:
    """Evaluate where it is due, save where that is due or asked for; say why the run ends here, if it does.

    Raises:
        RunError: The disk is full, or a weight is not finite.
    """
    if _is_time_to_measure(s) and not _evaluate_or_save(s):
        save(s)
        return "signal"
    end: End | None = None
    if _is_last(s):
        end = "done"
    elif _is_out_of_patience(s):
        end = "patience"
    elif _is_out_of_time(s):
        end = "time"
    if end is not None or asked or _is_multiple(s, s.plan.recipe.save.every_steps):
        save(s)
    if asked and s.accelerator.is_main_process:
        (s.folder / REQUEST).unlink(missing_ok=True)
        logger.info(f"step {s.state.step} saved, as {REQUEST} asked")
    return end


def _evaluate_or_save(s: Session) -> bool:
    """Evaluate; where that fails, save first: a run whose eval section is mended goes on there."""
    try:
        return evaluate(s)
    except RunError:  # a weight that is not finite, or a full disk
        raise
    except Exception:
        if s.accelerator.num_processes == 1:  # of several, the others may not have failed
            save(s)
        raise


def evaluate(s: Session) -> bool:
    """Measure the model on the held-out rows, continue the prompts, and keep the best model.

    Returns:
        False where a signal came before it was done; it is done again when the run goes on.
    """
    _check_finite(s)
    recipe, dataset = s.plan.recipe, s.plan.parts.eval_dataset
    measured: dict[str, float] = {}
    s.model.eval()
    if dataset is not None:
        measured = measuring.evaluate_loss(s.measure, _read_evaluation(s), s.num_bytes, s.share)
    s.model.train()
    parts, prompts = s.plan.parts, recipe.eval.generate
    try:
        with s.flag.halting() if s.accelerator.num_processes == 1 else contextlib.nullcontext():
            measured |= _measure_task(s)
            if not all(map(math.isfinite, measured.values())):
                broken = f"the evaluation at step {s.state.step} gave a loss that is not finite"
                raise RunError(f"{broken}; {describe_saved(s)}")
            samples = measuring.sample_texts(s.plain_model, parts.tokenizer, prompts, recipe.seed, s.plan.facts)
    except Halted:  # no weight changes here, so it may end anywhere
        return False
    s.state.metrics = {name: value for name, value in measured.items() if name in (recipe.eval.metrics or ())}
    s.tracker.log_evaluation(s.state.step, s.state.metrics, samples)
    if s.state.metrics:
        numbers = ", ".join(f"{name} {value:.4f}" for name, value in s.state.metrics.items())
        logger.info(f"step {s.state.step} evaluated: {numbers}")
    s.state.measured = s.state.step
    if measured:
        _keep_best(s, measured[recipe.eval.best_metric])
    return True


def _measure_task(s: Session) -> dict[str, float]:
    """Answer the held-out examples where a metric is wanted that goes by answers."""
    recipe, task = s.plan.recipe, TASKS.get(s.plan.recipe.objective)
    if task is None or not s.held_examples or not set(recipe.eval.metrics or ()) & ANSWERED:
        return {}
    parts, examples = s.plan.parts, s.held_examples[: s.count_measured(len(s.held_examples))]
    found = measuring.evaluate_task(s.plain_model, parts.tokenizer, task, examples, s.plan.facts)
    # every process answers, as sharded weights ask for; what the first finds decides for all
    shared = s.share(*(value if s.accelerator.is_main_process else 0.0 for value in found.values()))
    return dict(zip(found, shared.tolist(), strict=True))


def _read_evaluation(s: Session) -> Iterator[dict[str, Any]]:
    """Read the held-out rows in order, each batch by one of the processes, none twice; a signal ends it.

    Sharded weights are gathered by all processes at once: where one has no batch left while others have, it computes
    the last again, and nobody counts that.
    """
    micro, rows = int(s.plan.recipe.train.micro_batch_size or 1), s.plan.parts.eval_dataset
    if rows is None:
        return
    world, rank = s.accelerator.num_processes, s.accelerator.process_index
    size = s.count_measured(len(rows))
    starts = range(0, size, micro)
    for number in range(rank, -(-len(starts) // world) * world, world):
        if s.flag.number and world == 1:
            return
        first = starts[min(number, len(starts) - 1)]
        batch = s.plan.parts.data_collator([rows[i] for i in range(first, min(first + micro, size))])
        if number < len(starts):
            yield batch
        else:
            s.measure(batch)


def _keep_best(s: Session, value: float) -> None:
    sign = -1 if s.plan.recipe.eval.best_metric in ANSWERED else 1  # the more the better, or the less
    if s.state.best is not None and sign * value >= sign * s.state.best:
        s.state.without_better += 1
        return
    s.state.best, s.state.best_metric = value, s.plan.recipe.eval.best_metric
    s.state.best_step, s.state.without_better = s.state.step, 0
    keep_model(s, "best")


def save(s: Session) -> None:
    """Write a checkpoint of this step, unless there is one; never with a weight that is not finite.

    Raises:
        RunError: A weight is not finite, or the disk is full; the checkpoint before stays.
    """
    if s.saved == s.state.step:
        return
    _check_finite(s)
    base = _find_base(s) if s.accelerator.is_main_process else None
    saving.save_step(
        s.folder,
        s.state.step,
        s.plain_model,
        s.plan.parts.tokenizer,
        s.plan.parts.optimizer,
        {"state": dataclasses.asdict(s.state), **s.identity},
        keep=s.plan.recipe.save.keep,
        facts=_describe(s, base),
        base=base.config if base is not None else None,
        is_main=s.accelerator.is_main_process,
    )
    s.accelerator.wait_for_everyone()
    s.saved = s.state.step


def _describe(s: Session, base: bases.Base | None) -> dict[str, object]:
    """Collect what use has to know of training."""
    known = {
        "task": s.plan.objective.task,
        "max_length": s.plan.recipe.data.max_length,
        **s.plan.facts,
        "step": s.state.step,
        "metrics": s.state.metrics,
    }
    return {**known, **(base.facts if base is not None else {})}


def _check_finite(s: Session) -> None:
    trained = [(name, p.detach()) for name, p in s.plain_model.named_parameters() if p.requires_grad]
    if bool(torch.isfinite(torch.stack([p.sum() for _, p in trained])).all()):
        return
    broken = next((name for name, p in trained if not torch.isfinite(p).all()), None)
    if broken is not None:
        raise RunError(f"the weight {broken} is not finite after step {s.state.step}; {describe_saved(s)}")


def keep_final(s: Session, **facts: object) -> None:
    """Write the model as it stands to final/, as the recipe's save section says, with its model card.

    Raises:
        RunError: The disk is full.
    """
    spec = s.plan.recipe.save
    dtype = getattr(torch, spec.dtype) if spec.dtype is not None else None

    def add_card(folder: Path) -> None:
        try:
            text = card.write_card(s, folder)
        except Exception as err:  # of a full device, say: the weights are whole all the same
            reason = " ".join(str(err).split())[:140] or type(err).__name__
            logger.info(f"the model card measures nothing: {reason}")
            text = card.write_plain_card(s)
        (folder / "README.md").write_text(text, encoding="utf-8")

    keep_model(s, "final", dtype=dtype, generation_config=spec.generation_config, complete=add_card, **facts)
    if s.accelerator.is_main_process:
        text = (s.folder / "final" / "README.md").read_text(encoding="utf-8")
        runfolder.write_text(s.folder / "README.md", text)
        logger.info(f"final weights: sha256 {_hash_weights(s.folder / 'final')}")


def _hash_weights(folder: Path) -> str:
    """Give the sha256 of a checkpoint's weights; of several files, that of their hashes joined by line breaks."""
    files = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["files"]
    hashes = [str(files[name]["sha256"]) for name in sorted(files) if name.endswith(".safetensors")]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def keep_model(
    s: Session,
    part: str,
    *,
    dtype: torch.dtype | None = None,
    generation_config: Mapping[str, object] | None = None,
    complete: Callable[[Path], None] | None = None,
    **facts: object,
) -> None:
    """Write the model as it stands to best/ or final/, with what a user of it must know in llmkit.json.

    Raises:
        RunError: The disk is full.
    """
    base = _find_base(s) if s.accelerator.is_main_process else None
    saving.save_checkpoint(
        s.folder / part,
        s.plain_model,
        s.plan.parts.tokenizer,
        {**_describe(s, base), **facts},
        dtype=dtype,
        generation_config=generation_config,
        complete=complete,
        base=base.config if base is not None else None,
        is_main=s.accelerator.is_main_process,
    )
    s.accelerator.wait_for_everyone()
