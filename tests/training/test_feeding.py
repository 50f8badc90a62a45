"""What a model is fed: how long rows may be, what ends a text, and what is said of the classes."""

import pickle
import types

import pytest
import torch
from objective_recipes import KINDS, objective_recipe, sentence, write_rows
from transformers import GPT2Config, T5Config

import llmkit
from llmkit.encoding.prompts import end_of_text
from llmkit.errors import InputError
from llmkit.recipe.reading import read_recipe
from llmkit.training import building
from llmkit.training.feeding import settle_lengths

COLUMNS = {"prompt_column": "p", "completion_column": "c"}
PROMPTS = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def settle(objective, data=(), *, adapter=None, context=64, stated=10**30):
    """The lengths of a recipe, for a model of a context and a tokenizer that states a length."""
    mapping = {"version": 1, "objective": objective, "model": {"name": "x"}, "train": {"max_steps": 1}}
    recipe = read_recipe({**mapping, "data": {"path": "a.jsonl", **dict(data)}, "adapter": adapter})
    model = types.SimpleNamespace(config=GPT2Config(n_positions=context) if context else T5Config())
    return settle_lengths(recipe, model, types.SimpleNamespace(model_max_length=stated))


@pytest.mark.parametrize(
    ("objective", "data", "way"),
    [
        ("causal-lm", {}, "split"),
        ("causal-lm", {"on_long": "drop"}, "drop"),
        ("causal-lm", COLUMNS, "error"),
        ("masked-lm", {}, "error"),
        ("seq2seq", {}, "error"),
        ("seq2seq", {"denoising": {}}, "error"),
        ("classification", {}, "error"),
        ("classification", {"on_long": "cut"}, "cut"),
    ],
)
def test_long_texts_are_split_unasked_where_they_are_plain_alone(objective, data, way):
    assert settle(objective, data)["on_long"] == way


@pytest.mark.parametrize(
    ("adapter", "context", "named"),
    [
        (None, 64, "64"),
        ({"peft_type": "LORA"}, 64, "64"),
        (PROMPTS, 60, "60 beside 4 virtual tokens"),
    ],
)
@pytest.mark.parametrize("objective", ["causal-lm", "seq2seq", "classification"])
def test_rows_are_as_long_as_the_context_without_virtual_tokens_and_no_longer(objective, adapter, context, named):
    assert settle(objective, adapter=adapter)["max_length"] == context
    assert settle(objective, {"max_length": context}, adapter=adapter)["max_length"] == context
    with pytest.raises(InputError) as caught:
        settle(objective, {"max_length": context + 1}, adapter=adapter)
    assert str(caught.value) == f"data.max_length: {context + 1} exceeds the model's context of {named}"


@pytest.mark.parametrize(
    ("data", "context", "stated", "lengths"),
    [
        ({}, 64, 48, (48, 48)),
        ({}, None, 48, (48, 48)),
        ({}, None, 10**30, (512, 512)),
        ({"max_length": 600}, None, 48, (600, 600)),
        ({"max_target_length": 9}, 64, 48, (48, 9)),
    ],
)
def test_sources_and_targets_are_as_long_as_the_least_that_is_stated(data, context, stated, lengths):
    found = settle("seq2seq", data, context=context, stated=stated)
    assert (found["max_length"], found["max_target_length"]) == lengths


@pytest.mark.parametrize("kind", ["masked-lm", "denoising"])
def test_texts_that_are_restored_end_once(kind, tmp_path):
    parts = llmkit.build(objective_recipe(kind, tmp_path))
    end, rows = end_of_text(parts.tokenizer), parts.train_dataset
    assert {rows[i]["input_ids"].tolist().count(end) for i in range(len(rows))} == {1}


@pytest.mark.parametrize("lengths", [(1, 3), (2, 2)])
def test_rows_too_short_for_a_text_with_gaps_are_refused(lengths, tmp_path):
    data = dict(zip(("max_length", "max_target_length"), lengths, strict=True))
    with pytest.raises(InputError) as caught:
        llmkit.build(objective_recipe("denoising", tmp_path, data=data))
    assert str(caught.value) == f"data.max_length: {lengths[0]} tokens leave no room for a text with gaps"


def test_rows_hold_a_text_of_one_token_with_its_gap(tmp_path):
    parts = llmkit.build(objective_recipe("denoising", tmp_path, data={"max_length": 2, "max_target_length": 3}))
    assert [len(parts.train_dataset[0][name]) for name in ("input_ids", "labels")] == [2, 3]


@pytest.mark.parametrize(
    ("problem_type", "label"),
    [("multi_label_classification", ["good"]), ("regression", [0.5, 1.0]), ("regression", 0.5)],
)
def test_labels_without_classes_are_missed_by_no_note(problem_type, label, tmp_path, notes):
    path = write_rows(tmp_path / "v.jsonl", [{"text": sentence(i, 4), "label": label} for i in range(12)])
    model = {"problem_type": problem_type, "labels": ["bad", "good"] if isinstance(label, list) else ["bad"]}
    llmkit.build(objective_recipe("classification", tmp_path, model=model, data={"path": str(path), "eval_rows": 4}))
    assert [note for note in notes if "is labelled" in note] == []


@pytest.mark.parametrize("held", [0, 1])
def test_classes_without_an_example_are_noted_for_each_part_of_the_data(held, tmp_path, notes):
    changes = {"model": {"labels": ["bad", "good", "fine"]}, "data": {"eval_rows": held or None}}
    llmkit.build(objective_recipe("classification", tmp_path, **changes))
    expected = ["no example to train on is labelled fine", "no example to evaluate on is labelled bad, fine"]
    assert [note for note in notes if "is labelled" in note] == expected[: 1 + held]


@pytest.mark.parametrize("kind", [*KINDS, "stream"])
def test_process_that_reads_ahead_is_sent_neither_weights_nor_rows(kind, tmp_path):
    """As where it is spawned: on macOS, and from Python 3.14 on everywhere."""
    changes = {"data": {"streaming": True}} if kind == "stream" else {}
    recipe = objective_recipe("causal-lm" if kind == "stream" else kind, tmp_path, **changes)
    plan = building.plan(read_recipe(recipe))
    sent = [pickle.dumps(part) for part in (plan.data.train, plan.parts.data_collator)]
    assert max(map(len, sent)) < 20_000 < plan.parts.model.num_parameters()
    train, collator = map(pickle.loads, sent)
    ours, theirs = (
        plan.parts.data_collator([plan.data.train[i] for i in range(4)]),
        collator([train[i] for i in range(4)]),
    )
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(torch.as_tensor(theirs[name]), torch.as_tensor(value), rtol=0, atol=0)


@pytest.mark.parametrize("key", ["eval_rows", "eval_documents"])
def test_examples_held_out_must_leave_some(key, tmp_path):
    recipe = objective_recipe("classification", tmp_path, data={key: 48})
    with pytest.raises(InputError) as caught:
        llmkit.build(recipe)
    path = recipe["data"]["path"]
    assert str(caught.value) == f"data.{key} would hold out 48 of the 48 examples of {path}, and leave none"
