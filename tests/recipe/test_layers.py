"""Parents, the file and the command line: what merges, what replaces, what goes with what."""

import pathlib

import pytest
from some_recipes import SMALL

from llmkit.errors import InputError
from llmkit.recipe.reading import read_recipe


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("base.yaml").write_text(SMALL, encoding="utf-8")


def child(text, name="child.yaml", extends="base.yaml"):
    path = pathlib.Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"extends: {extends}\n{text}", encoding="utf-8")
    return name


def refused(*arguments):
    with pytest.raises(InputError) as caught:
        read_recipe(*arguments)
    return [str(caught.value), *caught.value.details]


def test_a_child_merges_mappings_and_replaces_lists():
    child("eval: {generate: [a, b], every_steps: 3}\ndata: {eval_rows: 2}\n", "one.yaml")
    child("eval: {generate: [c]}\nmodel: {config: {n_head: 4}}\n", "two.yaml", "one.yaml")
    recipe = read_recipe("two.yaml", ["optim.lr=1"])
    assert recipe.eval.generate == ["c"]
    assert recipe.eval.every_steps == 3
    assert recipe.model.config == {"model_type": "gpt2", "n_layer": 2, "n_head": 4}
    assert recipe.extends is None
    origins = {key: recipe.origins[key] for key in ("eval.generate", "eval.every_steps", "train.max_steps", "optim.lr")}
    assert list(origins.values()) == ["two.yaml:2", "one.yaml:2", "base.yaml:9", "command line"]


def test_a_parent_lies_from_its_childs_folder_and_is_named_so():
    child("seed: x\n", "deep/er/child.yaml", "../mid.yaml")
    child("optim: {lr: fast}\n", "deep/mid.yaml", "../base.yaml")
    assert refused("deep/er/child.yaml") == [
        "deep/er/child.yaml has 2 problems",
        "deep/er/child.yaml:2: seed: expected a whole number, got 'x'",
        "deep/er/../mid.yaml:2: optim.lr: expected a number, got 'fast'",
    ]


def test_a_parent_may_be_a_name():
    assert read_recipe(child("seed: 7\ndata: {path: a}\n", extends="shakespeare-small")).model.config["n_layer"] == 4


def test_a_mapping_may_extend_a_file_of_the_working_folder():
    assert read_recipe({"extends": "base.yaml", "seed": 7}).train.max_steps == 12


def test_a_circle_of_parents_is_a_sentence():
    child("", "a.yaml", "b.yaml")
    child("", "b.yaml", "a.yaml")
    assert refused("a.yaml") == ["b.yaml:1: extends: a.yaml leads back to itself"]


def test_a_broken_parent_is_named_with_its_line():
    pathlib.Path("base.yaml").write_text("a: [\n", encoding="utf-8")
    assert refused(child(""))[0].startswith("base.yaml:2: not YAML")


