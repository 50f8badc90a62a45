"""The report of a run says what its folder holds; of several runs, what differs."""

import re
import shlex

import pytest

import llmkit
from llmkit.errors import InputError
from llmkit.training.report import read_history, write_report


@pytest.fixture
def train(make_recipe, tmp_path):
    """A function that trains a few steps with evaluations and texts and gives the folder."""

    def run(name, **changes):
        changes = {"data": {"eval_rows": 4}, "eval": {"every_steps": 2, "generate": ["the <sea>"]}, **changes}
        return llmkit.train(make_recipe(**changes, output_dir=str(tmp_path / name))).path

    return run


def test_run_leaves_its_report(train):
    run = train("one")
    page = (run / "report.html").read_text(encoding="utf-8")
    assert page == write_report(run)
    for heading in (
        "What it came to",
        "Curves",
        "Texts",
        "Data",
        "The command that repeats it",
        "Recipe",
        "Environment",
    ):
        assert f"<h2>{heading}</h2>" in page
    titles = re.findall(r"<figcaption>([^<]*)", page)
    assert titles == [
        "loss, nats a target",
        "learning rate",
        "norm of the gradient, before clipping",
        "targets a second",
        "perplexity in evaluations",
        "bits a byte in evaluations",
    ]
    assert page.count("<td>the &lt;sea&gt;</td>") == 3
    assert "stories.jsonl" in page
    assert "tokens     " in page


def test_command_of_a_report_repeats_the_run(train, llmkit_cli):
    run = train("one")
    listing = re.search(r"repeats it</h2>\n<pre>(.*)</pre>", write_report(run))[1]
    words = shlex.split(listing)
    assert words[:2] == ["llmkit", "pretrain"]
    assert llmkit_cli(*words[1:], "--quiet")[0] == 0
    curve, again = (read_history(path).points("loss") for path in (run, run.with_name("one-again")))
    assert again == curve


def test_comparison_says_what_differs_and_draws_both(train):
    one, two = train("one"), train("two", optim={"lr": 2e-2})
    page = write_report(one, two)
    differing = page[page.index("What differs in the recipes") : page.index("What they came to")]
    assert re.findall(r"<td>([^<]*)</td>", differing) == ["optim.lr", "0.01", "0.02"]
    first = page[page.index("<figure>") : page.index("</figure>")]
    assert re.findall(r'<span class="key \w+">(\w+)</span>', first) == ["one", "two"]
    assert first.count('class="line') == 2
    same = write_report(one, one)
    assert same.count("<p>Nothing.</p>") == 2


def test_runs_of_one_name_are_told_apart_by_their_folders(train):
    one, other = train("a/one"), train("b/one")
    page = write_report(one, other)
    assert re.findall(r'<span class="key \w+">([^<]+)</span>', page)[:2] == ["a/one", "b/one"]


def test_a_damaged_environment_is_told(train):
    run = train("one")
    (run / "environment.json").write_text('{"a": ', encoding="utf-8")
    with pytest.raises(InputError, match=r"environment\.json is not JSON: "):
        write_report(run)


def test_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"is no run: it holds no recipe.yaml"):
        write_report(tmp_path)
    with pytest.raises(InputError, match=r"^no such folder: .*none$"):
        write_report(tmp_path / "none")


def test_report_leaves_out_a_line_that_a_crash_left_torn(train):
    run = train("one")
    points = read_history(run).points("loss")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "lo')
    assert read_history(run).points("loss") == points


def test_report_command_writes_a_page_and_keeps_what_is_there(train, llmkit_cli, tmp_path):
    one, two = train("one"), train("two")
    (one / "report.html").unlink()
    assert llmkit_cli("report", str(one)) == (0, f"{one / 'report.html'}\n", "")
    assert (one / "report.html").read_text(encoding="utf-8") == write_report(one)
    code, out, err = llmkit_cli("report", str(one), str(two))
    assert (code, out) == (2, "")
    assert err == "llmkit: error: 2 runs are compared on one page; expected -o FILE.html\n"
    target = tmp_path / "both.html"
    for expected in (0, 2):
        assert llmkit_cli("report", str(one), str(two), "-o", str(target))[0] == expected
    assert llmkit_cli("report", str(one), str(two), "-o", str(target), "--overwrite")[0] == 0
