"""From pickled weights, or a .gguf file, to plain safetensors: the same logits, nothing executed, nothing left."""

import json
import os
import pathlib
import re
import resource
import shutil
import socket
import subprocess
import sys

import pytest
import torch
from conftest import TEXTS, byte_level_tokenizer, tiny_model
from gguf_files import write_gguf
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmkit.conversion import safetensors, unpickling
from llmkit.conversion.safetensors import export_safetensors
from llmkit.errors import DamagedError, InputError

OUT = pathlib.Path("out")
DESCRIBING = {"vocab.txt", "spiece.model", "chat_template.jinja", "README.md"}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working folder, empty."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def ck(make_checkpoint, here):
    """A copy of a tiny GPT-2 with pickled weights, as `ck` in the working folder, and the state dict that it holds."""
    folder = pickle_checkpoint(make_checkpoint, pathlib.Path("ck"))
    return folder, torch.load(folder / "pytorch_model.bin", weights_only=True)


def pickle_checkpoint(make_checkpoint, folder):
    shutil.copytree(make_checkpoint("gpt2"), folder)
    (folder / "model.safetensors").unlink()
    state = AutoModelForCausalLM.from_pretrained(make_checkpoint("gpt2")).state_dict()
    assert state["lm_head.weight"].data_ptr() == state["transformer.wte.weight"].data_ptr()  # stored once, named twice
    torch.save(state, folder / "pytorch_model.bin")
    return folder


def refuse(error, *arguments):
    with pytest.raises(error) as caught:
        export_safetensors(*arguments)
    assert type(caught.value) is error
    assert len(str(caught.value)) <= 300
    return str(caught.value)


def logits(folder):
    ids = torch.tensor([AutoTokenizer.from_pretrained(folder)(TEXTS[0])["input_ids"][:32]])
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder)(ids).logits


def names(folder):
    return sorted(p.name for p in pathlib.Path(folder).iterdir())


@pytest.fixture(scope="module")
def exported(make_checkpoint, tmp_path_factory):
    """An export of a tiny GPT-2 with pickled weights and files of many kinds: (what was returned, its folder)."""
    folder = pickle_checkpoint(make_checkpoint, tmp_path_factory.mktemp("export") / "ck")
    for name in (*DESCRIBING, "own.py", "training_args.bin", "x.pkl"):
        (folder / name).write_text("x", encoding="utf-8")
    out = folder.parent / "a" / "b" / "out"  # made with the folders above it
    return export_safetensors(str(folder), out), out


def test_export_safetensors_keeps_every_tensor(exported, make_checkpoint):
    written, out = exported
    assert written == [out / "model.safetensors"]
    tensors = load_file(written[0])
    state = AutoModelForCausalLM.from_pretrained(make_checkpoint("gpt2")).state_dict()
    assert tensors.keys() == state.keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in state.items())


def test_export_safetensors_gives_what_plain_transformers_loads(exported, make_checkpoint):
    assert torch.equal(logits(exported[1]), logits(make_checkpoint("gpt2")))


def test_export_safetensors_keeps_tied_weights_tied(exported):
    model = AutoModelForCausalLM.from_pretrained(exported[1])
    assert model.lm_head.weight.data_ptr() == model.transformer.wte.weight.data_ptr()


def test_export_safetensors_copies_what_describes_the_weights_and_no_code(exported):
    saved = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"}
    assert set(names(exported[1])) == saved | DESCRIBING


def test_export_safetensors_joins_two_shards_by_an_index(ck, make_checkpoint):
    folder, state = ck
    (folder / "pytorch_model.bin").unlink()
    keys = list(state)
    parts = {f"pytorch_model-0000{n}-of-00002.bin": keys[n - 1 :: 2] for n in (1, 2)}
    for name, part in parts.items():
        torch.save({key: state[key] for key in part}, folder / name)
    index = {key: name for name, part in parts.items() for key in part}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}), encoding="utf-8")
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert export_safetensors("ck", OUT) == [OUT / name for name in shards]
    written = json.loads((OUT / "model.safetensors.index.json").read_text(encoding="utf-8"))
    assert written["weight_map"] == {
        key: name.replace("pytorch_model", "model").replace("bin", "safetensors") for key, name in index.items()
    }
    assert written["metadata"]["total_size"] == sum(t.nbytes for t in state.values())
    assert not (OUT / "pytorch_model.bin.index.json").exists()
    assert torch.equal(logits(OUT), logits(make_checkpoint("gpt2")))


