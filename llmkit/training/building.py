"""From a recipe to the parts of a run: each the library's own object, ready for this loop or for the user's."""

import codecs
import contextlib
import importlib.util
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from llmkit import runtime
from llmkit.data.collating import Collator, PaddedCollator
from llmkit.data.isolating import find_isolation
from llmkit.data.preparing import Prepared
from llmkit.data.sources import is_shards
from llmkit.encoding.prompts import encode_prompt
from llmkit.errors import InputError
from llmkit.heads import context_length, unwrap
from llmkit.recipe.reading import read_recipe
from llmkit.recipe.rules import VALUES, list_metrics, predicts_documents
from llmkit.recipe.schema import Recipe
from llmkit.scoring import sees_ahead
from llmkit.training import adapting, feeding, models, optim
from llmkit.training.objectives import OBJECTIVES, Loss, Objective

if TYPE_CHECKING:
    from torch.optim.lr_scheduler import LRScheduler
    from torch.utils.data import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from llmkit.data.order import Row

logger = logging.getLogger("llmkit")


# keys of configs that leave out whole layers at random
LAYER_DROPS = ("layerdrop", "encoder_layerdrop", "decoder_layerdrop")


@dataclass(frozen=True, eq=False)
class Parts:
    """Holds the parts of a run: transformers', torch's and datasets' own objects.

    `loss(model, batch, num_targets)` sums over a batch of what `data_collator` gives and divides by the targets of the
    whole step. Under transformers.Trainer it is what compute_loss returns; `remove_unused_columns=False` is needed
    there, since the collator keeps documents apart by a column of its own.
    """

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    train_dataset: "Dataset[Row]"
    eval_dataset: "Dataset[Row] | None"
    data_collator: Collator | PaddedCollator
    loss: Loss
    optimizer: torch.optim.Optimizer
    scheduler: "LRScheduler"


@dataclass(frozen=True, eq=False)
class Plan:
    """Holds the parts of a run and what its loop needs beside them.

    `recipe` has every value settled; `facts` are what use has to know of training, for llmkit.json.
    """

    recipe: Recipe
    parts: Parts
    data: Prepared
    objective: Objective
    max_steps: int
    facts: Mapping[str, object]


def build(
    recipe: Recipe | str | PathLike[str] | Mapping[str, object], *, dataset: object = None, eval_dataset: object = None
) -> Parts:
    """Build the parts of a run for a loop of your own.

    Args:
        recipe: A recipe, or what read_recipe takes.
        dataset: Documents to train on in the place of data.path: a datasets.Dataset, or rows with a text column.
        eval_dataset: Documents to evaluate on.

    Raises:
        InputError: The recipe, the data or the checkpoint must be mended.
    """
    own_data = dataset is not None or eval_dataset is not None
    with keeping_state():
        return plan(as_recipe(recipe, own_data=own_data), dataset=dataset, eval_dataset=eval_dataset).parts


