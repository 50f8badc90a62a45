"""From a checkpoint to a model and a tokenizer, both the library's own objects.

torch and transformers are imported inside the functions: a checkpoint is found and its files are checked before that.
"""

import contextlib
import copy
import difflib
import importlib.util
import io
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmkit import adapters, checking, runfolder, runtime
from llmkit.errors import DamagedError, InputError, LlmkitError, shorten
from llmkit.heads import AUTO_CLASSES, find_head, match_head
from llmkit.locating import Located, locate

if TYPE_CHECKING:
    import torch

logger = logging.getLogger("llmkit")


@dataclass(frozen=True, eq=False)
class Loaded:
    """Holds a model and its tokenizer, ready for any task verb; not safe to share between threads.

    Unpacks as `model, tokenizer = loaded`. `name` is what the checkpoint was called, `facts` what its llmkit.json says.
    """

    model: Any
    tokenizer: Any
    name: str = ""
    facts: dict[str, object] | None = None

    def __iter__(self) -> Iterator[Any]:
        return iter((self.model, self.tokenizer))


Checkpoint = str | os.PathLike[str] | Loaded


def load(
    checkpoint: Checkpoint,
    *,
    task: str | Sequence[str] | None = None,
    dtype: str = "auto",
    device: str = "auto",
    adapter: str | os.PathLike[str] | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    offline: bool = False,
    kwargs: Mapping[str, object] | None = None,
    new_head: bool = False,
) -> Loaded:
    """Load a checkpoint: a folder, a run, a .gguf file, `builtin/NAME`, `package:NAME` or a hub id.

    Args:
        checkpoint: The name; a Loaded comes back as it is, if it has a head for the task and is in evaluation mode.
        task: The task whose head is wanted; of several, that which the checkpoint was saved for, else the first; None
            takes what it was saved for.
        dtype: `auto` (float32 on a CPU, else the checkpoint's), float32, bfloat16 or float16.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        adapter: A peft adapter to lay over the model.
        tokenizer: Where the tokenizer lies, if not with the checkpoint.
        revision: A branch, tag or commit of a hub id.
        offline: Take a hub id from the local cache only.
        kwargs: Further arguments of the model's from_pretrained.
        new_head: Whether a head for the task that the checkpoint lacks, or has for other labels, is drawn at random, to
            be trained.

    Raises:
        InputError: The name, an option or the kind of checkpoint must be mended.
        DamagedError: The files of the checkpoint are damaged.
        HubError: The hub cannot give it.
    """
    tasks = _check_tasks((task,) if isinstance(task, str) else tuple(task or ()))
    if isinstance(checkpoint, Loaded):
        asked = (adapter, tokenizer, revision, kwargs, *(None if name == "auto" else name for name in (dtype, device)))
        return _check_loaded(checkpoint, tasks, whole=not any(asked))
    base = _locate(checkpoint, revision=revision, offline=offline)
    base, over = _find_adapter(base, adapter, offline=offline)
    words = _locate(tokenizer, offline=offline, weights=False) if tokenizer is not None else None
    if words is None and over is not None and _has_tokenizer(over.path):
        words = over
    _check_files(base, over, own_tokenizer=words is None)
    facts = runfolder.read_facts((over or base).path)
    place, kind = runtime.resolve_device(device), _settle_task(base, facts, tasks, over)
    brought = adapters.list_brought(over) if over is not None else frozenset()
    stated = adapters.describe_labels(over, facts) if over is not None and kind == "classification" else {}
    with runtime.quiet():
        config, left = _read_config(base, kind, {**stated, **(kwargs or {})})
        with (words or base).naming():
            the_tokenizer = load_tokenizer((words or base).path)
        model = _load_model(base, kind, config, _resolve_dtype(dtype, place), left, new_head=new_head, brought=brought)
        _check_vocabulary(words or base, the_tokenizer, model)
        if over is not None:
            model = adapters.lay(model, over, base)
        _check_finite(os.fspath(checkpoint), model)
        return Loaded(model.to(place).eval(), the_tokenizer, os.fspath(checkpoint), facts)


