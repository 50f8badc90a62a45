"""From a checkpoint folder to the facts about it, or one sentence about what is wrong, without importing torch.

Sources: the safetensors format (8 bytes of header length, little endian; a JSON header; the data), the folder layout of
transformers 5, and the pointer files of git-lfs.
"""

import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from llmkit import runfolder
from llmkit.errors import DamagedError, InputError

MAX_JSON_BYTES = 64 << 20
MAX_HEADER_BYTES = 100 << 20
MAX_DIMENSION = 1 << 24
LFS_POINTER = b"version https://git-lfs"
# Tokenizer files by kind; the first whose files are all there is what a folder has.
TOKENIZERS: dict[str, tuple[str, ...]] = {
    "tokenizer.json": ("tokenizer.json",),
    "byte-level BPE (vocab.json, merges.txt)": ("vocab.json", "merges.txt"),
    "SentencePiece (tokenizer.model)": ("tokenizer.model",),
    "SentencePiece (sentencepiece.bpe.model)": ("sentencepiece.bpe.model",),
    "SentencePiece (spiece.model)": ("spiece.model",),
    "Marian (source.spm, target.spm)": ("source.spm", "target.spm", "vocab.json"),
    "WordPiece (vocab.txt)": ("vocab.txt",),
}
# The names under which the eight families (and BERT) keep their input embedding.
EMBEDDINGS = (
    "wte.weight",
    "embed_tokens.weight",
    "word_embeddings.weight",
    "embed_in.weight",
    "tokens_embed.weight",
    "shared.weight",
)
LAYER_KEYS = ("n_layer", "n_layers", "num_layers", "num_hidden_layers", "encoder_layers", "decoder_layers")
# What makes a library import, or fetch and run, the code that a config names.
CODE_KEYS = ("auto_map", "megatron_config")
CONTEXT_KEYS = ("max_position_embeddings", "n_positions")


