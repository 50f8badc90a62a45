"""`llmkit finetune`: what it takes, what it prints, and that its run serves every other command."""

import json
import shutil

import pytest
import torch
from objective_recipes import BERT, T5, objective_recipe
from peft import PeftModel
from safetensors.torch import load_file
from small_adapters import METHODS, NO_MERGE, difference
from small_runs import read_curve
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

import llmkit
from llmkit import runtime
from llmkit.recipe.reading import dump_recipe

LORA = {"peft_type": "LORA", "r": 4}


@pytest.fixture
def recipe_file(make_recipe, make_checkpoint, tmp_path, monkeypatch):
    """A function that writes a recipe over a tiny checkpoint, `base` in the working folder, to r.yaml."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(make_checkpoint("gpt2"), tmp_path / "base")

    def write(**changes):
        mapping = make_recipe(**{"adapter": LORA, **changes})
        mapping["model"] = {"name": "base", **changes.get("model", {})}
        (tmp_path / "r.yaml").write_text(dump_recipe(llmkit.read_recipe(mapping)), encoding="utf-8")
        return tmp_path / "run"

    return write


def logits(model):
    return outputs(model, {"input_ids": torch.arange(20)[None]})


def outputs(model, given):
    """The logits, of question-answering those of both ends."""
    with torch.no_grad():
        found = model.eval()(**given)
    return found.logits if "logits" in found else torch.stack([found.start_logits, found.end_logits])


def test_finetune_trains_an_adapter_that_plain_peft_and_llmkit_use(recipe_file, llmkit_cli, tmp_path):
    run = recipe_file()
    code, out, err = llmkit_cli("finetune", "r.yaml")
    assert (code, out) == (0, f"{run}\n"), err
    assert len(read_curve(run)) == 6
    names = {p.name for p in (run / "final").iterdir()}
    assert names >= {"adapter_config.json", "adapter_model.safetensors", "llmkit.json", "README.md", "tokenizer.json"}
    assert "config.json" not in names
    facts = json.loads((run / "final" / "llmkit.json").read_text(encoding="utf-8"))
    assert facts["base"] == str(tmp_path / "base")
    code, out, err = llmkit_cli("generate", "今天", "-m", run, "-t", 0, "-n", 4)
    assert (code, err) == (0, f"llmkit: note: {run} is a run, using its final\n")
    assert llmkit_cli("generate", "今天", "-m", "base", "-a", run, "-t", 0, "-n", 4)[1] == out
    with runtime.quiet():
        plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("base"), run / "final")
    assert torch.equal(logits(plain), logits(llmkit.load(run, device="cpu").model))
    assert AutoTokenizer.from_pretrained(run / "final")("a").input_ids


# objective -> the base's class and config, the class for use, and the modules that the base lacks
BASES = {
    "classification": (AutoModelForMaskedLM, BERT, AutoModelForSequenceClassification, {"pooler", "classifier"}),
    "question-answering": (AutoModelForMaskedLM, BERT, AutoModelForQuestionAnswering, {"qa_outputs"}),
    "seq2seq": (AutoModelForSeq2SeqLM, T5, AutoModelForSeq2SeqLM, set()),
}
HEADS = {"pooler", "classifier", "qa_outputs"}


@pytest.fixture
def adapted(tmp_path, tmp_path_factory, monkeypatch):
    """A function that writes a recipe of an objective over a tiny checkpoint, `base`, and returns its path."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))

    def write(objective):
        recipe = objective_recipe(objective, tmp_path, adapter=LORA, train={"mixed_precision": "no"})
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
        tokenizer.save_pretrained(tmp_path / "base")
        base_class, config, *_ = BASES[objective]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            base = base_class.from_config(AutoConfig.for_model(**config, vocab_size=len(tokenizer)))
        base.save_pretrained(tmp_path / "base")
        labels = {"labels": ["bad", "good"]} if objective == "classification" else {}
        recipe |= {"model": {"name": str(tmp_path / "base"), **labels}, "optim": {"lr": 0.05}}
        (tmp_path / "r.yaml").write_text(json.dumps(recipe), encoding="utf-8")
        return tmp_path / "r.yaml"

    return write


@pytest.mark.parametrize("objective", BASES)
def test_adapter_of_an_objective_and_its_new_head_work_in_plain_peft(adapted, llmkit_cli, tmp_path, objective):
    code, _, err = llmkit_cli("finetune", adapted(objective))
    assert code == 0, err
    final = tmp_path / "run" / "final"
    *_, use_class, heads = BASES[objective]
    stored = {part for name in load_file(final / "adapter_model.safetensors") for part in name.split(".")}
    assert stored & HEADS == heads
    with runtime.quiet():
        plain = PeftModel.from_pretrained(use_class.from_pretrained(tmp_path / "base"), final)
    given = {"input_ids": torch.arange(5, 25)[None]}
    if objective == "seq2seq":
        given["decoder_input_ids"] = torch.arange(7)[None]
    expected = outputs(llmkit.load(final, device="cpu").model, given)
    assert difference(outputs(plain, given), expected) <= 1e-5
    with plain.disable_adapter():
        assert difference(outputs(plain, given), expected) > 1e-3


