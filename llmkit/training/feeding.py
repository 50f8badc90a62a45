"""What a model is fed: from a recipe to rows and to batches, and to what use has to know of them."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional

from llmkit.data.collating import IGNORED, Collator, PaddedCollator
from llmkit.data.corrupting import Corrupt
from llmkit.data.denoising import Denoiser
from llmkit.data.example_rows import ExampleRows
from llmkit.data.masking import Masker
from llmkit.data.preparing import Prepared, prepare
from llmkit.data.preparing_examples import prepare_examples
from llmkit.data.sequences import (
    CompletionEncoder,
    Encoder,
    LabelEncoder,
    PairEncoder,
    WindowEncoder,
    note_missing_classes,
)
from llmkit.encoding import directions, pairs, segments
from llmkit.encoding.directions import Direction
from llmkit.errors import InputError
from llmkit.heads import context_length, stated_length, unwrap
from llmkit.recipe.rules import has_examples, predicts_documents
from llmkit.recipe.schema import DataSpec, Recipe
from llmkit.training.adapting import count_virtual_tokens

LONGEST = 512  # tokens of a source or a target, where neither the model nor its tokenizer states fewer


def settle_lengths(recipe: Recipe, model: Any, tokenizer: Any) -> dict[str, object]:
    """Settle data.max_length, max_target_length, stride and on_long by the model and the objective.

    Raises:
        InputError: More is asked for than the model takes, or nothing says how long a row may be.
    """
    data, config = recipe.data, unwrap(model).config
    context, virtual = context_length(config), count_virtual_tokens(recipe.adapter)
    context = None if context is None else context - virtual
    beside = f" beside {virtual} virtual tokens" if virtual else ""
    if data.max_length is not None and context is not None and data.max_length > context:
        raise InputError(f"data.max_length: {data.max_length} exceeds the model's context of {context}{beside}")
    is_plain = predicts_documents(recipe)
    settled: dict[str, object] = {"on_long": data.on_long or ("split" if is_plain else "error")}
    if recipe.objective == "question-answering":
        return {"max_length": pairs.settle_length(config, tokenizer, data.max_length), "on_long": data.on_long}
    if recipe.objective == "seq2seq":
        limits = [limit for limit in (context, stated_length(tokenizer), LONGEST) if limit is not None]
        longest = data.max_length or min(limits)
        return {"max_length": longest, "max_target_length": data.max_target_length or longest, **settled}
    if data.max_length is None and context is None:
        raise InputError("data.max_length: the model states no context; set it")
    return {"max_length": data.max_length or context, **settled}


def find_direction(recipe: Recipe, model: Any, tokenizer: Any) -> Direction:
    """Find how an encoder-decoder is told the languages of the recipe.

    Raises:
        InputError: A language is not known to the checkpoint, or is missing.
    """
    data = recipe.data
    return directions.find_direction(
        unwrap(model),
        tokenizer,
        name=recipe.model.name or "the model",
        facts={},
        src_lang=data.src_lang,
        tgt_lang=data.tgt_lang,
    )


def make_encoder(recipe: Recipe, model: Any, tokenizer: Any) -> Encoder:
    """Make what turns an example into rows.

    Raises:
        InputError: The recipe does not state enough, or what does not go with the checkpoint.
    """
    data, max_length = recipe.data, int(recipe.data.max_length or 0)
    with_types = pairs.takes_segments(unwrap(model))
    if recipe.objective == "question-answering":
        return WindowEncoder(tokenizer, with_types, max_length, data.stride)
    if recipe.objective == "causal-lm":
        return CompletionEncoder(tokenizer, max_length, data.on_long or "error")
    if recipe.objective == "seq2seq":
        direction = find_direction(recipe, model, tokenizer)
        longest = int(data.max_target_length or max_length)
        return PairEncoder(tokenizer, direction, max_length, longest, data.on_long or "error")
    problem = recipe.model.problem_type or unwrap(model).config.problem_type or "single_label_classification"
    return LabelEncoder(tokenizer, list_labels(model), problem, with_types, max_length, data.on_long or "error")


def list_labels(model: Any) -> list[str]:
    """List the names of a classifier's labels, in their order."""
    names = unwrap(model).config.id2label
    return [str(names[i]) for i in sorted(names)]