@contextlib.contextmanager
def keeping_state() -> Iterator[None]:
    """Give torch's random state on the CPU and its number of threads back as they were; inside, all goes by a seed."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)


def as_recipe(recipe: Recipe | str | PathLike[str] | Mapping[str, object], *, own_data: bool = False) -> Recipe:
    """Take a recipe as it is, and read anything else; where the caller brings the data, it need not name any."""
    return recipe if isinstance(recipe, Recipe) else read_recipe(recipe, own_data=own_data)


def check(recipe: Recipe) -> None:
    """Have the libraries check the sections that feed them, before a model or data are loaded.

    Raises:
        InputError: A config key, an optimizer, a schedule, an encoding or a tracker is refused; all problems at once.
    """
    problems = models.check_config(recipe.model.config) if recipe.model.config is not None else []
    problems += [
        f"model.kwargs.{key}: llmkit sets it itself" for key in recipe.model.kwargs if key in models.OWN_KWARGS
    ]
    try:
        optim.check_optim(recipe.optim, recipe.schedule, recipe.train.max_steps or 1000)
    except InputError as err:
        problems.append(str(err))
    problems += models.check_generation(recipe.save.generation_config)
    problems += adapting.check_adapter(recipe.adapter, recipe.quantization)
    for key, source in _list_sources(recipe):
        try:
            codecs.lookup(source.encoding)
        except LookupError:
            problems.append(f"{key}.encoding: no such encoding, got {source.encoding!r}")
    for name in recipe.log.to:
        if name != "jsonl" and importlib.util.find_spec(name) is None:
            package = '"llmkit[tensorboard]"' if name == "tensorboard" else name
            problems.append(f"log.to: {name} is not installed (pip install {package})")
    if problems:
        refuse(recipe, problems)


def _list_sources(recipe: Recipe) -> list[tuple[str, Any]]:
    mix = [(f"data.mix.{i}", source) for i, source in enumerate(recipe.data.mix or [])]
    return mix or [("data", recipe.data)]


def refuse(recipe: Recipe, problems: list[str]) -> NoReturn:
    """Raise what is wrong with a recipe, each problem with the place of its key.

    Raises:
        InputError: Always.
    """
    placed = []
    for problem in problems:
        key = problem.partition(":")[0]
        origin = recipe.origins.get(key)
        placed.append(f"{origin}: {problem}" if origin else problem)
    if len(placed) == 1:
        raise InputError(placed[0])
    raise InputError(f"{recipe.file} has {len(placed)} problems", details=tuple(placed))


def plan(recipe: Recipe, *, dataset: object = None, eval_dataset: object = None, num_processes: int = 1) -> Plan:
    """Build all that a run needs, on the CPU, and settle every value that the recipe leaves open.

    Raises:
        InputError: The recipe, the data or the checkpoint must be mended.
    """
    if dataset is None and (recipe.data.path, recipe.data.mix, recipe.data.source_path) == (None, None, None):
        raise InputError("the recipe names no data, got neither data.path nor data.mix; expected data.path=FILE")
    check(recipe)
    objective = OBJECTIVES[recipe.objective]
    tokenizer = models.read_tokenizer(_name_tokenizer(recipe))
    model = models.make_model(
        recipe.model, tokenizer, task=objective.task, seed=recipe.seed, quantization=recipe.quantization
    )
    _check_model(recipe, model, num_processes)
    recipe, isolation = _settle(recipe, model, tokenizer, num_processes)
    _check_prompts(recipe, tokenizer, context_length(model.config))
    data = feeding.prepare_data(recipe, model, tokenizer, dataset=dataset, eval_dataset=eval_dataset)
    if data.evaluation is None:
        _check_unmeasured(recipe)
    max_steps = _count_steps(recipe, data.train.num_rows)
    collator = feeding.make_collator(recipe, model, tokenizer, isolation)
    if recipe.adapter is not None:
        model = adapting.wrap(model, recipe.adapter, task=objective.task, seed=recipe.seed)
        first = range(min(recipe.train.global_batch_size, data.train.num_rows or 1))
        adapting.initialize(model, [collator([data.train[i] for i in first])])
    optimizer = optim.make_optimizer(recipe.optim, model)
    facts = feeding.describe_facts(recipe, model, tokenizer, task=objective.task)
    parts = Parts(
        model=model,
        tokenizer=tokenizer,
        train_dataset=data.train_dataset,
        eval_dataset=data.evaluation,
        data_collator=collator,
        loss=objective.loss,
        optimizer=optimizer,
        scheduler=optim.make_schedule(recipe.schedule, optimizer, max_steps),
    )
    return Plan(recipe, parts, data, objective, max_steps, facts)


def _name_tokenizer(recipe: Recipe) -> str:
    if recipe.model.tokenizer is not None:
        return recipe.model.tokenizer
    paths = [source.path for _, source in _list_sources(recipe) if source.path is not None]
    found = next((path for path in paths if is_shards(path)), recipe.model.name)
    if found is None:
        raise InputError("a new model needs a tokenizer, got none; expected model.tokenizer: FOLDER")
    return found


def _check_model(recipe: Recipe, model: Any, num_processes: int) -> None:
    """Refuse a model that sees the tokens it should predict, cannot compute activations again or leaves layers out."""
    kind = model.config.model_type
    if recipe.objective == "causal-lm" and sees_ahead(model):
        refuse(recipe, [f"model: {kind} sees the tokens it should predict; a config may need is_decoder: true"])
    if recipe.train.gradient_checkpointing and not model.supports_gradient_checkpointing:
        refuse(recipe, [f"train.gradient_checkpointing: {kind} cannot do it"])
    dropped = [key for key in LAYER_DROPS if getattr(model.config, key, 0)] if num_processes > 1 else []
    if dropped:  # each process would leave out others, and wait for gradients that do not come
        section = "model.config" if recipe.model.config is not None else "model.kwargs"
        settings = ", ".join(f"{key}: 0.0" for key in dropped)
        refuse(
            recipe, [f"{section}: {kind} leaves out layers at random, which several processes cannot; set {settings}"]
        )


def _check_unmeasured(recipe: Recipe) -> None:
    """Refuse keys that would do nothing, as there is nothing to evaluate on."""
    keys = ["eval.num_batches", "eval.patience", *([] if recipe.eval.generate else ["eval.every_steps"])]
    idle = [key for key in keys if getattr(recipe.eval, key.partition(".")[2]) is not None]
    if idle:
        refuse(recipe, [f"{key}: there are no evaluation data" for key in idle])


def _settle(recipe: Recipe, model: Any, tokenizer: Any, num_processes: int) -> tuple[Recipe, Any]:
    """Settle what follows from the model and the machine; find how the model keeps packed documents apart."""
    try:
        lengths = feeding.settle_lengths(recipe, model, tokenizer)
    except InputError as err:
        refuse(recipe, [str(err)])
    isolation, pack = None, recipe.data.pack
    if predicts_documents(recipe):
        isolation = _find_isolation(recipe, model)
        pack = isolation is not None
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precise = recipe.model.dtype == "float64" or not runtime.has_native_bf16(device)
    settled = {
        "data": {**lengths, "pack": pack},
        "optim": {"betas": optim.settle_betas(recipe.optim)},
        "train": {
            "micro_batch_size": _settle_micro(recipe, num_processes),
            "mixed_precision": recipe.train.mixed_precision or ("no" if precise else "bf16"),
        },
        "eval": {"metrics": _settle_metrics(recipe, model)},
    }
    for section, values in settled.items():
        recipe = recipe.model_copy(update={section: getattr(recipe, section).model_copy(update=values)})
    return recipe, isolation


def _settle_metrics(recipe: Recipe, model: Any) -> list[str]:
    """List what an evaluation computes; a classifier's config may say that it gives values, which only have a loss."""
    if recipe.objective != "classification":
        return list(list_metrics(recipe))
    problem = unwrap(model).config.problem_type
    spec = recipe.model.model_copy(update={"problem_type": problem})
    metrics = list(list_metrics(recipe.model_copy(update={"model": spec})))
    others = [name for name in (*metrics, recipe.eval.best_metric) if name != "loss"] if problem in VALUES else []
    if others:
        key = "eval.metrics" if others[0] in metrics else "eval.best_metric"
        refuse(recipe, [f"{key}: {others[0]} cannot be computed for {problem}, as the model has it; expected loss"])
    return metrics


