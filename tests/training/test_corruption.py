"""A step with anything wrong in any of its files is passed over, and the one before is used."""

import random
import sys

import pytest
import torch
from conftest import byte_level_tokenizer, tiny_model

from llmkit import load, runfolder
from llmkit.claiming import claim
from llmkit.errors import DamagedError
from llmkit.training import saving

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize 1044992\n" % (b"4d" * 32)
FILES = [
    "config.json",
    "generation_config.json",
    "manifest.json",
    "model.safetensors",
    "state/optimizer.safetensors",
    "state/state.json",
    "tokenizer.json",
    "tokenizer_config.json",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with two steps; a test that changes a file puts it back."""
    folder = tmp_path_factory.mktemp("run")
    model = tiny_model("gpt2", 400, n_layer=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in (1, 2):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        saving.save_step(folder, step, model, byte_level_tokenizer(), optimizer, {"position": step}, keep=2)
    (folder / "recipe.yaml").touch()
    return folder


@pytest.fixture
def older(run):
    return run / "checkpoints" / "step-000001"


@pytest.fixture
def newer(run):
    folder = run / "checkpoints" / "step-000002"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    yield folder
    for path, content in before.items():
        path.write_bytes(content)


def damage(content, other, number_of_flips):
    """Each way in which a file may be spoilt: a name and what it holds then, or None where it is gone."""
    yield "delete", None
    yield "empty", b""
    size = len(content)
    for kept in (1, size // 2, size // 4096 * 4096 if size % 4096 and size > 4096 else size - 2, size - 1):
        yield f"cut to {kept}", content[:kept]
    draw = random.Random(size)
    for bit in (0, 8 * size - 1, *(draw.randrange(8 * size) for _ in range(number_of_flips - 2))):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        yield f"bit {bit}", bytes(flipped)
    if other != content:
        yield "of another step", other
    yield "pointer", POINTER


def test_step_holds_the_files_that_are_spoilt_here(newer):
    assert sorted(p.relative_to(newer).as_posix() for p in newer.rglob("*") if p.is_file()) == FILES


@pytest.mark.parametrize("name", FILES)
def test_damage_to_a_file_is_found_and_the_step_before_taken(run, older, newer, name):
    path, cases = newer / name, 0
    content, other = path.read_bytes(), (older / name).read_bytes()
    for how, spoilt in damage(content, other, 64):
        if spoilt is None:
            path.unlink()
        else:
            path.write_bytes(spoilt)
        newest, passed_over = runfolder.newest_whole(run)
        assert (newest, len(passed_over)) == (older, 1), how
        assert passed_over[0].startswith("step-000002 is not whole (")
        assert name == "manifest.json" or name in passed_over[0]
        cases += 1
    sys.stdout.write(f"{name}: {cases} of {cases} found\n")
    assert cases >= 71
    path.write_bytes(content)
    assert runfolder.newest_whole(run) == (newer, [])


@pytest.mark.parametrize("name", ["model.safetensors", "state/optimizer.safetensors", "state/state.json"])
def test_run_goes_on_from_the_step_before_the_damaged_one(run, older, newer, name):
    content = bytearray((newer / name).read_bytes())
    content[len(content) // 2] ^= 1
    (newer / name).write_bytes(content)
    model = tiny_model("gpt2", 400, seed=1, n_layer=1)
    with claim(run, resume="auto") as (start, passed_over):
        assert (start, passed_over) == (older, [f"step-000002 is not whole ({name} differs from its sha256)"])
        state = saving.load_step(start, model, torch.optim.AdamW(model.parameters()))
    assert state == {"position": 1}


def test_damaged_step_is_not_loaded_for_use_either(newer):
    content = bytearray((newer / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (newer / "model.safetensors").write_bytes(content)
    with pytest.raises(DamagedError) as caught:
        load(newer, device="cpu")
    assert str(caught.value) == f"{newer} is damaged: model.safetensors differs from its sha256"
