"""Recipes as YAML: they read back to the same values, and people can read them."""

import pytest
from hypothesis import HealthCheck, given, settings
from ruamel.yaml import YAML
from some_recipes import SMALL, mappings

from llmkit.recipe.reading import dump_recipe, read_recipe


def read_text(folder, text, name="r.yaml"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return read_recipe(path)


@settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(mappings)
def test_a_written_recipe_reads_back_to_the_same_values(tmp_path, mapping):
    recipe = read_recipe(mapping)
    text = dump_recipe(recipe)
    again = read_text(tmp_path, text)
    assert again == recipe
    assert dump_recipe(again) == text
    assert YAML(typ="safe", pure=True).load(text)["seed"] == recipe.seed


def test_recipes_differ_when_a_value_does(tmp_path):
    recipe = read_text(tmp_path, SMALL)
    assert recipe == read_text(tmp_path, SMALL, "other.yaml")
    assert recipe != read_text(tmp_path, SMALL.replace("12", "13"))
    assert recipe != recipe.model_dump()


def test_a_written_recipe_is_made_for_people(tmp_path):
    text = SMALL.replace("  tokenizer: tok\n", "  tokenizer: 语料/词表\n").replace("a.jsonl", "a.jsonl\n  eval_rows: 3")
    text += 'optim: {lr: 1e-5, kwargs: {fused: true}}\ntrain2: 1\neval: {generate: ["第一回：", "no", "a\\nb"]}\n'
    recipe = read_text(tmp_path, text.replace("train2: 1\n", ""))
    origin = {"optim.lr": "r.yaml:12", "eval.generate": "here"}
    assert (
        dump_recipe(recipe, lambda key: origin.get(key, ""))
        == """\
version: 1
objective: causal-lm
seed: 0
model:
  config:
    model_type: gpt2
    n_layer: 2
  tokenizer: 语料/词表
  dtype: float32
data:
  path: a.jsonl
  train_split: train
  text_column: text
  sample_by: document
  encoding: utf-8
  clean:
    markdown: false
    code: false
    urls: false
    unwrap: false
  eval_rows: 3
  on_bad: error
  end_of_text: true
  streaming: false
  num_workers: 0
optim:
  name: AdamW
  lr: 1e-05  # r.yaml:12
  weight_decay: 0.1
  kwargs:
    fused: true
schedule:
  name: cosine
  num_warmup_steps: 0
train:
  max_steps: 12
  global_batch_size: 32
  max_grad_norm: 1.0
  gradient_checkpointing: false
  compile: false
eval:
  best_metric: loss
  generate: ["第一回：", "no", "a\\nb"]  # here
save:
  every_steps: 500
  keep: 2
log:
  every_steps: 10
  to: [jsonl]
"""
    )


def test_a_long_list_has_a_line_for_each_item(tmp_path):
    prompts = [f"a prompt of some length, number {n}" for n in range(4)]
    recipe = read_recipe({"extends": "shakespeare-small", "data": {"path": "a"}, "eval": {"generate": prompts}})
    assert '  generate:\n    - "a prompt of some length, number 0"\n' in dump_recipe(recipe)
    assert read_text(tmp_path, dump_recipe(recipe)).eval.generate == prompts


@pytest.mark.parametrize("value", [float("inf"), 0.1 + 0.2, 5e-324, 1.7976931348623157e308])
def test_floats_are_exact(tmp_path, value):
    recipe = read_text(tmp_path, SMALL).model_copy(update={})
    config = {"model_type": "gpt2", "x": value, "y": -value}
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"config": config})})
    assert read_text(tmp_path, dump_recipe(recipe)).model.config == config
