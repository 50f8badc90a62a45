"""The folder of a run: which checkpoint stands for it, what its manifest finds, and how it is written."""

import errno
import hashlib
import json
import os

import pytest

from llmkit import runfolder
from llmkit.errors import DamagedError, RunError
from llmkit.runfolder import Disk


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
    [
        *(b"", b"{", b"[]", b"{}", b"\xff", b"[" * 20_000),
        *(b'{"files": 5}', b'{"files": {"a": 5}}', b'{"files": {"a": {}}}'),
        b'{"files": {"a": {"size": Infinity, "sha256": ""}}}',
    ],
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


def fill(folder):
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "state").mkdir()
    (folder / "state" / "state.json").write_bytes(b"{}")


def read_tree(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


class FailingDisk(Disk):
    """Is full at its n-th operation."""

    def __init__(self, at):
        self.count, self.at = 0, at

    def act(self, operation, *arguments):
        self.count += 1
        if self.count == self.at:
            raise OSError(errno.ENOSPC, "No space left on device")
        operation(*arguments)

    def make_folder(self, folder):
        self.act(super().make_folder, folder)

    def fill(self, folder, writer):
        self.act(super().fill, folder, writer)

    def write(self, path, content):
        self.act(super().write, path, content)

    def sync(self, path):
        self.act(super().sync, path)

    def rename(self, old, new):
        self.act(super().rename, old, new)

    def remove(self, path):
        self.act(super().remove, path)


def test_find_damage_names_a_file_that_the_disk_does_not_give(step, monkeypatch):
    def fail(path):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(runfolder, "hash_file", fail)
    assert runfolder.find_damage(step) == "model.safetensors cannot be read: Input/output error"


def test_publish_writes_a_whole_folder_and_makes_those_above(tmp_path):
    target = tmp_path / "run" / "checkpoints" / "step-000001"
    runfolder.publish(target, fill)
    manifest = json.loads((target / "manifest.json").read_text(encoding="utf-8"))
    assert manifest == {
        "files": {
            "model.safetensors": {"size": 7, "sha256": hashlib.sha256(b"weights").hexdigest()},
            "state/state.json": {"size": 2, "sha256": hashlib.sha256(b"{}").hexdigest()},
        }
    }
    assert runfolder.find_damage(target) is None
    assert [p.name for p in target.parent.iterdir()] == ["step-000001"]


@pytest.mark.parametrize("kind", ["mkdir", "touch"])
def test_make_folders_takes_what_another_process_makes_at_the_same_time_if_it_is_a_folder(tmp_path, kind):
    class Shared(Disk):
        def make_folder(self, folder):
            if folder.name == "runs":
                getattr(folder, kind)()
            super().make_folder(folder)

    if kind == "touch":
        with pytest.raises(FileExistsError):
            runfolder.make_folders(tmp_path / "runs" / "x", Shared())
    else:
        assert runfolder.make_folders(tmp_path / "runs" / "x" / "y", Shared()) == [
            tmp_path / "runs" / "x",
            tmp_path / "runs" / "x" / "y",
        ]


def fill_old(folder):
    (folder / "a").write_bytes(b"old")


def test_what_is_published_can_be_read_by_others(tmp_path):
    def fill_alone(folder):
        fill(folder)
        (folder / "model.safetensors").chmod(0o600)  # as safetensors 0.8 leaves it

    before = os.umask(0o027)
    try:
        runfolder.publish(tmp_path / "final", fill_alone)
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    modes = {p.stat().st_mode & 0o777 for p in (tmp_path / "final").rglob("*") if p.is_file()}
    assert modes == {0o640}


def test_publish_replaces_what_is_there(tmp_path):
    runfolder.publish(tmp_path / "best", fill_old)
    runfolder.publish(tmp_path / "best", fill)
    assert runfolder.find_damage(tmp_path / "best") is None
    assert read_tree(tmp_path / "best").keys() == {"model.safetensors", "state/state.json", "manifest.json"}
    assert [p.name for p in tmp_path.iterdir()] == ["best"]


@pytest.mark.parametrize("at", range(1, 14))
def test_publish_leaves_the_old_or_the_new_folder_whichever_operation_fails(tmp_path, at):
    target = tmp_path / "best"
    runfolder.publish(target, fill_old)
    try:
        runfolder.publish(target, fill, FailingDisk(at))
        done = True
    except OSError:
        done = False
    assert runfolder.find_damage(target) is None
    # after the last rename (the 10th operation) only waiting for the disk and tidying can fail
    assert (target / "a").exists() == (at <= 10)
    assert done == (at == 13)
    runfolder.recover(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["best"]
    assert runfolder.find_damage(target) is None


def test_recover_removes_what_was_begun_and_restores_what_was_moved_aside(tmp_path):
    whole, begun = make_step(tmp_path, 1), make_step(tmp_path, 2)
    begun.rename(begun.with_name(".tmp-step-000002"))
    whole.rename(whole.with_name(".old-step-000001"))
    (tmp_path / ".tmp-environment.json").touch()
    runfolder.recover(tmp_path)
    assert sorted(p.name for p in tmp_path.rglob("*") if p.parent.name in ("checkpoints", tmp_path.name)) == [
        "checkpoints",
        "recipe.yaml",
        "step-000001",
    ]


@pytest.mark.parametrize(("damaged", "kept"), [(False, b"weights"), (True, b"older")])
def test_recover_keeps_the_whole_one_of_new_and_old(tmp_path, damaged, kept):
    new, old = make_step(tmp_path, 1), make_step(tmp_path, 2)
    (old / "model.safetensors").write_bytes(b"older")
    (old / "manifest.json").unlink()
    write_manifest(old)
    old.rename(old.with_name(".old-step-000001"))
    if damaged:
        (new / "state" / "optimizer.safetensors").unlink()
    runfolder.recover(tmp_path)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-000001"]
    assert (new / "model.safetensors").read_bytes() == kept


@pytest.mark.parametrize(
    ("step", "keep", "left"),
    [(50, 1, [50]), (50, 2, [50, 40]), (50, 9, [50, 40, 30, 20, 10]), (30, 2, [30, 20]), (10, 1, [10])],
)
def test_prune_keeps_the_newest_up_to_the_step_and_none_after(tmp_path, step, keep, left):
    for number in (10, 20, 30, 40, 50):
        make_step(tmp_path, number)
    runfolder.prune(tmp_path, step, keep)
    assert [int(p.name[5:]) for p in runfolder.steps(tmp_path)] == left
    assert len(list((tmp_path / "checkpoints").iterdir())) == len(left)


def test_prune_takes_the_name_away_before_the_content(tmp_path):
    make_step(tmp_path, 1)
    make_step(tmp_path, 2)

    class Disk(runfolder.Disk):
        def remove(self, path):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runfolder.prune(tmp_path, 2, 1, Disk())
    assert [p.name for p in runfolder.steps(tmp_path)] == ["step-000002"]
    runfolder.recover(tmp_path)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-000002"]


def test_write_text_leaves_the_old_text_when_any_operation_fails(tmp_path):
    path = tmp_path / "recipe.yaml"
    runfolder.write_text(path, "name: 旧\n")
    for at in (1, 2, 3):
        with pytest.raises(RunError) as caught:
            runfolder.write_text(path, "name: 新\n", FailingDisk(at))
        assert str(caught.value) == "disk full while saving recipe.yaml; there is no whole checkpoint"
        assert read_tree(tmp_path) == {"recipe.yaml": "name: 旧\n".encode()}
    runfolder.write_text(path, "name: 新\n")
    assert read_tree(tmp_path) == {"recipe.yaml": "name: 新\n".encode()}


def test_metrics_are_lines_of_json(tmp_path):
    path = tmp_path / "metrics.jsonl"
    runfolder.append_metrics(path, {"step": 1, "loss": 2.5})
    runfolder.append_metrics(path, {"step": 2, "text": "你好\r\n\u2028"})
    assert path.read_bytes() == '{"step": 1, "loss": 2.5}\n{"step": 2, "text": "你好\\r\\n\u2028"}\n'.encode()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [float("-inf")]])
