"""`llmkit recipes`: list, show, copy, check, schema."""

import json
import pathlib
import subprocess
import sys

import pytest
from some_recipes import SMALL

from llmkit.recipe.describing import write_page, write_schema
from llmkit.recipe.reading import find_recipes, read_recipe


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("r.yaml").write_text(SMALL, encoding="utf-8")


def test_list_prints_each_recipe_with_its_first_sentence(llmkit_cli):
    code, out, err = llmkit_cli("recipes", "list")
    assert (code, err, len(out.splitlines())) == (0, "", len(find_recipes()))
    words = [
        "shakespeare-small",
        "pretrain",
        *["A", "small", "GPT-2", "on", "a", "plain", "text", "file,", "for", "a", "machine", "with", "two", "cores."],
    ]
    assert words in [line.split() for line in out.splitlines()]


def test_show_prints_all_values_and_where_each_came_from(llmkit_cli):
    code, out, err = llmkit_cli("recipes", "show", "r.yaml", "optim.lr=1e-4")
    assert (code, err) == (0, "")
    assert "\n  lr: 0.0001  # command line\n" in out
    assert "\n    n_layer: 2  # r.yaml:4\n" in out
    assert "\n  weight_decay: 0.1\n" in out
    pathlib.Path("shown.yaml").write_text(out, encoding="utf-8")
    assert read_recipe("shown.yaml") == read_recipe("r.yaml", ["optim.lr=1e-4"])


def test_copy_gives_a_recipe_to_change(llmkit_cli):
    assert llmkit_cli("recipes", "copy", "shakespeare-small") == (0, "shakespeare-small.yaml\n", "")
    text = pathlib.Path("shakespeare-small.yaml").read_text(encoding="utf-8")
    assert text.startswith("# A small GPT-2")
    assert read_recipe("./shakespeare-small.yaml", own_data=True) == read_recipe(
        find_recipes()["shakespeare-small"], own_data=True
    )


def test_copy_does_not_overwrite_unasked(llmkit_cli):
    pathlib.Path("mine.yaml").write_text("mine", encoding="utf-8")
    code, out, err = llmkit_cli("recipes", "copy", "shakespeare-small", "mine.yaml")
    assert (code, out) == (2, "")
    assert err == "llmkit: error: mine.yaml exists already\nhint: --overwrite replaces it\n"
    assert pathlib.Path("mine.yaml").read_text(encoding="utf-8") == "mine"
    assert llmkit_cli("recipes", "copy", "shakespeare-small", "mine.yaml", "--overwrite") == (0, "mine.yaml\n", "")
    assert llmkit_cli("recipes", "copy", "r.yaml", "r.yaml", "--overwrite")[::2] == (
        2,
        "llmkit: error: r.yaml is the recipe itself; expected another path\n",
    )
    assert llmkit_cli("recipes", "copy", "r.yaml", "no/where.yaml")[::2] == (
        2,
        "llmkit: error: cannot write no/where.yaml: No such file or directory\n",
    )


def test_check_tells_all_problems_without_torch():
    pathlib.Path("r.yaml").write_text(SMALL.replace("12", "no") + "sede: 3\n", encoding="utf-8")
    code = """
import sys
from llmkit.cli import main
code = main.run(["recipes", "check", "r.yaml", "optim.lr=fast"])
print(code, [m for m in ("torch", "transformers", "datasets", "numpy") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", check=True)
    assert done.stdout == "2 []\n"
    assert done.stderr == (
        "llmkit: error: r.yaml has 3 problems\n"
        "  r.yaml:9: train.max_steps: expected a whole number, got 'no'\n"
        "  r.yaml:10: unknown key 'sede'; did you mean 'seed'?\n"
        "  command line: optim.lr=fast: expected a number, got 'fast'\n"
    )


def test_check_says_what_a_right_recipe_is(llmkit_cli):
    assert llmkit_cli("recipes", "check", "r.yaml") == (0, "r.yaml is a recipe: causal-lm, 12 steps\n", "")
    assert (
        llmkit_cli("recipes", "check", "r.yaml", "train.num_epochs=2")[1] == "r.yaml is a recipe: causal-lm, 2 epochs\n"
    )


def test_check_asks_the_libraries_once_the_schema_is_clean(llmkit_cli, monkeypatch):
    asked = []
    monkeypatch.setattr("llmkit.training.building.check", asked.append)
    assert llmkit_cli("recipes", "check", "r.yaml", "seed=x")[0] == 2
    assert asked == []
    assert llmkit_cli("recipes", "check", "r.yaml")[0] == 0
    assert asked == [read_recipe("r.yaml")]


def test_a_long_problem_is_bounded_like_every_error(llmkit_cli):
    keys = ", ".join(f"{n}{'x' * 90}: 1" for n in range(3))
    pathlib.Path("r.yaml").write_text(f"{SMALL}log: {{{keys}}}\nsave: {{{keys}}}\n", encoding="utf-8")
    code, _, err = llmkit_cli("recipes", "check", "r.yaml")
    assert (code, len(err.splitlines())) == (2, 7)
    assert all(len(line) <= 302 for line in err.splitlines())


def test_a_missing_recipe_is_a_sentence_with_a_hint(llmkit_cli):
    assert llmkit_cli("recipes", "check", "q.yaml") == (
        2,
        "",
        "llmkit: error: recipe not found: q.yaml\nhint: did you mean r.yaml?\n",
    )


def test_schema_prints_json_or_the_page(llmkit_cli):
    code, out, _ = llmkit_cli("recipes", "schema")
    assert (code, out) == (0, write_schema())
    assert json.loads(out)["properties"]["optim"]["default"]["lr"] == 3e-4
    assert llmkit_cli("recipes", "schema", "--markdown")[1] == write_page()
