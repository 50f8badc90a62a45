"""`pipeline`: what transformers 4 code called, with the tasks that transformers 5 removed."""

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from llmkit import runfolder, runtime
from llmkit.defaults import default_checkpoint
from llmkit.errors import InputError
from llmkit.loading import Loaded, load, load_tokenizer
from llmkit.locating import OURS, locate
from llmkit.tasks.compat.languages import read_pair
from llmkit.tasks.compat.question_answering import QuestionAnsweringPipeline
from llmkit.tasks.compat.text2text import Text2TextPipeline

# removed task -> the task whose head its checkpoints have
HEADS = {
    "question-answering": "question-answering",
    "summarization": "translation",
    "text2text-generation": "translation",
    "translation": "translation",
}
# arguments that these pipelines took and that say nothing about their answers
NO_EFFECT = {"args_parser", "binary_output", "modelcard", "num_workers", "torch_dtype"}


def pipeline(
    task: str | None = None,
    model: object = None,
    config: object = None,
    tokenizer: object = None,
    feature_extractor: object = None,
    image_processor: object = None,
    processor: object = None,
    framework: str | None = None,
    revision: str | None = None,
    use_fast: bool = True,
    token: str | bool | None = None,
    device: object = None,
    device_map: object = None,
    dtype: object = "auto",
    trust_remote_code: bool | None = None,
    model_kwargs: Mapping[str, object] | None = None,
    pipeline_class: object = None,
    **kwargs: object,
) -> Any:  # which pipeline it is depends on the task, as in transformers
    """Build a pipeline as transformers 4.57 did: same arguments, same dictionaries, same answers.

    `task` is question-answering, summarization, text2text-generation, translation or translation_xx_to_yy; every other
    goes to transformers.pipeline as it is. `model` is a checkpoint's name, a Loaded, or a model of transformers with
    its `tokenizer`, an object or a name, beside it. `device` is a number (-1 is the CPU), a name or a torch.device, and
    `device_map` means the same; None takes the GPU where there is one. `revision`, `dtype` and `model_kwargs` are
    those of `load`. `**kwargs` are the defaults of the calls.

    The rest are for other tasks: here the checkpoint's own config and tokenizer are used, its code is never run, and
    HF_TOKEN in the environment stands for `token`.

    Raises:
        InputError: An argument, or the kind of checkpoint, must be mended.
    """
    given = {name: value for name, value in locals().items() if name not in ("task", "kwargs")}
    if task is None or (task not in HEADS and not task.startswith("translation_")):
        return _theirs(task, {**given, **kwargs})
    source, target = read_pair(task)
    if framework not in (None, "pt") or pipeline_class is not None:
        wrong = f"framework={framework!r}" if pipeline_class is None else "pipeline_class"
        raise InputError(f"{task} runs in PyTorch by llmkit's own class, got {wrong}")
    kind = "translation" if source else task
    if model is None:
        model = default_checkpoint(kind, f"{source}-{target}" if source else "")
    chosen = kwargs.get("torch_dtype", dtype) if dtype == "auto" else dtype
    places = {"device": device, "device_map": device_map, "revision": revision, "dtype": chosen}
    lm = _bring(model, tokenizer, HEADS[kind], {**places, **(model_kwargs or {})})
    settings = {name: value for name, value in kwargs.items() if name not in NO_EFFECT}
    if kind == "question-answering":
        return QuestionAnsweringPipeline(lm, **settings)
    return Text2TextPipeline(lm, task, **settings)


def _theirs(task: str | None, given: Mapping[str, object]) -> Any:
    """Call transformers.pipeline with what was given; a Loaded, or a name of ours, stands for model and tokenizer."""
    defaults = {"use_fast": True, "dtype": "auto"}
    arguments = {name: value for name, value in given.items() if value is not None and value != defaults.get(name)}
    lm = arguments.get("model")
    if isinstance(lm, str) and (lm.startswith(OURS) or runfolder.is_run(Path(lm))):
        lm = load(lm)
    if isinstance(lm, Loaded):
        arguments = {"tokenizer": lm.tokenizer, **arguments, "model": lm.model}
    if arguments.get("framework") == "pt":
        del arguments["framework"]
    return importlib.import_module("transformers").pipeline(task, **arguments)


def _bring(model: object, tokenizer: object, head: str, options: dict[str, Any]) -> Loaded:
    """Bring model and tokenizer together, loaded where they are names, and on their device."""
    place = _name_device(options.pop("device"), options.pop("device_map"))
    words = tokenizer[0] if isinstance(tokenizer, tuple) else tokenizer  # a name with arguments, in transformers 4
    if isinstance(model, str | os.PathLike):
        named = words if isinstance(words, str | os.PathLike) else None
        lm = _load(model, named, head, place or "auto", options)
        return lm if named is not None or words is None else Loaded(lm.model, words, lm.name, lm.facts)
    if isinstance(words, str | os.PathLike):
        words = load_tokenizer(locate(os.fspath(words), weights=False).path)
    if isinstance(model, Loaded):
        lm = load(model, task=head)
        _move(lm.model, place)
        return lm if words is None else Loaded(lm.model, words, lm.name, lm.facts)
    if words is None or not hasattr(model, "config"):
        what = "a model without its tokenizer" if hasattr(model, "config") else type(model).__name__
        raise InputError(f"{head} needs a checkpoint, got {what}; expected a name, a Loaded, or model= and tokenizer=")
    lm = load(Loaded(model, words), task=head)
    _move(lm.model, place or "auto")
    return lm


def _load(
    model: str | os.PathLike[str],
    tokenizer: str | os.PathLike[str] | None,
    head: str,
    device: str,
    options: dict[str, Any],
) -> Loaded:
    dtype = options.pop("torch_dtype", None) or options.pop("dtype", None) or "auto"
    return load(
        model,
        task=head,
        dtype=str(dtype).removeprefix("torch."),
        device=device,
        tokenizer=tokenizer,
        revision=options.pop("revision"),
        offline=bool(options.pop("local_files_only", False)),
        kwargs={name: value for name, value in options.items() if name not in ("dtype", "low_cpu_mem_usage")},
    )


def _name_device(device: object, device_map: object) -> str | None:
    """Name a device as `load` does; None where none was asked for.

    A number counts GPUs, and means the CPU where there is none, as in transformers 4.57.
    """
    if device is None and device_map is not None:
        device = next(iter(device_map.values()), None) if isinstance(device_map, Mapping) else device_map
    if device is None or isinstance(device, str):
        return device
    if isinstance(device, bool) or not isinstance(device, int):
        return str(device)
    if device < 0:
        return "cpu"
    return f"cuda:{device}" if torch.cuda.is_available() else "auto"


def _move(model: Any, place: str | None) -> None:
    """Move a model to a device that was asked for; one that accelerate spread over devices stays."""
    if place is not None and getattr(model, "hf_device_map", None) is None:
        target = runtime.resolve_device(place)
        if model.device.type != target.type or target.index not in (None, model.device.index):
            model.to(target)
