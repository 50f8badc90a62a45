"""The log of a run: metrics.jsonl, the trackers of accelerate, and progress for whoever watches."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from llmkit import runfolder


@dataclass(frozen=True)
class Progress:
    """Says how far a run is: loss in nats (None where the step was skipped), targets a second, seconds left.

    `utilization` is the share of the device's peak arithmetic (model FLOP utilization, Chowdhery et al. 2022); None
    where the targets are not all that the model reads, and their number does not tell its work.
    """

    step: int
    max_steps: int
    loss: float | None
    lr: float
    tokens_per_s: float
    utilization: float | None
    seconds_left: float


class Tracker:
    """Writes down what a run measures; only the main process writes.

    Args:
        folder: The run folder, which gets metrics.jsonl.
        accelerator: Whose other trackers are fed.
        max_steps: Steps of the run.
        utilization_per_token: Share of the peak that one target a second takes; None where that is unknown.
        watch: Is given the Progress after each step.
    """

    def __init__(
        self,
        folder: Path,
        accelerator: Accelerator,
        max_steps: int,
        utilization_per_token: float | None,
        watch: Callable[[Progress], None] | None,
    ) -> None:
        self._path = folder / "metrics.jsonl"
        self._accelerator, self._watch = accelerator, watch
        self._max_steps, self._utilization = max_steps, utilization_per_token
        self._first = (0, 0.0)
        self._logged = (0, 0.0)

    def begin(self, step: int, num_tokens: int, seconds: float) -> None:
        """Say where the run stands: at a step, after so many tokens and seconds of training."""
        self._first, self._logged = (step, seconds), (num_tokens, seconds)

    def take_step(
        self,
        step: int,
        loss: float | None,
        lr: float,
        norm: float | None,
        *,
        num_tokens: int,
        seconds: float,
        log: bool,
    ) -> None:
        """Count a step, and log it where that is due; a step that was skipped has no loss.

        Args:
            step: Steps taken.
            loss: nats a target.
            lr: The learning rate of this step.
            norm: Norm of the gradient, before clipping.
            num_tokens: Targets trained on since the run began.
            seconds: Seconds spent in steps since the run began; evaluations and checkpoints are not among them.
            log: Whether the step is logged.
        """
        rate = (num_tokens - self._logged[0]) / max(seconds - self._logged[1], 1e-9)
        if log:
            values: dict[str, Any] = {"step": step}
            values |= {"loss": loss, "lr": lr, "grad_norm": norm} if loss is not None else {"skipped": True, "lr": lr}
            self._write({**values, "tokens_per_s": round(rate, 1)})
            self._logged = (num_tokens, seconds)
        if self._watch is not None and self._accelerator.is_main_process:
            first_step, first_seconds = self._first
            left = (seconds - first_seconds) / max(step - first_step, 1) * (self._max_steps - step)
            share = None if self._utilization is None else rate * self._utilization
            self._watch(Progress(step, self._max_steps, loss, lr, rate, share, left))

    def log_evaluation(self, step: int, values: dict[str, float], samples: list[dict[str, str]]) -> None:
        """Log an evaluation."""
        named = {f"eval_{name}": value for name, value in values.items()}
        self._write({"step": step, **named, **({"samples": samples} if samples else {})})

    def _write(self, values: dict[str, Any]) -> None:
        if self._accelerator.is_main_process:
            runfolder.append_metrics(self._path, values)
        numbers = {k: v for k, v in values.items() if k != "step" and isinstance(v, int | float)}
        self._accelerator.log(numbers, step=values["step"])