def _resolve_dtype(name: str, place: "torch.device") -> "torch.dtype | None":
    import torch

    return torch.float64 if name == "float64" else runtime.resolve_dtype(name, place)  # float64: to merge, and in tests


def _check_tasks(tasks: tuple[str, ...]) -> tuple[str, ...]:
    for name in tasks:
        if name not in AUTO_CLASSES:
            raise InputError(f"unknown task, got {name!r}; expected {', '.join(AUTO_CLASSES)}")
    return tasks


def _check_loaded(lm: Loaded, tasks: tuple[str, ...], *, whole: bool) -> Loaded:
    if not whole:
        names = "adapter, tokenizer, dtype, device, revision and kwargs"
        raise InputError(f"a Loaded is whole already; {names} belong to the call that loads it")
    head = find_head(lm.model)
    if tasks and head is not None and head not in tasks:
        raise InputError(f"{lm.name or 'the model'} has a head for {head}, this call needs one for {tasks[0]}")
    if lm.model.training:
        raise InputError(f"{lm.name or 'the model'} is in training mode, where dropout acts; call model.eval() first")
    return lm


def _locate(
    name: str | os.PathLike[str], *, revision: str | None = None, offline: bool = False, weights: bool = True
) -> Located:
    if not isinstance(name, str | os.PathLike):
        raise InputError(
            f"expected the name of a checkpoint, got {type(name).__name__}",
            hint="llmkit.Loaded(model, tokenizer) holds both",
        )
    found = locate(os.fspath(name), revision=revision, offline=offline, weights=weights)
    for note in found.notes:
        logger.info(note)
    return found


def _find_adapter(
    base: Located, adapter: str | os.PathLike[str] | None, *, offline: bool
) -> tuple[Located, Located | None]:
    """Find the adapter, named or itself the checkpoint, and the base that it is laid over."""
    if not checking.is_adapter(base.path):
        return base, _locate(adapter, offline=offline) if adapter is not None else None
    if adapter is not None:
        raise InputError(f"{base.name} is an adapter itself, got a second one: {os.fspath(adapter)}")
    return adapters.locate_base(base, offline=offline), base


def _has_tokenizer(folder: Path) -> bool:
    return any(all((folder / name).is_file() for name in names) for names in checking.TOKENIZERS.values())


def _check_files(base: Located, over: Located | None, *, own_tokenizer: bool) -> None:
    """Check all that files alone allow, before torch is imported."""
    with base.naming():
        if base.path.suffix == ".gguf":
            checking.check_gguf(base.path)
            if importlib.util.find_spec("gguf") is None:
                raise InputError("reading .gguf needs the package gguf", hint='pip install "llmkit[gguf]"')
        else:
            checking.check_checkpoint(base.path, tokenizer=own_tokenizer)
    if over is not None:
        with over.naming():
            checking.check_adapter(over.path)


def _settle_task(base: Located, facts: dict[str, object], tasks: tuple[str, ...], over: Located | None) -> str:
    """Choose among the tasks wanted by what llmkit.json or peft states, else by what the checkpoint was saved for."""
    if len(tasks) == 1:
        return tasks[0]
    stated = facts.get("task") or (adapters.find_task(over) if over is not None else None)
    if isinstance(stated, str) and stated in AUTO_CLASSES:
        saved: str | None = stated
    elif base.path.suffix == ".gguf":
        saved = "generation"
    else:
        saved = match_head(_read_architecture(base.path))
    if not tasks:
        return saved or "generation"
    return saved if saved in tasks else tasks[0]


def _read_architecture(folder: Path) -> str:
    architectures = checking.read_json(folder / "config.json").get("architectures")
    return str(architectures[0]) if isinstance(architectures, list) and architectures else ""


