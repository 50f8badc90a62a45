"""Each objective as a run: from a recipe to a model that the verbs use, the same however a step is split."""

import functools
import json
import re
from pathlib import Path

import pytest
import torch
from conftest import byte_level_tokenizer
from huggingface_hub import ModelCard
from objective_recipes import BART, GPT2, KINDS, objective_recipe
from safetensors.torch import load_file
from small_runs import read_curve
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import llmkit
from llmkit.runfolder import read_metrics
from llmkit.training.objectives import OBJECTIVES

PARTS = {"train": {"micro_batch_size": 2}}


def train(kind, folder, **changes):
    """Train a recipe of a kind; its run."""
    folder.mkdir(parents=True)
    return llmkit.train(objective_recipe(kind, folder, **changes))


@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_the_same_however_they_are_split(kind, tmp_path):
    whole, parts = train(kind, tmp_path / "a"), train(kind, tmp_path / "b", **PARTS)
    curves = [read_curve(run.path) for run in (whole, parts)]
    assert [step for step, _ in curves[0]] == [1, 2, 3, 4]
    for (_, a), (_, b) in zip(*curves, strict=True):
        assert abs(a - b) < 1e-12
    weights = [load_file(run.path / "final" / "model.safetensors") for run in (whole, parts)]
    assert max((weights[0][name] - weights[1][name]).abs().max() for name in weights[0]) < 1e-10


@pytest.mark.parametrize("kind", KINDS)
def test_loss_falls_and_a_run_goes_on_bit_for_bit(kind, tmp_path):
    steps = {"train": {"max_steps": 12}, "save": {"every_steps": 5}}
    whole = train(kind, tmp_path / "a", **steps)
    curve = read_curve(whole.path)
    assert curve[-1][1] < curve[0][1]
    folder = tmp_path / "b"
    folder.mkdir()
    recipe = objective_recipe(kind, folder, **{**steps, "train": {"max_steps": 5}})
    assert llmkit.train(recipe).step == 5
    recipe["train"]["max_steps"] = 12
    again = llmkit.train(recipe, resume="must")
    assert read_curve(again.path) == curve
    names = [load_file(run.path / "final" / "model.safetensors") for run in (whole, again)]
    assert all(torch.equal(names[0][name], names[1][name]) for name in names[0])


