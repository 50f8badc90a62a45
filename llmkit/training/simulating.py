"""One step of a run without data or arithmetic: what it holds in memory, and how many operations it would take.

The model, its batch and its optimizer become tensors of torch's FakeTensorMode, which have shapes and no values; the
step itself is that of the run, operation by operation, so that attention kernels, dropout masks, recomputation and the
copies of a loss are counted as they are and not by a rule for one architecture.
"""

import contextlib
import copy
import dataclasses
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from llmkit.training import models, optim
from llmkit.training.building import Plan

SAMPLE = 2048  # rows among which the longest micro-batch is looked for


@dataclass(frozen=True)
class StepCost:
    """Holds what a step takes of one process.

    Attributes:
        weights: Bytes of parameters and buffers.
        gradients: Bytes of gradients at the moment when most memory is held, as for the next three.
        optimizer: Bytes of the optimizer's state.
        activations: Bytes of all that the forward and the backward pass hold beside logits.
        logits: Bytes of tensors with a value for each token of the vocabulary.
        flops: Floating-point operations of a step whose micro-batches are as long as they are on average.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    flops: int

    @property
    def total(self) -> int:
        """Bytes in all."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits


def simulate(plan: Plan, *, num_processes: int = 1, flash: bool = False) -> StepCost:
    """Take the second step of a run with its longest micro-batch, without values.

    Args:
        plan: The run.
        num_processes: Among which its global batch is shared.
        flash: Whether attention never holds its square of weights, as on a GPU; on a CPU it does where it has dropout.

    Raises:
        RuntimeError: The model's code depends on values, or torch cannot do without them.
    """
    train = plan.recipe.train
    micro = int(train.micro_batch_size or 1)
    batch, mean = find_longest(plan, micro)
    targets = plan.objective.targets(batch).numel()
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with FakeCopyMode(fake):
        model = copy.deepcopy(plan.parts.model)
    if train.gradient_checkpointing:
        models.checkpoint_activations(model)
    model.train()
    moved = {k: fake.from_tensor(v) if torch.is_tensor(v) else v for k, v in batch.items()}

    def compute_loss() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=train.mixed_precision == "bf16"):
            return plan.objective.loss(model, moved, 1)

    accumulation = max(1, train.global_batch_size // (micro * num_processes))
    with fake, _Flash() if flash else contextlib.nullcontext():
        cost = _take_steps(plan, model, compute_loss, accumulation=accumulation, targets=targets)
    return dataclasses.replace(cost, flops=int(cost.flops * mean))


def find_longest(plan: Plan, micro: int) -> tuple[Mapping[str, Any], float]:
    """Find the micro-batch that is the longest when padded, of the first rows of a run.

    Returns:
        The batch, and the mean length of a micro-batch as a share of it.
    """
    rows = plan.data.train
    number = SAMPLE if rows.num_rows is None or plan.recipe.data.pack else min(rows.num_rows, SAMPLE)
    number = micro if plan.recipe.data.pack else max(micro, number - number % micro)

    def size(first: int) -> int:
        lengths = [[len(value) for value in rows[i].values() if value.ndim] for i in range(first, first + micro)]
        return sum(max(column) for column in zip(*lengths, strict=True))

    sizes = {first: size(first) for first in range(0, number, micro)}
    first = max(sizes, key=lambda first: sizes[first])
    batch: Mapping[str, Any] = plan.parts.data_collator([rows[i] for i in range(first, first + micro)])
    return batch, sum(sizes.values()) / len(sizes) / sizes[first]


def _take_steps(
    plan: Plan, model: Any, compute_loss: Callable[[], torch.Tensor], *, accumulation: int, targets: int
) -> StepCost:
    """Take two steps, the first of which makes the optimizer's state, and measure the second."""
    optimizer = optim.make_optimizer(plan.recipe.optim, model)
    width = getattr(model.config.get_text_config(), "vocab_size", 0) if plan.objective.predicts_tokens else 0
    meter = _Meter(model, width, targets)
    counter = FlopCounterMode(display=False, custom_mapping=FUSED)
    with meter:
        weights = meter.hold([*model.parameters(), *model.buffers()])
        for step in range(2):
            if step == 1:
                meter.forget()
                optimizer_bytes = sum(_size(t) for t in tree_leaves(dict(optimizer.state)) if torch.is_tensor(t))
            for _ in range(min(accumulation, 2)):  # from the second on all are alike
                compute_loss().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), plan.recipe.train.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
        held = meter.peak - weights - optimizer_bytes - meter.gradients - meter.logits
        gradients, logits = meter.gradients, meter.logits
        with counter:
            compute_loss().backward()
    flops = counter.get_total_flops() * accumulation
    return StepCost(weights, gradients, optimizer_bytes, max(held, 0), logits, flops)


class _Meter(TorchDispatchMode):  # type: ignore[misc]  # mypy does not follow torch
    """Counts the bytes that are alive, and remembers what they were when they were most.

    Args:
        model: Whose gradients are counted.
        vocab_size: The last dimension of logits.
        targets: Those of the batch; None where tensors have values.
    """

    def __init__(self, model: Any, vocab_size: int, targets: int | None) -> None:
        super().__init__()
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._vocab_size, self._targets = vocab_size, targets
        self._seen: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self._live = self._logits_live = 0
        self.peak = self.gradients = self.logits = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Do an operation and count what it made."""
        # how many are not zero is a matter of values: of labels, as many as the batch has targets
        if func is torch.ops.aten.nonzero.default and self._targets is not None:
            made = torch.empty((self._targets, args[0].ndim), dtype=torch.int64, device=args[0].device)
        else:
            made = func(*args, **(kwargs or {}))
        self.hold(tree_leaves(made))
        return made

    def hold(self, tensors: list[Any]) -> int:
        """Count the storages of tensors that were not counted before, and give their bytes."""
        before = self._live
        for tensor in tensors:
            if torch.is_tensor(tensor):
                self._count(tensor)
        if self._live > self.peak:
            self.peak, self.logits = self._live, self._logits_live
            self.gradients = sum(_size(p.grad) for p in self._parameters if p.grad is not None)
        return self._live - before

    def forget(self) -> None:
        """Begin again to look for the most."""
        self.peak = 0

    def _count(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._seen:
            return
        size = self._seen[storage] = storage.nbytes()
        is_logits = tensor.ndim > 0 and tensor.shape[-1] == self._vocab_size
        self._live += size
        self._logits_live += size if is_logits else 0
        weakref.finalize(storage, self._release, size, is_logits)

    def _release(self, size: int, is_logits: bool) -> None:
        self._live -= size
        self._logits_live -= size if is_logits else 0


class _Flash(TorchFunctionMode):  # type: ignore[misc]  # as above
    """Has attention do without dropout, which alone keeps torch's fused kernel from a CPU."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call a function of torch."""
        given = dict(kwargs or {})
        if func is torch.nn.functional.scaled_dot_product_attention and "dropout_p" in given:
            given["dropout_p"] = 0.0
        return func(*args, **given)


def _size(tensor: Any) -> int:
    return int(tensor.numel() * tensor.element_size())


def _count_attention(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    """Count the operations of attention from the shapes of its inputs."""
    return int(sdpa_flop_count(query, key, value))


def _count_attention_backward(gradient: Any, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    """Count those of its backward pass."""
    return int(sdpa_backward_flop_count(gradient, query, key, value))


# the fused attention of a CPU, which torch's counter does not know (2.13)
FUSED = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _count_attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _count_attention_backward,
}