def test_export_safetensors_writes_a_gguf_file_as_a_plain_folder(here):
    tokenizer = byte_level_tokenizer()
    model = tiny_model("llama", len(tokenizer))
    write_gguf("m.gguf", model, tokenizer)
    assert export_safetensors("m.gguf", OUT) == [OUT / "model.safetensors"]
    plain = AutoModelForCausalLM.from_pretrained(OUT)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in plain.state_dict().items())
    assert AutoTokenizer.from_pretrained(OUT)(TEXTS[2])["input_ids"] == tokenizer(TEXTS[2])["input_ids"]


# pickles that are none, or do more


class Call:
    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


def pickled(thing, path="x.bin", **options):
    torch.save(thing, path, **options)
    return pathlib.Path(path)


def explain(path):
    """Why the reading process would say that a file cannot be read."""
    with pytest.raises(Exception) as caught:
        unpickling.read_tensors(path)
    return unpickling.explain(caught.value)


@pytest.mark.parametrize(
    ("thing", "asked_for"),
    [
        (Call(os.system, "touch canary"), "posix.system"),
        (Call(os.execv, "/bin/touch", ["touch", "canary"]), "posix.execv"),
        (Call(socket.create_connection, ("127.0.0.1", 9)), "socket.create_connection"),
        (Call(eval, "open('canary', 'w')"), "eval"),
        (Call(exec, "open('canary', 'w')"), "exec"),
        (Call(getattr, "", "join"), "getattr"),
        (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("zipped", [True, False])
def test_read_tensors_runs_nothing_that_a_pickle_asks_for(here, thing, asked_for, zipped):
    path = pickled({"a": torch.zeros(2), "b": thing}, _use_new_zipfile_serialization=zipped)
    assert explain(path) == f"it asks for {asked_for}, which is no tensor"
    assert names(".") == ["x.bin"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is damaged (EOFError)"),
        (b"weights", "it is not a file of torch.save"),
        (b"version https://git-lfs.github.com/spec/v1\n", "it is not a file of torch.save"),
    ],
)
def test_read_tensors_says_why_a_file_cannot_be_read(here, content, reason):
    pathlib.Path("x.bin").write_bytes(content)
    assert explain("x.bin") == reason


def test_read_tensors_refuses_a_file_that_is_cut_off(here):
    path = pickled({"a": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[:-1000])
    assert explain(path).startswith("it is damaged (")


@pytest.mark.parametrize("thing", [[torch.zeros(2)], {}, {"a": {"b": torch.zeros(2)}}, torch.zeros(2), {"a": 5}])
def test_reading_refuses_a_file_without_named_tensors(here, thing):
    pathlib.Path("made").mkdir()
    with pytest.raises(SystemExit) as caught:
        unpickling.main(pathlib.Path("made"), [pickled(thing)])
    assert caught.value.code == "x.bin: it holds no tensors"


def test_read_tensors_reads_the_old_form_of_torch_save_and_keeps_dtypes(here):
    state = {"a": torch.zeros(2, dtype=torch.float16), "b": torch.ones(2, 3, dtype=torch.int64).t()}
    read = unpickling.read_tensors(pickled({"state_dict": state, "epoch": 3}, _use_new_zipfile_serialization=False))
    assert {name: (t.dtype, t.tolist()) for name, t in read.items()} == {
        name: (t.dtype, t.tolist()) for name, t in state.items()
    }


def test_export_safetensors_leaves_nothing_of_a_malicious_pickle(ck):
    torch.save({"a": torch.zeros(2), "b": Call(os.system, "touch canary")}, ck[0] / "pytorch_model.bin")
    assert refuse(DamagedError, "ck", pathlib.Path("a/b/out")) == (
        "the weights of ck cannot be read as tensors: pytorch_model.bin: it asks for posix.system, which is no tensor"
    )
    assert names(".") == ["ck"]


def test_export_safetensors_refuses_shards_of_which_one_is_missing(ck):
    index = {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}
    (ck[0] / "pytorch_model.bin").rename(ck[0] / index["a"])
    (ck[0] / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}), encoding="utf-8")
    assert refuse(DamagedError, "ck", OUT) == "ck lacks 1 of 2 shards: pytorch_model-00002-of-00002.bin"


def test_the_reading_process_has_no_network_and_starts_no_program():
    for event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn"):
        with pytest.raises(PermissionError, match=f"^{event} is not allowed while weights are read$"):
            unpickling.refuse(event, ())
    unpickling.refuse("open", ("x",))


def test_the_reading_process_installs_that_refusal(ck):
    script = pathlib.Path(unpickling.__file__)
    text = script.read_text(encoding="utf-8") + "\nimport socket\nsocket.socket().connect(('127.0.0.1', 9))\n"
    pathlib.Path("probe.py").write_text(text, encoding="utf-8")
    pathlib.Path("made").mkdir()
    done = subprocess.run(
        [sys.executable, "-I", "probe.py", "made", "ck/pytorch_model.bin"], capture_output=True, text=True, check=False
    )
    assert done.stderr.splitlines()[-1] == "PermissionError: socket.__new__ is not allowed while weights are read"


def test_the_reading_process_finds_packages_where_this_one_does(ck, monkeypatch):
    """Also those of the user, which -I alone leaves out."""
    pathlib.Path("lib").mkdir()
    pathlib.Path("lib", "of_the_user.py").touch()
    monkeypatch.setattr(sys, "path", ["", *sys.path, str(pathlib.Path("lib").absolute())])
    pathlib.Path("unpickling.py").write_text(
        "import sys, of_the_user\nprint(sys.argv[1:], '' in sys.path)", encoding="utf-8"
    )
    monkeypatch.setattr(safetensors, "__file__", "safetensors.py")
    ran, run = [], subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *words, **keys: ran.append(run(*words, **keys)) or ran[-1])
    export_safetensors("ck", OUT)
    (done,) = ran
    assert re.fullmatch(r"\['out\.part-\d+', 'ck/pytorch_model\.bin'\] False\n", done.stdout)
    assert done.stderr == ""


