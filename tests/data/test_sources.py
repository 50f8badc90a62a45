"""Sources: every kind of file gives the same documents, and bad data is one sentence with its place."""

import csv
import gzip
import json
import os
import sys

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmkit.data import formats, hub
from llmkit.data.ledger import Counts
from llmkit.data.sources import Document, hash_source, is_shards, list_files, read_dataset, read_documents
from llmkit.encodings import NONE
from llmkit.errors import HubError, InputError
from llmkit.recipe.schema import CleanSpec, SourceSpec

TEXTS = ["Once upon a time.", "人工智能的未来是什么？", 'He said: "tabs, and 3 < 4".', "🤖 line"]


@pytest.fixture(autouse=True)
def _in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()


def write(name, content):
    if isinstance(content, str):
        content = content.encode()
    with gzip.open(name, "wb") if name.endswith(".gz") else open(name, "wb") as file:
        file.write(content)
    return name


def read(path, *, on_bad="error", counts=None, **options):
    counts = counts or Counts(path)
    return list(read_documents(SourceSpec(path=path, **options), on_bad=on_bad, counts=counts))


def texts(path, **options):
    return [d.text for d in read(path, **options)]


def refused(path, error=InputError, **options):
    with pytest.raises(error) as caught:
        read(path, **options)
    assert len(str(caught.value)) <= 300
    assert "\n" not in str(caught.value)
    return str(caught.value), caught.value.hint


def table(kind):
    rows = [{"id": i, "text": text} for i, text in enumerate(TEXTS)]
    if kind == "jsonl":
        return "".join(json.dumps(row, ensure_ascii=i % 2 == 0) + "\n" for i, row in enumerate(rows)).encode()
    if kind == "json":
        return json.dumps({"version": 1, "data": rows}).encode()
    if kind == "tsv":
        return ("id\ttext\n" + "".join(f"{row['id']}\t{row['text']}\n" for row in rows)).encode()
    if kind == "csv":
        with open("made", "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["id", "text"])
            writer.writeheader()
            writer.writerows(rows)
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), "made", row_group_size=3)
    else:
        columns = pa.Table.from_pylist(rows)
        new = pa.ipc.new_stream if kind == "arrow" else pa.ipc.new_file
        with new("made", columns.schema) as writer:
            writer.write_table(columns, max_chunksize=3)
    with open("made", "rb") as file:
        return file.read()


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv", "parquet", "arrow", "arrow file"])
def test_read_documents_gives_the_same_for_every_kind_of_table(kind, end):
    path = write(f"a.{kind.split()[0]}{end}", table(kind))
    counts = Counts(path)
    assert read(path, counts=counts) == [Document(text, f"{path} row {i}") for i, text in enumerate(TEXTS, 1)]
    assert counts == Counts(path, documents=4, num_bytes=sum(len(t.encode()) for t in TEXTS))


@pytest.mark.parametrize(
    ("sample_by", "expected"),
    [
        ("line", ["a b", "c", "d", "e"]),
        ("paragraph", ["a b\nc", "d\ne"]),
        ("document", ["a b\nc\n \n\nd\ne"]),
    ],
)
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_read_documents_samples_a_txt(sample_by, expected, line_end):
    write("a.txt.gz", "a b\nc\n \n\nd\ne".replace("\n", line_end))
    assert texts("a.txt.gz", sample_by=sample_by) == expected


def test_read_documents_names_the_lines_of_a_txt():
    write("a.txt", "\n\na\nb\n\nc\n")
    assert [d.where for d in read("a.txt", sample_by="line")] == ["a.txt line 3", "a.txt line 4", "a.txt line 6"]
    assert [d.where for d in read("a.txt", sample_by="paragraph")] == ["a.txt line 3", "a.txt line 6"]
    assert [d.where for d in read("a.txt")] == ["a.txt"]