@pytest.mark.parametrize(("below", "above", "left"), [
    ("", "train: {num_epochs: 2}", {"train.max_steps": None, "train.num_epochs": 2}),
    ("", "model: {name: m}", {"model.name": "m", "model.config": None, "model.tokenizer": "tok"}),
    ("", "data: {mix: [{path: b}]}", {"data.path": None}),
    ("data: {eval_rows: 3}", "data: {eval_path: e}", {"data.eval_rows": None, "data.eval_path": "e"}),
    ("data: {path: u/c, name: zh, eval_split: t, train_split: x, kwargs: {a: 1}}", "data: {path: b.txt}",
     {"data.name": None, "data.eval_split": None, "data.train_split": "train", "data.kwargs": {}}),
    ("data: {path: u/c, name: zh, train_split: x}", "data: {mix: [{path: b.txt}]}",
     {"data.name": None, "data.train_split": "train"}),
    ("data: {path: u/c, name: zh}", "data: {path: u/d, name: en}", {"data.name": "en"}),
    ("data: {eval_rows: 3}", "data: {eval_documents: 2}", {"data.eval_rows": None, "data.eval_documents": 2}),
    ("data: {eval_documents: 2}", "data: {eval_path: e}", {"data.eval_documents": None, "data.eval_path": "e"}),
    ("data: {eval_documents: 2}", "data: {path: b}", {"data.eval_documents": 2}),
    ("data: {path: a, origin: 小说, license: MIT}", "data: {path: b}", {"data.origin": None, "data.license": None}),
    ("data: {path: a, origin: 小说, license: MIT}", "data: {path: a}", {"data.origin": "小说", "data.license": "MIT"}),
    ("data: {path: a, origin: 小说, license: MIT}", "data: {path: b, origin: 诗}",
     {"data.origin": "诗", "data.license": None}),
    ("data: {path: a, origin: 小说, license: MIT}", "data: {mix: [{path: b}]}",
     {"data.origin": None, "data.license": None}),
    ("data: {clean: {unwrap: true}}", "data: {clean: {min_paragraph_chars: 9}}",
     {"data.clean": {"markdown": False, "code": False, "urls": False, "unwrap": True, "min_han_share": None,
                     "min_paragraph_chars": 9}}),
    ("data: {path: u/c, name: zh}", "data: {path: u/c}", {"data.name": "zh"}),
    ("model: {name: m, revision: main, kwargs: {a: 1}}", "model: {name: n}",
     {"model.revision": None, "model.kwargs": {}}),
    ("model: {name: m, revision: main}", "model: {config: {model_type: opt}}", {"model.revision": None}),
    ("", "model: {config: {model_type: opt}}", {"model.config": {"model_type": "opt"}}),
    ("", "model: {config: {model_type: gpt2, n_head: 1}}",
     {"model.config": {"model_type": "gpt2", "n_layer": 2, "n_head": 1}}),
    ("optim: {name: SGD, kwargs: {momentum: 0.9}}", "optim: {name: Adam}", {"optim.kwargs": {}}),
    ("schedule: {name: linear, kwargs: {a: 1}}", "schedule: {name: cosine}", {"schedule.kwargs": {}}),
    ("optim: {lr: 1}", "optim: {lr: null}", {"optim.lr": 3e-4}),
    ("optim: {lr: 1}", "optim:", {"optim.lr": 3e-4}),
    ("", "model: {config: {n_layer: null}}", {"model.config": {"model_type": "gpt2", "n_layer": None}}),
])  # fmt: skip
def test_a_later_layer_replaces_the_earlier_choice(below, above, left):
    recipe = read_recipe(child(above + "\n", "two.yaml", child(below + "\n", "one.yaml")))
    values = recipe.model_dump()
    for key, value in left.items():
        section, name = key.split(".")
        assert values[section][name] == value
        if value is None or value == {}:
            assert not any(given == key or given.startswith(f"{key}.") for given in recipe.origins)


@pytest.mark.parametrize(("arguments", "key", "value"), [
    (["optim.lr=1e-4"], "optim.lr", 1e-4),
    ({"optim.lr": 1e-4}, "optim.lr", 1e-4),
    ({"optim": {"lr": 1e-4}}, "optim.lr", 1e-4),
    ("optim.lr=1e-4", "optim.lr", 1e-4),
    (["optim.lr=1", "optim.lr=2"], "optim.lr", 2.0),
    (["train.num_epochs=3"], "train.max_steps", None),
    (["model.config.n_layer=null"], "model.config", {"model_type": "gpt2"}),
    ({"model.config.n_layer": None}, "model.config", {"model_type": "gpt2"}),
    (["model.config={n_inner: null}"], "model.config", {"model_type": "gpt2", "n_layer": 2, "n_inner": None}),
    (["model.config={n_head: 1}", "model.config.n_embd=8"], "model.config",
     {"model_type": "gpt2", "n_layer": 2, "n_head": 1, "n_embd": 8}),
    (["model=null", "model.name=m"], "model.config", None),
    (["eval.generate=[今天, 'a, b']"], "eval.generate", ["今天", "a, b"]),
    (["data.path=*.txt"], "data.path", "*.txt"),
    (["data.path=语料/a b=c.txt"], "data.path", "语料/a b=c.txt"),
    (["train.mixed_precision=no"], "train.mixed_precision", "no"),
    (["data.mix=[{path: a}, {path: b}]", "data.path=null"], "data.path", None),
])  # fmt: skip
def test_an_argument_stands_above_the_file(arguments, key, value):
    section, name = key.split(".")
    assert read_recipe("base.yaml", arguments).model_dump()[section][name] == value