@dataclass(frozen=True)
class Tensor:
    """Describes a stored tensor."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Facts:
    """Describes a checkpoint folder; `tensors` maps each stored name to its dtype and shape."""

    folder: Path
    config: dict[str, Any]
    tokenizer: str | None
    vocabulary: int | None
    tensors: dict[str, Tensor] = field(repr=False)

    @property
    def num_parameters(self) -> int:
        """The number of stored values."""
        return sum(math.prod(t.shape) for t in self.tensors.values())

    @property
    def context(self) -> int | None:
        """The longest sequence in tokens, where the config states one."""
        return next((self.config[key] for key in CONTEXT_KEYS if isinstance(self.config.get(key), int)), None)


def check_checkpoint(folder: Path, *, tokenizer: bool = True) -> Facts:
    """Check the files of a full checkpoint.

    Args:
        folder: A folder with config.json and safetensors weights.
        tokenizer: Whether the folder must hold a tokenizer; not so where the user names another.

    Raises:
        InputError: Something must be mended by another call: no config, no tokenizer, pickled weights, remote code.
        DamagedError: The files are damaged: truncated, a git-lfs pointer, a shard missing, unlike the manifest.
    """
    config = check_config(folder)
    kind, vocabulary = check_tokenizer(folder) if tokenizer else (None, None)
    tensors = {name: tensor for path in list_weights(folder) for name, tensor in read_header(path).items()}
    runfolder.check_manifest(folder)
    _check_layers(folder, config, len(tensors))
    facts = Facts(folder, config, kind, vocabulary, tensors)
    rows = next((t.shape[0] for n, t in tensors.items() if n.endswith(EMBEDDINGS) and t.shape), None)
    if vocabulary is not None and rows is not None and vocabulary > rows:
        raise InputError(f"the tokenizer of {folder} has {vocabulary:,} tokens, the embedding only {rows:,} rows")
    return facts


def check_config(folder: Path) -> dict[str, Any]:
    """Read config.json and refuse what cannot be loaded or should not be trusted.

    Raises:
        InputError: It is missing, not JSON, without a known shape, or asks for code from the folder.
    """
    path = folder / "config.json"
    config = read_json(path)
    if not isinstance(config.get("model_type"), str):
        raise InputError(f"{path} names no model_type, got {config.get('model_type')!r}")
    _refuse_code(path, config)
    if (folder / "generation_config.json").is_file():  # transformers passes over one that it cannot read
        read_json(folder / "generation_config.json")
    for key, value in config.items():
        counts = key.startswith(("n_", "num_")) or key.endswith(("_size", "_positions", "_position_embeddings"))
        if counts and key != "n_inner" and isinstance(value, int) and not 0 <= value <= MAX_DIMENSION:
            raise InputError(f"{path}: {key} is {value}; expected 0 to {MAX_DIMENSION:,}")
    return config


def _refuse_code(path: Path, config: dict[str, Any]) -> None:
    parts = [config]
    for part in parts:  # grows: configs nest
        for key, value in part.items():
            # An attention implementation with a slash is a kernel: a repository whose code would be fetched and run.
            is_kernel = key.endswith(("_implementation", "_implementation_internal")) and "/" in str(value)
            if is_kernel or (key in CODE_KEYS and value is not None):
                raise InputError(f"{path} asks for Python code of its own ({key}); llmkit never runs it")
            parts += [value] if isinstance(value, dict) else []


def _check_layers(folder: Path, config: dict[str, Any], num_tensors: int) -> None:
    """Refuse more layers than stored tensors before a model of so many is built."""
    for key in LAYER_KEYS:
        value = config.get(key)
        if isinstance(value, int) and value > num_tensors:
            raise DamagedError(
                f"{folder}: config.json has {key} {value:,}, the weights hold only {num_tensors:,} tensors"
            )


def check_tokenizer(folder: Path) -> tuple[str, int | None]:
    """Find the tokenizer of a folder and count its tokens.

    Returns:
        Its kind; and the highest id plus one, where a text file holds the vocabulary.

    Raises:
        InputError: There is none, it is empty, a git-lfs pointer, or asks for code from the folder.
    """
    kind = next((k for k, names in TOKENIZERS.items() if all((folder / n).is_file() for n in names)), None)
    if kind is None:
        raise InputError(f"no tokenizer in {folder}", hint="--tokenizer FOLDER (in Python: tokenizer=) names another")
    for name in TOKENIZERS[kind]:
        if _starts_with_lfs_pointer(folder / name):
            raise InputError(f"{folder / name} is a git-lfs pointer, not the file itself", hint="git lfs pull")
    if (folder / "tokenizer_config.json").is_file():
        _refuse_code(folder / "tokenizer_config.json", read_json(folder / "tokenizer_config.json"))
    size = _count_tokens(folder, kind)
    if size == 0:
        raise InputError(f"the tokenizer of {folder} is empty", hint="--tokenizer FOLDER names another")
    return kind, size


def _count_tokens(folder: Path, kind: str) -> int | None:
    if kind == "tokenizer.json":
        backend = read_json(folder / kind)
        model = backend.get("model")
        vocab = model.get("vocab") if isinstance(model, dict) else None
        ids = list(vocab.values()) if isinstance(vocab, dict) else list(range(len(_as_list(vocab))))
        ids += [t.get("id") for t in _as_list(backend.get("added_tokens")) if isinstance(t, dict)]
        return max((i for i in ids if isinstance(i, int)), default=-1) + 1
    if kind.startswith("byte-level"):
        return max((i for i in read_json(folder / "vocab.json").values() if isinstance(i, int)), default=-1) + 1
    if kind.startswith("WordPiece"):
        with (folder / "vocab.txt").open("rb") as file:
            return sum(1 for line in file if line.strip())
    return None


def _as_list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def is_adapter(folder: Path) -> bool:
    """Tell whether a folder holds a peft adapter alone; one that has config.json too is a full checkpoint."""
    return (folder / "adapter_config.json").is_file() and not (folder / "config.json").exists()


def name_base(folder: Path) -> str | None:
    """Name the base of an adapter; None where nothing does.

    It is the folder in peft's config or the copy that a run keeps, where that is there (also after the run folder was
    moved), else what llmkit.json calls it, else what peft's config does.
    """
    config, _ = check_adapter(folder)
    stated, facts = config.get("base_model_name_or_path"), runfolder.read_facts(folder)
    if isinstance(stated, str) and stated and "base" in facts:
        copies = [Path(stated)]
        copies += [place / "base" for place in folder.resolve().parents[:2]] if Path(stated).name == "base" else []
        for copy in copies:
            if (copy / "config.json").is_file():
                return str(copy)
    base = facts.get("base") or stated
    return base if isinstance(base, str) and base else None


def check_adapter(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Check the files of a peft adapter; return its config and its tensors.

    Raises:
        InputError: Its config is missing, not one of peft's, or asks for code; or its weights are pickled or missing.
        DamagedError: Its files are damaged.
    """
    path = folder / "adapter_config.json"
    config = read_json(path)
    if not isinstance(config.get("peft_type"), str):
        raise InputError(f"{path} names no peft_type, got {config.get('peft_type')!r}")
    _refuse_code(path, config)
    weights = folder / "adapter_model.safetensors"
    if not weights.is_file():
        if (folder / "adapter_model.bin").is_file():
            raise InputError(f"{folder} holds a pickled adapter; expected adapter_model.safetensors")
        raise InputError(f"no adapter_model.safetensors in {folder}")
    tensors = read_header(weights)
    runfolder.check_manifest(folder)
    return config, tensors