@pytest.mark.parametrize("clean", [CleanSpec(), CleanSpec(code=True)])
@pytest.mark.parametrize("sample_by", ["line", "paragraph", "document"])
def test_read_documents_cuts_a_long_txt_in_blocks(monkeypatch, clean, sample_by):
    monkeypatch.setattr(formats, "BLOCK", 64)
    text = "".join(f"line {i} of many\n" for i in range(40)) + "x" * 500 + "\n"
    if sample_by == "line":
        text = "y" * 1000
    write("a.txt", text)
    counts = Counts("a.txt")
    found = read("a.txt", sample_by=sample_by, counts=counts)
    assert len(found) > 5
    assert [d.ends for d in found] == [False] * (len(found) - 1) + [True]
    assert max(len(d.text) for d in found) <= 64 * 2 + 30
    assert counts.documents == 1
    if clean == CleanSpec():
        assert "".join(d.text for d in found).rstrip("\n") == text.rstrip("\n")
        assert counts.num_bytes == sum(len(d.text) for d in found)


@pytest.mark.parametrize("size", range(120, 137))
@pytest.mark.parametrize("sample_by", ["line", "paragraph", "document"])
def test_read_documents_ends_a_document_wherever_a_block_ends(monkeypatch, sample_by, size):
    monkeypatch.setattr(formats, "BLOCK", 64)
    for end in ("", "\n"):
        write("a.txt", "x" * size + end)
        write("data/a.txt", "x" * size + end)
        write("data/b.txt", "y")
        counts = Counts("data")
        found = read("data", sample_by=sample_by, counts=counts)
        assert counts.documents == 2
        assert "".join(d.text for d in found if "a.txt" in d.where).strip() == "x" * size
        assert [d.ends for d in found if "a.txt" in d.where].count(True) == 1
        assert found[-1] == Document("y", "data/b.txt" + ("" if sample_by == "document" else " line 1"))


def test_read_documents_cuts_a_document_at_lines():
    text = "".join(f"{i} " * 50 + "\n" for i in range(30_000))
    write("a.txt", text)
    found = read("a.txt")
    assert [d.text[-1] for d in found] == ["\n"] * len(found)
    assert len(found) >= 4
    assert "".join(d.text for d in found) == text


def test_read_documents_keeps_a_block_of_code_whole_when_it_cleans(monkeypatch):
    monkeypatch.setattr(formats, "BLOCK", 64)
    part = "words and words\n\n```\n" + "code\n\n" * 12 + "```\n\n"
    write("a.txt", part * 30)
    found = read("a.txt", clean=CleanSpec(code=True, markdown=True))
    assert len(found) > 5
    assert "".join(d.text for d in found).split() == ["words", "and", "words"] * 30
    assert "".join(d.text for d in found) == "\n\n".join(["words and words"] * 30)


def test_read_documents_finds_where_to_cut_in_one_pass_when_a_fence_stays_open(monkeypatch):
    monkeypatch.setattr(formats, "BLOCK", 4096)
    write("a.txt", "word\n" * 900 + "\n```\n" + "\n\n" * 1800 + "word\n" * 1000)
    calls = []

    def watch(frame, event, function):
        if event == "c_call" and frame.f_code.co_filename == formats.__file__:
            calls.append(function.__name__)

    sys.setprofile(watch)
    try:
        found = read("a.txt", clean=CleanSpec(code=True))
    finally:
        sys.setprofile(None)
    assert len(found) > 1
    assert found[0].text == "\n".join(["word"] * 900)
    assert len(calls) < 100


def test_read_documents_ends_a_document_with_its_last_part_that_holds_text(monkeypatch):
    monkeypatch.setattr(formats, "BLOCK", 64)
    for name in ("a.txt", "b.txt"):
        write(f"data/{name}", "word\n\n" + "https://example.org/a\n\n" * 40)
    counts = Counts("data")
    found = read("data", clean=CleanSpec(urls=True), counts=counts)
    assert [(d.text, d.ends) for d in found] == [("word", True)] * 2
    assert (counts.documents, counts.dropped, counts.empty) == (2, {}, 0)


