"""Two fresh processes train one recipe to the same bits, and each says which."""

import json
import re
import subprocess
import sys

import pytest

from llmkit.runfolder import hash_file


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_two_fresh_runs_have_the_same_bits(make_recipe, tmp_path, processes):
    told = []
    for name in ("first", "second"):
        config = {**make_recipe()["model"]["config"], "resid_pdrop": 0.1}
        recipe = make_recipe(output_dir=str(tmp_path / name), model={"config": config}, train={"threads": 1})
        path = tmp_path / f"{name}.yaml"
        path.write_text(json.dumps(recipe), encoding="utf-8")
        command = [sys.executable, "-m", "llmkit", "pretrain", str(path), "--num-processes", str(processes)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        told += re.findall(r"final weights: sha256 ([0-9a-f]{64})\n", done.stderr)
        assert told[-1] == hash_file(tmp_path / name / "final" / "model.safetensors")
    assert told[0] == told[1]
    assert len(told) == 2