# nothing to do


def test_export_safetensors_refuses_a_folder_that_exists(ck):
    OUT.mkdir()
    assert refuse(InputError, "ck", OUT) == "out exists already; expected a new folder"


def test_export_safetensors_refuses_what_is_safetensors_already(make_checkpoint, tmp_path):
    folder = make_checkpoint("gpt2")
    assert refuse(InputError, str(folder), tmp_path / "a" / "out") == (
        f"{folder} has safetensors weights already; expected pytorch_model*.bin or a .gguf file"
    )
    assert names(tmp_path) == []


def test_export_safetensors_refuses_a_folder_without_weights(ck):
    (ck[0] / "pytorch_model.bin").unlink()
    assert refuse(InputError, "ck", OUT) == "ck has no pytorch_model.bin; expected pytorch_model*.bin or a .gguf file"


def test_export_safetensors_refuses_a_folder_without_config(ck):
    (ck[0] / "config.json").unlink()
    assert refuse(InputError, "ck", OUT) == "no config.json in ck"


def test_export_safetensors_refuses_to_write_below_a_file(ck):
    assert (
        refuse(InputError, "ck", pathlib.Path("ck/config.json/out"))
        == "cannot write to ck/config.json: Not a directory"
    )


def test_export_safetensors_leaves_nothing_when_the_disk_is_full(make_checkpoint, tmp_path):
    source = shutil.copytree(make_checkpoint("gpt2"), tmp_path / "in")
    torch.save(load_file(source / "model.safetensors"), source / "pytorch_model.bin")
    (source / "model.safetensors").unlink()
    done = subprocess.run(
        [sys.executable, "-m", "llmkit", "export", "safetensors", "in", "out"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000)),
    )
    assert done.returncode == 1
    assert re.fullmatch(r"llmkit: error: out\.part-\d+ cannot be written: .*File too large.*\n", done.stderr)
    assert [p.name for p in tmp_path.iterdir()] == ["in"]