def test_finetune_without_an_adapter_trains_all_weights(recipe_file, llmkit_cli):
    run = recipe_file(adapter=None)
    assert llmkit_cli("finetune", "r.yaml", "--quiet") == (0, f"{run}\n", "")
    assert (run / "final" / "config.json").is_file()


@pytest.mark.parametrize("method", METHODS)
def test_run_of_each_method_goes_on_bit_for_bit_and_serves(recipe_file, llmkit_cli, tmp_path, method):
    data = {"pack": False} if method in NO_MERGE else {}  # virtual tokens stand before one text
    run = recipe_file(adapter=METHODS[method], train={"max_steps": 8}, data=data)
    code, _, err = llmkit_cli("finetune", "r.yaml", "output_dir=whole", "--quiet")
    assert code == 0, err
    assert llmkit_cli("finetune", "r.yaml", "--max-seconds", "1e-6", "--quiet")[0] == 0
    code, out, err = llmkit_cli("finetune", "r.yaml", "--resume", "auto")
    assert (code, out) == (0, f"{run}\n"), err
    assert "llmkit: note: going on from step 1 of 8\n" in err
    assert read_curve(run) == read_curve(tmp_path / "whole")
    weights = "final/adapter_model.safetensors"
    assert (run / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()
    assert llmkit_cli("generate", "今天", "-m", run, "-t", 0, "-n", 2, "--quiet")[0] == 0


def test_finetune_refuses_to_go_on_over_another_base(recipe_file, llmkit_cli, make_checkpoint, tmp_path):
    recipe_file()
    llmkit_cli("finetune", "r.yaml", "--max-seconds", "1e-6")
    shutil.rmtree("base")
    shutil.copytree(make_checkpoint("gpt2", seed=1), tmp_path / "base")
    code, out, err = llmkit_cli("finetune", "r.yaml", "--resume", "auto")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1] == (
        "llmkit: error: model.name: the weights of base have changed since step 1 (their sha256 differs)"
    )


def test_run_of_an_adapter_refuses_another_base(recipe_file, llmkit_cli, make_checkpoint):
    run = recipe_file()
    llmkit_cli("finetune", "r.yaml")
    other = make_checkpoint("gpt2", seed=1)
    code, out, err = llmkit_cli("generate", "a", "-m", other, "-a", run)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1] == (
        f"llmkit: error: the adapter {run} was made for other weights than {other} (its sha256 differs)"
    )