def test_read_documents_counts_what_it_leaves_out():
    rows = ["a", "", " \n", "https://example.org", "a \ud800 b", "pair \ud83e\udd16"]
    write("a.jsonl", "".join(json.dumps({"text": t}) + "\n" for t in rows) + "\n" + '{"text": null}\n{"text": 3}\n')
    counts = Counts("a.jsonl")
    found = read("a.jsonl", on_bad="skip", clean=CleanSpec(urls=True), counts=counts)
    assert [d.text for d in found] == ["a", "a \ufffd b", "pair 🤖"]
    size = 1 + len("a \ufffd b".encode()) + len("pair 🤖".encode())
    problem = "a.jsonl row 8: expected text, got null"
    assert counts == Counts(
        "a.jsonl", documents=3, num_bytes=size, dropped={"urls": 1}, empty=2, bad_rows=2, surrogates=1, problem=problem
    )


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.jsonl", "a.json", "a.csv", "a.tsv"])
def test_read_documents_gives_nothing_for_an_empty_file(name):
    assert read(write(name, "")) == []


@pytest.mark.parametrize(("name", "content"), [("a.csv", "id,text\n"), ("a.tsv", "text"), ("a.json", "[]")])
def test_read_documents_gives_nothing_for_a_header_alone(name, content):
    assert read(write(name, content)) == []


def test_read_documents_reads_a_tsv_without_quoting():
    write("a.tsv", 'label\ttext\r\n1\t"open\r\n0\tclosed"\r\n\r\n1\ta\rb\r\n')
    assert texts("a.tsv") == ['"open', 'closed"', "a\rb"]


def test_read_documents_takes_columns_of_a_file_without_header():
    write("a.tsv", "warm and funny\t1\ndull\t0\n")
    assert texts("a.tsv", column_names=["text", "label"]) == ["warm and funny", "dull"]


def test_read_documents_reads_quoted_line_ends_of_a_csv():
    assert texts(write("a.csv", '\ufefftext,b\r\n"one\r\ntwo, ""three""",1\r\n')) == ['one\r\ntwo, "three"']


def test_read_documents_reads_another_encoding():
    write("a.csv", "text\n天气很好\n".encode("gb18030"))
    assert texts("a.csv", encoding="gb18030") == ["天气很好"]
    write("a.txt", "天气\n".encode("utf-16"))
    assert texts("a.txt", encoding="utf-16") == ["天气\n"]


def test_read_documents_says_that_a_mark_of_the_order_of_bytes_is_missing():
    write("a.txt", "天气\n".encode("utf-16-le"))
    assert refused("a.txt", encoding="utf-16") == (
        "a.txt: utf-16 begins with a byte order mark, and this does not",
        "data.encoding: utf-16-le needs none",
    )
    assert texts("a.txt", encoding="utf-16-le") == ["天气\n"]


def test_read_documents_reads_what_save_to_disk_wrote():
    datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk("saved", num_shards=2)
    write("saved/cache-0123.arrow", table("arrow"))  # what a map over it left
    assert texts("saved") == TEXTS
    datasets.DatasetDict({"test": datasets.Dataset.from_dict({"text": TEXTS})}).save_to_disk("splits")
    assert refused("splits") == ("splits holds the splits test; expected one of them", "data.path: splits/test")
    assert texts("splits/test") == TEXTS
    write("data/state.json", '[{"text": "a"}]')
    assert texts("data") == ["a"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_read_documents_steps_into_a_nested_column(name):
    rows = [{"meta": {"body": {"text": "deep"}}, "a.b": "flat"}, {"meta": {"body": {"text": "deeper"}}, "a.b": "flat"}]
    if name == "a.jsonl":
        write(name, "".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), name)
    assert texts(name, text_column="meta.body.text") == ["deep", "deeper"]
    assert texts(name, text_column="a.b") == ["flat", "flat"]
    message, hint = refused(name, text_column="meta.body.txt")
    assert message == f"{name} row 1: column 'txt' not in [text]"
    assert hint == "data.text_column: text"