def test_null_takes_back_a_key_of_every_layer():
    recipe = read_recipe(child("optim: {lr: 2}\n"), ["optim.lr=3", "optim.lr=null"])
    assert recipe.optim.lr == 3e-4
    assert "optim.lr" not in recipe.origins


def test_items_of_a_list_go_by_number():
    below = child("data: {mix: [{path: u/a, name: zh, weight: 1}, {path: b, weight: 2}]}\n")
    recipe = read_recipe(below, ["data.mix.0.path=c.txt", "data.mix.1.weight=5"])
    assert [(part.path, part.name, part.weight) for part in recipe.data.mix] == [("c.txt", None, 1.0), ("b", None, 5.0)]
    assert recipe.origins["data.mix"] == "command line"
    assert refused(below, ["data.mix.2.path=c"]) == [
        "command line: data.mix.2.path=c: no item 2; data.mix has numbers 0 to 1"
    ]
    assert refused(below, ["data.mix.0.weight=x"]) == ["command line: data.mix.0.weight=x: expected a number, got 'x'"]


def test_another_path_of_a_source_drops_where_it_came_from():
    source = "{path: a, origin: 小说, license: MIT, eval_documents: 2, clean: {unwrap: true}}"
    below = child(f"data: {{mix: [{source}, {source}]}}\n")
    recipe = read_recipe(below, ["data.mix.0.path=c.txt", "data.mix.1.path=a"])
    assert [(part.path, part.origin, part.license) for part in recipe.data.mix] == [
        ("c.txt", None, None),
        ("a", "小说", "MIT"),
    ]
    assert [(part.eval_documents, part.clean.unwrap) for part in recipe.data.mix] == [(2, True)] * 2


def test_a_path_that_is_given_to_a_source_without_one_keeps_where_it_came_from():
    below = child("data: {mix: [{origin: 小说, license: MIT}, {origin: 诗}]}\n")
    recipe = read_recipe(below, ["data.mix.0.path=c.txt", "data.mix.1.path=a"])
    assert [(part.path, part.origin, part.license) for part in recipe.data.mix] == [
        ("c.txt", "小说", "MIT"),
        ("a", "诗", None),
    ]


def test_data_held_out_of_a_source_and_of_all_contradict_each_other_across_layers():
    below = child("data: {mix: [{path: a, eval_documents: 2}]}\n")
    sentence = "child.yaml:2: data.mix.0.eval_documents: given beside data.eval_rows; expected one of the two"
    assert refused(below, ["data.eval_rows=3"]) == [sentence]
    recipe = read_recipe(below, ["data.eval_rows=3", "data.mix.0.eval_documents=null"])
    assert (recipe.data.eval_rows, recipe.data.mix[0].eval_documents) == (3, None)


def test_a_contradiction_counts_within_one_layer():
    assert refused("base.yaml", ["train.num_epochs=1", "train.max_steps=2"]) == [
        "command line: train.num_epochs=1: given beside train.max_steps; expected one of the two"
    ]
    assert refused(child("data: {eval_rows: 1}\n"), ["data.eval_path=a", "data.eval_split=b"]) == [
        "command line: data.eval_path=a: given beside data.eval_split; expected one of the two"
    ]
    assert refused(child("data: {eval_rows: 1}\n"), ["data.eval_documents=2", "data.eval_path=b"]) == [
        "command line: data.eval_documents=2: given beside data.eval_path; expected one of the two"
    ]


def test_a_source_of_a_mixture_has_one_place():
    sources = "{path: a.jsonl}, {path: b.jsonl, source_path: s, target_path: t}"
    (sentence,) = refused(child(f"objective: seq2seq\ndata: {{mix: [{sources}]}}\n"))
    assert sentence == "child.yaml:3: data.mix.1.source_path: given beside data.mix.1.path; expected one of the two"


def test_extends_is_refused_beside_a_recipe():
    (sentence,) = refused("base.yaml", ["extends=other.yaml"])
    assert sentence == (
        "command line: extends=other.yaml: a recipe states it itself, and it cannot be given beside one; "
        "expected it in a file"
    )


def test_a_problem_of_the_parent_is_gone_when_the_child_mends_it():
    child("optim: {lr: fast}\n", "one.yaml")
    assert read_recipe(child("optim: {lr: 1}\n", "two.yaml", "one.yaml")).optim.lr == 1.0