def prepare_data(recipe: Recipe, model: Any, tokenizer: Any, *, dataset: object, eval_dataset: object) -> Prepared:
    """Read, encode and put in order what a recipe names, or the user's own data sets.

    Raises:
        InputError: The data, or the tokenizer for this objective, must be mended.
        HubError: The hub cannot give a data set.
        RunError: What is kept of the data cannot be written.
    """
    given: dict[str, Any] = {"seed": recipe.seed, "dataset": dataset, "eval_dataset": eval_dataset}
    if has_examples(recipe):
        found = prepare_examples(recipe.data, tokenizer, make_encoder(recipe, model, tokenizer), **given)
        if recipe.objective == "classification":
            _note_classes(found, list_labels(model))
        return found
    max_length = int(recipe.data.max_length or 0)
    if recipe.objective == "causal-lm":
        return prepare(recipe.data, tokenizer, max_length=max_length, **given)
    spec = recipe.data.model_copy(update={"end_of_text": False, "pack": False})
    corrupt, length, num_special = _make_corruption(recipe, spec, tokenizer, max_length)
    return prepare(spec, tokenizer, max_length=length, num_special=num_special, corrupt=corrupt, **given)


def _note_classes(data: Prepared, labels: Sequence[str]) -> None:
    """Note the classes that no example to train or to evaluate on has."""
    held = [part.rows.select() for part in data.held_out if isinstance(part.rows, ExampleRows)]
    for purpose, datasets in (("train on", [data.train_dataset]), ("evaluate on", held)):
        columns = [dataset.with_format("numpy")["labels"][:] for dataset in datasets]
        if not columns or columns[0].ndim > 1 or columns[0].dtype.kind == "f":
            continue
        note_missing_classes({number for column in columns for number in column.tolist()}, labels, purpose)


def _make_corruption(recipe: Recipe, spec: DataSpec, tokenizer: Any, max_length: int) -> tuple[Corrupt, int, int]:
    """Make what changes a row anew each time it comes; with the tokens of a row, and those set around it among them."""
    if recipe.objective == "masked-lm":
        masking = spec.masking
        masker = Masker(tokenizer, seed=recipe.seed, probability=masking.probability, whole_word=masking.whole_word)
        return masker, max_length, segments.find_frame(tokenizer).num_special
    assert spec.denoising is not None
    noise = Denoiser(tokenizer, seed=recipe.seed, density=spec.denoising.density, mean_span=spec.denoising.mean_span)
    length = noise.find_longest(max_length, int(spec.max_target_length or max_length))
    if length < 1:
        raise InputError(f"data.max_length: {max_length} tokens leave no room for a text with gaps")
    return noise, length, 0


def make_collator(recipe: Recipe, model: Any, tokenizer: Any, isolation: Any) -> Collator | PaddedCollator:
    """Make what turns rows into a batch."""
    core = unwrap(model)
    filler = core.config.get_text_config().pad_token_id
    pad = next(i for i in (tokenizer.pad_token_id, filler, 0) if i is not None)
    if predicts_documents(recipe):
        return Collator(pad, isolation, mask_dtype=model.dtype)
    shift = _find_shift(core, pad) if recipe.objective == "seq2seq" else None
    return PaddedCollator(pad, shift=shift, no_cache="use_cache" in inspect.signature(core.forward).parameters)


def _find_shift(model: Any, pad: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Find what makes a decoder's inputs of its labels: the model's own way, or that which M2M100 keeps inside.

    It holds no weights and can be pickled: a process that reads ahead gets a copy where it is spawned and not forked.
    """
    if hasattr(model, "prepare_decoder_input_ids_from_labels"):
        return functools.partial(_shift_as, type(model), model.config)
    start = model.config.decoder_start_token_id
    if start is None:
        raise InputError("the model's config states no decoder_start_token_id, with which a decoder begins")
    return functools.partial(_shift, start, pad)


def _shift_as(kind: type[Any], config: Any, labels: torch.Tensor) -> torch.Tensor:
    """Shift labels by the method of a class of models, which looks at the config alone (transformers 5.23)."""
    shell: Any = object.__new__(kind)  # without layers
    shell.config = config
    inputs: torch.Tensor = shell.prepare_decoder_input_ids_from_labels(labels)
    return inputs


def _shift(start: int, pad: int, labels: torch.Tensor) -> torch.Tensor:
    inputs = functional.pad(labels, (1, 0), value=start)[:, :-1]
    return inputs.masked_fill(inputs == IGNORED, pad)


def describe_facts(recipe: Recipe, model: Any, tokenizer: Any, *, task: str) -> Mapping[str, object]:
    """Say what use has to know of training, to encode as it did: what llmkit.json holds."""
    data = recipe.data
    facts: dict[str, object] = {"task": task, "max_length": data.max_length}
    if recipe.objective == "classification":
        facts |= {"labels": list_labels(model), "problem_type": unwrap(model).config.problem_type}
    if recipe.objective == "question-answering" and data.stride is not None:
        facts["stride"] = data.stride
    if recipe.objective == "seq2seq" and has_examples(recipe):
        direction = find_direction(recipe, model, tokenizer)
        if direction.source and direction.target:
            facts["languages"] = [direction.source, direction.target]
        elif direction == Direction():
            facts["languages"] = None  # no words were put before a source, and none are to be
    if data.template is not None:
        facts["template"] = data.template
    return facts