def test_read_documents_takes_a_nested_column_that_is_null_for_a_row_without_text():
    write("a.jsonl", '{"a": null}\n{"a": {"b": "text"}}\n')
    assert refused("a.jsonl", text_column="a.b")[0] == "a.jsonl row 1: expected text, got null"
    assert [d.text for d in read("a.jsonl", text_column="a.b", on_bad="skip")] == ["text"]


def test_read_documents_finds_the_files_of_a_folder_sorted_and_below(notes):
    os.makedirs("data/b/c")
    os.makedirs("data/.cache")
    for name in (
        "data/b/c/2.txt",
        "data/a.jsonl",
        "data/.hidden.txt",
        "data/.cache/3.txt",
        "data/b/1.TXT",
        "data/x.md",
    ):
        write(name, '{"text": "a"}\n')
    assert [d.where for d in read("data")] == ["data/a.jsonl row 1", "data/b/1.TXT", "data/b/c/2.txt"]
    assert notes == ["data: 1 files of other kinds are not read: x.md"]
    assert [d.where for d in read("data/**/*.txt")] == ["data/b/c/2.txt"]
    assert list_files("data/b/c/2.txt")[0].name == "2.txt"


def test_read_documents_follows_links_to_folders_once():
    os.makedirs("data/b")
    os.makedirs("far/below")
    os.makedirs("far/.git")
    for name in ("data/b/1.txt", "far/2.txt", "far/below/3.txt", "far/.git/4.txt"):
        write(name, "a")
    os.symlink("../data", "data/a")  # to itself
    os.symlink("b", "data/again")  # to what lies there
    os.symlink("../../far/below", "data/b/part")  # to a part of what a link nearer to the top leads to
    os.symlink("../far", "data/whole")
    os.symlink("../far", "data/.hidden")
    os.symlink("nowhere", "data/broken")
    assert list(map(str, list_files("data"))) == ["data/b/1.txt", "data/whole/2.txt", "data/whole/below/3.txt"]


def test_read_documents_is_lazy():
    write("a.jsonl", '{"text": "a"}\nnot json\n')
    found = read_documents(SourceSpec(path="a.jsonl"), counts=Counts("a"))
    assert next(found).text == "a"
    with pytest.raises(InputError):
        next(found)


BAD = [
    ("a.jsonl", '{"text": "a"}\n{"text": }\n', "a.jsonl row 2: not JSON (Expecting value)"),
    ("a.jsonl", '{"text": "a"}\n["a"]\n', "a.jsonl row 2: expected an object, got a list"),
    ("a.jsonl", '{"text": "a"}\n"a"\n', "a.jsonl row 2: expected an object, got text"),
    ("a.jsonl", '{"text": "a"}\n\n{"text": null}\n', "a.jsonl row 3: expected text, got null"),
    ("a.jsonl", '{"text": "a"}\n{"text": 3.5}\n', "a.jsonl row 2: expected text, got a number"),
    ("a.jsonl", '{"text": "a"}\n{"text": ["a"]}\n', "a.jsonl row 2: expected text, got a list"),
    ("a.jsonl", '{"text": "a"}\n{"text": {}}\n', "a.jsonl row 2: expected text, got an object"),
    ("a.jsonl", '{"text": "a"}\n{"text": true}\n', "a.jsonl row 2: expected text, got a boolean"),
    ("a.jsonl", '{"text": "a"}\n{"b": 1}\n', "a.jsonl row 2: column 'text' not in [b]"),
    ("a.jsonl", '{"text": "a"}\n' + "[" * 100_000, "a.jsonl row 2: not JSON (too deep or too long a number)"),
    (
        "a.jsonl",
        '{"text": "a"}\n{"text": ' + "9" * 5000 + "}",
        "a.jsonl row 2: not JSON (too deep or too long a number)",
    ),
    ("a.json", '[{"text": "a"}, 4]', "a.json row 2: expected an object, got a number"),
    ("a.csv", "text,b\na,b\na\n", "a.csv row 2: expected 2 fields, got 1"),
    ("a.tsv", "text\tb\na\tb\na\tb\tc\n", "a.tsv row 2: expected 2 fields, got 3"),
    ("a.csv", "text\na\nb\0b\n", "a.csv row 2: expected text, got NUL bytes; is it text in another encoding?"),
]


