"""Every recipe that comes with llmkit takes two steps, with its sizes cut down and a small sample for its data."""

import pytest

import llmkit
from llmkit.recipe.reading import find_recipes
from llmkit.training.building import check

SMALL = {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 64}


@pytest.mark.parametrize("name", sorted(find_recipes()))
def test_shipped_recipe_takes_two_steps(name, stories, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    whole = llmkit.read_recipe(name, own_data=True)
    check(whole)
    overrides = {
        "output_dir": str(tmp_path / "run"),
        "data.path": str(stories / "stories.jsonl"),
        "data.max_length": 16,
        "data.eval_rows": 2,
        "model.tokenizer": str(stories / "tokenizer"),
        **{f"model.config.{key}": size for key, size in SMALL.items()},
        "schedule.num_warmup_steps": 0,
        "schedule.kwargs": {key: 1 for key in whole.schedule.kwargs if key.startswith("num_")} or None,
        "train.max_steps": 2,
        "train.global_batch_size": 2,
        "train.micro_batch_size": None,
        "train.mixed_precision": "no",
        "eval.every_steps": 2,
        "save.every_steps": 2,
    }
    run = llmkit.train(llmkit.read_recipe(name, overrides))
    assert (run.step, run.finished) == (2, True)
    assert llmkit.generate("the sea", model=run, max_new_tokens=2, temperature=0).token_ids
