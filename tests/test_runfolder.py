"""The folder of a run: which checkpoint stands for it, and what its manifest finds."""

import hashlib
import json

import pytest

from llmkit import runfolder
from llmkit.errors import DamagedError


@pytest.fixture
def step(tmp_path):
    """A whole step with two files in a run."""
    return make_step(tmp_path / "run", 20)


def make_step(run, number):
    folder = run / "checkpoints" / f"step-{number:06}"
    (folder / "state").mkdir(parents=True)
    (run / "recipe.yaml").touch()
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "state" / "optimizer.safetensors").write_bytes(b"moments")
    write_manifest(folder)
    return folder


def write_manifest(folder):
    files = {
        str(p.relative_to(folder)): {"size": p.stat().st_size, "sha256": hashlib.sha256(p.read_bytes()).hexdigest()}
        for p in folder.rglob("*")
        if p.is_file()
    }
    (folder / "manifest.json").write_text(json.dumps({"files": files}), encoding="utf-8")


@pytest.mark.parametrize(
    ("files", "expected"), [(("recipe.yaml",), True), (("recipe.yaml", "config.json"), False), ((), False)]
)
def test_is_run_tells_a_run_from_a_checkpoint(tmp_path, files, expected):
    for name in files:
        (tmp_path / name).touch()
    assert runfolder.is_run(tmp_path) is expected


def test_steps_are_listed_newest_first_by_number(tmp_path):
    for name in ("step-9", "step-000100", "step-1000000", ".tmp-step-7", "step-x", "step-8.part"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    (tmp_path / "checkpoints" / "step-5").touch()
    assert [p.name for p in runfolder.steps(tmp_path)] == ["step-1000000", "step-000100", "step-9"]


def test_steps_of_a_run_that_has_saved_nothing_are_none(tmp_path):
    assert runfolder.steps(tmp_path) == []


def test_choose_checkpoint_prefers_final_then_best_then_the_newest_step(tmp_path):
    run = tmp_path / "run"
    make_step(run, 3)
    newest = make_step(run, 20)
    assert runfolder.choose_checkpoint(run) == (newest, [])
    (run / "best").mkdir()
    assert runfolder.choose_checkpoint(run) == (run / "best", [])
    (run / "final").mkdir()
    assert runfolder.choose_checkpoint(run) == (run / "final", [])


def test_choose_checkpoint_passes_over_each_step_that_is_not_whole(tmp_path):
    run = tmp_path / "run"
    oldest = make_step(run, 1)
    (make_step(run, 2) / "model.safetensors").unlink()
    (make_step(run, 3) / "manifest.json").unlink()
    assert runfolder.choose_checkpoint(run) == (
        oldest,
        [
            "step-000003 is not whole (no manifest.json)",
            "step-000002 is not whole (model.safetensors is missing)",
        ],
    )


def test_find_damage_finds_none_in_a_whole_step(step):
    assert runfolder.find_damage(step) is None


@pytest.mark.parametrize("name", ["model.safetensors", "state/optimizer.safetensors"])
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "{} is missing"),
        (b"", "{} has 0 bytes, expected 7"),
        (b"longer than it was", "{} has 18 bytes, expected 7"),
        (b"weighty", "{} differs from its sha256"),
    ],
)
def test_find_damage_names_the_file_that_differs(step, name, content, problem):
    if content is None:
        (step / name).unlink()
    else:
        (step / name).write_bytes(content)
    assert runfolder.find_damage(step) == problem.format(name)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"{}", b'{"files": 5}', b'{"files": {"a": 5}}', b'{"files": {"a": {}}}', b"\xff", b"[" * 20_000],
)
def test_find_damage_says_that_a_manifest_cannot_be_read(step, content):
    (step / "manifest.json").write_bytes(content)
    assert runfolder.find_damage(step) == "manifest.json cannot be read"


def test_check_manifest_raises_for_damage(step):
    (step / "model.safetensors").write_bytes(b"weighty")
    with pytest.raises(DamagedError) as caught:
        runfolder.check_manifest(step)
    assert str(caught.value) == f"{step} is damaged: model.safetensors differs from its sha256"


@pytest.mark.parametrize("content", [None, b'{"name": "app"}'])
def test_check_manifest_accepts_a_folder_without_one_of_ours(step, content):
    (step / "manifest.json").unlink()
    (step / "model.safetensors").write_bytes(b"weighty")
    if content is not None:
        (step / "manifest.json").write_bytes(content)
    runfolder.check_manifest(step)


def test_hash_file_is_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert runfolder.hash_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_read_facts_gives_llmkit_json(tmp_path):
    (tmp_path / "llmkit.json").write_text('{"task": "translation", "languages": ["en", "中文"]}', encoding="utf-8")
    assert runfolder.read_facts(tmp_path) == {"task": "translation", "languages": ["en", "中文"]}


@pytest.mark.parametrize("where", ["folder", "file.gguf"])
def test_read_facts_is_empty_where_there_is_none(tmp_path, where):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.gguf").touch()
    assert runfolder.read_facts(tmp_path / where) == {}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 20_000])
def test_read_facts_refuses_what_is_no_json_object(tmp_path, content):
    (tmp_path / "llmkit.json").write_bytes(content)
    with pytest.raises(DamagedError) as caught:
        runfolder.read_facts(tmp_path)
    assert str(caught.value) == f"{tmp_path / 'llmkit.json'} cannot be read as a JSON object"