HUB_TASKS = {"text-generation", "fill-mask", "translation", "text-classification", "question-answering"}
HELD = {"data": {"eval_rows": 8}, "eval": {"every_steps": 4}}
METRICS = {
    "causal-lm": {"loss", "perplexity", "bits_per_byte"},
    "completion": {"loss", "perplexity", "bits_per_byte"},
    "masked-lm": {"loss", "perplexity"},
    "seq2seq": {"loss", "perplexity", "bits_per_byte"},
    "denoising": {"loss", "perplexity", "bits_per_byte"},
    "classification": {"loss", "accuracy", "f1_macro"},
    "question-answering": {"loss", "exact_match", "f1"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_gives_what_goes_with_the_objective(kind, tmp_path):
    run = train(kind, tmp_path / "a", **HELD)
    assert set(run.metrics) == METRICS[kind]
    card = ModelCard.load(run.path / "final" / "README.md")
    told = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert told == pytest.approx(run.metrics)
    data = llmkit.read_recipe(run.path / "recipe.yaml").data
    assert {result.dataset_name for result in card.data.eval_results} == {Path(data.path).name}
    assert card.data.pipeline_tag in HUB_TASKS
    unit = "tokens" if kind == "causal-lm" else "targets"
    assert f"| {unit} seen | " in card.text
    (seen,) = re.findall(rf"\| {unit} \| seen \|\n.*\n.*\| ([\d.]+) times \|", card.text)
    rows = len(llmkit.build(run.path / "recipe.yaml").train_dataset)
    assert float(seen) == pytest.approx(run.step * 8 / rows, abs=0.02 if kind == "causal-lm" else 0.005)


MEASURED = {"accuracy": "classification", "exact_match": "question-answering"}


@pytest.mark.parametrize("kind", KINDS)
def test_run_that_gets_no_better_ends_and_keeps_its_best(kind, tmp_path):
    """At a rate of 50 the first evaluation is the best; two more without a better one end the run."""
    metric = {task: name for name, task in MEASURED.items()}.get(kind, "loss")
    rates = {"optim": {"lr": 1e-12 if metric != "loss" else 50.0}, "train": {"max_steps": 9}}
    watched = {"data": {"eval_rows": 8}, "eval": {"every_steps": 1, "patience": 2, "best_metric": metric}}
    run = train(kind, tmp_path / "a", **watched, **rates, log={"to": ["jsonl", "tensorboard"]})
    curve = read_curve(run.path, f"eval_{metric}")
    sign = 1 if metric == "loss" else -1
    best = min(curve, key=lambda point: (sign * point[1], point[0]))[0]
    assert run.step == best + 2 < 9
    assert json.loads((run.path / "best" / "llmkit.json").read_text(encoding="utf-8"))["step"] == best
    assert json.loads((run.path / "final" / "llmkit.json").read_text(encoding="utf-8"))["end"] == "patience"
    (events,) = run.path.glob("tensorboard/events.out.tfevents.*")
    found = EventAccumulator(str(events)).Reload()
    for key in ("loss", f"eval_{metric}"):
        logged = [(event.step, event.value) for event in found.Scalars(key)]
        assert logged == [(step, pytest.approx(value, rel=1e-6)) for step, value in read_curve(run.path, key)]


@pytest.mark.parametrize("kind", ["causal-lm", "completion", "seq2seq"])
def test_texts_are_written_at_each_evaluation(kind, tmp_path):
    prompts = ["the sea was", "早安"]
    run = train(kind, tmp_path / "a", eval={"every_steps": 2, "generate": prompts})
    samples = read_curve(run.path, "samples")
    assert [step for step, _ in samples] == [2, 4]
    assert all([sample["prompt"] for sample in made] == prompts for _, made in samples)
    verb = llmkit.translate_batch if kind == "seq2seq" else functools.partial(llmkit.generate_batch, seed=5)
    made = verb(prompts, model=llmkit.load(run, dtype="float64"), max_new_tokens=64)
    assert [sample["text"] for sample in samples[-1][1]] == [one.text for one in made]


def test_seq2seq_gives_bleu_where_asked(tmp_path):
    measures = {"every_steps": 4, "metrics": ["loss", "bleu", "chrf"]}
    run = train("seq2seq", tmp_path / "a", data={"eval_rows": 8}, eval=measures)
    assert set(run.metrics) == {"loss", "bleu", "chrf"}


def test_final_checkpoint_says_what_use_has_to_know(tmp_path):
    facts = {}
    for kind in ("classification", "question-answering", "completion"):
        run = train(kind, tmp_path / kind)
        facts[kind] = json.loads((run.path / "final" / "llmkit.json").read_text(encoding="utf-8"))
    assert facts["classification"]["labels"] == ["bad", "good"]
    assert facts["question-answering"]["max_length"] == 48
    assert facts["question-answering"]["stride"] == 8
    assert facts["completion"]["template"] == "Q: {ask} A:"


def test_final_checkpoint_of_a_translator_says_its_languages(tmp_path):
    recipe = objective_recipe("seq2seq", tmp_path, data={"src_lang": "en", "tgt_lang": "zh"})
    recipe["model"]["config"] = {**BART, "max_position_embeddings": 128}
    final = llmkit.train(recipe).path / "final"
    assert json.loads((final / "llmkit.json").read_text(encoding="utf-8"))["languages"] == ["en", "zh"]


def test_final_checkpoint_of_a_translator_says_that_it_was_told_nothing(tmp_path):
    final = train("seq2seq", tmp_path / "a").path / "final"
    assert json.loads((final / "llmkit.json").read_text(encoding="utf-8"))["languages"] is None


def test_a_template_with_a_backslash_and_an_n_is_noted(tmp_path, caplog):
    caplog.set_level("INFO", "llmkit")
    note = "data.template holds a backslash and an n; within double quotes of YAML, \\n is a line break"
    train("completion", tmp_path / "a", data={"template": "Q: {ask}\n"}, train={"max_steps": 1})
    assert note not in caplog.messages
    train("completion", tmp_path / "b", data={"template": "Q: {ask}\\n"}, train={"max_steps": 1})
    assert note in caplog.messages


def test_card_of_an_adapter_says_that_it_is_one(tmp_path):
    base = train("completion", tmp_path / "a").path / "final"
    (tmp_path / "b").mkdir()
    recipe = objective_recipe("completion", tmp_path / "b", adapter={"peft_type": "LORA", "r": 2})
    recipe["model"] = {"name": str(base)}
    final = llmkit.train(recipe).path / "final"
    number = sum(tensor.numel() for tensor in load_file(final / "adapter_model.safetensors").values())
    told = f"| adapter | peft_type LORA, r 2: {number:,} parameters, stored without the others, which are those of "
    assert f"{told}{base} |" in (final / "README.md").read_text(encoding="utf-8")


def test_verbs_use_a_run(tmp_path):
    sentiment = llmkit.classify("the sea was cold", model=train("classification", tmp_path / "c"))
    assert set(sentiment.scores) == {"bad", "good"}
    found = llmkit.answer("what?", context="the sea was cold", model=train("question-answering", tmp_path / "q"))
    assert found.text in "the sea was cold"
    assert llmkit.translate("the sea was cold", model=train("seq2seq", tmp_path / "s")).num_windows == 1
    assert llmkit.generate("Q: cold? A:", model=train("completion", tmp_path / "g"), seed=1).token_ids


def test_there_is_a_kind_for_each_objective():
    assert {"completion": "causal-lm", "denoising": "seq2seq"}.keys() == set(KINDS) - OBJECTIVES.keys()


def test_class_without_an_example_is_noted(tmp_path, notes):
    train("classification", tmp_path / "a", model={"labels": ["bad", "good", "fine"]})
    assert "no example to train on is labelled fine" in notes


@pytest.mark.parametrize("begins", ["new", "checkpoint"])
def test_classifier_of_gpt2_pads_with_the_end_of_text(begins, tmp_path, make_checkpoint):
    """Neither GPT-2's config nor its tokenizer names a padding token, and transformers takes no batch without."""
    recipe = objective_recipe("classification", tmp_path)
    byte_level_tokenizer().save_pretrained(tmp_path / "words")
    model = {"config": GPT2, "tokenizer": str(tmp_path / "words")} if begins == "new" else {"name": make_checkpoint()}
    recipe["model"] = {**model, "labels": ["bad", "good"], "dtype": "float64"}
    run = llmkit.train(recipe)
    lm = llmkit.load(run, task="classification", dtype="float64", device="cpu")
    assert lm.tokenizer.pad_token_id is None
    assert lm.model.config.pad_token_id == lm.tokenizer.eos_token_id
    rows = [lm.tokenizer(text)["input_ids"] for text in ("cold cold sea", "good")]
    padded = torch.tensor([rows[0], rows[1] + [lm.tokenizer.eos_token_id] * (len(rows[0]) - len(rows[1]))])
    mask = torch.tensor([[1] * len(rows[0]), [1] * len(rows[1]) + [0] * (len(rows[0]) - len(rows[1]))])
    with torch.no_grad():
        both = lm.model(input_ids=padded, attention_mask=mask).logits
        alone = [lm.model(input_ids=torch.tensor([row])).logits[0] for row in rows]
    assert (both - torch.stack(alone)).abs().max() < 1e-12


def test_classifier_needs_a_token_to_pad_with(tmp_path):
    recipe = objective_recipe("classification", tmp_path)
    byte_level_tokenizer().save_pretrained(tmp_path / "words")
    path = tmp_path / "words" / "tokenizer_config.json"
    kept = {key: value for key, value in json.loads(path.read_text()).items() if not key.endswith("_token")}
    path.write_text(json.dumps(kept), encoding="utf-8")
    recipe["model"] = {"config": GPT2, "tokenizer": str(tmp_path / "words"), "labels": ["bad", "good"]}
    with pytest.raises(llmkit.InputError, match=r"has no token for padding or the end of text, which a classifier"):
        llmkit.train(recipe)


def test_model_whose_config_says_that_it_gives_values_has_a_loss_alone(tmp_path):
    values = {"model": {"config": {"problem_type": "regression"}, "labels": ["warmth"]}, "data": {"eval_rows": 8}}
    recipe = objective_recipe("classification", tmp_path, **values)
    run = llmkit.train(recipe)
    (last,) = [row for row in read_metrics(run.path / "metrics.jsonl") if "eval_loss" in row]
    assert {key for key in last if key.startswith("eval_")} == {"eval_loss"}
    for key, value in (("metrics", ["loss", "accuracy"]), ("best_metric", "accuracy")):
        with pytest.raises(
            llmkit.InputError, match=rf"eval\.{key}: accuracy cannot be computed for regression, as the "
        ):
            llmkit.build({**recipe, "eval": {key: value}})
