"""`llmkit doctor`: what is here, and what is wrong with it."""

import importlib.metadata
import importlib.util
import os
import shutil
from pathlib import Path
from typing import Annotated

import typer

from llmkit import checking
from llmkit.cli import options, render
from llmkit.locating import locate, reach

Checkpoint = Annotated[str | None, typer.Argument(help="A checkpoint, checked without importing torch.")]


def doctor(
    checkpoint: Checkpoint = None,
    tokenizer: options.Tokenizer = None,
    offline: options.Offline = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Show versions, devices, cache and network, or the facts of one checkpoint, and what is wrong with them."""
    render.NOTES.quiet = quiet
    if checkpoint is not None:
        _show(_describe_checkpoint(checkpoint, tokenizer, offline))
        return
    facts, problems = _describe_machine(offline)
    _show(facts)
    for problem in problems:
        render.say("note", problem)


def _show(facts: dict[str, str]) -> None:
    width = max(len(name) for name in facts)
    render.write("".join(f"{name:<{width}}  {value}\n" for name, value in facts.items()))


def _describe_checkpoint(name: str, tokenizer: str | None, offline: bool) -> dict[str, str]:
    found = locate(name, offline=offline)
    facts = {"checkpoint": str(found.path)}
    if found.notes:
        facts["part"] = "; ".join(found.notes)
    with found.naming():
        if found.path.suffix == ".gguf":
            checking.check_gguf(found.path)
            facts |= {"form": "GGUF", "size": _size(found.path.stat().st_size)}
            if importlib.util.find_spec("gguf") is not None:
                facts["tensors"] = f"{checking.count_gguf_tensors(found.path):,}"
        elif checking.is_adapter(found.path):
            facts |= _describe_adapter(found.path)
            if checking.name_base(found.path) is not None:
                from llmkit.adapters import locate_base

                locate_base(found, offline=offline)
        else:
            facts |= _describe_folder(found.path, tokenizer, offline)
    return {**facts, "wrong": "nothing found"}


def _describe_adapter(folder: Path) -> dict[str, str]:
    config, tensors = checking.check_adapter(folder)
    return {
        "form": f"peft adapter, {config['peft_type']}",
        "base": checking.name_base(folder) or "not named",
        "tensors": f"{len(tensors):,}",
    }


def _describe_folder(folder: Path, tokenizer: str | None, offline: bool) -> dict[str, str]:
    facts = checking.check_checkpoint(folder, tokenizer=tokenizer is None)
    kind, vocabulary = facts.tokenizer, facts.vocabulary
    if tokenizer is not None:
        kind, vocabulary = checking.check_tokenizer(locate(tokenizer, offline=offline, weights=False).path)
    dtypes = sorted({tensor.dtype for tensor in facts.tensors.values()})
    architectures = facts.config.get("architectures")
    named = [str(name) for name in architectures] if isinstance(architectures, list) else []
    return {
        "form": ", ".join(["safetensors", facts.config["model_type"], *named]),
        "parameters": f"{facts.num_parameters:,} in {len(facts.tensors):,} tensors ({', '.join(dtypes)})",
        "context": f"{facts.context:,} tokens" if facts.context else "not stated",
        "tokenizer": f"{kind}, {vocabulary:,} tokens" if vocabulary else str(kind),
    }


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.1f} MB"


def _describe_machine(offline: bool) -> tuple[dict[str, str], list[str]]:
    from huggingface_hub import constants

    from llmkit.runtime import describe_environment

    facts, problems = describe_environment(), _find_old_packages()
    cache = Path(constants.HF_HUB_CACHE)
    there = next(p for p in (cache, *cache.parents) if p.exists())
    facts["cache"] = f"{cache} ({shutil.disk_usage(there).free / 1e9:,.1f} GB free)"
    if not os.access(there, os.W_OK):
        problems.append(f"the cache {cache} cannot be written to; HF_HOME names another place")
    facts["hub"] = constants.ENDPOINT
    if offline or constants.HF_HUB_OFFLINE:
        facts["network"] = "not asked (offline)"
    elif (reason := reach(constants.ENDPOINT)) is None:
        facts["network"] = "the hub's host answers"
    else:
        facts["network"] = reason
        problems.append("hub ids load from the local cache only; HF_ENDPOINT names a mirror")
    return facts, problems


def _find_old_packages() -> list[str]:
    """Compare the installed packages with the floors that llmkit states."""
    from packaging.requirements import Requirement

    problems = []
    for line in importlib.metadata.requires("llmkit") or ():
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            problems.append(f"{requirement.name} is not installed")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            problems.append(f"{requirement.name} is {version}; expected {requirement.specifier}")
    return problems
