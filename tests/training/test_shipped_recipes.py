"""Every recipe that comes with llmkit takes two steps, with its sizes cut down and a small sample for its data."""

import pytest
import transformers
from objective_recipes import BERT, GPT2, T5, write_data

import llmkit
from llmkit.heads import AUTO_CLASSES
from llmkit.recipe.reading import find_recipes
from llmkit.recipe.rules import has_examples
from llmkit.training.building import check
from llmkit.training.objectives import OBJECTIVES

SHAPES = {"causal-lm": GPT2, "masked-lm": BERT, "seq2seq": T5, "classification": BERT, "question-answering": BERT}
# the columns of the samples
COLUMNS = {
    "seq2seq": {"data.source_column": "source", "data.target_column": "target"},
    "classification": {"data.text_column": "text"},
}


def find_kind(recipe):
    """The kind of sample that a recipe takes."""
    if recipe.objective == "causal-lm":
        return "completion" if has_examples(recipe) else "causal-lm"
    return "denoising" if recipe.data.denoising is not None else recipe.objective


def make_base(objective, tokenizer, folder):
    """A checkpoint of the model that a recipe of this objective begins with, without the head that it trains."""
    task = OBJECTIVES[objective].task
    named = "AutoModel" if task in ("classification", "question-answering") else AUTO_CLASSES[task]
    words = transformers.AutoTokenizer.from_pretrained(tokenizer)
    ids = {"vocab_size": len(words), "pad_token_id": words.pad_token_id, "eos_token_id": words.eos_token_id}
    config = transformers.AutoConfig.for_model(**{**SHAPES[objective], **ids})
    getattr(transformers, named).from_config(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("name", sorted(find_recipes()))
def test_shipped_recipe_takes_two_steps(name, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    whole = llmkit.read_recipe(name, own_data=True)
    check(whole)
    sample = write_data(find_kind(whole), tmp_path)
    tokenizer = sample["model"]["tokenizer"]
    if str(whole.model.name).startswith("builtin/"):
        model = {}
    elif whole.model.name is not None:
        model = {"model.name": make_base(whole.objective, tokenizer, tmp_path / "base")}
    else:
        model = {"model.config": SHAPES[whole.objective], "model.tokenizer": tokenizer}
    overrides = {
        "output_dir": str(tmp_path / "run"),
        **model,
        **{f"data.{key}": value for key, value in sample["data"].items() if key != "denoising"},
        **COLUMNS.get(whole.objective, {}),
        "data.max_length": 48,
        "data.streaming": None,
        "data.eval_rows": 2,
        "schedule.num_warmup_steps": 0,
        **{f"schedule.kwargs.{key}": 1 for key in whole.schedule.kwargs if key.startswith("num_")},
        "train.max_steps": 2,
        "train.global_batch_size": 2,
        "train.micro_batch_size": None,
        "train.mixed_precision": "no",
        "eval.every_steps": 2,
        "save.every_steps": 2,
    }
    run = llmkit.train(llmkit.read_recipe(name, overrides))
    assert (run.step, run.finished) == (2, True)
    assert run.metrics
    assert llmkit.load(run).facts["task"] == OBJECTIVES[whole.objective].task
