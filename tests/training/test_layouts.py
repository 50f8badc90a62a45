"""A file of accelerate says which processes there are, and what they are told."""

import json

import pytest
from ruamel.yaml import YAML

from llmkit.errors import InputError
from llmkit.recipe.reading import find_launchers, find_recipes
from llmkit.training import layouts
from llmkit.training.layouts import DEEPSPEED, read_layout

FIND_INTERFACE = layouts._find_interface


@pytest.fixture(autouse=True)
def interface(monkeypatch):
    """Each address is reached by eth7; nothing is asked for it."""
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    monkeypatch.setattr(layouts, "_find_interface", lambda address: "eth7")


@pytest.fixture
def write(tmp_path):
    """A function that writes a file of accelerate, a shipped one with other values."""

    def make(name="8-gpus-ddp", **values):
        path = tmp_path / "a.yaml"
        shipped = YAML(typ="safe", pure=True).load(find_launchers()[name].read_text(encoding="utf-8"))
        path.write_text(json.dumps({**shipped, **values}))
        return str(path)

    return make


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("1-gpu", (1, 1, 0, "127.0.0.1", 0)),
        ("8-gpus-ddp", (8, 8, 0, "127.0.0.1", 0)),
        ("8-gpus-fsdp2", (8, 8, 0, "127.0.0.1", 0)),
        ("2x8-gpus-ddp", (16, 8, 0, "10.0.0.1", 29500)),
        ("2x8-gpus-fsdp2", (16, 8, 0, "10.0.0.1", 29500)),
    ],
)
def test_files_that_come_with_llmkit_are_read_by_name(name, expected, monkeypatch):
    monkeypatch.delenv("SLURM_NODEID", raising=False)
    found = read_layout(name)
    assert (found.num_processes, found.num_local, found.first_rank, found.address, found.port) == expected
    assert found.environment["ACCELERATE_MIXED_PRECISION"] == "no"
    assert (found.environment.get("ACCELERATE_USE_FSDP") == "true") == name.endswith("fsdp2")
    assert found.environment.get("FSDP_VERSION", "2") == "2"
    assert name not in find_recipes()


def test_all_files_that_come_with_llmkit_are_tested():
    assert sorted(find_launchers()) == ["1-gpu", "2x8-gpus-ddp", "2x8-gpus-fsdp2", "8-gpus-ddp", "8-gpus-fsdp2"]


def test_number_of_processes_and_of_the_machine_may_come_from_elsewhere(write, monkeypatch):
    assert read_layout(write(), 2).num_local == 2
    monkeypatch.setenv("SLURM_NODEID", "1")
    assert read_layout("2x8-gpus-ddp").first_rank == 8
    monkeypatch.delenv("SLURM_NODEID")
    assert read_layout(write("2x8-gpus-ddp", machine_rank=1)).first_rank == 8


def test_machines_meet_over_the_interface_that_reaches_the_first(monkeypatch):
    assert read_layout("2x8-gpus-ddp").environment["GLOO_SOCKET_IFNAME"] == "eth7"
    assert "GLOO_SOCKET_IFNAME" not in read_layout("8-gpus-ddp").environment
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "mine")
    assert "GLOO_SOCKET_IFNAME" not in read_layout("2x8-gpus-ddp").environment
    assert FIND_INTERFACE("127.0.0.1") == "lo"


def test_processes_on_cpus_are_told_so(write):
    told = read_layout(write(distributed_type="MULTI_CPU", use_cpu=True, num_processes=2))
    assert (told.num_local, told.environment["ACCELERATE_USE_CPU"]) == (2, "true")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"distributed_type": "DEEPSPEED"}, DEEPSPEED),
        (
            {"distributed_type": "MEGATRON_LM"},
            "distributed_type: llmkit does not do MEGATRON_LM; expected",
        ),
        ({"name": "8-gpus-fsdp2", "fsdp_config": {"fsdp_version": 1}}, "fsdp_config.fsdp_version: got 1; expected 2"),
        ({"name": "2x8-gpus-ddp", "num_processes": 9}, "num_processes: 9 processes cannot be shared by 2 machines"),
        ({"name": "2x8-gpus-ddp", "main_process_ip": None}, "2 machines need main_process_ip and main_process_port"),
        ({"nonsense": 1}, "accelerate refuses it: .*nonsense"),
        ({"mixed_precision": False}, "accelerate refuses it: "),
        ({"mixed_precision": "int3"}, "accelerate refuses it: .*int3"),
    ],
    ids=str,
)
def test_what_llmkit_does_not_do_is_refused(write, changes, sentence):
    path = write(**changes)
    with pytest.raises(InputError, match=f"^{path}: {sentence}"):
        read_layout(path)


def test_missing_file_is_refused_with_the_names_there_are(tmp_path):
    with pytest.raises(InputError, match=r"^no such file: 9-gpus$") as caught:
        read_layout("9-gpus")
    assert "8-gpus-ddp" in caught.value.hint