def check_gguf(path: Path) -> None:
    """Check that a file begins as the GGUF format does: magic, version, numbers of tensors and of fields.

    Raises:
        DamagedError: It is a git-lfs pointer or something else.
    """
    if _starts_with_lfs_pointer(path):
        raise DamagedError(f"{path} is a git-lfs pointer, not the file itself", hint="git lfs pull")
    with path.open("rb") as file:
        header = file.read(24)
    if len(header) < 24 or header[:4] != b"GGUF" or not 1 <= int.from_bytes(header[4:8], "little") < 1 << 16:
        raise DamagedError(f"{path} is not in the GGUF format")


def count_gguf_tensors(path: Path) -> int:
    """Count the tensors of a .gguf file, all of which must lie in it.

    Raises:
        DamagedError: It ends too early.
    """
    import gguf

    size = path.stat().st_size
    try:
        tensors = gguf.GGUFReader(path).tensors
        end = max((int(tensor.data_offset + tensor.n_bytes) for tensor in tensors), default=0)
    except (ValueError, IndexError, TypeError) as err:  # of numpy, where the file ends in a tensor or before
        raise DamagedError(f"{path} is cut off: its {size:,} bytes end in its tensors or before them") from err
    if end > size:
        raise DamagedError(f"{path} is cut off: it has {size:,} bytes, its tensors take {end:,}")
    return len(tensors)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InputError: The file is missing, too large, not JSON or not an object.
    """
    try:
        too_large = path.stat().st_size > MAX_JSON_BYTES
        value = None if too_large else json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"no {path.name} in {path.parent}") from None
    except OSError as err:
        raise InputError(f"{path} cannot be read: {err.strerror}") from None
    except (ValueError, RecursionError) as err:
        reason = f"{err.msg} in line {err.lineno}" if isinstance(err, json.JSONDecodeError) else "not UTF-8 or too deep"
        raise InputError(f"{path} is not JSON: {reason}") from None
    if too_large:
        raise InputError(f"{path} is larger than {MAX_JSON_BYTES >> 20} MB")
    if not isinstance(value, dict):
        raise InputError(f"{path} holds {type(value).__name__}; expected a JSON object")
    return value


def read_header(path: Path) -> dict[str, Tensor]:
    """Read the names, dtypes and shapes of a safetensors file and check that its data are all there.

    Raises:
        DamagedError: The file is truncated, a git-lfs pointer, or not in this format.
    """
    size = path.stat().st_size
    if _starts_with_lfs_pointer(path):
        raise DamagedError(f"{path} is a git-lfs pointer, not the weights", hint="git lfs pull")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
            raise DamagedError(f"{path} is truncated or not a safetensors file ({size:,} bytes)")
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            end = max((int(t["data_offsets"][1]) for t in header.values()), default=0)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
            raise DamagedError(f"the header of {path} cannot be read") from None
    if size != 8 + length + end:
        raise DamagedError(f"{path} has {size:,} bytes, its header promises {8 + length + end:,}: truncated or altered")
    try:  # the library checks that dtypes, shapes and places agree
        with safe_open(path, framework="np") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118 (it is no mapping)
            return {name: Tensor(s.get_dtype(), tuple(s.get_shape())) for name, s in slices.items()}
    except SafetensorError as err:
        reason = str(err).removeprefix("Error while deserializing header: ")[:120]
        raise DamagedError(f"the header of {path} contradicts itself: {reason}") from None


def list_weights(folder: Path) -> list[Path]:
    """List the safetensors files of a checkpoint: one, or the shards that its index names.

    Raises:
        InputError: There are only pickled weights, or none.
        DamagedError: A shard is missing.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        shards = read_json(index).get("weight_map")
        if (
            not shards
            or not isinstance(shards, dict)
            or not all(isinstance(s, str) and s == Path(s).name for s in shards.values())
        ):
            raise DamagedError(f"{index} has no usable weight_map")
        paths = [folder / name for name in sorted(set(shards.values()))]
        missing = [p.name for p in paths if not p.is_file()]
        if missing:
            raise DamagedError(f"{folder} lacks {len(missing)} of {len(paths)} shards: {', '.join(missing[:3])}")
        return paths
    if any(folder.glob("pytorch_model*.bin")):
        raise InputError(
            f"{folder} holds pickled weights (.bin), which can run code when loaded; expected model.safetensors",
            hint=f"llmkit export safetensors {folder} OUT",
        )
    raise InputError(f"no model.safetensors in {folder}")


def hash_weights(path: Path) -> str:
    """Compute the sha256 of a checkpoint's weights; of several shards, that of their hashes in the order of names."""
    files = [path] if path.suffix == ".gguf" else list_weights(path)
    hashes = [runfolder.hash_file(file) for file in files]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def _starts_with_lfs_pointer(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(LFS_POINTER)) == LFS_POINTER
