"""Damaged recipes: one sentence for whatever is wrong (G11), and the right suggestion for every slip of a key."""

import random
import string
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from some_recipes import SMALL, damaged, mappings, odd, texts

from llmkit.errors import InputError
from llmkit.recipe import keys
from llmkit.recipe.reading import read_recipe
from llmkit.recipe.writing import write_value

SUITE = settings(
    max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)
FULL = settings(SUITE, max_examples=2500, derandomize=False)
slow = pytest.mark.slow
SPICE = [
    "\t",
    ":",
    ": ",
    "- ",
    "[",
    "{",
    "}",
    "]",
    "&a ",
    "*a",
    "!!x ",
    "!",
    "|\n",
    ">",
    "'",
    '"',
    "#",
    "%",
    "%YAML 1.1\n",
    "%TAG ! x\n",
    '"\\UFFFFFFFF"',
    '"\\U00110000"',
    '"\\xq"',
    "@",
    "?",
    "\0",
    "\ufeff",
    "---\n",
    "...\n",
    "\\",
    "\n",
    "<<",
    "，",
    "\x85",
    "\ud800",
]


SECONDS = []  # of CPU time, of each attempt of a test


def attempt(recipe, overrides=()):
    """Read in under a second; an error is one bounded sentence, or a bounded list of them."""
    start = time.process_time()
    try:
        read_recipe(recipe, overrides)
    except InputError as err:
        lines = [str(err), *err.details, err.hint or ""]
        assert len(err.details) <= 21
        assert max(map(len, lines)) <= 300, lines
        assert not any("\n" in line for line in lines), lines
        "\n".join(lines).encode()
    SECONDS.append(time.process_time() - start)
    assert SECONDS[-1] < 1


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "r.yaml"


def check_mapping(mapping):
    attempt(mapping)


def check_text(file, text, edits):
    for place, length, put in edits:
        at = place % (len(text) + 1)
        text = text[:at] + put + text[at + length :]
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    attempt(file)


def check_bytes(file, content):
    file.write_bytes(content)
    attempt(file)


def check_arguments(pairs):
    arguments = [f"{key}={write_value(value)}" if key else "x" for key, value in pairs]
    attempt({"version": 1}, arguments)


edits = st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 3), st.sampled_from(SPICE)), min_size=1, max_size=4)
yaml = st.one_of(st.just(SMALL), mappings.map(write_value))
key_names = st.one_of(
    st.sampled_from(
        [
            "optim.lr",
            "optim",
            "data.mix.0.path",
            "model.config.n_layer",
            "x",
            "",
            "a..b",
            "train.max_steps.x",
            "eval.generate.0",
        ]
    ),
    texts,
)
argument_pairs = st.lists(st.tuples(key_names, odd), max_size=5)
CASES = {
    "mapping": (given(damaged()), lambda file: check_mapping),
    "yaml": (
        given(damaged().map(write_value), st.just([])),
        lambda file: lambda text, edits: check_text(file, text, edits),
    ),
    "edited": (given(yaml, edits), lambda file: lambda text, edits: check_text(file, text, edits)),
    "bytes": (given(st.binary(max_size=200)), lambda file: lambda content: check_bytes(file, content)),
    "arguments": (given(argument_pairs), lambda file: check_arguments),
}


def count_attempts(profile, case, file):
    """Read damaged recipes of a kind; an attempt that ends in anything but a sentence fails here."""
    given_by, make = CASES[case]
    SECONDS.clear()
    profile(given_by(make(file)))()
    return len(SECONDS)


@pytest.mark.parametrize("case", CASES)
def test_a_damaged_recipe_is_a_sentence(case, file):
    assert count_attempts(SUITE, case, file) >= SUITE.max_examples


@slow
@pytest.mark.parametrize("case", CASES)
def test_a_damaged_recipe_is_a_sentence_in_ten_thousand(case, file):
    assert count_attempts(FULL, case, file) >= FULL.max_examples


def list_slips(word):
    """All words one edit away: a letter out, changed, put in, or two neighbours swapped."""
    letters = string.ascii_lowercase + "_"
    slips = {word[:i] + word[i + 1 :] for i in range(len(word))}
    slips |= {word[:i] + c + word[i + 1 :] for i in range(len(word)) for c in letters}
    slips |= {word[:i] + c + word[i:] for i in range(len(word) + 1) for c in letters}
    slips |= {word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in range(len(word) - 1)}
    return sorted(slips - {word, ""})


def list_places():
    return [(), *((section,) for section in keys.list_sections()), ("data", "clean"), ("data", "mix", 0)]


def check_slips(path, choose):
    known, num_slips = keys.list_keys(path), 0
    for key in known:
        for slip in choose(sorted(set(list_slips(key)) - set(known))):
            sentence, _ = keys.explain_unknown(path, slip)
            assert repr(key) in sentence, (path, slip, sentence)
            num_slips += 1
    return num_slips


@pytest.mark.parametrize("path", list_places(), ids=str)
def test_a_slip_of_a_key_gets_the_right_suggestion(path):
    draw = random.Random(0)
    assert check_slips(path, lambda slips: draw.sample(slips, 15)) == 15 * len(keys.list_keys(path))


@slow
def test_every_slip_of_a_key_gets_the_right_suggestion():
    assert sum(check_slips(path, list) for path in list_places()) == 66_072


def test_a_slip_in_a_file_names_the_key():
    draw = random.Random(0)
    for path in list_places():
        for key in keys.list_keys(path):
            slip = draw.choice([s for s in list_slips(key) if s not in keys.list_keys(path)])
            mapping: dict = {"version": 1, "objective": "causal-lm", "model": {"name": "m"}, "train": {"max_steps": 1}}
            mapping |= {"data": {"path": "x"}}
            spot = mapping
            for step in path:
                if step == "mix":
                    del spot["path"]
                    spot["mix"] = [{"path": "x"}]
                    spot = spot["mix"]
                else:
                    spot = spot[step] if isinstance(step, int) else spot.setdefault(step, {})
            spot[slip] = spot.pop(key, 1)
            with pytest.raises(InputError) as caught:
                read_recipe(mapping)
            told = "\n".join([str(caught.value), *caught.value.details])
            assert f"unknown key {slip!r}; did you mean " in told
            assert repr(key) in told


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("version: 1\noptim：\n  lr: 1\n", "2: not YAML (could not find expected ':'); is '：' meant as ':'?"),
        ("a: ｛b: 1｝\nb: 2\n", "1: not YAML (mapping values are not allowed here); is '｛' meant as '{'?"),
        ("a: [1，2\n", "1: not YAML (expected ',' or ']', but got 'stream end'); is '，' meant as ','?"),
        ('a: "x”\nb: 2\n', "1: not YAML (found unexpected end of stream); is '”' meant as '\"'?"),
        ("a: b: c\n", "1: not YAML (mapping values are not allowed here)"),
        ("a: b: c # ：\n", "1: not YAML (mapping values are not allowed here)"),
    ],
)
def test_a_full_width_character_where_yaml_fails_is_asked_about(text, problem, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_recipe("r.yaml")
    assert str(caught.value) == f"r.yaml:{problem}"


@pytest.mark.parametrize("value", ["好评,差评", "好评，差评", "好评、 差评"])
def test_a_text_in_the_place_of_a_list_is_told_with_brackets(value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(SMALL, encoding="utf-8")
    with pytest.raises(InputError, match=r"expected a list, got .*; brackets make one: \[好评, 差评\]$"):
        read_recipe("r.yaml", [f"model.labels={value}"])
