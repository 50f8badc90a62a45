"""What a recipe may change when its run goes on."""

import pytest
from some_recipes import SMALL

from llmkit.errors import InputError
from llmkit.recipe.reading import dump_recipe, read_recipe, resume_recipe


@pytest.fixture
def resume(tmp_path, monkeypatch):
    """Begin with some arguments, then go on with others."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(SMALL, encoding="utf-8")

    def call(began, goes_on, recipe="r.yaml"):
        (tmp_path / "recipe.yaml").write_text(dump_recipe(read_recipe("r.yaml", began)), encoding="utf-8")
        return resume_recipe(read_recipe(recipe, goes_on), read_recipe(tmp_path / "recipe.yaml"))

    return call


FREE = [
    "train.max_steps=20",
    "train.micro_batch_size=4",
    "train.compile=true",
    "train.threads=1",
    "output_dir=elsewhere",
    "eval.best_metric=perplexity",
    "eval.generate=[a]",
    "save.every_steps=3",
    "save.keep=9",
    "log.every_steps=3",
    "log.to=[tensorboard]",
]


@pytest.mark.parametrize("argument", FREE)
def test_what_is_free_may_change(resume, argument):
    assert resume([], [argument]) == read_recipe("r.yaml", [argument])


def test_a_setting_of_generation_that_was_not_there_may_come(resume):
    goes_on = ["save.generation_config.watermarking_config.greenlist_ratio=0.5", "save.generation_config.top_k=5"]
    recipe = resume([], goes_on)
    assert recipe.save.generation_config == {"watermarking_config": {"greenlist_ratio": 0.5}, "top_k": 5}


def test_epochs_may_take_the_place_of_steps(resume):
    recipe = resume([], ["train.num_epochs=3"])
    assert (recipe.train.max_steps, recipe.train.num_epochs) == (None, 3)
    recipe = resume(["train.num_epochs=3"], ["train.max_steps=3"])
    assert (recipe.train.max_steps, recipe.train.num_epochs) == (3, None)


REFUSED = {
    "optim.lr=0.1": "optim.lr: 0.1 is not 0.0003, with which the run began",
    "seed=1": "seed: 1 is not 0, with which the run began",
    "data.path=b.txt": "data.path: 'b.txt' is not 'a.jsonl', with which the run began",
    "model.config.n_layer=3": "model.config.n_layer: 3 is not 2, with which the run began",
    "model.config.n_head=3": "model.config.n_head: 3 is not null, with which the run began",
    "optim.betas=[0.5, 0.6]": "optim.betas: 0.5, 0.6 is not null, with which the run began",
    "train.global_batch_size=8": "train.global_batch_size: 8 is not 32, with which the run began",
    "train.mixed_precision=bf16": "train.mixed_precision: 'bf16' is not null, with which the run began",
    "data.eval_rows=3": "data.eval_rows: 3 is not null, with which the run began",
    "model.dtype=float64": "model.dtype: 'float64' is not 'float32', with which the run began",
}


@pytest.mark.parametrize("argument", REFUSED)
def test_what_makes_another_run_is_refused_with_both_values(resume, argument):
    with pytest.raises(InputError) as caught:
        resume([], [argument])
    assert str(caught.value) == f"command line: {REFUSED[argument]}"
    assert "another output_dir begins another run" in caught.value.hint


def test_all_that_differs_is_told_at_once(resume, tmp_path):
    (tmp_path / "s.yaml").write_text(SMALL.replace("n_layer: 2", "n_layer: 3"), encoding="utf-8")
    with pytest.raises(InputError, match=r"^s\.yaml has 2 problems$") as caught:
        resume([], ["seed=3"], "s.yaml")
    assert caught.value.details == (
        "s.yaml:4: model.config.n_layer: 3 is not 2, with which the run began",
        "command line: seed: 3 is not 0, with which the run began",
    )


def test_what_is_not_given_is_as_it_was(resume):
    began = ["optim.lr=0.5", "train.mixed_precision=no", "data.max_length=8", "train.threads=2", "eval.generate=[a]"]
    recipe = resume(began, ["train.max_steps=20"])
    assert recipe == read_recipe("r.yaml", [*began, "train.max_steps=20"])
    assert recipe.name == "r"
    assert recipe.origins["optim.lr"].startswith("/")
    assert recipe.origins["train.max_steps"] == "command line"


def test_sources_agree_where_the_run_settled_more(resume):
    began = ["data.mix=[{path: a, weight: 1.0}, {path: b, weight: 2.0}]"]
    assert resume(began, ["data.mix=[{path: a}, {path: b}]"]).data.mix[1].weight == 2.0
    with pytest.raises(InputError, match=r"command line: data\.mix\.1\.path: 'c' is not 'b', with which"):
        resume(began, ["data.mix=[{path: a}, {path: c}]"])


def test_values_that_do_not_go_together_any_more_are_refused(resume):
    with pytest.raises(InputError) as caught:
        resume(["schedule.num_warmup_steps=10"], ["train.max_steps=5"])
    assert str(caught.value).endswith("schedule.num_warmup_steps: 10 exceeds train.max_steps, 5")
