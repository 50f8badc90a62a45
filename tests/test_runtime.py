"""The machine under a model: device, dtype, seeds, and the silence of libraries."""

import importlib
import re
import subprocess
import warnings

import pytest
import torch
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers.utils import logging

from llmkit import runtime
from llmkit.errors import InputError

CPU = torch.device("cpu")
hub_tqdm = importlib.import_module("huggingface_hub.utils.tqdm")


def refuse(call, *arguments):
    with pytest.raises(InputError) as caught:
        call(*arguments)
    return str(caught.value), caught.value.hint


@pytest.fixture
def no_accelerator(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


# devices


@pytest.mark.parametrize("name", ["auto", "cpu"])
def test_resolve_device_is_the_cpu_when_there_is_nothing_else(no_accelerator, name):
    assert runtime.resolve_device(name) == CPU


@pytest.mark.parametrize(
    ("name", "expected"), [("auto", "cuda"), ("cuda", "cuda"), ("cuda:1", "cuda:1"), ("cpu", "cpu")]
)
def test_resolve_device_takes_a_gpu_that_is_there(two_gpus, name, expected):
    assert runtime.resolve_device(name) == torch.device(expected)


def test_resolve_device_takes_mps_when_it_is_there(no_accelerator, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert runtime.resolve_device("auto") == runtime.resolve_device("mps") == torch.device("mps")


@pytest.mark.parametrize("name", ["tpu", "", "cuda:x", "cuda:-1", "cpu:0", "mps:0", "CUDA", "cuda:²"])
def test_resolve_device_refuses_an_unknown_name(two_gpus, name):
    assert refuse(runtime.resolve_device, name) == (
        f"unknown device, got {name!r}; expected auto, cpu, cuda, cuda:N or mps",
        None,
    )


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("cuda", "no CUDA device on this machine"),
        ("cuda:0", "no CUDA device on this machine"),
        ("mps", "no MPS device on this machine"),
    ],
)
def test_resolve_device_refuses_a_device_that_is_not_there(no_accelerator, name, sentence):
    assert refuse(runtime.resolve_device, name) == (sentence, "--device cpu")


def test_resolve_device_refuses_a_gpu_beyond_the_last(two_gpus):
    assert refuse(runtime.resolve_device, "cuda:2") == (
        "no CUDA device 2; this machine has 2, counted from 0",
        None,
    )


# dtypes


@pytest.mark.parametrize(("device", "expected"), [("cpu", torch.float32), ("cuda", None), ("mps", None)])
def test_resolve_dtype_auto_is_float32_on_a_cpu_and_elsewhere_the_checkpoints(device, expected):
    assert runtime.resolve_dtype("auto", torch.device(device)) is expected


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_resolve_dtype_takes_the_name_of_torch(name):
    assert runtime.resolve_dtype(name, CPU) is getattr(torch, name)


def test_what_torch_calls_them_serves_too():
    assert runtime.resolve_dtype(torch.bfloat16, CPU) is torch.bfloat16
    assert runtime.resolve_device(CPU) == CPU


@pytest.mark.parametrize("name", ["int8", "float64", "fp16", "", "nn"])
def test_resolve_dtype_refuses_another_name(name):
    assert refuse(runtime.resolve_dtype, name, CPU) == (
        f"unknown dtype, got {name!r}; expected auto, float32, bfloat16, float16",
        None,
    )


# seeds


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
def test_check_seed_takes_a_seed_in_range(seed):
    assert runtime.check_seed(seed) == seed


@pytest.mark.parametrize("seed", [-1, 2**63, 1.0, "1", True])
def test_check_seed_refuses_another(seed):
    assert refuse(runtime.check_seed, seed)[0] == (
        f"seed out of range, got {seed!r}; expected a whole number from 0 to 2**63 - 1"
    )


def test_check_seed_draws_one_that_differs_each_time():
    seeds = {runtime.check_seed(None) for _ in range(20)}
    assert len(seeds) > 1
    assert all(0 <= seed < 1_000_000 for seed in seeds)


