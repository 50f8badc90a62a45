"""A checkpoint is written when a file in the run folder asks for it, and the run is the one that nobody asked."""

from small_runs import read_curve

import llmkit
from llmkit import runfolder


def test_checkpoint_is_written_when_it_is_asked_for(make_recipe, tmp_path, notes):
    recipe = make_recipe(save={"every_steps": None, "keep": 5}, output_dir=str(tmp_path / "asked"))
    request = tmp_path / "asked" / "checkpoint-now"

    def ask(progress):
        if progress.step == 2:
            request.touch()

    run = llmkit.train(recipe, watch=ask)
    saved = sorted(step.name for step in runfolder.steps(run.path))
    assert saved == ["step-000004", "step-000006"]
    assert not request.exists()
    assert notes.count("step 4 saved, as checkpoint-now asked") == 1
    plain = llmkit.train({**recipe, "output_dir": str(tmp_path / "plain")})
    assert read_curve(run.path) == read_curve(plain.path)
    assert [step.name for step in runfolder.steps(plain.path)] == ["step-000006"]
