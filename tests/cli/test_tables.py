"""Rows that are read with -f and written with -o: nothing of them is lost, and what cannot be is said."""

import csv
import io
import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from small_classifiers import make

from llmkit import encodings
from llmkit.cli import render
from llmkit.cli.flow import Flow
from llmkit.cli.outputs import Table
from llmkit.cli.rows import Row, read_rows
from llmkit.errors import InputError, RunError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny classifier, saved."""
    lm, place = make("bert"), tmp_path_factory.mktemp("classifier")
    lm.model.save_pretrained(place)
    lm.tokenizer.save_pretrained(place)
    return place


@pytest.fixture
def label(folder, tmp_path, monkeypatch, llmkit_cli):
    """A function that labels a file, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments, **more: llmkit_cli("sentiment", "-m", folder, *arguments, **more)


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))


def break_off(path, rows):
    """Leave a finished table as one that was broken off after some lines."""
    lines = path.read_bytes().splitlines(keepends=True)
    path.with_name(path.name + ".part").write_bytes(b"".join(lines[:rows]))
    path.unlink()


@pytest.mark.parametrize("change", ["--scores", "a file", "--max-length"])
def test_a_part_goes_on_by_the_same_call_alone(label, tmp_path, monkeypatch, change):
    out, part = tmp_path / "out.jsonl", tmp_path / "out.jsonl.part"
    write(tmp_path / "in.txt", "hello\nworld\nonce\n")
    put, written = Table.put, []

    def breaks(self, row, line, columns):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(row.number)
        put(self, row, line, columns)

    monkeypatch.setattr(Table, "put", breaks)
    call = ["-f", "in.txt", "-o", "out.jsonl"]
    assert label(*call)[0] == 130
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt", "out.jsonl.part", "out.jsonl.part.json"]
    monkeypatch.setattr(Table, "put", put)
    if change == "a file":
        write(tmp_path / "in.txt", "time\nworld\n")
        other, what = call, "the files read"
    else:
        other = [*call, "--scores"] if change == "--scores" else [*call, "--max-length", 9]
        what = change.strip("-").replace("-", "_")
    code, _, err = label(*other)
    hint = "hint: --overwrite begins anew\n"
    assert (code, err) == (2, f"llmkit: error: out.jsonl.part is of another call: {what} differ\n{hint}")
    assert part.exists()
    if change == "a file":
        assert label(*other, "--overwrite")[0] == 0
        texts = [json.loads(line)["text"] for line in out.read_text(encoding="utf-8").splitlines()]
        assert texts == ["time", "world"]
    else:
        code, _, err = label(*call, "--batch-size", 1)
        assert (code, err) == (0, "llmkit: note: out.jsonl.part goes on after row 2\n")
        texts = [json.loads(line)["text"] for line in out.read_text(encoding="utf-8").splitlines()]
        assert texts == ["hello", "world", "once"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt", "out.jsonl"]


def interrupt(*_arguments):
    """Break off."""
    raise KeyboardInterrupt


def test_a_part_of_other_weights_under_the_same_name_is_refused(label, folder, tmp_path, monkeypatch):
    shutil.copytree(folder, tmp_path / "model")
    write(tmp_path / "in.txt", "hello\nworld\n")
    call = ["-m", "model", "-f", "in.txt", "-o", "out.txt"]
    with monkeypatch.context() as patch:
        patch.setattr(Table, "put", interrupt)
        assert label(*call)[0] == 130
    os.utime(tmp_path / "model" / "model.safetensors", ns=(1, 1))
    sentence = "out.txt.part is of another call: model files differ"
    assert label(*call)[::2] == (2, f"llmkit: error: {sentence}\nhint: --overwrite begins anew\n")
    assert label(*call, "--overwrite")[0] == 0


@pytest.fixture
def answer(tmp_path, monkeypatch):
    """A function that answers the rows of in.txt into out.jsonl by a call; `stop` is a row that breaks it off."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "in.txt", "one\nbad\nbad\nfour\n")

    def answers(source, stop):
        for row in source:
            if row.number == stop:
                raise KeyboardInterrupt
            failed = row.value == "bad"
            row = Row(row.number, None, row.record, "it is bad") if failed else row
            yield row, [] if failed else [SimpleNamespace(label="good")]

    def run(stop=None, output="out.jsonl", overwrite=False, quiet=True, **params):
        render.listen()
        call = SimpleNamespace(info_name="classify", params=params)
        places = (None, "in.txt", Path(output), "text", "utf-8")
        flow = Flow(*places, overwrite, False, quiet, {"label": "label"}, call=call).open()
        return flow.table.done, flow.run(lambda source: answers(source, stop))

    return run


def make_checkpoint(place, *, manifest=False):
    """Write what may be a checkpoint, as far as its name and its files tell."""
    place.mkdir(parents=True)
    for name in ("config.json", "model.safetensors", *(["manifest.json"] if manifest else [])):
        write(place / name, "{}")


@pytest.mark.parametrize("option", ["model", "adapter", "tokenizer"])
@pytest.mark.parametrize(("kind", "changed"), [("folder", "model.safetensors"), ("run", "manifest.json")])
def test_a_part_goes_on_by_the_same_checkpoint_alone(answer, tmp_path, option, kind, changed):
    place = tmp_path / "runs" / "x"
    make_checkpoint(place / "final" if kind == "run" else place, manifest=kind == "run")
    if kind == "run":
        write(place / "recipe.yaml", "")
    with pytest.raises(KeyboardInterrupt):
        answer(3, **{option: "runs/x"})
    if kind == "run":
        write(place / "metrics.jsonl", "{}")
        os.utime(place / "final" / "model.safetensors", ns=(1, 1))  # its manifest tells what it is
    with pytest.raises(KeyboardInterrupt):
        answer(4, **{option: "runs/x"})
    write((place / "final" if kind == "run" else place) / changed, "[1]")
    with pytest.raises(InputError) as caught:
        answer(**{option: "runs/x"})
    assert str(caught.value) == f"out.jsonl.part is of another call: {option} files differ"


def test_a_part_that_lies_in_the_checkpoint_goes_on(answer, tmp_path):
    make_checkpoint(tmp_path / "runs" / "x")
    with pytest.raises(KeyboardInterrupt):
        answer(3, "runs/x/out.jsonl", model="runs/x")
    assert answer(None, "runs/x/out.jsonl", model="runs/x")[0] == 2


def test_a_part_with_failed_rows_ends_with_exit_1(answer, tmp_path, monkeypatch):
    kept = lambda: json.loads((tmp_path / "out.jsonl.part.json").read_text(encoding="utf-8"))["failed"]  # noqa: E731
    with pytest.raises(KeyboardInterrupt):
        answer(4)
    assert kept() == 2
    assert answer() == (3, 1)
    (tmp_path / "out.jsonl").unlink()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Table, "close", lambda self, *, complete: self._file.close())  # as in a process that is killed
        answer(3)
    assert kept() == 1
    assert answer() == (2, 1)


def test_progress_leaves_out_what_was_done_before_it_began(answer, monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(render.time, "monotonic", lambda: clock[0])
    progress = render.Progress(10, quiet=False, first=6)
    for done in (7, 8):
        clock[0] += 10
        progress.update(done)
    notes = ["llmkit: note: 6 of 10 rows", "llmkit: note: 7 of 10 rows, 60 s left"]
    assert capsys.readouterr().err.splitlines() == notes
    with pytest.raises(KeyboardInterrupt):
        answer(4)
    capsys.readouterr()
    monkeypatch.setattr(render.Line, "EVERY_S", 0)
    answer(quiet=False)
    assert "llmkit: note: 3 of 4 rows\n" in capsys.readouterr().err


def put(path, record, encoding="latin-1", **columns):
    """Write one row as a table does."""
    table = Table(path, encoding=encoding, overwrite=False, columns=[*record, *columns])
    table.open()
    try:
        table.put(Row(1, "", record), "早上好", columns)
    finally:
        table.close(complete=True)
    return path.read_bytes()


def test_characters_that_an_encoding_lacks_are_told_or_escaped(tmp_path):
    for name in ("a.csv", "a.tsv", "a.txt"):
        with pytest.raises(RunError) as caught:
            put(tmp_path / name, {"text": "café"}, translation="早上好")
        assert str(caught.value) == "row 1 cannot be written in iso8859-1, which has no '早'"
    found = put(tmp_path / "a.jsonl", {"text": "café"}, translation="早上好")
    assert json.loads(found) == {"text": "café", "translation": "早上好"}
    assert put(tmp_path / "b.csv", {"text": "café"}, x="é") == b"text,x\ncaf\xe9,\xe9\n"
    assert put(tmp_path / "c.csv", {"text": "a\ud800"}, "utf-8", x="好") == "text,x\na?,好\n".encode()


def test_lists_and_lone_carriage_returns_come_back_from_a_table(tmp_path):
    put(tmp_path / "a.csv", {"tags": ["甲", 1], "text": "a\rb"}, "utf-8", label="x")
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.DictReader(file)) == [{"tags": '["甲", 1]', "text": "a\rb", "label": "x"}]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_an_encoding_without_lines_of_bytes_is_read_and_not_written(label, tmp_path, encoding):
    write(tmp_path / "in.csv", "text\n上海很好\n上次很差\n", encoding)
    code, out, _ = label("-f", "in.csv", "--encoding", encoding)
    assert (code, len(out.splitlines())) == (0, 2)
    code, _, err = label("-f", "in.csv", "--encoding", encoding, "-o", "out.csv")
    sentence = f"-o cannot be written row by row in {encoding}, which it keeps; expected one such as utf-8"
    assert (code, err.splitlines()[0]) == (2, f"llmkit: error: {sentence}")
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_a_line_with_more_fields_than_the_header_is_an_error_of_its_own(label, tmp_path, ending):
    text = "id,text\n1,good, but long\n2,fine\n"
    write(tmp_path / f"in.{ending}", text.replace(",", "\t") if ending == "tsv" else text)
    code, out, err = label("-f", f"in.{ending}", "-o", f"out.{ending}")
    assert (code, out, err) == (1, "", "llmkit: error: row 1: expected 2 fields, got 3\n")
    assert label("-f", f"in.{ending}", "--json")[1].startswith('{"row": 1, "error": "expected 2 fields, got 3"}\n')


def test_two_columns_of_one_name_are_refused_and_empty_names_are_not(label, tmp_path):
    write(tmp_path / "in.csv", "text,id,text\na,1,b\n")
    code, _, err = label("-f", "in.csv")
    assert (code, err) == (2, "llmkit: error: in.csv has two columns 'text'; expected a name for each\n")
    write(tmp_path / "in.csv", "text,,\na,,\n")
    assert label("-f", "in.csv", "-o", "out.csv")[0] == 0
    assert (tmp_path / "out.csv").read_text(encoding="utf-8").startswith("text,,,label,score\na,,,")


def test_every_column_of_every_record_is_kept(label, tmp_path):
    records = [{"text": "good"}, {"text": "bad", "id": 7, "标签": ["甲"]}, {"text": None, "row": "B2"}]
    write(tmp_path / "in.jsonl", "".join(json.dumps(one, ensure_ascii=False) + "\n\n" for one in records))
    assert label("-f", "in.jsonl", "-o", "out.csv")[0] == 1
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["id"], row["标签"], row["row"]) for row in rows] == [("", "", ""), ("7", '["甲"]', ""), ("", "", "B2")]
    assert label("-f", "in.jsonl", "-o", "out.jsonl")[0] == 1
    last = json.loads((tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert last == {**records[2], "error": "expected text in column 'text', got null"}
    write(tmp_path / "in.jsonl", '{"text": "good"}\n{"text": "bad", "label": "gold"}\n')
    code, _, err = label("-f", "in.jsonl", "-o", "other.jsonl")
    assert (code, "in.jsonl has a column 'label' already" in err) == (2, True)


def test_an_error_is_told_where_a_table_has_no_place_for_it(label, tmp_path):
    write(tmp_path / "in.jsonl", '{"text": "good"}\n{"text": null}\n')
    said = "llmkit: error: row 2: expected text in column 'text', got null\n"
    assert label("-f", "in.jsonl", "-o", "out.csv", "--json") == (1, "", said)
    assert label("-f", "in.jsonl", "-o", "out.jsonl", "--json") == (1, "", "")


@pytest.mark.parametrize("encoding", ["utf-8", "gb18030"])
def test_a_line_of_standard_input_in_another_encoding_costs_itself_alone(label, encoding):
    good, bad = "好\r\n".encode(encoding), b"\xff\xff\n"
    code, out, err = label(
        "-f", "-", "--encoding", encoding, stdin=b"\xef\xbb\xbf"[: 3 * (encoding == "utf-8")] + good + bad + good
    )
    lines = out.splitlines()
    assert (code, err) == (1, f"llmkit: error: row 2: not {encoding} (byte 0)\n")
    assert (len(lines), lines[1], lines[0]) == (3, "", lines[2])


def test_a_mark_of_the_order_of_bytes_is_one_at_the_beginning_alone(monkeypatch):
    piped = io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n"))
    monkeypatch.setattr(sys, "stdin", piped)
    assert [row.value for row in read_rows(None, "text", "utf-8")] == ["a", "\ufeffb"]


def test_standard_input_that_is_closed_is_a_sentence(label, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    sentence = "nothing to read, standard input is closed; expected -f FILE or piped input"
    assert label("-f", "-")[::2] == (2, f"llmkit: error: {sentence}\n")


def test_what_a_name_ends_in_is_read_in_any_letters(label, tmp_path):
    write(tmp_path / "IN.CSV", "id,text\n1,good film\n")
    assert label("-f", "IN.CSV", "-o", "OUT.TSV")[0] == 0
    assert (tmp_path / "OUT.TSV").read_text(encoding="utf-8").startswith("id\ttext\tlabel\tscore\n1\tgood film\t")


@pytest.mark.parametrize("name", [".", "/", ""])
def test_an_output_without_a_name_is_a_sentence(label, name):
    code, _, err = label("good", "-o", name)
    assert (code, "expected a file in a folder that exists" in err) == (2, True)


@pytest.mark.parametrize("encoding", ["rot13", "hex", "no-such"])
def test_an_encoding_that_is_none_of_texts_is_a_sentence(label, encoding):
    code, _, err = label("good", "--encoding", encoding)
    sentence = f"no such encoding, got {encoding!r}; expected one such as utf-8 or gb18030"
    assert (code, err) == (2, f"llmkit: error: {sentence}\n")


def test_a_table_that_cannot_be_named_is_not_begun(tmp_path):
    with pytest.raises(InputError):
        Table(tmp_path / "no" / "x.csv", encoding="utf-8", overwrite=False, columns=[])


@pytest.mark.parametrize(
    ("header", "column", "sentence"),
    [
        ("id;text", "text", "the columns of in.csv are separated by semicolons; expected commas, as in a .csv"),
        ("id\ttext", "text", "the columns of in.csv are separated by tabs; expected commas, as in a .csv"),
        (
            "id,a text;b",
            "a text",
            "column 'a text' is not in in.csv, which has: id, a text;b\nhint: --column 'a text;b'",
        ),
    ],
)
def test_a_table_of_another_separator_is_told(label, tmp_path, header, column, sentence):
    write(tmp_path / "in.csv", f"{header}\n1,2\n")
    assert label("-f", "in.csv", "--column", column) == (2, "", f"llmkit: error: {sentence}\n")


@pytest.mark.parametrize(
    ("content", "encoding", "hint"),
    [
        ("好\n".encode("gb18030"), "utf-8", "--encoding gb18030"),
        ("好\n".encode(), "ascii", "--encoding utf-8"),
        ("今天好\n".encode() + "天气\n".encode("gb18030"), "utf-8", encodings.NONE),
        ("好\n".encode("utf-16"), "utf-8", "--encoding utf-16"),
        ("好\n".encode("utf-16-le"), "utf-16", "--encoding utf-16-le needs none"),
    ],
)
def test_a_file_in_another_encoding_is_told_with_one_that_reads_it(label, tmp_path, content, encoding, hint):
    (tmp_path / "in.txt").write_bytes(content)
    code, _, err = label("-f", "in.txt", "--encoding", encoding)
    assert code == 2
    assert err.splitlines()[-1] == f"hint: {hint}"


def test_a_text_that_is_the_name_of_a_file_is_noted(label, tmp_path):
    write(tmp_path / "in.txt", "hello\n")
    assert label("in.txt")[2] == "llmkit: note: 'in.txt' itself is the text; -f reads the file of this name\n"
    assert label("out.txt")[2] == ""


def test_a_column_that_is_there_already_is_told_with_the_way_out(label, tmp_path):
    write(tmp_path / "in.csv", "text,label\nhello,1\n")
    code, _, err = label("-f", "in.csv", "-o", "out.csv")
    assert (code, err.splitlines()[-1]) == (
        2,
        "hint: another name in the file keeps it; -o NAME.txt takes the results alone",
    )
    assert label("-f", "in.csv", "-o", "out.txt")[0] == 0
