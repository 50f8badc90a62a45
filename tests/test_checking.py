"""Damaged and hostile checkpoint folders: one sentence each, before torch is imported."""

import ast
import hashlib
import json
import re
import shutil

import pytest
from safetensors.numpy import load_file, save_file

from llmkit import checking
from llmkit.checking import check_checkpoint, check_gguf, check_tokenizer, read_json
from llmkit.errors import DamagedError, InputError

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"
WEIGHTS = "model.safetensors"
PACKAGE = checking.Path(checking.__file__).parent


@pytest.fixture
def ck(make_checkpoint, tmp_path, monkeypatch):
    """A copy of a tiny GPT-2, as `ck` in the working folder."""
    monkeypatch.chdir(tmp_path)
    return checking.Path(shutil.copytree(make_checkpoint("gpt2"), "ck"))


def refuse(error, check, *arguments):
    with pytest.raises(error) as caught:
        check(*arguments)
    assert type(caught.value) is error
    assert len(str(caught.value)) <= 300
    return str(caught.value)


def change(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def change_header(path, edit):
    """Let `edit` change the header of a safetensors file and keep its data."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    edit(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])


def write_manifest(folder):
    files = {
        p.name: {"size": p.stat().st_size, "sha256": hashlib.sha256(p.read_bytes()).hexdigest()}
        for p in folder.iterdir()
    }
    (folder / "manifest.json").write_text(json.dumps({"files": files}), encoding="utf-8")


# what is whole


def test_check_checkpoint_gives_the_facts(ck):
    facts = check_checkpoint(ck)
    stored = load_file(ck / WEIGHTS)
    assert facts.folder == ck
    assert facts.config["model_type"] == "gpt2"
    assert (facts.tokenizer, facts.vocabulary, facts.context) == ("tokenizer.json", 400, 64)
    assert facts.tensors == {name: checking.Tensor("F32", tensor.shape) for name, tensor in stored.items()}
    assert facts.num_parameters == sum(tensor.size for tensor in stored.values())


def test_check_checkpoint_joins_the_shards(ck):
    stored = load_file(ck / WEIGHTS)
    names = sorted(stored)
    for shard, part in (("a.safetensors", names[:5]), ("b.safetensors", names[5:])):
        save_file({name: stored[name] for name in part}, ck / shard)
    index = {name: "a.safetensors" if name in names[:5] else "b.safetensors" for name in names}
    (ck / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}), encoding="utf-8")
    (ck / WEIGHTS).unlink()
    assert sorted(check_checkpoint(ck).tensors) == names


def test_check_checkpoint_needs_no_tokenizer_when_another_is_named(ck):
    (ck / "tokenizer.json").unlink()
    assert check_checkpoint(ck, tokenizer=False).tokenizer is None


def test_check_checkpoint_accepts_a_step_like_its_manifest(ck):
    write_manifest(ck)
    assert check_checkpoint(ck).vocabulary == 400


def test_check_checkpoint_passes_over_a_manifest_of_another_program(ck):
    (ck / "manifest.json").write_text('{"name": "app"}', encoding="utf-8")
    assert check_checkpoint(ck).vocabulary == 400


# config.json


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "ck/config.json is not JSON: Expecting value in line 1"),
        (b'{\n"a": 1,\n', "ck/config.json is not JSON: Expecting property name enclosed in double quotes in line 3"),
        (b'{"a": "\xe9"}', "ck/config.json is not JSON: not UTF-8 or too deep"),
        (b"[" * 20_000, "ck/config.json is not JSON: not UTF-8 or too deep"),
        (b'{"a":' * 20_000 + b"1" + b"}" * 20_000, "ck/config.json is not JSON: not UTF-8 or too deep"),
        (b"[]", "ck/config.json holds list; expected a JSON object"),
        (b"5", "ck/config.json holds int; expected a JSON object"),
        (b"{}", "ck/config.json names no model_type, got None"),
        (b'{"model_type": ["gpt2"]}', "ck/config.json names no model_type, got ['gpt2']"),
    ],
)
def test_check_checkpoint_refuses_a_config_that_is_none(ck, content, sentence):
    (ck / "config.json").write_bytes(content)
    assert refuse(InputError, check_checkpoint, ck) == sentence


def test_check_checkpoint_refuses_a_folder_without_config(ck):
    (ck / "config.json").unlink()
    assert refuse(InputError, check_checkpoint, ck) == "no config.json in ck"


def test_read_json_refuses_a_huge_file_without_reading_it(ck, monkeypatch):
    with (ck / "config.json").open("r+b") as file:
        file.truncate(checking.MAX_JSON_BYTES + 1)  # a hole, not data
    monkeypatch.setattr(checking.Path, "read_text", None)
    assert refuse(InputError, read_json, ck / "config.json") == "ck/config.json is larger than 64 MB"


@pytest.mark.parametrize(
    "key", ["n_layer", "n_embd", "n_positions", "vocab_size", "num_labels", "max_position_embeddings"]
)
@pytest.mark.parametrize("value", [-1, 2**24 + 1, 10**30])
def test_check_checkpoint_refuses_an_absurd_dimension(ck, key, value):
    change(ck / "config.json", **{key: value})
    assert refuse(InputError, check_checkpoint, ck) == f"ck/config.json: {key} is {value}; expected 0 to 16,777,216"


@pytest.mark.parametrize("key", checking.LAYER_KEYS)
def test_check_checkpoint_refuses_more_layers_than_tensors(ck, key):
    change(ck / "config.json", **{key: 20_000})
    assert refuse(DamagedError, check_checkpoint, ck) == (
        f"ck: config.json has {key} 20,000, the weights hold only 28 tensors"
    )


@pytest.mark.parametrize(
    ("file", "changes", "key"),
    [
        ("config.json", {"auto_map": {"AutoModel": "own.Model"}}, "auto_map"),
        ("config.json", {"text_config": {"auto_map": {}}}, "auto_map"),
        ("config.json", {"attn_implementation": "some/kernel"}, "attn_implementation"),
        ("config.json", {"_attn_implementation_internal": "some/kernel"}, "_attn_implementation_internal"),
        ("config.json", {"attn_implementation": {"text_config": "some/kernel:f"}}, "attn_implementation"),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["own.Tokenizer", None]}}, "auto_map"),
    ],
)
def test_check_checkpoint_refuses_code_of_the_folder(ck, file, changes, key):
    change(ck / file, **changes)
    assert refuse(InputError, check_checkpoint, ck) == (
        f"ck/{file} asks for Python code of its own ({key}); llmkit never runs it"
    )


def test_check_checkpoint_accepts_an_attention_that_is_no_kernel(ck):
    change(ck / "config.json", attn_implementation="eager", auto_map=None)
    assert check_checkpoint(ck).config["attn_implementation"] == "eager"


def test_check_checkpoint_refuses_a_generation_config_that_transformers_would_pass_over(ck):
    (ck / "generation_config.json").write_text("{", encoding="utf-8")
    assert refuse(InputError, check_checkpoint, ck).startswith("ck/generation_config.json is not JSON: ")


def test_every_call_of_from_pretrained_refuses_remote_code():
    calls, unsafe = 0, []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if node.func.attr not in ("from_pretrained", "from_config") or ast.unparse(node.func.value) == "PeftModel":
                continue  # PeftModel loads an adapter, which holds no code; its base is there already
            calls += 1
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if keywords.get("trust_remote_code") != "False":
                unsafe.append(f"{path.name}:{node.lineno}")
    assert calls >= 5
    assert unsafe == []


# the tokenizer


def test_check_checkpoint_refuses_a_folder_without_tokenizer(ck):
    (ck / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"^no tokenizer in ck$") as caught:
        check_checkpoint(ck)
    assert caught.value.hint == "--tokenizer FOLDER (in Python: tokenizer=) names another"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", b"{}"),
        ("tokenizer.json", b'{"model": {"vocab": {}, "merges": []}, "added_tokens": []}'),
        ("tokenizer.json", b'{"model": {"vocab": []}}'),
        ("tokenizer.json", b'{"model": [], "added_tokens": 5}'),
        ("vocab.txt", b""),
        ("vocab.txt", b"\n\n"),
    ],
)
def test_check_checkpoint_refuses_an_empty_tokenizer(ck, name, content):
    (ck / "tokenizer.json").unlink()
    (ck / name).write_bytes(content)
    assert refuse(InputError, check_checkpoint, ck) == "the tokenizer of ck is empty"


def test_check_checkpoint_refuses_an_empty_vocabulary_of_pairs(ck):
    (ck / "tokenizer.json").unlink()
    (ck / "vocab.json").write_text("{}", encoding="utf-8")
    (ck / "merges.txt").touch()
    assert refuse(InputError, check_checkpoint, ck) == "the tokenizer of ck is empty"


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.txt", "spiece.model"])
def test_check_checkpoint_names_a_tokenizer_that_is_a_git_lfs_pointer(ck, name):
    (ck / "tokenizer.json").unlink()
    (ck / name).write_bytes(POINTER)
    with pytest.raises(InputError) as caught:
        check_checkpoint(ck)
    assert str(caught.value) == f"ck/{name} is a git-lfs pointer, not the file itself"
    assert caught.value.hint == "git lfs pull"


def test_check_checkpoint_refuses_a_vocabulary_larger_than_the_embedding(ck):
    more = {"id": 499, "content": "<|more|>", "special": True}
    change(ck / "tokenizer.json", added_tokens=[more])
    assert refuse(InputError, check_checkpoint, ck) == "the tokenizer of ck has 500 tokens, the embedding only 400 rows"


@pytest.mark.parametrize(
    ("files", "kind", "size"),
    [
        ({"vocab.txt": "[PAD]\na\nb\n"}, "WordPiece (vocab.txt)", 3),
        ({"vocab.json": '{"a": 0, "b": 4}', "merges.txt": ""}, "byte-level BPE (vocab.json, merges.txt)", 5),
        ({"tokenizer.model": "x"}, "SentencePiece (tokenizer.model)", None),
        ({"source.spm": "x", "target.spm": "x", "vocab.json": "{}"}, "Marian (source.spm, target.spm)", None),
        ({"tokenizer.json": '{"model": {"vocab": [["a", -1.0], ["b", -2.0]]}}', "vocab.txt": "x"}, "tokenizer.json", 2),
    ],
)
def test_check_tokenizer_tells_the_kinds_apart(tmp_path, files, kind, size):
    for name, content in files.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    assert check_tokenizer(tmp_path) == (kind, size)


# the weights


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda b: b"", "ck/model.safetensors is truncated or not a safetensors file (0 bytes)"),
        (lambda b: b[:7], "ck/model.safetensors is truncated or not a safetensors file (7 bytes)"),
        (lambda b: b[:200], "ck/model.safetensors is truncated or not a safetensors file (200 bytes)"),
        (
            lambda b: b[:-10],
            "ck/model.safetensors has 163,870 bytes, its header promises 163,880: truncated or altered",
        ),
        (
            lambda b: b + b"\0",
            "ck/model.safetensors has 163,881 bytes, its header promises 163,880: truncated or altered",
        ),
        (
            lambda b: (2**62).to_bytes(8, "little") + b[8:],
            "ck/model.safetensors is truncated or not a safetensors file (163,880 bytes)",
        ),
        (lambda b: (5).to_bytes(8, "little") + b[8:], "the header of ck/model.safetensors cannot be read"),
        (lambda b: b[:8] + b"[" * (len(b) - 8), "the header of ck/model.safetensors cannot be read"),
    ],
)
def test_check_checkpoint_refuses_weights_that_are_not_whole(ck, damage, sentence):
    (ck / WEIGHTS).write_bytes(damage((ck / WEIGHTS).read_bytes()))
    assert refuse(DamagedError, check_checkpoint, ck) == sentence


def unknown_dtype(header):
    header["transformer.wte.weight"]["dtype"] = "X9"


def overlap(header):
    header["transformer.wpe.weight"]["data_offsets"] = header["transformer.wte.weight"]["data_offsets"]


def other_shape(header):
    header["transformer.wte.weight"]["shape"] = [400, 31]


def negative_shape(header):
    header["transformer.wte.weight"]["shape"] = [-400, -32]


def odd_metadata(header):
    header["__metadata__"] = {"format": 5}


@pytest.mark.parametrize("edit", [unknown_dtype, overlap, other_shape, negative_shape, odd_metadata])
def test_check_checkpoint_refuses_a_header_that_lies(ck, edit):
    change_header(ck / WEIGHTS, edit)
    assert re.fullmatch(
        r"the header of ck/model\.safetensors contradicts itself: invalid .*",
        refuse(DamagedError, check_checkpoint, ck),
    )


def test_check_checkpoint_names_weights_that_are_a_git_lfs_pointer(ck):
    (ck / WEIGHTS).write_bytes(POINTER)
    with pytest.raises(DamagedError, match=r"^ck/model\.safetensors is a git-lfs pointer, not the weights$") as caught:
        check_checkpoint(ck)
    assert caught.value.hint == "git lfs pull"


def test_check_checkpoint_refuses_a_folder_without_weights(ck):
    (ck / WEIGHTS).unlink()
    assert refuse(InputError, check_checkpoint, ck) == "no model.safetensors in ck"


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin"])
def test_check_checkpoint_refuses_pickled_weights_and_says_what_converts_them(ck, name):
    (ck / WEIGHTS).rename(ck / name)
    with pytest.raises(InputError) as caught:
        check_checkpoint(ck)
    assert str(caught.value) == (
        "ck holds pickled weights (.bin), which can run code when loaded; expected model.safetensors"
    )
    assert caught.value.hint == "llmkit export safetensors ck OUT"


@pytest.mark.parametrize(
    ("weight_map", "sentence"),
    [
        ({"a": "../x.safetensors"}, "ck/model.safetensors.index.json has no usable weight_map"),
        ({"a": "/x.safetensors"}, "ck/model.safetensors.index.json has no usable weight_map"),
        ({"a": 5}, "ck/model.safetensors.index.json has no usable weight_map"),
        ({}, "ck/model.safetensors.index.json has no usable weight_map"),
        (["x"], "ck/model.safetensors.index.json has no usable weight_map"),
        (None, "ck/model.safetensors.index.json has no usable weight_map"),
        ({"a": ".."}, "ck lacks 1 of 1 shards: .."),
        ({"a": "1.safetensors", "b": "2.safetensors"}, "ck lacks 1 of 2 shards: 2.safetensors"),
    ],
)
def test_check_checkpoint_refuses_an_index_without_its_shards(ck, weight_map, sentence):
    (ck / WEIGHTS).rename(ck / "1.safetensors")
    (ck.parent / "x.safetensors").write_bytes((ck / "1.safetensors").read_bytes())
    (ck / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")
    assert refuse(DamagedError, check_checkpoint, ck) == sentence


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_check_checkpoint_finds_a_flipped_bit_in_a_step(ck, name):
    write_manifest(ck)
    content = bytearray((ck / name).read_bytes())
    content[content.index(b'"n_head": 2') + 10 if name == "config.json" else -1] ^= 1
    (ck / name).write_bytes(content)
    assert refuse(DamagedError, check_checkpoint, ck) == f"ck is damaged: {name} differs from its sha256"


# .gguf


@pytest.mark.parametrize(
    ("content", "sentence", "hint"),
    [
        (b"hello", "m.gguf is not in the GGUF format", None),
        (b"", "m.gguf is not in the GGUF format", None),
        (b"GGUF\x03\0\0\0", "m.gguf is not in the GGUF format", None),
        (b"GGUF" + b"\0" * 100, "m.gguf is not in the GGUF format", None),
        (b"GGUF\0\0\0\x03" + b"\0" * 16, "m.gguf is not in the GGUF format", None),  # big-endian
        (POINTER, "m.gguf is a git-lfs pointer, not the file itself", "git lfs pull"),
    ],
)
def test_check_gguf_refuses_another_file(tmp_path, monkeypatch, content, sentence, hint):
    monkeypatch.chdir(tmp_path)
    checking.Path("m.gguf").write_bytes(content)
    with pytest.raises(DamagedError) as caught:
        check_gguf(checking.Path("m.gguf"))
    assert (str(caught.value), caught.value.hint) == (sentence, hint)
