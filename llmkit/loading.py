"""From a checkpoint to a model and a tokenizer, both the library's own objects.

torch and transformers are imported inside the functions: a checkpoint is found and its files are checked before that.
"""

import copy
import hashlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmkit import checking, runfolder, runtime
from llmkit.errors import DamagedError, InputError
from llmkit.locating import Located, locate

if TYPE_CHECKING:
    import torch

logger = logging.getLogger("llmkit")

# task -> the class of transformers that loads a model for it
AUTO_CLASSES = {
    "generation": "AutoModelForCausalLM",
    "translation": "AutoModelForSeq2SeqLM",
    "question-answering": "AutoModelForQuestionAnswering",
    "classification": "AutoModelForSequenceClassification",
}
# the end of an architecture's name -> the task it was saved for
HEADS = {
    "ForConditionalGeneration": "translation",
    "MTModel": "translation",
    "ForQuestionAnswering": "question-answering",
    "ForSequenceClassification": "classification",
}


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
    task: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    adapter: str | os.PathLike[str] | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    offline: bool = False,
) -> Loaded:
    """Load a checkpoint: a folder, a run, a .gguf file, `builtin/NAME`, `package:NAME` or a hub id.

    Args:
        checkpoint: The name; a Loaded comes back as it is.
        task: The task whose head is wanted; None takes what the checkpoint was saved for.
        dtype: `auto` (float32 on a CPU, else the checkpoint's), float32, bfloat16 or float16.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        adapter: A peft adapter to lay over the model.
        tokenizer: Where the tokenizer lies, if not with the checkpoint.
        revision: A branch, tag or commit of a hub id.
        offline: Take a hub id from the local cache only.

    Raises:
        InputError: The name, an option or the kind of checkpoint must be mended.
        DamagedError: The files of the checkpoint are damaged.
        HubError: The hub cannot give it.
    """
    if isinstance(checkpoint, Loaded):
        return checkpoint
    if task is not None and task not in AUTO_CLASSES:
        raise InputError(f"unknown task, got {task!r}; expected {', '.join(AUTO_CLASSES)}")
    found = _locate(checkpoint, revision=revision, offline=offline)
    words: Located | None = None
    over: Path | None = None
    if (found.path / "adapter_config.json").is_file() and not (found.path / "config.json").exists():
        if adapter is not None:
            raise InputError(f"{found.name} is an adapter itself, got a second one: {os.fspath(adapter)}")
        facts = runfolder.read_facts(found.path)
        over, words, found = found.path, found, _locate_base(found, facts, offline=offline)
        words = words if _has_tokenizer(over) else None
    else:
        over = _locate(adapter, offline=offline).path if adapter is not None else None
        facts = runfolder.read_facts(over or found.path) if found.path.is_dir() else {}
    if tokenizer is not None:
        words = _locate(tokenizer, offline=offline)
    _check_files(found.path, own_tokenizer=words is None)
    place, kind = runtime.resolve_device(device), task or str(facts.get("task") or _guess_task(found.path))
    with runtime.quiet():
        the_tokenizer = load_tokenizer((words or found).path)
        model = _load_model(found, kind, runtime.resolve_dtype(dtype, place))
        if over is not None:
            model = _lay_adapter(model, over, found)
        return Loaded(model.to(place).eval(), the_tokenizer, os.fspath(checkpoint), facts)


def _locate(name: str | os.PathLike[str], *, revision: str | None = None, offline: bool = False) -> Located:
    found = locate(os.fspath(name), revision=revision, offline=offline)
    for note in found.notes:
        logger.info(note)
    return found


def _locate_base(adapter: Located, facts: dict[str, object], *, offline: bool) -> Located:
    config, _ = checking.check_adapter(adapter.path)
    base = facts.get("base") or config.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise InputError(f"{adapter.name} is an adapter that names no base", hint="-m BASE -a ADAPTER names both")
    return _locate(base, offline=offline)


def _has_tokenizer(folder: Path) -> bool:
    return any(all((folder / name).is_file() for name in names) for names in checking.TOKENIZERS.values())


def _check_files(path: Path, *, own_tokenizer: bool) -> None:
    if path.suffix == ".gguf":
        checking.check_gguf(path)
    else:
        checking.check_checkpoint(path, tokenizer=own_tokenizer)


def _guess_task(path: Path) -> str:
    if path.suffix == ".gguf":
        return "generation"
    architecture = next(iter(checking.read_json(path / "config.json").get("architectures") or ()), "")
    return next((task for end, task in HEADS.items() if str(architecture).endswith(end)), "generation")


def load_tokenizer(path: Path) -> Any:
    """Load the tokenizer of a folder or a .gguf file; a folder with vocab.txt alone holds a BERT tokenizer.

    Raises:
        InputError: It cannot be read, or is empty.
    """
    from transformers import AutoTokenizer, BertTokenizer

    where: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        if path.suffix == ".gguf":
            tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, **where)
        elif checking.check_tokenizer(path)[0].startswith("WordPiece"):
            tokenizer = BertTokenizer.from_pretrained(path, **where)
        else:
            tokenizer = AutoTokenizer.from_pretrained(path, **where)
    except ImportError as err:
        raise InputError(f"the tokenizer of {path} needs a package: {_first_line(err)}") from err
    except InputError:
        raise
    except Exception as err:  # tokenizers' Rust side raises bare Exception
        raise InputError(f"the tokenizer of {path} cannot be read: {_first_line(err)}") from err
    if len(tokenizer) == 0:
        raise InputError(f"the tokenizer of {path} is empty", hint="--tokenizer FOLDER names another")
    return tokenizer


