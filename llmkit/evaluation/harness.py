"""Hand a loaded checkpoint to EleutherAI's lm-evaluation-harness, whose numbers come back untouched.

The harness does the rest as it is: its templates, few-shot examples, metrics and standard errors are lm_eval's own.
"""

import contextlib
import copy
import importlib.metadata
import logging
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from llmkit import runtime
from llmkit.data.order import shuffle_index
from llmkit.encoding.prompts import is_bert_like, start_token
from llmkit.errors import InputError, RunError, shorten
from llmkit.evaluation.suites import Quietly, Suite, TaskName, check_tasks, seeded
from llmkit.heads import context_length, find_head, unwrap
from llmkit.loading import Loaded
from llmkit.scoring import sees_ahead
from llmkit.tasks.sampling import check_count

BATCH_SIZE = 8  # rows; the harness keeps the logits of every token of a batch, twice
NO_SPACES = "word_perplexity counts words by their spaces and overflows without: byte_perplexity is for Chinese"

logger = logging.getLogger("llmkit")

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class TaskScore:
    """Holds what the harness found on one of its tasks, or on a group of them.

    Attributes:
        name: The task's name in the harness.
        metrics: By the harness's own keys, METRIC,FILTER as in "acc,none"; values and units are its own.
        stderr: The standard error of each, by the same keys; None where the harness gives none.
        n: The examples that were evaluated.
        num_examples: The examples of the task.
        num_fewshot: The solved examples before each; None for a group whose tasks differ.
        version: The task's version, as its YAML states it; None where it states none.
    """

    name: str
    metrics: Mapping[str, float]
    stderr: Mapping[str, float | None]
    n: int
    num_examples: int
    num_fewshot: int | None
    version: float | str | None


@dataclass(frozen=True)
class HarnessResult:
    """Holds the scores of a checkpoint on tasks of the harness.

    Attributes:
        tasks: One score a task, in the order of the call.
        groups: One a group that sums its tasks up.
        seed: What the examples, the solved ones before them, and the harness's own choices were drawn by.
        seconds: Wall time, without loading.
        was_cut: Whether the harness cut a prompt on its left, because it did not fit into the context.
        lm_eval: The version of the harness.
    """

    tasks: tuple[TaskScore, ...]
    groups: tuple[TaskScore, ...]
    seed: int
    seconds: float
    was_cut: bool
    lm_eval: str

    def __str__(self) -> str:
        lines = []
        for score in (*self.groups, *self.tasks):
            for key, value in score.metrics.items():
                error = score.stderr[key]
                lines.append(f"{score.name} {key}: {value:.4f}" + (f" ± {error:.4f}" if error is not None else ""))
            lines.append(f"{score.name} n: {score.n}")
        return "\n".join(lines)


