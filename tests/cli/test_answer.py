"""`llmkit answer` from the outside: texts from files and pipes, questions one by one and by the row."""

import csv
import json

import pytest
import torch
from qa_models import qa_model

from llmkit import answer

TEXT = "Once upon a time, 小明 😀 wrote  it.\n\n The end of it is a cold morning. " * 4
OTHER = "人工智能的未来是什么？没有人知道。\n"
QUESTION = "Who wrote it? 谁"


@pytest.fixture(scope="session")
def qa(tmp_path_factory):
    """A folder with a tiny model for question answering."""
    folder, lm = tmp_path_factory.mktemp("qa"), qa_model("bert", torch.float32)
    lm.tokenizer.save_pretrained(folder)
    lm.model.save_pretrained(folder)
    return folder


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A working folder with a.txt and b.txt."""
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "b.txt").write_text(OTHER, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ask(context=TEXT, **settings):
    return answer(QUESTION, context=context, model=qa_model("bert", torch.float32), **settings)


@pytest.mark.parametrize("command", ["answer", "qa"])
def test_answer_prints_the_answer_alone(llmkit_cli, qa, files, command):
    assert llmkit_cli(command, QUESTION, "-c", "a.txt", "-m", qa) == (0, ask().text + "\n", "")


def test_answer_prints_the_fields_of_the_answer_as_json(llmkit_cli, qa, files):
    code, out, _ = llmkit_cli("answer", QUESTION, "-c", "b.txt", "-m", qa, "--json", "--top", 2)
    found, want = json.loads(out), ask(OTHER, top=2)
    assert (code, list(found)) == (0, ["text", "score", "start", "end", "file", "alternatives"])
    assert (found["text"], found["start"], found["end"], found["file"]) == (want.text, want.start, want.end, None)
    assert found["score"] == pytest.approx(want.score, rel=1e-4)
    assert [a["text"] for a in found["alternatives"]] == [a.text for a in want.alternatives]
    assert "\\u" not in out


def test_answer_names_the_file_where_there_are_several(llmkit_cli, qa, files):
    want = ask({"a.txt": TEXT, "b.txt": OTHER}, top=3)
    call = ("answer", QUESTION, "-c", "a.txt", "-c", "b.txt", "-m", qa)
    escaped = [a.text.replace("\n", "\\n") for a in (want, *want.alternatives)]
    assert llmkit_cli(*call)[1] == f"{escaped[0]}\t{want.file}\n"
    lines = [line.split("\t") for line in llmkit_cli(*call, "--top", 3)[1].splitlines()]
    assert [line[1:] for line in lines] == [
        [text, a.file] for text, a in zip(escaped, (want, *want.alternatives), strict=True)
    ]
    assert [float(line[0]) for line in lines] == pytest.approx([a.score for a in (want, *want.alternatives)], rel=1e-2)
    assert json.loads(llmkit_cli(*call, "--json")[1])["file"] == want.file


@pytest.mark.parametrize("arguments", [(), ("-c", "-")])
def test_answer_takes_the_piped_text_without_its_last_line_break(llmkit_cli, qa, arguments):
    code, out, _ = llmkit_cli("answer", QUESTION, *arguments, "-m", qa, stdin=TEXT + "\n")
    assert (code, out) == (0, ask().text + "\n")


def test_answer_names_the_pipe_beside_a_file(llmkit_cli, qa, files):
    _, out, _ = llmkit_cli("answer", QUESTION, "-c", "-", "-c", "a.txt", "-m", qa, "--json", stdin=OTHER)
    want = ask({"-": OTHER.removesuffix("\n"), "a.txt": TEXT})
    assert (json.loads(out)["file"], json.loads(out)["text"]) == (want.file, want.text)


def test_answer_reads_a_text_in_another_encoding(llmkit_cli, qa, files):
    (files / "gb.txt").write_bytes(OTHER.encode("gb18030"))
    code, out, _ = llmkit_cli("answer", QUESTION, "-c", "gb.txt", "--encoding", "gb18030", "-m", qa)
    assert (code, out) == (0, ask(OTHER).text + "\n")


def test_answer_prints_an_empty_line_where_there_is_no_answer(llmkit_cli, qa, files):
    assert llmkit_cli("answer", QUESTION, "-c", "a.txt", "-m", qa, "--no-answer-threshold", -1e9) == (0, "\n", "")


def write_rows(files, rows, name="q.jsonl"):
    path = files / name
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_answer_gives_a_line_for_each_question_of_a_file(llmkit_cli, qa, files):
    (files / "q.txt").write_text(f"{QUESTION}\nWho?\n", encoding="utf-8")
    want = [llmkit_cli("answer", q, "-c", "a.txt", "-m", qa, "--json")[1] for q in (QUESTION, "Who?")]
    code, out, _ = llmkit_cli("answer", "-f", "q.txt", "-c", "a.txt", "-m", qa, "--json")
    assert code == 0
    for line, one in zip(out.splitlines(), want, strict=True):
        assert {**json.loads(line), "score": 0} == {**json.loads(one), "score": 0}


def test_answer_names_the_file_in_each_line(llmkit_cli, qa, files):
    (files / "q.txt").write_text(f"{QUESTION}\n", encoding="utf-8")
    want = ask({"a.txt": TEXT, "b.txt": OTHER})
    _, out, _ = llmkit_cli("answer", "-f", "q.txt", "-c", "a.txt", "-c", "b.txt", "-m", qa)
    assert out == want.text.replace("\n", "\\n") + f"\t{want.file}\n"


def test_answer_reads_each_question_with_the_text_of_its_row(llmkit_cli, qa, files):
    rows = [{"question": QUESTION, "context": TEXT}, {"question": QUESTION, "context": OTHER}]
    write_rows(files, rows)
    _, out, _ = llmkit_cli("answer", "-f", "q.jsonl", "-m", qa, "--json", "--top", 2)
    want = [ask(row["context"], top=2) for row in rows]
    assert [json.loads(line)["text"] for line in out.splitlines()] == [a.text for a in want]
    assert [len(json.loads(line)["alternatives"]) for line in out.splitlines()] == [1, 1]


def test_answer_puts_the_error_of_a_row_in_its_place_and_does_the_rest(llmkit_cli, qa, files):
    rows = [
        {"question": "", "context": TEXT},
        {"question": QUESTION, "context": ""},
        {"question": QUESTION},
        {"question": ["x"], "context": TEXT},
        {"question": QUESTION, "context": TEXT},
    ]
    write_rows(files, rows)
    code, out, _ = llmkit_cli("answer", "-f", "q.jsonl", "-m", qa, "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    assert lines[:4] == [
        {"row": 1, "error": "the question is empty; expected at least one word"},
        {"row": 2, "error": "the text to answer from is empty; expected at least one word"},
        {"row": 3, "error": "expected text in column 'context', got nothing"},
        {"row": 4, "error": "a question must be a text, got list"},
    ]
    assert lines[4]["text"] == ask().text


def test_answer_keeps_the_columns_of_a_table_and_adds_its_own(llmkit_cli, qa, files):
    with (files / "q.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["id", "q", "text"], ["7", QUESTION, TEXT], ["8", QUESTION, OTHER]])
    columns = ("--column", "q", "--context-column", "text")
    code, out, _ = llmkit_cli("answer", "-f", "q.csv", *columns, "-m", qa, "-o", "out.csv")
    with (files / "out.csv").open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    assert (code, out) == (0, "")
    assert list(found[0]) == ["id", "q", "text", "prediction", "score", "start", "end"]
    for row, text in zip(found, (TEXT, OTHER), strict=True):
        want = ask(text)
        assert (row["prediction"], int(row["start"]), int(row["end"])) == (want.text, want.start, want.end)


def test_answer_adds_the_file_to_a_table_where_there_are_several(llmkit_cli, qa, files):
    write_rows(files, [{"question": QUESTION}])
    llmkit_cli("answer", "-f", "q.jsonl", "-c", "a.txt", "-c", "b.txt", "-m", qa, "-o", "out.jsonl")
    want = ask({"a.txt": TEXT, "b.txt": OTHER})
    found = json.loads((files / "out.jsonl").read_text(encoding="utf-8"))
    assert (found["prediction"], found["file"], found["question"]) == (want.text, want.file, QUESTION)


def test_answer_writes_one_answer_to_a_file(llmkit_cli, qa, files):
    assert llmkit_cli("answer", QUESTION, "-c", "a.txt", "-m", qa, "-o", "out.txt")[:2] == (0, "")
    assert (files / "out.txt").read_text(encoding="utf-8") == ask().text + "\n"


def test_answer_takes_a_causal_model(llmkit_cli, make_checkpoint, files):
    (files / "short.txt").write_text("It was", encoding="utf-8")
    code, out, _ = llmkit_cli("answer", "Who?", "-c", "short.txt", "-m", make_checkpoint("gpt2", n_positions=256))
    assert (code, out.count("\n")) == (0, 1)


ERRORS = [
    (["-c", "a.txt"], "no question, got neither QUESTION nor -f; expected one of them"),
    (["x", "-f", "q.jsonl"], "got both TEXT and -f; expected one of them"),
    (["x", "-c", "none.txt"], "no such file: none.txt"),
    (["x", "-c", "."], "not a regular file: ."),
    (["x", "-c", "gb.txt"], "gb.txt is not utf-8 (byte 0)"),
    (["x", "-c", "empty.txt"], "empty.txt is empty; expected a text to answer from"),
    (["x"], "the piped input is empty; expected a text to answer from"),
    (["x", "-c", "a.txt", "--top", "0"], "top out of range, got 0; expected a whole number from 1"),
    (
        ["x", "-c", "a.txt", "--encoding", "none"],
        "no such encoding, got 'none'; expected one such as utf-8 or gb18030",
    ),
    (["-f", "q.jsonl", "-c", "a.txt"], "got both -c and a column of texts in q.jsonl; expected one of them"),
    (
        ["-f", "q.jsonl", "--context-column", "text"],
        "no text to answer from, got no -c and no column of texts in q.jsonl; expected one of them",
    ),
    (["-f", "-", "-c", "-"], "-c - and -f - both read standard input; expected one of them"),
    (
        ["-f", "q.jsonl", "--top", "2"],
        "several answers a row are shown as JSON alone, got --top 2; expected --json, and -o with no table",
    ),
    (
        ["-f", "q.jsonl", "--top", "2", "--json", "-o", "o.csv"],
        "several answers a row are shown as JSON alone, got --top 2; expected --json, and -o with no table",
    ),
    (["x", "-c", "a.txt", "-a", "b"], None),
    (["x " * 200, "-c", "a.txt"], "the question is too long, got 200 tokens; expected at most 124 in windows of 128"),
    (["", "-c", "a.txt"], "the question is empty; expected at least one word"),
]


@pytest.mark.parametrize(("arguments", "sentence"), ERRORS)
def test_answer_says_in_one_sentence_what_must_be_mended(llmkit_cli, qa, files, arguments, sentence):
    (files / "gb.txt").write_bytes(OTHER.encode("gb18030"))
    (files / "empty.txt").write_text("\n", encoding="utf-8")
    write_rows(files, [{"question": QUESTION, "context": TEXT}])
    named = () if sentence is None else ("-m", qa)
    code, out, err = llmkit_cli("answer", *arguments, *named, stdin="")
    wanted = sentence or "an adapter needs the checkpoint that it was made for, got none; expected -m CHECKPOINT"
    assert (code, out, err.splitlines()[0]) == (2, "", f"llmkit: error: {wanted}")


def test_answer_hints_at_the_encoding(llmkit_cli, qa, files):
    (files / "gb.txt").write_bytes(OTHER.encode("gb18030"))
    assert llmkit_cli("answer", "x", "-c", "gb.txt", "-m", qa)[2].endswith("hint: --encoding gb18030\n")
