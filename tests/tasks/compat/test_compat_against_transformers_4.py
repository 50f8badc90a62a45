"""`llmkit.pipeline` answers what transformers 4.57.6 answered to the same calls, on the same weights."""

import json
import pathlib

import pytest
from compat_cases import CASES, plain
from compat_checkpoints import MAKERS

import llmkit

EXPECTED = json.loads((pathlib.Path(__file__).parent / "expected_by_transformers_4.json").read_bytes())


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A function that makes one of the checkpoints and returns its folder; each is made once."""
    made = {}

    def make(name):
        if name not in made:
            made[name] = MAKERS[name](str(tmp_path_factory.mktemp(name.replace(" ", "-"))))
        return made[name]

    return make


@pytest.fixture(scope="session")
def pipe(checkpoint):
    """A function that builds a pipeline over one of the checkpoints, by its name; each is built once."""
    built = {}

    def build(task, name, settings):
        key = (task, name, json.dumps(settings))
        if key not in built:
            built[key] = llmkit.pipeline(task, model=checkpoint(name), device="cpu", **settings)
        return built[key]

    return build


def rounded(value):
    """A result with its scores taken out, and the scores."""
    if isinstance(value, list):
        parts = [rounded(item) for item in value]
        return [part for part, _ in parts], [score for _, scores in parts for score in scores]
    if isinstance(value, dict):
        rest = {key: item for key, item in value.items() if key != "score"}
        return (list(value), rest), [value["score"]] if "score" in value else []
    return value, []


@pytest.mark.parametrize(
    ("name", "model", "task", "settings", "inputs", "call"), CASES, ids=[case[0] for case in CASES]
)
def test_pipeline_answers_as_transformers_4(name, model, task, settings, inputs, call, pipe):
    found, scores = rounded(plain(pipe(task, model, settings)(inputs, **call)))
    expected, expected_scores = rounded(EXPECTED[name])
    assert found == expected
    assert scores == pytest.approx(expected_scores, abs=1e-5)


def test_expected_answers_are_those_of_the_cases():
    assert list(EXPECTED) == [case[0] for case in CASES]