def load_tokenizer(path: Path) -> Any:
    """Load the tokenizer of a folder or a .gguf file; a folder with vocab.txt alone holds a BERT tokenizer.

    Raises:
        InputError: It cannot be read, or is empty.
        DamagedError: The .gguf file cannot be read.
    """
    from transformers import AutoTokenizer, BertTokenizer

    in_gguf = path.suffix == ".gguf"
    is_bert = not in_gguf and checking.check_tokenizer(path)[0].startswith("WordPiece")
    try:
        tokenizer = (BertTokenizer if is_bert else AutoTokenizer).from_pretrained(
            path.parent if in_gguf else path,
            local_files_only=True,
            trust_remote_code=False,
            **({"gguf_file": path.name} if in_gguf else {}),
        )
        tokenizer("\u2603")  # where the vocabulary lacks its own unknown token, only an unknown character shows it
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as err:  # tokenizers' Rust side raises bare Exception; its panics are no Exception at all
        if isinstance(err, ImportError) and "sentencepiece" in str(err).lower():
            hint = 'pip install "llmkit[translation]"'
            raise InputError(f"the tokenizer of {path} needs the package sentencepiece", hint=hint) from err
        raise _unreadable(f"the tokenizer of {path}", err, in_gguf) from err
    tokenizer.init_kwargs.pop("local_files_only", None)  # transformers 5.23 would save it with the tokenizer
    if len(tokenizer) == 0:
        raise InputError(f"the tokenizer of {path} is empty", hint="--tokenizer FOLDER names another")
    return tokenizer


def _read_config(found: Located, task: str, kwargs: Mapping[str, object]) -> tuple[Any, dict[str, Any]]:
    """Read config.json as its model's config, changed by kwargs, and what of them is left; a .gguf file has none."""
    from transformers import CONFIG_MAPPING, AutoConfig

    if found.path.suffix == ".gguf":
        if task != "generation":
            raise InputError(f"{found.name} is a .gguf file, which holds a model for generation, got task {task!r}")
        if kwargs:
            hint = f"llmkit export safetensors {found.name} OUT makes a checkpoint on which they can"
            raise InputError(f"{found.name} is a .gguf file, on which {', '.join(kwargs)} cannot act", hint=hint)
        return None, {}
    kind = checking.read_json(found.path / "config.json")["model_type"]
    try:
        if kind not in CONFIG_MAPPING:
            near = [f"; did you mean {k!r}?" for k in difflib.get_close_matches(kind, CONFIG_MAPPING.keys(), n=1)]
            raise ValueError(f"transformers has no model_type {kind!r}" + "".join(near))
        config, left = AutoConfig.from_pretrained(
            found.path, local_files_only=True, trust_remote_code=False, return_unused_kwargs=True, **kwargs
        )
        return config, left
    except Exception as err:  # configs are checked by their models, each in its own way
        raise _not_loadable(found, task, err) from err


def _load_model(
    found: Located,
    task: str,
    config: Any,
    dtype: "torch.dtype | None",
    kwargs: Mapping[str, object],
    *,
    new_head: bool = False,
    brought: Set[str] = frozenset(),
) -> Any:
    """Load the model of a task; what an adapter brings whole may be missing, or have another shape."""
    import transformers

    if config is None:
        return _load_gguf(found, dtype)
    auto = getattr(transformers, AUTO_CLASSES[task])
    try:
        _check_shapes(found, auto, config, new_head=new_head, brought=brought)
        model, info = auto.from_pretrained(
            found.path,
            config=config,
            dtype=dtype or "auto",
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=new_head or bool(brought),
            **kwargs,
        )
    except LlmkitError:
        raise
    except Exception as err:  # as above
        raise _not_loadable(found, task, err) from err
    _check_loading(found, task, model, {*info["missing_keys"]} - brought, info["unexpected_keys"], new_head=new_head)
    return model


def _not_loadable(found: Located, task: str, err: Exception) -> InputError:
    no_head = str(err).startswith("Unrecognized configuration class")
    reason = "transformers has no such model of its model_type" if no_head else shorten(err)
    return InputError(f"{found.name} does not load as a model for {task}: {reason}")


