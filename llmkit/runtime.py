"""The machine under a model: device, dtype, seeds, and the silence of libraries.

torch is imported inside the functions, so that a call is checked and a checkpoint found before it is paid for.
"""

import contextlib
import hashlib
import importlib.metadata
import numbers
import os
import platform
import re
import secrets
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmkit.errors import InputError

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "bfloat16", "float16")
PACKAGES = ("llmkit", "torch", "transformers", "tokenizers", "safetensors", "huggingface_hub", "accelerate", "peft")
MAX_SEED = 2**63 - 1
# A forward of so many tokens keeps the device busy. On a CPU more of them leave its caches (a token of BERT-base takes
# 10 % less time among 1,024 than among 2,048, and 30 % less than among 4,096); a model that generates reads all its
# weights at each step, which more rows share: beside model.generate, an encoder-decoder of Marian's size gave 25 % more
# translations a second among 4,096 than among 2,048 (python -m benchmarks tasks --only translation).
BUSY_TOKENS = {"cpu": 1024, "cpu, generating": 2048, "cpu, translating": 4096, "gpu": 65_536}


def resolve_device(name: str) -> "torch.device":
    """Resolve `auto`, `cpu`, `cuda`, `cuda:N` or `mps` to a device that is there.

    Raises:
        InputError: The name is not one of these, or the device is not on this machine.
    """
    import torch

    name = str(name)  # of a torch.device too
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if _has_mps() else "cpu")
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index and not (kind == "cuda" and index.isdecimal())):
        raise InputError(f"unknown device, got {name!r}; expected auto, cpu, cuda, cuda:N or mps")
    if kind == "cuda" and not torch.cuda.is_available():
        raise InputError("no CUDA device on this machine", hint="--device cpu")
    if kind == "cuda" and index and int(index) >= torch.cuda.device_count():
        raise InputError(f"no CUDA device {index}; this machine has {torch.cuda.device_count()}, counted from 0")
    if kind == "mps" and not _has_mps():
        raise InputError("no MPS device on this machine", hint="--device cpu")
    return torch.device(name)


def _has_mps() -> bool:
    import torch

    return bool(torch.backends.mps.is_available())


def resolve_dtype(name: str, device: "torch.device") -> "torch.dtype | None":
    """Resolve a dtype name; `auto` is float32 on a CPU, elsewhere None: the checkpoint's own.

    Raises:
        InputError: The name is not known.
    """
    import torch

    name = str(name).removeprefix("torch.")  # of a torch.dtype too
    if name == "auto":
        return torch.float32 if device.type == "cpu" else None
    if name not in DTYPES:
        raise InputError(f"unknown dtype, got {name!r}; expected auto, {', '.join(DTYPES)}")
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def draw_seed() -> int:
    """Draw a seed that no one chose: short enough to be typed again."""
    return secrets.randbelow(1_000_000)


def check_seed(seed: int | None) -> int:
    """Return the seed, drawn where it is None.

    Raises:
        InputError: It is not a whole number from 0 to 2**63 - 1.
    """
    if seed is None:
        return draw_seed()
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral) or not 0 <= seed <= MAX_SEED:
        raise InputError(f"seed out of range, got {seed!r}; expected a whole number from 0 to 2**63 - 1")
    return int(seed)  # numpy's stay out of results


def mix_seed(*parts: int) -> int:
    """Mix whole numbers, such as a seed and a step, to one seed; other numbers give an unrelated one."""
    text = ",".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def has_native_bf16(device: "torch.device") -> bool:
    """Tell whether a device computes bfloat16 itself, not by way of float32."""
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.get_device_capability(device)[0] >= 8)
    if device.type == "cpu":
        info = Path("/proc/cpuinfo")  # torch says only whether bfloat16 works at all
        flags = info.read_text(encoding="utf-8") if info.is_file() else ""
        return "avx512_bf16" in flags or "amx_bf16" in flags
    return False


def free_memory(device: "torch.device") -> int:
    """Measure the memory that can be had on a device, in bytes; the system's file cache counts as free."""
    import psutil
    import torch

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def is_out_of_memory(err: BaseException) -> bool:
    """Tell whether an error says that a GPU's memory is full."""
    import torch

    return isinstance(err, torch.OutOfMemoryError)


def token_budget(model: Any) -> int:
    """Find how many tokens a forward of a model may hold, padding included.

    A quarter of the free memory, at 16 vectors of the hidden size a token and layer that are alive at once at most;
    never more than what keeps the device busy: larger batches only pad more.
    """
    config = model.config
    width = max(
        getattr(config, name, None) or 0 for name in ("hidden_size", "d_model", "n_embd", "intermediate_size", "d_ff")
    )
    per_token: int = 16 * max(width, 64) * model.dtype.itemsize
    kind = "gpu"
    if model.device.type == "cpu":
        doing = "translating" if getattr(config, "is_encoder_decoder", False) else "generating"
        kind = f"cpu, {doing}" if model.can_generate() else "cpu"
    return max(1, min(BUSY_TOKENS[kind], free_memory(model.device) // 4 // per_token))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' warnings, logs and progress bars from the user while ours says what matters."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    is_hub_silent = are_progress_bars_disabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.set_verbosity(logging.CRITICAL)
        logging.disable_progress_bar()  # and those of the hub's client with them
        try:
            yield
        finally:
            logging.set_verbosity(verbosity)
            if bars:
                logging.enable_progress_bar()
            if is_hub_silent:
                disable_progress_bars()
            else:
                enable_progress_bars()


@contextlib.contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Put a model in evaluation mode, and the mode of each of its modules back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def describe_environment() -> dict[str, str]:
    """Collect what a run depends on: versions, processor, threads and devices."""
    import torch

    versions = {name: importlib.metadata.version(name) for name in PACKAGES if _is_installed(name)}
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "python": sys.version.split()[0],
        **versions,
        **_find_commit(),
        "platform": platform.platform(),
        "processor": _name_processor(),
        "cpus": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "cuda devices": ", ".join(devices) or "none",
    }


def _name_processor() -> str:
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.is_file() else ""
    named = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return named[1].strip() if named else platform.processor() or platform.machine()


def _find_commit() -> dict[str, str]:
    """Find the commit of llmkit's source, where it runs from a working copy; + says that files differ from it."""
    source = Path(__file__).parents[1]
    if not (source / ".git").exists():
        return {}

    def ask(*words: str) -> str:
        asked = subprocess.run(["git", "-C", source, *words], capture_output=True, text=True, check=True, timeout=10)
        return asked.stdout.strip()

    try:
        commit = ask("rev-parse", "HEAD")
        return {"commit": commit + ("+" if ask("status", "--porcelain", "--untracked-files=no") else "")}
    except (OSError, subprocess.SubprocessError):
        return {}


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