def evaluate_tasks(
    lm: Loaded,
    tasks: TaskName | Sequence[TaskName] | Suite,
    *,
    include_path: TaskName | None = None,
    max_examples: int | None = None,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> HarnessResult:
    """Evaluate a loaded causal language model on tasks of lm-evaluation-harness.

    The model, its settings and the random states of this process are left as they were.

    Args:
        lm: The model and its tokenizer.
        tasks: As for check_tasks, or what it returned.
        include_path: As for check_tasks.
        max_examples: So many examples of each task, drawn without replacement and kept in order; None takes all. (The
            harness's own --limit takes the first.)
        seed: What they and the solved examples of few-shot tasks are drawn by. (lm_eval's own command takes 1234.)
        batch_size: Rows a batch.
        progress: Is told the number of requests done, and of how many.

    Raises:
        InputError: An argument or a task must be mended, or the model cannot do the task.
        HubError: The hub cannot give the data of a task.
        RunError: The harness failed.
    """
    if max_examples is not None:
        check_count("max_examples", max_examples)
    check_count("batch_size", batch_size)
    runtime.check_seed(seed)
    suite = tasks if isinstance(tasks, Suite) else check_tasks(tasks, include_path=include_path)
    began = time.perf_counter()
    with Quietly() as heard, runtime.evaluating(lm.model), seeded(seed, lm.model.device):
        _check_model(lm)
        adapter = _adapt(lm, batch_size)
        _check_lengths(adapter, suite, lm.name or "the model")
        if progress is not None:
            adapter.set_cache_hook(_Counter(progress, suite, heard.stderr))
        found = _run(adapter, suite, _draw(suite, max_examples, seed), seed)
    if heard.was_cut:
        context = adapter.max_length
        logger.info(f"prompts of the harness that exceed the model's context of {context} tokens were cut on the left")
    scores = [_read_score(found, name, suite) for name in found["results"]]
    return HarnessResult(
        tasks=tuple(score for score in scores if score.name in suite.names),
        groups=tuple(score for score in scores if score.name not in suite.names and score.metrics),
        seed=seed,
        seconds=time.perf_counter() - began,
        was_cut=heard.was_cut,
        lm_eval=importlib.metadata.version("lm_eval"),
    )


def _check_model(lm: Loaded) -> None:
    name, head = lm.name or "the model", find_head(lm.model)
    if head not in (None, "generation"):
        raise InputError(f"{name} has a head for {head}, the harness needs one for generation")
    if getattr(unwrap(lm.model).config, "is_encoder_decoder", False) or sees_ahead(lm.model):
        raise InputError(f"{name} sees the tokens it should predict; expected a causal language model")
    if start_token(lm.tokenizer) is None:
        raise InputError(f"the tokenizer of {name} has no token to begin a text with, which the harness needs")


def _adapt(lm: Loaded, batch_size: int) -> Any:
    """Wrap a model for the harness.

    The harness gives the tokenizer a padding token, so it gets a copy. Without more, it would score bfloat16 logits as
    they are, and the [SEP] that BERT's kind of tokenizer lays after a text in the place of its next token.
    """
    from lm_eval.models.huggingface import HFLM

    tokenizer, model = copy.deepcopy(lm.tokenizer), lm.model
    if tokenizer.eos_token is None and tokenizer.sep_token is not None:
        tokenizer.eos_token = tokenizer.sep_token
    ends = tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"][-1]
    return HFLM(
        pretrained=model,
        backend="causal",
        tokenizer=tokenizer,
        batch_size=batch_size,
        max_length=context_length(unwrap(model).config),
        softmax_dtype=torch.promote_types(model.dtype, torch.float32),
        add_bos_token=False if ends or is_bert_like(tokenizer) else None,
        prefix_token_id=start_token(tokenizer),
    )


def _check_lengths(adapter: Any, suite: Suite, name: str) -> None:
    """Check that what a task generates leaves room for its prompt: 256 tokens where the task says nothing."""
    from lm_eval.models.utils import normalize_gen_kwargs

    for task, built in suite.built["tasks"].items():
        if built.OUTPUT_TYPE != "generate_until":
            continue
        if adapter.tokenizer.eos_token is None:
            raise InputError(
                f"task {task} generates until a text ends, and the tokenizer of {name} has no token for that"
            )
        wanted = normalize_gen_kwargs(built.config.generation_kwargs or {}, adapter.max_gen_toks)["max_gen_toks"]
        if wanted >= adapter.max_length:
            room = f"the context of {name} is {adapter.max_length}, with the prompt"
            hint = "generation_kwargs.max_gen_toks in its YAML sets it; 256 where it says nothing"
            raise InputError(f"task {task} generates up to {wanted} tokens, and {room}", hint=hint)


def _draw(suite: Suite, max_examples: int | None, seed: int) -> dict[str, list[int]] | None:
    if max_examples is None:
        return None
    drawn = {}
    for name, task in suite.built["tasks"].items():
        size = len(task.eval_docs)
        drawn[name] = sorted(shuffle_index(i, size, seed) for i in range(min(max_examples, size)))
    return drawn


def _run(adapter: Any, suite: Suite, samples: Mapping[str, list[int]] | None, seed: int) -> Any:
    """Run lm_eval.evaluate, as simple_evaluate does but for the report on this machine (`git`, `pip list`, the hub)."""
    import lm_eval

    for task in suite.built["tasks"].values():
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=seed)
    try:
        return lm_eval.evaluate(adapter, suite.built, samples=samples, log_samples=False)
    except Exception as err:  # whatever the harness, a function of the task or the model raises
        # the harness's assertions carry no sentence; their own line says what was asserted
        reason = (
            shorten(err) if str(err) else f"{type(err).__name__}: {traceback.extract_tb(err.__traceback__)[-1].line}"
        )
        hint = NO_SPACES if isinstance(err, OverflowError) else None
        raise RunError(f"the harness failed on {', '.join(suite.names)[:100]}: {reason}", hint=hint) from err


def _read_score(found: Any, name: str, suite: Suite) -> TaskScore:
    values = {key: value for key, value in found["results"][name].items() if "," in key}
    errors = {key for key in values if key.partition(",")[0].endswith("_stderr")}
    metrics = {key: float(value) for key, value in values.items() if key not in errors}
    stderr: dict[str, float | None] = {}
    for key in metrics:
        error = values.get("{}_stderr,{}".format(*key.split(",", 1)), "N/A")
        stderr[key] = None if isinstance(error, str) or error is None else float(error)
    group = suite.built.get("groups", {}).get(name)
    names = [name] if group is None else [task.task_name for task in group.get_all_tasks()]
    counts = [found["n-samples"][task] for task in names]
    version = found["versions"].get(name)
    return TaskScore(
        name=name,
        metrics=metrics,
        stderr=stderr,
        n=sum(count["effective"] for count in counts),
        num_examples=sum(count["original"] for count in counts),
        num_fewshot=found["n-shot"].get(name),
        version=None if version == "Yaml" else version,  # the harness's word for none
    )


class _Counter:
    """Stands in the place of the harness's cache, which is told of every answer."""

    def __init__(self, progress: Progress, suite: Suite, stderr: Any) -> None:
        self._progress, self._tasks, self._stderr, self._done = progress, suite.built["tasks"], stderr, 0

    def add_partial(self, attr: str, req: object, res: object) -> None:
        """Count an answer."""
        self._done += 1
        total = sum(len(task.instances) for task in self._tasks.values())
        with contextlib.redirect_stderr(self._stderr):
            self._progress(self._done, total)