def _check_shapes(found: Located, auto: Any, config: Any, *, new_head: bool, brought: Set[str]) -> None:
    """Compare the stored shapes with those of the config's model, before memory is taken for either.

    A head that may be new may have another shape.

    A quantized checkpoint packs its weights into other shapes.
    """
    import torch

    if getattr(config, "quantization_config", None) is not None:
        return
    with torch.device("meta"):
        skeleton = auto.from_config(config, trust_remote_code=False)
    wanted = {name: tuple(tensor.shape) for name, tensor in skeleton.state_dict().items()}
    wrong = []
    for path in checking.list_weights(found.path):
        for name, tensor in checking.read_header(path).items():
            shape = wanted.get(name, wanted.get(f"{skeleton.base_model_prefix}.{name}", tensor.shape))
            in_head = name in wanted and not name.startswith(f"{skeleton.base_model_prefix}.")
            if shape != tensor.shape and not (new_head and in_head) and name not in brought:
                wrong.append(f"{name} is {tensor.shape}, expected {shape}")
    if wrong:
        count = "1 tensor has" if len(wrong) == 1 else f"{len(wrong)} tensors have"
        raise DamagedError(f"{found.name}: {count} another shape than config.json says: {'; '.join(sorted(wrong)[:3])}")


def _check_loading(
    found: Located, task: str, model: Any, lacks: Set[str], unexpected: Iterable[str], *, new_head: bool
) -> None:
    missing, name, saved_as = sorted(lacks), found.name, _read_architecture(found.path)
    first, in_head = ", ".join(missing[:3]), not any(key.startswith(f"{model.base_model_prefix}.") for key in missing)
    if new_head:  # of which BERT's pooler is a part, which a masked LM does not have
        missing = [k for k in missing if k.startswith(f"{model.base_model_prefix}.") and ".pooler." not in k]
    if missing and in_head and saved_as not in ("", type(model).__name__):
        raise InputError(f"{name} was saved as {saved_as}, without a head for {task}: it lacks {first}")
    if missing:
        raise _lacking(name, missing)
    # a weight in a numbered block: fewer layers than stored would be another model, and nothing else would show it
    extra = sorted(key for key in unexpected if re.search(r"\.\d+\..*\.weight$", key))
    if extra:
        raise DamagedError(f"{name}: config.json has no place for {len(extra)} stored weights, such as {extra[0]}")


def _lacking(name: str, missing: Sequence[str]) -> DamagedError:
    count = "1 tensor" if len(missing) == 1 else f"{len(missing)} tensors"
    hint = "of a model in several files all are needed, joined to one" if "-of-" in name else None
    return DamagedError(f"{name} lacks {count} of the model, such as {', '.join(missing[:3])}", hint=hint)


def _check_vocabulary(words: Located, tokenizer: Any, model: Any) -> None:
    size, rows = len(tokenizer), model.get_input_embeddings().weight.shape[0]
    if size > rows:
        raise InputError(f"the tokenizer of {words.name} has {size:,} tokens, the embedding only {rows:,} rows")


def _check_finite(name: str, model: Any) -> None:
    import torch

    for key, tensor in model.named_parameters():
        # The sum takes one pass; where that of finite values overflows, the values themselves are looked at.
        if not bool(torch.isfinite(tensor.sum())) and not bool(torch.isfinite(tensor).all()):
            raise DamagedError(f"{name}: the tensor {key} holds values that are not finite")


def _load_gguf(found: Located, dtype: "torch.dtype | None") -> Any:
    """Read a .gguf file through transformers, dequantized, as a model that can be saved as safetensors.

    transformers 5.23 keeps a quantizer on what it reads and refuses to save it, so the weights move, without a copy, to
    a model built from the same config without one. Its progress bar heeds no setting, so it gets no stderr.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    try:
        with contextlib.redirect_stderr(io.StringIO()):
            read, info = AutoModelForCausalLM.from_pretrained(
                found.path.parent,
                gguf_file=found.path.name,
                dtype=dtype or torch.float32,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except Exception as err:  # gguf's reader raises whatever numpy and struct do
        raise _unreadable(found.name, err, in_gguf=True) from err
    if info["missing_keys"]:
        raise _lacking(found.name, sorted(info["missing_keys"]))
    config = copy.deepcopy(read.config)
    config.__dict__.pop("quantization_config", None)
    with no_init_weights():
        model = type(read)(config)
    model.load_state_dict(read.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config = read.generation_config
    return model


def _unreadable(what: str, err: BaseException, in_gguf: bool) -> LlmkitError:
    kind = DamagedError if in_gguf and "not supported" not in str(err) else InputError
    return kind(f"{what} cannot be read: {shorten(err)}")
