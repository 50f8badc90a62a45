"""One process and several give one run: its losses, learning rates, weights, rows and evaluations."""

import json
import subprocess
import sys
from pathlib import Path

import many_processes
import pytest
from many_processes import SIZES, STEPS, STOPS
from objective_recipes import KINDS


def find(part, folder):
    """Run a part of the script and give what it found."""
    script = Path(many_processes.__file__)
    done = subprocess.run([sys.executable, script, folder, part], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / f"{part}.json").read_text())


def test_eight_sequences_at_once_or_one_or_one_in_each_of_two_processes_give_one_curve(tmp_path):
    """Source of the tolerances: float64, 20 steps of AdamW, rows of different lengths."""
    found = find("curves", tmp_path)
    assert list(found) == list(KINDS)
    for kind, layouts in found.items():
        whole = layouts["8x1"]["curve"]
        assert len(whole) == STEPS
        for other in (layouts["1x8"], layouts["2x4"]):
            for (step, loss, norm, lr), (step_2, loss_2, norm_2, lr_2) in zip(whole, other["curve"], strict=True):
                assert (step, lr) == (step_2, lr_2)
                assert loss_2 == pytest.approx(loss, rel=1e-12), kind
                assert norm_2 == pytest.approx(norm, rel=1e-12), kind
            assert other["weights"] < 1e-10, kind


def test_evaluation_counts_each_row_once_in_one_process_and_in_two(tmp_path):
    one, first, second = find("sizes", tmp_path).values()
    assert first == second
    assert len(one) == len(SIZES)
    for alone, together in zip(one, first, strict=True):
        assert together == pytest.approx(alone, rel=1e-12)


def test_run_goes_on_with_another_number_of_processes_and_reads_each_row_once(tmp_path):
    elastic = find("elastic", tmp_path)
    read = {tuple(map(int, name.split("-")[1:])): rows for name, rows in elastic["read"].items()}
    borders = [0, *(4 * stop for stop in STOPS), 4 * STEPS]
    assert sorted(read[STOPS[0], 0]) == list(range(*borders[:2]))
    assert sorted(read[STOPS[1], 0] + read[STOPS[1], 1]) == list(range(*borders[1:3]))
    assert sorted(read[STEPS, 0]) == list(range(*borders[2:]))
    for whole, parts in zip(*(elastic["curves"][name] for name in ("whole", "parts")), strict=True):
        assert (parts[0], parts[3]) == (whole[0], whole[3])
        assert parts[1] == pytest.approx(whole[1], rel=1e-12)
    assert elastic["weights"] < 1e-10


def test_sharded_weights_give_the_run_of_whole_ones_which_goes_on_either_way(tmp_path):
    for kind, runs in find("sharded", tmp_path).items():
        whole = runs.pop("whole")
        assert len(whole["curve"]) == 6
        assert set(runs) == {"sharded", "gathered", "dealt"}
        for run in runs.values():
            for row, row_2 in zip(whole["curve"], run["curve"], strict=True):
                assert row_2 == pytest.approx(row, rel=1e-9), kind
            for found, found_2 in zip(whole["evaluated"], run["evaluated"], strict=True):
                assert found_2.pop("samples", None) == found.get("samples")
                assert found_2 == pytest.approx({k: v for k, v in found.items() if k != "samples"}, rel=1e-9), kind
            assert run["weights"] < 1e-10, kind