def _load_model(found: Located, task: str, dtype: "torch.dtype | None") -> Any:
    import transformers

    if found.path.suffix == ".gguf":
        return _load_gguf(found.path, dtype)
    try:
        model, info = getattr(transformers, AUTO_CLASSES[task]).from_pretrained(
            found.path,
            dtype=dtype or "auto",
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # so that they come back as a list, for one sentence of ours
            output_loading_info=True,
        )
    except (ValueError, KeyError, AttributeError, TypeError, ImportError, RuntimeError) as err:
        raise InputError(f"{found.name} does not load as a model for {task}: {_first_line(err)}") from err
    _check_loading(found.name, info)
    _check_finite(found.name, model)
    return model


def _check_loading(name: str, info: dict[str, Any]) -> None:
    wrong = [f"{key} is {tuple(stored)}, expected {tuple(wanted)}" for key, stored, wanted in info["mismatched_keys"]]
    if wrong:
        raise DamagedError(
            f"{name}: {len(wrong)} tensors have another shape than config.json says: {'; '.join(wrong[:3])}"
        )
    missing = sorted(info["missing_keys"])
    if missing:
        raise DamagedError(f"{name} lacks {len(missing)} tensors of the model, such as {', '.join(missing[:3])}")


def _check_finite(name: str, model: Any) -> None:
    import torch

    for key, tensor in model.named_parameters():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise DamagedError(f"{name}: the tensor {key} holds values that are not finite")


def _load_gguf(path: Path, dtype: "torch.dtype | None") -> Any:
    """Read a .gguf file through transformers, dequantized, as a model that can be saved as safetensors.

    transformers 5.23 keeps a quantizer on what it reads and refuses to save it, so the weights move, without a copy, to
    a model built from the same config without one.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    try:
        read = AutoModelForCausalLM.from_pretrained(
            path.parent,
            gguf_file=path.name,
            dtype=dtype or torch.float32,
            local_files_only=True,
            trust_remote_code=False,
        )
    except ImportError as err:
        if "gguf" not in str(err).lower():
            raise
        raise InputError("reading .gguf needs the package gguf", hint='pip install "llmkit[gguf]"') from err
    except Exception as err:  # gguf's reader raises whatever numpy and struct do
        raise DamagedError(f"{path} cannot be read: {_first_line(err)}") from err
    config = copy.deepcopy(read.config)
    config.__dict__.pop("quantization_config", None)
    with no_init_weights():
        model = type(read)(config)
    model.load_state_dict(read.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config = read.generation_config
    return model


def _lay_adapter(model: Any, folder: Path, base: Located) -> Any:
    _, tensors = checking.check_adapter(folder)
    _check_base(folder, base)
    _check_fit(model, folder, tensors)
    from peft import PeftModel, get_peft_model_state_dict

    try:
        laid = PeftModel.from_pretrained(model, str(folder), torch_device="cpu")
    except (ValueError, RuntimeError, KeyError, TypeError) as err:
        raise InputError(f"the adapter {folder} does not fit {base.name}: {_first_line(err)}") from err
    missing = sorted(set(get_peft_model_state_dict(laid)) - set(tensors))
    if missing:
        raise InputError(
            f"the adapter {folder} was made for another base than {base.name}: "
            f"it holds nothing for {len(missing)} tensors, such as {missing[0]}"
        )
    return laid


def _check_base(folder: Path, base: Located) -> None:
    """Refuse a base of the same shape with other weights, where llmkit.json keeps the hash of the right one."""
    expected = runfolder.read_facts(folder).get("base_sha256")
    if expected is not None and hash_weights(base.path) != expected:
        raise InputError(f"the adapter {folder} was made for other weights than {base.name} (its sha256 differs)")
    if expected is None:
        logger.info(f"the adapter {folder} does not say which weights it was made for; only shapes were compared")


def hash_weights(path: Path) -> str:
    """Compute the sha256 of a checkpoint's weights; of several shards, that of their hashes in the order of names."""
    files = [path] if path.suffix == ".gguf" else checking.list_weights(path)
    hashes = [runfolder.hash_file(file) for file in files]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def _check_fit(model: Any, folder: Path, tensors: dict[str, checking.Tensor]) -> None:
    """Compare the LoRA factors, A (rank, inputs) and B (outputs, rank), with the modules that they belong to."""
    modules = dict(model.named_modules())
    for name, tensor in tensors.items():
        path, _, factor = name.removeprefix("base_model.model.").removesuffix(".weight").rpartition(".")
        if factor not in ("lora_A", "lora_B"):
            continue
        if path not in modules:
            raise InputError(f"the adapter {folder} was made for another base: this one has no module {path}")
        rows, columns = modules[path].weight.shape[-2:]
        outputs, inputs = (columns, rows) if type(modules[path]).__name__ == "Conv1D" else (rows, columns)
        has, needs, what = (
            (tensor.shape[1], inputs, "inputs") if factor == "lora_A" else (tensor.shape[0], outputs, "outputs")
        )
        if has != needs:
            raise InputError(f"the adapter {folder} was made for {has} {what} at {path}, the base has {needs}")


def _first_line(err: BaseException) -> str:
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    return (lines[0] if lines else type(err).__name__)[:200]