@pytest.mark.parametrize(("name", "content", "expected"), BAD)
def test_read_documents_names_a_bad_row_or_skips_it(name, content, expected):
    write(name, content)
    assert refused(name) == (expected, "data.on_bad: skip leaves such rows out")
    counts = Counts(name)
    assert [d.text for d in read(name, on_bad="skip", counts=counts)] == ["a"]
    assert (counts.documents, counts.bad_rows, counts.empty) == (1, 1, 0)


def test_read_documents_skips_a_txt_that_is_not_text():
    write("data/a.txt", "a\0b")
    write("data/b.txt", "b")
    counts = Counts("data")
    assert [d.text for d in read("data", on_bad="skip", counts=counts)] == ["b"]
    assert (counts.documents, counts.bad_rows) == (1, 1)


def gzipped(content, keep):
    return gzip.compress(content)[:keep]


KINDS = "txt, jsonl, csv, tsv, json, parquet, arrow, each also as .gz"
SKIP = "data.on_bad: skip leaves such rows out"
IN_CSV = "; expected commas, as in a .csv"
FILES = [
    ("a.csv", "TEXT,tex\na,b\n", "a.csv: column 'text' not in [TEXT, tex]", "data.text_column: TEXT"),
    ("a.csv", "Text,b\na,b\n", "a.csv: column 'text' not in [Text, b]", "data.text_column: Text"),
    ("a.csv", "txt,b\na,b\n", "a.csv: column 'text' not in [txt, b]", "data.text_column: txt"),
    ("a.tsv", "x\ty\na\tb\n", "a.tsv: column 'text' not in [x, y]", "data.text_column: NAME takes another"),
    ("a.jsonl", '{" text": "a"}', "a.jsonl row 1: column 'text' not in [ text]", "data.text_column:  text"),
    ("a.jsonl", '[\n{"text": 1}]', "a.jsonl row 1: not JSON (Expecting value)", SKIP),
    ("a.jsonl", '[{"text": 1}]', "a.jsonl row 1: expected one object a line, got a list", "is it a .json file?"),
    ("a.json", '{"a": 1}', "a.json: expected a list of objects, or an object with one such list", None),
    ("a.json", '{"a": [], "b": []}', "a.json: expected a list of objects, or an object with one such list", None),
    ("a.json", '[\n{"text": }]', "a.json line 2: not JSON (Expecting value)", None),
    (
        "a.json",
        '{"data": [{"title": "t", "paragraphs": []}]}',
        "a.json is in SQuAD's form, for question answering; expected a list of objects with text",
        None,
    ),
    ("a.csv", b"text\nabc\nab\xcc\xecc\n", "a.csv line 3 byte 3: not utf-8", "data.encoding: gb18030"),
    ("a.txt", b"abc\n" * 9999 + b"abc\xe5", "a.txt line 10000 byte 4: not utf-8", NONE),
    ("a.txt.gz", b"\n\xe4\xb8\xad\xff", "a.txt.gz line 2 byte 4: not utf-8", NONE),
    ("a.txt", "天气\n".encode("utf-16"), "a.txt line 1 byte 1: not utf-8", "data.encoding: utf-16"),
    ("a.csv", "id;text\na;b\n", "the columns of a.csv are separated by semicolons" + IN_CSV, None),
    ("a.csv", "id，text\na，b\n", "the columns of a.csv are separated by full-width commas" + IN_CSV, None),
    ("a.tsv", "id,text\na,b\n", "the columns of a.tsv are separated by commas; expected tabs, as in a .tsv", None),
    ("a.csv", 'text\na\n"b\nc', "a.csv line 4: not csv (unexpected end of data)", None),
    ("a.csv", 'text\n"a"b\n', "a.csv line 2: not csv (',' expected after '\"')", None),
    ("b.text", "a", f"cannot tell what b.text holds; expected {KINDS}", None),
    ("b.gz", "a", f"cannot tell what b.gz holds; expected {KINDS}", None),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "message", "hint"), FILES)