# silence


@pytest.fixture
def bars(monkeypatch):
    """A function that switches the progress bars of transformers, and those of the hub's client."""
    monkeypatch.setattr(hub_tqdm, "HF_HUB_DISABLE_PROGRESS_BARS", None)  # the environment says nothing
    monkeypatch.setattr(hub_tqdm, "progress_bar_states", {})

    def switch(active, hub=True):
        monkeypatch.setattr(logging, "_tqdm_active", active)
        (enable_progress_bars if hub else disable_progress_bars)()

    return switch


@pytest.fixture
def verbosity():
    """The verbosity of transformers while a test runs: that of information."""
    before = logging.get_verbosity()
    logging.set_verbosity_info()
    yield logging.INFO
    logging.set_verbosity(before)


def test_quiet_keeps_warnings_logs_and_bars_from_the_user(bars, verbosity, capfd):
    bars(True)
    with runtime.quiet():
        warnings.warn("a library warns", stacklevel=1)
        assert not logging.get_logger("transformers.x").isEnabledFor(logging.ERROR)
        list(logging.tqdm(range(3)))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("hub", [True, False])
@pytest.mark.parametrize("active", [True, False])
def test_quiet_leaves_the_libraries_as_they_were(bars, verbosity, active, hub):
    bars(active, hub)
    with pytest.raises(KeyError), runtime.quiet():
        assert not logging.is_progress_bar_enabled()
        assert are_progress_bars_disabled()
        raise KeyError
    assert logging.get_verbosity() == verbosity
    assert logging.is_progress_bar_enabled() is active
    assert are_progress_bars_disabled() is not hub
    with pytest.warns(UserWarning, match="heard again"):
        warnings.warn("heard again", stacklevel=1)


@pytest.mark.parametrize("stated", [True, False])
def test_quiet_says_nothing_where_the_environment_settles_the_bars(bars, monkeypatch, stated):
    monkeypatch.setattr(hub_tqdm, "HF_HUB_DISABLE_PROGRESS_BARS", stated)
    with runtime.quiet():
        pass
    assert are_progress_bars_disabled() is stated


def test_a_model_is_evaluated_and_each_module_keeps_its_mode():
    model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(2, 2))
    model[1].eval()
    with pytest.raises(KeyError), runtime.evaluating(model):
        assert not any(module.training for module in model.modules())
        raise KeyError
    assert [module.training for module in model.modules()] == [True, True, False]


# the environment


def test_describe_environment_names_what_a_run_depends_on():
    facts = runtime.describe_environment()
    assert facts["torch"] == torch.__version__
    assert facts["threads"] == str(torch.get_num_threads())
    machine = ["platform", "processor", "cpus", "threads", "cuda devices"]
    assert [name for name in facts if name != "commit"] == ["python", *runtime.PACKAGES, *machine]


def test_describe_environment_names_the_commit_of_a_working_copy(tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "__file__", str(tmp_path / "llmkit" / "runtime.py"))
    assert "commit" not in runtime.describe_environment()

    def git(*words):
        subprocess.run(["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b.c", *words], check=True)

    git("init", "--quiet")
    assert "commit" not in runtime.describe_environment()
    (tmp_path / "a.txt").write_text("1", encoding="utf-8")
    git("add", "a.txt")
    git("commit", "--quiet", "-m", "a")
    clean = runtime.describe_environment()["commit"]
    assert re.fullmatch("[0-9a-f]{40}", clean)
    (tmp_path / "a.txt").write_text("2", encoding="utf-8")
    assert runtime.describe_environment()["commit"] == clean + "+"


def test_describe_environment_leaves_out_what_is_not_installed(monkeypatch):
    monkeypatch.setattr(runtime, "PACKAGES", ("torch", "no-such-package"))
    names = ["python", "torch", "platform", "processor", "cpus", "threads", "cuda devices"]
    assert [name for name in runtime.describe_environment() if name != "commit"] == names
