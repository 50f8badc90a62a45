"""What is refused before the processes of a run start to train."""

import os

import pytest
import torch
from accelerate import DistributedType

import llmkit
from llmkit.errors import InputError
from llmkit.training import starting
from llmkit.training.layouts import DEEPSPEED


@pytest.mark.parametrize(("gpus", "processes", "fits"), [(4, 8, False), (8, 8, True), (0, 8, True), (1, 1, True)])
def test_more_processes_than_gpus_are_refused(monkeypatch, make_recipe, gpus, processes, fits):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    if fits:
        starting._check_devices()
        return
    with pytest.raises(InputError, match=r"^8 processes share this machine, which has 4 GPUs; expected at most 4$"):
        llmkit.train(make_recipe())
    assert not os.path.exists(make_recipe()["output_dir"])


@pytest.mark.parametrize(
    ("environment", "kind", "sentence"),
    [
        ({}, DistributedType.DEEPSPEED, DEEPSPEED),
        (
            {"ACCELERATE_USE_FSDP": "true"},
            DistributedType.MULTI_CPU,
            "accelerate shards on GPUs alone, and there are none",
        ),
    ],
    ids=["DeepSpeed", "FSDP on CPUs"],
)
def test_what_accelerate_would_do_otherwise_is_refused(monkeypatch, make_recipe, environment, kind, sentence):
    from accelerate import Accelerator

    accelerator = Accelerator()
    monkeypatch.setattr(type(accelerator), "distributed_type", kind)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=f"^distributed_type: {sentence}"):
        llmkit.train(make_recipe(), accelerator=accelerator)
