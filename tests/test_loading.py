"""From a checkpoint to a model and a tokenizer: what comes out, and one sentence for each that cannot be loaded."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import TEXTS, byte_level_tokenizer, change, refuse, wordpiece_tokenizer, wordpiece_words
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertModel

from llmkit import locating
from llmkit.errors import DamagedError, InputError
from llmkit.loading import load, load_tokenizer

WEIGHTS = "model.safetensors"


@pytest.fixture
def ck(make_checkpoint, tmp_path, monkeypatch):
    """A copy of a tiny GPT-2, as `ck` in the working folder."""
    monkeypatch.chdir(tmp_path)
    return pathlib.Path(shutil.copytree(make_checkpoint("gpt2"), "ck"))


def change_weights(folder, **changes):
    """Replace tensors, or drop those that are None; a dot of a name is written as __."""
    stored = load_file(folder / WEIGHTS) | {name.replace("__", "."): tensor for name, tensor in changes.items()}
    save_file({n: t for n, t in stored.items() if t is not None}, folder / WEIGHTS, metadata={"format": "pt"})


def same_weights(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


# what comes out


def test_load_gives_what_transformers_gives(ck):
    model, tokenizer = load("ck", device="cpu")
    assert type(model).__name__ == "GPT2LMHeadModel"
    assert same_weights(model, AutoModelForCausalLM.from_pretrained(ck))
    assert tokenizer.get_vocab() == AutoTokenizer.from_pretrained(ck).get_vocab()
    assert not model.training


@pytest.mark.parametrize("spelling", [str, pathlib.Path])
def test_load_keeps_the_name_that_the_user_gave(ck, spelling):
    assert load(spelling("ck"), device="cpu").name == "ck"


def test_load_returns_a_loaded_as_it_is(loaded):
    lm = loaded("gpt2")
    assert load(lm) is lm
    assert load(lm, task="generation", dtype="auto", offline=True) is lm


OPTIONS = dict.fromkeys(("adapter", "tokenizer", "dtype", "device", "revision"), "x") | {"kwargs": {"x": 1}}


@pytest.mark.parametrize("option", OPTIONS)
def test_load_refuses_to_change_a_loaded(loaded, option):
    with pytest.raises(InputError) as caught:
        load(loaded("gpt2"), **{option: OPTIONS[option]})
    names = "adapter, tokenizer, dtype, device, revision and kwargs"
    assert str(caught.value) == f"a Loaded is whole already; {names} belong to the call that loads it"


def test_load_refuses_what_is_no_name(loaded):
    lm = loaded("gpt2")
    with pytest.raises(InputError, match=r"^expected the name of a checkpoint, got tuple$") as caught:
        load((lm.model, lm.tokenizer))
    assert caught.value.hint == "llmkit.Loaded(model, tokenizer) holds both"


def test_load_refuses_a_loaded_that_would_drop_out(loaded):
    lm = loaded("gpt2")
    lm.model.train()
    with pytest.raises(InputError, match=r"is in training mode, where dropout acts; call model\.eval\(\) first$"):
        load(lm)
    lm.model.eval()
    assert load(lm) is lm


def test_load_gives_the_facts_of_llmkit_json(ck):
    (ck / "llmkit.json").write_text('{"task": "generation", "max_length": 32}', encoding="utf-8")
    assert load("ck", device="cpu").facts == {"task": "generation", "max_length": 32}


def test_load_says_which_part_of_a_run_it_takes(ck, notes):
    (ck.parent / "runs" / "x").mkdir(parents=True)
    (ck.parent / "runs" / "x" / "recipe.yaml").touch()
    ck.rename("runs/x/final")
    assert load("runs/x", device="cpu").name == "runs/x"
    assert notes == ["runs/x is a run, using its final"]


def test_load_is_silent(ck):
    change_weights(
        ck, transformer__h__0__attn__masked_bias=torch.zeros(())
    )  # old ones hold it; transformers reports it
    env = {name: value for name, value in os.environ.items() if name != "HF_HUB_DISABLE_PROGRESS_BARS"}
    script = "import llmkit; llmkit.load('ck', device='cpu')"
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_load_takes_the_tokenizer_from_another_folder(ck):
    wordpiece_tokenizer().save_pretrained("words")
    (ck / "tokenizer.json").unlink()
    assert load("ck", tokenizer=pathlib.Path("words"), device="cpu").tokenizer.cls_token == "[CLS]"


@pytest.mark.parametrize(
    ("name", "content", "error", "sentence"),
    [
        ("config.json", "[]", InputError, "builtin/ck/config.json holds list; expected a JSON object"),
        (WEIGHTS, "", DamagedError, f"builtin/ck/{WEIGHTS} is truncated or not a safetensors file (0 bytes)"),
        (
            "tokenizer.json",
            '{"model": {"vocab": {"a": 0}}}',
            InputError,
            "the tokenizer of builtin/ck cannot be read: ",
        ),
    ],
)
def test_load_calls_a_built_in_checkpoint_what_the_user_called_it(ck, monkeypatch, name, content, error, sentence):
    monkeypatch.setattr(locating, "BUILTIN", ck.parent.resolve())
    (ck / name).write_text(content, encoding="utf-8")
    assert refuse(error, "builtin/ck").startswith(sentence)


# the task


def test_load_takes_the_head_that_a_checkpoint_was_saved_with(ck):
    AutoModelForSequenceClassification.from_pretrained(ck, num_labels=3).save_pretrained(ck)
    assert type(load("ck", device="cpu").model).__name__ == "GPT2ForSequenceClassification"
    assert type(load("ck", task="generation", device="cpu").model).__name__ == "GPT2LMHeadModel"


@pytest.mark.parametrize("architectures", [5, "GPT2LMHeadModel", [5], [], None])
def test_load_takes_generation_when_the_architecture_says_nothing(ck, architectures):
    change(ck / "config.json", architectures=architectures)
    assert type(load("ck", device="cpu").model).__name__ == "GPT2LMHeadModel"


def test_load_refuses_a_task_that_the_checkpoint_has_no_head_for(ck):
    assert refuse(InputError, "ck", task="classification") == (
        "ck was saved as GPT2LMHeadModel, without a head for classification: it lacks score.weight"
    )


@pytest.mark.parametrize(
    ("changes", "missing"), [({"architectures": None}, "1 tensor"), ({"n_layer": 3}, "13 tensors")]
)
def test_load_blames_the_head_only_when_that_is_sure(ck, changes, missing):
    change(ck / "config.json", **changes)
    sentence = refuse(DamagedError, "ck", task="classification")
    assert sentence.startswith(f"ck lacks {missing} of the model, such as ")


def test_load_refuses_a_model_that_was_saved_without_any_head(ck):
    config = BertConfig(vocab_size=400, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    BertModel(config).save_pretrained(ck)
    assert refuse(InputError, "ck") == (
        "ck was saved as BertModel, without a head for generation: it lacks "
        "cls.predictions.bias, cls.predictions.decoder.bias, cls.predictions.transform.LayerNorm.bias"
    )


def test_load_refuses_a_task_that_the_family_has_no_head_for(ck):
    assert refuse(InputError, "ck", task="translation") == (
        "ck does not load as a model for translation: transformers has no such model of its model_type"
    )


def test_load_refuses_an_unknown_task(ck):
    assert refuse(InputError, "ck", task="haiku") == (
        "unknown task, got 'haiku'; expected generation, translation, question-answering, classification, masked-lm"
    )


# dtype and device (tests/test_runtime.py has the names)


@pytest.mark.parametrize(("dtype", "expected"), [("auto", torch.float32), ("bfloat16", torch.bfloat16)])
def test_load_runs_a_bfloat16_checkpoint_in_the_dtype_asked_for(ck, dtype, expected):
    AutoModelForCausalLM.from_pretrained(ck, dtype=torch.bfloat16).save_pretrained(ck)
    lm = load("ck", dtype=dtype, device="cpu")
    assert {p.dtype for p in lm.model.parameters()} == {expected}


# configs


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("gpt7", "transformers has no model_type 'gpt7'; did you mean 'gptj'?"),
        ("", "transformers has no model_type ''"),
    ],
)
def test_load_refuses_an_unknown_model_type(ck, kind, reason):
    change(ck / "config.json", model_type=kind)
    assert refuse(InputError, "ck") == f"ck does not load as a model for generation: {reason}"


@pytest.mark.parametrize(
    "changes",
    [
        {"n_head": 0},
        {"n_head": 3},
        {"n_layer": None},
        {"n_embd": 1e30},
        {"vocab_size": "many"},
        {"activation_function": "none such"},
        {"dtype": "none such"},
        {"quantization_config": 5},
    ],
    ids=str,
)
def test_load_refuses_a_config_that_transformers_refuses(ck, changes):
    change(ck / "config.json", **changes)
    assert refuse(InputError, "ck").startswith("ck does not load as a model for generation: ")


def test_load_says_what_is_wrong_with_a_config(ck):
    change(ck / "config.json", n_embd=1e30)
    assert "Field 'n_embd' expected int, got float" in refuse(InputError, "ck")


def test_load_takes_no_memory_for_positions_that_are_not_stored(make_checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(make_checkpoint("gpt_neo"), "ck")
    change(tmp_path / "ck" / "config.json", max_position_embeddings=2**24)  # its masks would take 2**48 bytes
    assert refuse(DamagedError, "ck") == (
        "ck: 1 tensor has another shape than config.json says: "
        "transformer.wpe.weight is (64, 32), expected (16777216, 32)"
    )


# weights


def test_load_names_three_tensors_of_another_shape(ck):
    change(ck / "config.json", n_embd=64)
    assert refuse(DamagedError, "ck") == (
        "ck: 28 tensors have another shape than config.json says: "
        "transformer.h.0.attn.c_attn.bias is (96,), expected (192,); "
        "transformer.h.0.attn.c_attn.weight is (32, 96), expected (64, 192); "
        "transformer.h.0.attn.c_proj.bias is (32,), expected (64,)"
    )


def test_load_compares_shapes_where_names_lack_the_prefix(ck):
    stored = load_file(ck / WEIGHTS)
    save_file({name.removeprefix("transformer."): t for name, t in stored.items()}, ck / WEIGHTS, {"format": "pt"})
    assert load("ck", device="cpu").model.config.n_embd == 32
    change(ck / "config.json", n_positions=32)
    assert refuse(DamagedError, "ck") == (
        "ck: 1 tensor has another shape than config.json says: wpe.weight is (64, 32), expected (32, 32)"
    )


def test_load_names_a_missing_tensor(ck):
    change_weights(ck, transformer__h__1__mlp__c_fc__weight=None)
    assert refuse(DamagedError, "ck") == "ck lacks 1 tensor of the model, such as transformer.h.1.mlp.c_fc.weight"


def test_load_refuses_weights_of_another_model(ck):
    save_file({"a": torch.zeros(400, 32), "b": torch.zeros(64, 32), "c": torch.zeros(3)}, ck / WEIGHTS)
    assert refuse(DamagedError, "ck") == (
        "ck lacks 29 tensors of the model, such as "
        "lm_head.weight, transformer.h.0.attn.c_attn.bias, transformer.h.0.attn.c_attn.weight"
    )


def test_load_refuses_a_config_with_fewer_layers_than_stored(ck):
    change(ck / "config.json", n_layer=1)
    assert refuse(DamagedError, "ck") == (
        "ck: config.json has no place for 6 stored weights, such as transformer.h.1.attn.c_attn.weight"
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_load_refuses_weights_that_are_not_finite(ck, value):
    change_weights(ck, transformer__h__0__ln_1__bias=torch.tensor([0.0] * 31 + [value]))
    assert refuse(DamagedError, "ck") == ("ck: the tensor transformer.h.0.ln_1.bias holds values that are not finite")


# code


def test_load_runs_no_code_of_the_folder(ck):
    (ck / "own.py").write_text(f"open({str(ck.resolve() / 'canary')!r}, 'w')", encoding="utf-8")
    change(ck / "config.json", auto_map={"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}, model_type="own")
    change(ck / "tokenizer_config.json", auto_map={"AutoTokenizer": ["own.T", None]}, tokenizer_class="T")
    assert refuse(InputError, "ck") == "ck/config.json asks for Python code of its own (auto_map); llmkit never runs it"
    change(ck / "config.json", auto_map=None, model_type="gpt2")
    assert refuse(InputError, "ck") == (
        "ck/tokenizer_config.json asks for Python code of its own (auto_map); llmkit never runs it"
    )
    assert not (ck / "canary").exists()


# tokenizers


def words_folder(**files):
    folder = pathlib.Path("words")
    folder.mkdir()
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content, encoding="utf-8")
    return folder


VOCAB = "".join(f"{word}\n" for word in wordpiece_words())


def test_load_tokenizer_reads_vocab_txt_alone_as_berts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tokenizer = load_tokenizer(words_folder(vocab__txt=VOCAB))
    assert [tokenizer(text)["input_ids"] for text in TEXTS] == [
        wordpiece_tokenizer()(text)["input_ids"] for text in TEXTS
    ]
    assert tokenizer.tokenize("HELLO Morning 天气") == ["hello", "morning", "天", "气"]


def test_load_tokenizer_respects_the_case_that_tokenizer_config_states(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tokenizer = load_tokenizer(words_folder(vocab__txt=VOCAB, tokenizer_config__json='{"do_lower_case": false}'))
    assert tokenizer.tokenize("HELLO hello") == ["[UNK]", "hello"]


def test_load_tokenizer_reads_vocab_json_and_merges_txt(ck):
    plain = byte_level_tokenizer()
    expected = [plain(text)["input_ids"] for text in TEXTS]
    (ck / "tokenizer.json").unlink()
    (ck / "tokenizer_config.json").unlink()
    plain.backend_tokenizer.model.save(str(ck))
    tokenizer = load("ck", device="cpu").tokenizer
    assert type(tokenizer).__name__ == "GPT2Tokenizer"
    assert [tokenizer(text)["input_ids"] for text in TEXTS] == expected


def test_load_tokenizer_leaves_no_option_of_its_own_in_what_is_saved(ck):
    load_tokenizer(ck).save_pretrained("saved")
    assert "local_files_only" not in json.loads(pathlib.Path("saved/tokenizer_config.json").read_text(encoding="utf-8"))


def test_load_tokenizer_refuses_vocab_txt_that_is_not_berts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        load_tokenizer(words_folder(vocab__txt="a\nb\n"))
    assert str(caught.value) == (
        "the tokenizer of words cannot be read: WordPiece error: Missing [UNK] token from the vocabulary"
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("added_tokens", 5),
        ("model", {"type": "none such"}),
        ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "AAAA"}),  # a panic of the Rust side
        ("truncation", {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 5}),
    ],
)
def test_load_refuses_a_tokenizer_that_cannot_be_read(ck, key, value):
    change(ck / "tokenizer.json", **{key: value})
    sentence = refuse(InputError, "ck")
    assert sentence.startswith(("the tokenizer of ck cannot be read: ", "the tokenizer of ck is empty"))


def test_load_refuses_a_named_tokenizer_larger_than_the_embedding(ck):
    (ck.parent / "more").mkdir()
    byte_level_tokenizer(500).save_pretrained("more")
    size = len(byte_level_tokenizer(500))
    assert size > 400
    assert refuse(InputError, "ck", tokenizer="more") == (
        f"the tokenizer of more has {size} tokens, the embedding only 400 rows"
    )
