"""A file of accelerate to what a run in several processes needs: which processes there are, and what they are told."""

import argparse
import contextlib
import os
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from llmkit import runtime
from llmkit.errors import InputError
from llmkit.recipe.reading import find_launchers
from llmkit.training.launching import Layout

KINDS = ("NO", "MULTI_CPU", "MULTI_GPU", "FSDP")
DEEPSPEED = "DeepSpeed accumulates gradients and steps by itself, which this loop does; expected MULTI_GPU or FSDP"


def read_layout(path: str, num_processes: int | None = None) -> Layout:
    """Read a file that `accelerate config` writes.

    Of several machines each starts its own processes; where the file states no machine_rank, SLURM_NODEID is taken.

    Args:
        path: The file, YAML or JSON, or the name of one that comes with llmkit.
        num_processes: In the place of the file's, on all machines together.

    Raises:
        InputError: It cannot be read, or asks for what llmkit does not do.
    """
    launchers = find_launchers()
    if path in launchers and not Path(path).exists():
        path = str(launchers[path])
    if not Path(path).is_file():
        raise InputError(f"no such file: {path}", hint=f"{', '.join(launchers)} come with llmkit")
    arguments = _read(path, num_processes)
    count, machines = int(arguments.num_processes), int(arguments.num_machines or 1)
    if count % machines:
        raise InputError(f"{path}: num_processes: {count} processes cannot be shared by {machines} machines")
    local = count // machines
    told = _list_variables(path, arguments).items()
    environment = {k: v for k, v in told if k != "OMP_NUM_THREADS" and os.environ.get(k) != v}
    if machines == 1:
        return Layout(count, local, environment=environment)
    if not arguments.main_process_ip or not arguments.main_process_port:
        raise InputError(f"{path}: {machines} machines need main_process_ip and main_process_port, where they meet")
    rank, address = int(arguments.machine_rank or 0), str(arguments.main_process_ip)
    if "GLOO_SOCKET_IFNAME" not in os.environ and (interface := _find_interface(address)) is not None:
        environment["GLOO_SOCKET_IFNAME"] = interface  # gloo would take that of the machine's name, often the loopback
    return Layout(count, local, rank * local, address, int(arguments.main_process_port), environment)


def _read(path: str, num_processes: int | None) -> argparse.Namespace:
    """Have accelerate read the file, and join it with its own defaults as `accelerate launch` does."""
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    with _refusing(path):
        kept = load_config_from_file(path)
    kind = getattr(kept.distributed_type, "value", str(kept.distributed_type))
    if kind == "DEEPSPEED":
        raise InputError(f"{path}: {DEEPSPEED}")
    if kind not in KINDS:
        raise InputError(f"{path}: distributed_type: llmkit does not do {kind}; expected {', '.join(KINDS)}")
    version = int((kept.fsdp_config or {}).get("fsdp_version", 1))
    if kind == "FSDP" and version != 2:
        raise InputError(f"{path}: fsdp_config.fsdp_version: got {version}; expected 2")
    words = ["--config_file", path, "--num_cpu_threads_per_process", "1"]  # llmkit sets the threads
    words += [] if num_processes is None else ["--num_processes", str(num_processes)]
    if kept.machine_rank in (None, 0) and os.environ.get("SLURM_NODEID"):
        words += ["--machine_rank", os.environ["SLURM_NODEID"]]
    with runtime.quiet(), _refusing(path):
        arguments: argparse.Namespace
        arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args([*words, "llmkit"]))
    return arguments


@contextlib.contextmanager
def _refusing(path: str) -> Iterator[None]:
    """Give accelerate's reason, which comes as many kinds of errors: an unquoted `no`, say, as an AttributeError."""
    try:
        yield
    except Exception as err:
        raise InputError(f"{path}: accelerate refuses it: {' '.join(str(err).split())}") from err


def _list_variables(path: str, arguments: argparse.Namespace) -> dict[str, str]:
    """List what the processes are told of mixed precision, of FSDP and of the devices."""
    from accelerate.utils.launch import prepare_multi_gpu_env

    asked: Any = argparse.Namespace(**{**vars(arguments), "main_process_port": 0, "num_machines": 1, "module": True})
    with warnings.catch_warnings(action="ignore"), _refusing(path):
        told: dict[str, str] = prepare_multi_gpu_env(asked)
    return {**told, "ACCELERATE_USE_CPU": "true"} if arguments.use_cpu else told


def _find_interface(address: str) -> str | None:
    """Find the network interface by which this machine reaches an address."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
            asked.connect((address, 9))  # which sends nothing
            own = asked.getsockname()[0]
    except OSError:
        return None
    return next((name for name, at in psutil.net_if_addrs().items() if own in {part.address for part in at}), None)