def test_metrics_refuse_a_number_that_is_not_finite(tmp_path, value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        runfolder.append_metrics(tmp_path / "metrics.jsonl", {"step": 1, "loss": value})
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("step", "torn", "left"),
    [(3, b"", 4), (2, b"", 3), (2, b'{"step": 2, "lo', 3), (3, b"\0\0\0\0", 4), (3, b'{"step": 3}', 4), (0, b"", 0)],
)
def test_truncate_metrics_keeps_the_bytes_of_the_lines_up_to_the_step(tmp_path, step, torn, left):
    path = tmp_path / "metrics.jsonl"
    lines = [b'{"step":1,"loss":1.50}\n', b'{"step": 2}\n', '{"step": 2, "eval_loss": 1, "a": "中\u2028"}\n'.encode()]
    lines.append(b'{"step": 3}\n')
    path.write_bytes(b"".join(lines) + torn)
    runfolder.truncate_metrics(path, step)
    assert path.read_bytes() == b"".join(lines[:left])


@pytest.mark.parametrize("line", [b"[]\n", b"5\n", b'{"step": "1"}\n', b"{}\n", b"\xff\xfe\n", b"\0\0\0\0\n"])
def test_truncate_metrics_drops_a_line_that_is_none_of_ours(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + line + b'{"step": 2}\n')
    runfolder.truncate_metrics(path, 5)
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n'


def test_truncate_metrics_of_a_run_without_any_does_nothing(tmp_path):
    runfolder.truncate_metrics(tmp_path / "metrics.jsonl", 5)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError(errno.EFBIG, "File too large"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
        Exception("No space left on device (os error 28)"),
        Exception("Error while serializing: I/O error: File too large (os error 27)"),
    ],
)
@pytest.mark.parametrize(("steps", "intact"), [((), "there is no whole checkpoint"), ((700,), "step 700 is intact")])
def test_full_disk_is_one_sentence(tmp_path, error, steps, intact):
    for number in steps:
        make_step(tmp_path, number)
    with pytest.raises(RunError) as caught, runfolder.naming_full_disk(tmp_path, "step 800"):
        raise error
    assert str(caught.value) == f"disk full while saving step 800; {intact}"


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), ValueError("(os error 5)")])
def test_another_failure_is_not_called_a_full_disk(tmp_path, error):
    with pytest.raises(type(error)) as caught, runfolder.naming_full_disk(tmp_path, "step 800"):
        raise error
    assert caught.value is error