def test_adapter_over_a_builtin_keeps_its_base_in_the_run(recipe_file, llmkit_cli):
    run = recipe_file(model={"name": "builtin/tiny", "tokenizer": None}, data={"max_length": 16})
    code, _, err = llmkit_cli("finetune", "r.yaml")
    assert code == 0, err
    config = json.loads((run / "final" / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == str(run / "base")
    facts = json.loads((run / "final" / "llmkit.json").read_text(encoding="utf-8"))
    assert facts["base"] == "builtin/tiny"
    with runtime.quiet():
        base = AutoModelForCausalLM.from_pretrained(run / "base", dtype=torch.float32)
        plain = PeftModel.from_pretrained(base, run / "final")
    assert torch.equal(logits(plain), logits(llmkit.load(run, device="cpu").model))


def test_finetune_needs_a_checkpoint(make_recipe, llmkit_cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(dump_recipe(llmkit.read_recipe(make_recipe())), encoding="utf-8")
    code, out, err = llmkit_cli("finetune", "r.yaml")
    assert (code, out) == (2, "")
    place, _, sentence = err.partition(": model.name: ")
    assert place.startswith("llmkit: error: r.yaml:")
    assert sentence == "missing; add the checkpoint to begin with (llmkit pretrain makes a new model)\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("objective", ["classification", "question-answering"])
def test_pretrain_names_finetune_for_what_begins_with_a_checkpoint(llmkit_cli, tmp_path, monkeypatch, objective):
    monkeypatch.chdir(tmp_path)
    text = (
        f"version: 1\nobjective: {objective}\nmodel: {{name: base}}\ndata: {{path: a.jsonl}}\ntrain: {{max_steps: 2}}\n"
    )
    (tmp_path / "r.yaml").write_text(text, encoding="utf-8")
    assert llmkit_cli("pretrain", "r.yaml") == (
        2,
        "",
        f"llmkit: error: r.yaml:2: objective: {objective} begins with a checkpoint; "
        "expected llmkit finetune in the place of pretrain\n",
    )


def test_problem_of_the_adapter_is_told_with_its_line_before_the_model_is_loaded(recipe_file, llmkit_cli):
    recipe_file(adapter={"peft_type": "LORA", "lora_alfa": 4}, model={"name": "./gone"})
    code, out, err = llmkit_cli("finetune", "r.yaml")
    assert (code, out) == (2, "")
    assert err.startswith("llmkit: error: r.yaml:")
    assert err.endswith(": adapter.lora_alfa: LORA has no such key; did you mean 'lora_alpha'?\n")


def test_finetune_is_in_the_help(llmkit_cli):
    assert "\n  finetune " in llmkit_cli("--help")[1]
    assert "merge" in llmkit_cli("export", "--help")[1]


def test_interrupted_finetune_says_how_to_go_on(recipe_file, llmkit_cli, monkeypatch):
    from llmkit.training import running
    from llmkit.training.stopping import Interrupted

    def stop(*_, **__):
        raise Interrupted(15, 4)

    recipe_file()
    monkeypatch.setattr(running, "train", stop)
    code, out, err = llmkit_cli("finetune", "r.yaml", "optim.lr=0.1")
    assert (code, out) == (143, "")
    assert err == "llmkit: note: step 4 saved; go on with: llmkit finetune r.yaml optim.lr=0.1 --resume auto\n"


def test_export_merge_makes_a_run_one_model(recipe_file, llmkit_cli):
    run = recipe_file()
    llmkit_cli("finetune", "r.yaml")
    code, out, err = llmkit_cli("export", "merge", run, "out")
    assert (code, out) == (0, "out/model.safetensors\n")
    assert err == f"llmkit: note: {run} is a run, using its final\n"
    expected = logits(llmkit.load(run, device="cpu").model)
    merged = AutoModelForCausalLM.from_pretrained("out")
    assert (logits(merged) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_run_whose_base_is_gone_says_so(recipe_file, llmkit_cli, tmp_path):
    run = recipe_file()
    llmkit_cli("finetune", "r.yaml")
    shutil.rmtree("base")
    code, out, err = llmkit_cli("generate", "a", "-m", run)
    assert (code, out) == (2, "")
    assert f"llmkit: error: the base of the adapter {run} is not at hand: no such checkpoint: {tmp_path}/base\n" in err


def test_paused_run_serves_as_a_checkpoint(recipe_file, llmkit_cli):
    run = recipe_file()
    llmkit_cli("finetune", "r.yaml", "--max-seconds", "1e-6")
    code, _, err = llmkit_cli("generate", "a", "-m", run, "-n", 2, "-t", 0)
    assert code == 0, err
    assert "using its checkpoints/step-000001" in err


@pytest.fixture
def encoder_recipe(tmp_path, monkeypatch, tmp_path_factory):
    """A recipe for a classifier over a tiny BERT without a head, r.yaml in the working folder."""
    from conftest import wordpiece_tokenizer
    from small_classifiers import SHAPES
    from transformers import BertConfig, BertForMaskedLM

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    tokenizer = wordpiece_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertForMaskedLM(BertConfig(**SHAPES["bert"], vocab_size=len(tokenizer))).save_pretrained("base")
    tokenizer.save_pretrained("base")
    rows = [{"text": text, "label": label} for text, label in [("once hello", "good"), ("cold morning", "bad")] * 8]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    text = """\
version: 1
objective: classification
model: {name: base, labels: [bad, good]}
data: {path: d.jsonl, max_length: 16}
adapter: {peft_type: LORA, r: 4, target_modules: [query, value]}
optim: {lr: 0.01}
train: {max_steps: 60, global_batch_size: 8, mixed_precision: "no"}
output_dir: run
"""
    (tmp_path / "r.yaml").write_text(text, encoding="utf-8")


def test_classifier_by_an_adapter_serves_sentiment_with_its_labels(encoder_recipe, llmkit_cli):
    code, _, err = llmkit_cli("finetune", "r.yaml")
    assert code == 0, err
    for words, label in (("once hello", "good"), ("cold morning", "bad")):
        code, out, err = llmkit_cli("sentiment", words, "-m", "run", "--json", "--quiet")
        assert (code, json.loads(out)["label"]) == (0, label), err
    assert llmkit_cli("export", "merge", "run", "out", "--quiet")[0] == 0
    assert json.loads(llmkit_cli("sentiment", "once hello", "-m", "out", "--json")[1])["label"] == "good"