def _find_isolation(recipe: Recipe, model: Any) -> Any:
    has_virtual = adapting.count_virtual_tokens(recipe.adapter) > 0  # which take away what keeps documents apart
    isolation = find_isolation(model) if recipe.data.pack is not False and not has_virtual else None
    kind = f"{recipe.adapter['peft_type']}" if recipe.adapter and has_virtual else model.config.model_type
    if recipe.data.pack and isolation is None:
        refuse(recipe, [f"data.pack: {kind} cannot keep packed documents apart; set data.pack: false"])
    if recipe.data.pack is None and isolation is None:
        logger.info(f"{kind} cannot keep packed documents apart: a row holds one document")
    return isolation


def _check_prompts(recipe: Recipe, tokenizer: Any, context: int | None) -> None:
    """Check that each prompt leaves room for a token, before hours are spent on the way to its first use."""
    context = None if context is None else context - adapting.count_virtual_tokens(recipe.adapter)
    for prompt in recipe.eval.generate if recipe.objective == "causal-lm" else ():
        length = len(encode_prompt(tokenizer, prompt))
        if context is not None and length >= context:
            problem = f"a prompt has {length} tokens, the model's context {context}: {prompt[:40]!r}"
            refuse(recipe, [f"eval.generate: {problem}"])


def _settle_micro(recipe: Recipe, num_processes: int) -> int:
    total, micro = recipe.train.global_batch_size, recipe.train.micro_batch_size
    if total % num_processes:
        refuse(recipe, [f"train.global_batch_size: {total} sequences cannot be split over {num_processes} processes"])
    share = total // num_processes
    if micro is None or micro == "auto":
        return share
    if "train.micro_batch_size" not in recipe.origins:  # of a run that went on elsewhere before
        return max(size for size in range(1, micro + 1) if share % size == 0)
    if share % micro:
        near = min((d for d in range(1, share + 1) if share % d == 0), key=lambda d: (abs(d - micro), d))
        split = f"{total} = {micro} x {num_processes} x accumulation has no whole solution; nearest is {near}"
        refuse(recipe, [f"train.micro_batch_size: {split}"])
    return micro


def _count_steps(recipe: Recipe, num_rows: int | None) -> int:
    batch = recipe.train.global_batch_size
    if num_rows is not None and num_rows < batch:
        raise InputError(f"{num_rows} rows < batch {batch}; give more data or set train.global_batch_size")
    if recipe.train.max_steps is not None:
        return recipe.train.max_steps
    if num_rows is None:
        raise InputError("train.num_epochs: a stream states no length; set train.max_steps")
    steps = num_rows * int(recipe.train.num_epochs or 1) // batch
    warmup = recipe.schedule.num_warmup_steps
    if warmup > steps:
        refuse(recipe, [f"schedule.num_warmup_steps: {warmup} exceeds the {steps} steps of train.num_epochs"])
    return steps