def test_read_documents_refuses_a_bad_file(name, content, message, hint):
    write(name, content)
    assert refused(name) == (message, hint)
    if "on_bad" not in (hint or ""):
        assert refused(name, on_bad="skip") == (message, hint)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (gzip.compress(b"abc\n" * 999, mtime=0)[:30], "it is cut short"),
        (b"plain text", "Not a gzipped file (b'pl')"),
        (gzip.compress(b"abc", mtime=0)[:-8] + b"\0" * 8, "CRC check failed 0x0 != 0x352441c2"),
        (gzip.compress(os.urandom(999))[:12] + b"\xff" * 99, None),
    ],
)
def test_read_documents_refuses_a_damaged_gzip(content, reason):
    with open("a.txt.gz", "wb") as file:
        file.write(content)
    message, _ = refused("a.txt.gz")
    assert message.startswith("a.txt.gz is not a whole gzip file: ")
    assert reason is None or message.endswith(reason)


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
@pytest.mark.parametrize("size", [0, 5, 100, -9])
def test_read_documents_refuses_a_damaged_binary_table(kind, size):
    write(f"a.{kind}", table(kind)[:size])
    message, _ = refused(f"a.{kind}")
    assert message.startswith(f"a.{kind} is not a whole {kind} file: ")


def test_read_documents_refuses_what_is_no_regular_file():
    os.mkfifo("a.txt")
    os.symlink("loop.txt", "loop.txt")
    os.symlink("/dev/zero", "zero.txt")
    os.symlink("nothing.txt", "broken.txt")
    assert refused("a.txt")[0] == "not a regular file: a.txt"
    assert refused("zero.txt")[0] == "not a regular file: zero.txt"
    assert refused("/dev/zero")[0] == "not a regular file: /dev/zero"
    assert refused("loop.txt")[0] == "loop.txt cannot be read: Too many levels of symbolic links"
    assert refused("broken.txt")[0] == "broken.txt cannot be read: No such file or directory"


