"""A disk that fills up while something is written leaves the checkpoint before, one sentence and nothing else."""

import contextlib
import resource
import subprocess
import sys

import pytest
import torch
from conftest import byte_level_tokenizer, tiny_model

from llmkit import runfolder
from llmkit.errors import RunError
from llmkit.training import saving

BLOCK = 8192


@pytest.fixture(scope="module")
def parts():
    """A model, its tokenizer and an optimizer that has taken a step."""
    return make_parts(n_layer=1)


def make_parts(**shape):
    model = tiny_model("gpt2", 400, **shape)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    return model, byte_level_tokenizer(), optimizer


def save(run, step, parts):
    return saving.save_step(run, step, *parts, {"position": step}, keep=1)


def read_tree(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@contextlib.contextmanager
def file_limit(size):
    """Let no file of this process grow beyond a size, in bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def full(write):
    with pytest.raises(RunError) as caught:
        write()
    return str(caught.value)


def test_save_meets_a_full_disk_at_each_position_of_its_largest_file(tmp_path, parts):
    before = read_tree(save(tmp_path, 700, parts))
    sizes = sorted(len(content) for content in before.values())
    positions = range(0, sizes[-1], BLOCK)
    assert len(positions) > 10
    for position in positions:
        with file_limit(position):
            sentence = full(lambda: save(tmp_path, 800, parts))
        assert sentence == "disk full while saving step 800; step 700 is intact"
        assert read_tree(tmp_path) == {f"checkpoints/step-000700/{name}": content for name, content in before.items()}
    assert runfolder.newest_whole(tmp_path) == (tmp_path / "checkpoints" / "step-000700", [])
    with file_limit(sizes[-1]):
        save(tmp_path, 800, parts)
    assert runfolder.newest_whole(tmp_path) == (tmp_path / "checkpoints" / "step-000800", [])


def test_first_save_on_a_full_disk_says_that_there_is_none(tmp_path, parts):
    with file_limit(BLOCK):
        sentence = full(lambda: save(tmp_path, 100, parts))
    assert sentence == "disk full while saving step 100; there is no whole checkpoint"
    assert read_tree(tmp_path) == {}


def test_best_stays_when_the_disk_is_full(tmp_path, parts):
    save(tmp_path, 700, parts)
    saving.save_checkpoint(tmp_path / "best", *parts[:2], {"step": 1})
    before = read_tree(tmp_path)
    for position in range(0, len(before["best/model.safetensors"]), 2 * BLOCK):
        with file_limit(position):
            sentence = full(lambda: saving.save_checkpoint(tmp_path / "best", *parts[:2], {"step": 2}))
        assert sentence == "disk full while saving best/; step 700 is intact"
        assert read_tree(tmp_path) == before


def test_other_files_of_a_run_meet_a_full_disk(tmp_path, parts):
    save(tmp_path, 700, parts)
    recipe, metrics = tmp_path / "recipe.yaml", tmp_path / "metrics.jsonl"
    runfolder.write_text(recipe, "seed: 0\n")
    runfolder.append_metrics(metrics, {"step": 1})
    with file_limit(20):
        assert full(lambda: runfolder.write_text(recipe, "seed: 1\n" * 9)) == (
            "disk full while saving recipe.yaml; step 700 is intact"
        )
        assert full(lambda: runfolder.append_metrics(metrics, {"step": 2, "loss": 1.5})) == (
            "disk full while saving metrics.jsonl; step 700 is intact"
        )
    assert recipe.read_text(encoding="utf-8") == "seed: 0\n"
    assert metrics.read_bytes() == b'{"step": 1}\n{"step":'
    runfolder.truncate_metrics(metrics, 700)
    assert metrics.read_bytes() == b'{"step": 1}\n'
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoints", "metrics.jsonl", "recipe.yaml"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, of 16 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system may be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_save_meets_a_full_disk_at_each_position(small_disk):
    parts = make_parts(n_embd=96)
    run, filler = small_disk / "run", small_disk / "filler"
    save(run, 700, parts)
    saving.save_checkpoint(run / "best", *parts[:2], {"step": 1})
    tree, failed = read_tree(run), {"step": 0, "best": 0}
    free = 16 * 2**20 - sum(-(-len(content) // 4096) * 4096 for content in tree.values())

    def is_full(kind, name, write):
        try:
            write()
        except RunError as err:
            failed[kind] += 1
            assert str(err) == f"disk full while saving {name}; step 700 is intact"
            assert read_tree(run) == tree
            return True
        return False

    for room in range(0, free, BLOCK):
        filler.write_bytes(bytes(free - room))
        is_full("best", "best/", lambda: saving.save_checkpoint(run / "best", *parts[:2], {"step": 1}))
        if not is_full("step", "step 800", lambda: save(run, 800, parts)):
            break
    assert failed["step"] > failed["best"] > 10
    assert runfolder.newest_whole(run)[0].name == "step-000800"
    sys.stdout.write(f"disk full at each 8 KiB: {failed['step']} positions of a step, {failed['best']} of best/\n")