def test_read_documents_refuses_a_file_that_may_not_be_read(monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(formats, "_open_binary", refuse)
    assert refused(write("a.txt", "a"))[0] == "a.txt cannot be read: Permission denied"


@pytest.mark.parametrize("path", ["train.jsnl.jsonl", "./trian", "data/x/y", "runs/a", "trian.jsonl", "runs\\a"])
def test_read_documents_takes_what_looks_like_a_path_for_one(path):
    write("train.jsonl", "")
    message, hint = refused(path)
    assert message == f"no such file: {path}"
    assert hint == ("did you mean train.jsonl?" if path.endswith(".jsonl") else None)


def test_read_documents_refuses_a_glob_or_folder_without_data():
    write("data/x.md", "a")
    assert refused("data")[0] == f"no data files in data; expected {KINDS}"
    assert refused("data/*.md")[0] == f"no data files in data/*.md; expected {KINDS}"
    assert refused("data/*.txt")[0] == "no file matches data/*.txt"


@pytest.mark.parametrize("encoding", ["utf-9", "hex", "rot13", "a\0b"])
def test_read_documents_refuses_an_unknown_encoding(encoding):
    write("a.txt", "a")
    assert refused("a.txt", encoding=encoding)[0] == (
        f"no such encoding, got {encoding!r}; expected one such as utf-8 or gb18030"
    )


def test_read_documents_bounds_a_row_of_a_gzip_bomb(monkeypatch):
    monkeypatch.setattr(formats, "MAX_ROW", 2**20)
    monkeypatch.setattr(formats, "MAX_JSON", 2**20)
    for name in ("a.jsonl.gz", "a.csv.gz", "a.tsv.gz"):
        write(name, "text\n" + "a" * 2**21)
        line = "row 1" if "jsonl" in name else "line 2"
        expected = f"{name} line 2 is longer than 1,048,576 characters; expected shorter rows"
        message, _ = refused(name, on_bad="skip")
        assert message == expected, line
    write("a.json.gz", "[" + " " * 2**21)
    assert refused("a.json.gz")[0] == "a.json.gz is longer than 1,048,576 characters; expected a .jsonl for so much"
    write("a.csv", 'text\n"' + "a\n" * 2**20)
    assert refused("a.csv")[0] == "a.csv line 524290: not csv (field larger than field limit (1048576))"


def test_read_documents_takes_a_row_of_10_megabytes():
    text = "人工智能 " * 2_000_000
    write("a.jsonl", json.dumps({"text": text}) + "\n")
    assert texts("a.jsonl") == [text]


def test_read_documents_reads_real_data(data):
    found = texts(str(data / "sentiment/chnsenticorp/train.tsv"), text_column="text_a")
    assert len(found) == 9600
    found = texts(str(data / "sentiment/sst2/train.tsv"), column_names=["text", "label"])
    assert len(found) == 6920
    message, _ = refused(str(data / "qa/cmrc2018_dev.json"))
    assert message.endswith("is in SQuAD's form, for question answering; expected a list of objects with text")


def own(dataset, counts=None, **options):
    return [d.text for d in read_dataset(dataset, text_column="text", counts=counts or Counts("dataset"), **options)]


def test_read_dataset_takes_any_iterable_of_mappings():
    rows = [{"text": t} for t in TEXTS]
    assert own(rows) == TEXTS
    assert own(iter(rows)) == TEXTS
    assert own(datasets.Dataset.from_list(rows)) == TEXTS
    assert own([{"text": "a https://example.org b"}], clean=CleanSpec(urls=True)) == ["a b"]


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ("a.jsonl", "expected a data set or an iterable of mappings, got text"),
        (3, "expected a data set or an iterable of mappings, got a number"),
        ({"train": [], "test": []}, "expected one data set, got a dict of: train, test"),
        ([{"text": "a"}, {"text": 3}], "dataset row 2: expected text, got a number"),
        ([{"b": "a"}], "dataset row 1: column 'text' not in [b]"),
        (["a"], "expected a data set or an iterable of mappings, got texts"),
        (iter(["a"]), "dataset row 1: expected an object, got text"),
        (pd.DataFrame({"text": ["a"]}), "expected a data set or an iterable of mappings, got a DataFrame"),
        (datasets.Dataset.from_list([{"b": "a"}]), "dataset: column 'text' not in [b]"),
    ],
)
def test_read_dataset_refuses_what_holds_no_text(dataset, message):
    with pytest.raises(InputError) as caught:
        own(dataset)
    assert str(caught.value) == message


def test_hash_source_changes_with_what_changes_the_documents():
    write("data/a.txt", "one")
    spec = SourceSpec(path="data")
    first = hash_source(spec)
    os.utime("data/a.txt", (1, 1))
    assert hash_source(spec) == first
    write("b.txt", "one")
    assert hash_source(SourceSpec(path="b.txt")) == first
    others = [
        SourceSpec(path="data", sample_by="line"),
        SourceSpec(path="data", encoding="gb18030"),
        SourceSpec(path="data", text_column="t"),
        SourceSpec(path="data", column_names=["text"]),
        SourceSpec(path="data", clean=CleanSpec(urls=True)),
    ]
    hashes = {hash_source(other) for other in others}
    write("data/a.txt", "One")
    hashes.add(hash_source(spec))
    write("data/b.txt", "")
    hashes.add(hash_source(spec))
    assert len(hashes | {first}) == 8


def test_is_shards_tells_a_folder_of_shards():
    assert not is_shards("data")
    write("data/shards.json", "{}")
    assert is_shards("data")


@pytest.fixture
def fake_hub(monkeypatch):
    """The hub answers with the given data set, or raises; the calls are kept."""
    answer, calls = [None], []

    def load_dataset(path, **options):
        calls.append((path, options, datasets.config.HF_HUB_OFFLINE))
        if isinstance(answer[0], Exception):
            raise answer[0]
        return answer[0]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("llmkit.locating.reach", lambda endpoint: None)
    return answer, calls


def test_read_documents_loads_a_hub_data_set(fake_hub):
    answer, calls = fake_hub
    made = datasets.Dataset.from_list([{"text": t, "id": 1} for t in TEXTS])
    for streaming, answer[0] in ((False, made), (True, made.to_iterable_dataset())):
        spec = SourceSpec(path="some/set", name="en", kwargs={"revision": "v1"})
        found = read_documents(spec, split="test", streaming=streaming, counts=Counts("a"))
        assert list(found) == [Document(t, f"some/set row {i}") for i, t in enumerate(TEXTS, 1)]
        options = {"name": "en", "split": "test", "streaming": streaming, "revision": "v1"}
        assert calls.pop() == ("some/set", options, False)
    answer[0] = made
    assert hash_source(SourceSpec(path="some/set")) == hash_source(SourceSpec(path="some/set"))
    assert calls[-1][1]["split"] == "train"
    answer[0] = made.select([0])
    assert hash_source(SourceSpec(path="some/set")) != hash_source(SourceSpec(path="some/set", text_column="id"))


def test_read_documents_refuses_what_the_hub_does_not_give(fake_hub):
    answer, calls = fake_hub
    answer[0] = datasets.exceptions.DatasetNotFoundError("no")
    assert refused("some/set", HubError)[0] == "the hub has no data set some/set (or it is private: set HF_TOKEN)"
    answer[0] = ValueError("Unknown split 'train'.\nShould be one of ['test'].")
    assert refused("some/set")[0] == "some/set: Unknown split 'train'. Should be one of ['test']."
    answer[0] = ConnectionError("broken")
    assert refused("some/set", HubError)[0] == "some/set cannot be read: broken"
    answer[0] = datasets.Dataset.from_list([{"Text": "a"}])
    assert refused("some/set") == ("some/set: column 'text' not in [Text]", "data.text_column: Text")
    num_calls = len(calls)
    assert refused("some/set", kwargs={"split": "test"})[0] == (
        "data.kwargs.split is data.train_split in a recipe; expected it there"
    )
    assert len(calls) == num_calls


def test_read_documents_says_that_the_hub_cannot_be_reached(fake_hub, monkeypatch):
    answer, calls = fake_hub
    answer[0] = ConnectionError("Couldn't reach 'some/set' on the Hub")
    monkeypatch.setattr("llmkit.locating.reach", lambda endpoint: "no connection to hub (refused)")
    assert refused("some/set", HubError)[0] == (
        "some/set is neither a file here nor in the local cache, and the hub cannot be asked: "
        "no connection to hub (refused)"
    )
    assert [call[2] for call in calls] == [True]  # the cache was asked alone
    assert datasets.config.HF_HUB_OFFLINE is False


def test_read_documents_reads_nothing_of_an_unreachable_hub_when_offline():
    message, _ = refused("some/set", HubError)
    assert message == "some/set is neither a file here nor in the local cache, and the hub cannot be asked: offline"


def test_is_hub_id_leaves_what_is_there_to_the_files():
    os.mkdir("some")
    os.mkdir("some/set")
    assert hub.is_hub_id("some/other")
    assert hub.is_hub_id("wikitext")
    assert not hub.is_hub_id("some/set")
    assert not hub.is_hub_id("a b")
    assert not hub.is_hub_id("data/*")
