"""Examples are read alike from every kind of file, and what is wrong with one is said with its place."""

import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmkit.data import formats
from llmkit.data.examples import Completion, Labelled, Pair, Question, read_dataset, read_examples
from llmkit.data.ledger import Counts
from llmkit.errors import InputError
from llmkit.recipe.schema import SourceSpec

RECORDS = [
    {"source": "Good morning.", "target": "早上好。", "text": "a 😀", "label": "good"},
    {"source": "It is \"late\".", "target": "晚了。", "text": "电影不错", "label": "bad"},
]  # fmt: skip


def write(path, records):
    """Write records as the kind that the file's name tells."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(records), encoding="utf-8")
    elif path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(records), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, records[0])
            writer.writeheader()
            writer.writerows(records)
    else:
        lines = ["\t".join(records[0]), *("\t".join(r.values()) for r in records)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def read(kind, path=None, **keys):
    """The examples of a source."""
    return list(read_examples(SourceSpec(path=path, **keys), kind))


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "tsv", "parquet"])
def test_examples_are_the_same_from_every_kind_of_file(tmp_path, ending):
    path = write(tmp_path / f"a.{ending}", RECORDS)
    pairs, labelled = read("pair", path), read("label", path)
    assert [(p.source, p.target) for p in pairs] == [(r["source"], r["target"]) for r in RECORDS]
    assert [(x.text, x.label) for x in labelled] == [(r["text"], r["label"]) for r in RECORDS]
    assert pairs[1].where.endswith(" row 2")


def test_labels_are_names_numbers_or_several(tmp_path):
    rows = [{"text": "a", "label": label} for label in ("x", 1, 0.5, ["x", "y"], [])]
    found = read("label", write(tmp_path / "a.jsonl", rows))
    assert [example.label for example in found] == ["x", 1, 0.5, ("x", "y"), ()]


@pytest.mark.parametrize(
    ("answers", "texts", "starts"),
    [
        ({"text": ["b", "c"], "answer_start": [2, 4]}, ("b", "c"), (2, 4)),
        ({"text": ["b"]}, ("b",), (None,)),
        ([{"text": "b", "answer_start": 2}], ("b",), (2,)),
        (["b", "c"], ("b", "c"), (None, None)),
        ("b", ("b",), (None,)),
        ([], (), ()),
        (None, (), ()),
    ],
)
def test_answers_come_in_any_form(tmp_path, answers, texts, starts):
    path = write(tmp_path / "a.jsonl", [{"question": "q", "context": "a b c", "answers": answers}])
    assert read("question", path) == [Question(f"{path} row 1", "q", "a b c", texts, starts)]


@pytest.mark.parametrize("start", [13, np.int64(13), 13.0, np.float32(13)])
@pytest.mark.parametrize("form", ["arrays", "lists", "objects"])
def test_a_start_is_a_whole_number_of_any_kind(start, form):
    answers = {
        "arrays": {"text": np.array(["Ann", "Bob"]), "answer_start": np.array([start, 8])},
        "lists": {"text": ["Ann", "Bob"], "answer_start": [start, 8]},
        "objects": [{"text": "Ann", "answer_start": start}, {"text": "Bob", "answer_start": 8}],
    }[form]
    rows = [{"question": "q", "context": "Ann met Bob. Ann left.", "answers": answers}]
    (found,) = read_dataset(rows, SourceSpec(), "question", counts=Counts("x"))
    assert (found.answers, found.starts) == (("Ann", "Bob"), (13, 8))
    assert all(type(one) is int for one in found.starts)


@pytest.mark.parametrize("start", ["13", 13.5, True, [13]])
def test_a_start_that_is_no_whole_number_is_refused(start):
    rows = [{"question": "q", "context": "a b", "answers": [{"text": "a", "answer_start": start}]}]
    with pytest.raises(InputError, match=r"^x row 1: expected a whole number as answer_start, got "):
        list(read_dataset(rows, SourceSpec(), "question", counts=Counts("x")))


def test_an_answer_without_a_start_among_others_stays(tmp_path):
    answers = {"text": ["a", "b"], "answer_start": [0]}
    path = write(tmp_path / "a.jsonl", [{"question": "q", "context": "a b", "answers": answers}])
    assert [(one.answers, one.starts) for one in read("question", path)] == [(("a", "b"), (0, None))]


@pytest.mark.parametrize("given", [np.int64(1), np.array([0, 1]), [np.float32(0.5)]])
def test_labels_of_numpy_are_plain(given):
    (found,) = read_dataset([{"text": "a", "label": given}], SourceSpec(), "label", counts=Counts("x"))
    parts = found.label if isinstance(found.label, tuple) else (found.label,)
    assert parts == tuple(np.atleast_1d(given).tolist())
    assert all(type(part) in (int, float) for part in parts)


SQUAD = {
    "data": [
        {
            "title": "t",
            "paragraphs": [
                {
                    "context": "天气很好 b",
                    "qas": [
                        {"id": "1", "question": "如何?", "answers": [{"text": "很好", "answer_start": 2}]},
                        {"id": "2", "question": "why?", "answers": [], "is_impossible": True},
                    ],
                }
            ],
        }
    ]
}


def test_squad_files_have_a_row_for_each_question(tmp_path):
    path = str(tmp_path / "a.json")
    (tmp_path / "a.json").write_text(json.dumps(SQUAD), encoding="utf-8")
    expected = [
        Question(f"{path} question 1", "如何?", "天气很好 b", ("很好",), (2,)),
        Question(f"{path} question 2", "why?", "天气很好 b", ()),
    ]
    assert read("question", path) == expected
    keys = {"template": "{context}\n{question}", "completion_column": "answers.text.0"}
    counts = Counts("x")
    found = list(read_examples(SourceSpec(path=path, **keys), "completion", on_bad="skip", counts=counts))
    assert found == [Completion(f"{path} question 1", "天气很好 b\n如何?", "很好", is_turn=True)]
    assert counts.bad_rows == 1


@pytest.mark.parametrize("damaged", [{"answers": [], "is_impossible": False}, {"answers": None}, {"answers": [3]}])
def test_a_damaged_question_of_a_squad_file_can_be_left_out(tmp_path, damaged):
    paragraph = SQUAD["data"][0]["paragraphs"][0]
    data = [{"paragraphs": [{**paragraph, "qas": [{"id": "0", "question": "?", **damaged}, paragraph["qas"][0]]}]}]
    path, counts = tmp_path / "a.json", Counts("x")
    path.write_text(json.dumps({"data": data}), encoding="utf-8")
    spec = SourceSpec(path=str(path))
    found = list(read_examples(spec, "question", on_bad="skip", counts=counts))
    assert found == [Question(f"{path} question 1", "如何?", "天气很好 b", ("很好",), (2,))]
    assert (counts.documents, counts.bad_rows) == (1, 1)


def test_prompts_are_texts_conversations_or_templates(tmp_path):
    turns = [{"role": "user", "content": "hi"}]
    path = write(tmp_path / "a.jsonl", [{"p": turns, "c": "yes", "n": {"x": "{b}"}}])
    assert read("completion", path, prompt_column="p", completion_column="c")[0].prompt == turns
    keys = {"template": "{{{n.x}}} {c}!", "completion_column": "c"}
    assert read("completion", path, **keys)[0].prompt == "{{b}} yes!"


def test_lone_surrogates_are_replaced_and_end_no_reading(tmp_path):
    path, counts = tmp_path / "a.jsonl", Counts("a")
    turns = [{"role": "system", "content": "s\udc00"}, {"role": "user", "content": "a \ud83e\udd16"}]
    path.write_text("".join(json.dumps({"p": p, "c": "b\ud800"}) + "\n" for p in ("a\ud800", turns)), encoding="utf-8")
    spec = SourceSpec(path=str(path), prompt_column="p", completion_column="c")
    found = list(read_examples(spec, "completion", counts=counts))
    clean = [{"role": "system", "content": "s\ufffd"}, {"role": "user", "content": "a 🤖"}]
    assert [(x.prompt, x.completion) for x in found] == [("a\ufffd", "b\ufffd"), (clean, "b\ufffd")]
    assert (counts.documents, counts.num_bytes) == (2, 4 + 4 + 4)


def test_parallel_files_belong_together(tmp_path):
    (tmp_path / "a.en").write_text("one\n\ntwo\n", encoding="utf-8")
    (tmp_path / "a.zh").write_text("一\n\n二\n", encoding="utf-8")
    paths = {"source_path": str(tmp_path / "a.en"), "target_path": str(tmp_path / "a.zh")}
    where = f"{paths['source_path']} line"
    assert read("pair", **paths) == [Pair(f"{where} 1", "one", "一"), Pair(f"{where} 2", "", ""),
                                     Pair(f"{where} 3", "two", "二")]  # fmt: skip


@pytest.mark.parametrize("block", [3, 1 << 20])
def test_lines_that_belong_together_end_as_wc_counts_them(tmp_path, monkeypatch, block):
    monkeypatch.setattr(formats, "BLOCK", block)
    (tmp_path / "a.en").write_bytes(b"one\rmore\r\ntwo\nab\r\nthree\r\n")
    (tmp_path / "a.zh").write_bytes("一\n二\r又\n\n三".encode())
    found = read("pair", source_path=str(tmp_path / "a.en"), target_path=str(tmp_path / "a.zh"))
    pairs = [("one\rmore", "一"), ("two", "二\r又"), ("ab", ""), ("three", "三")]
    assert [(one.source, one.target) for one in found] == pairs


def test_datasets_of_the_user_are_read_by_the_same_columns():
    counts = Counts("mine")
    found = list(read_dataset(RECORDS, SourceSpec(), "label", counts=counts))
    assert found[0] == Labelled("mine row 1", "a 😀", "good")
    assert counts.documents == 2


def completion(tmp_path, **keys):
    """Read completions from a file of one row."""
    return read("completion", write(tmp_path / "a.jsonl", [{"q": "x", "a": "y"}]), **keys)


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet", "arrow"])
def test_a_column_that_is_wanted_is_there_once(tmp_path, ending):
    path, names = tmp_path / f"a.{ending}", ["text", "label", "note", "note", "label"]
    if ending in ("csv", "tsv"):
        mark = "," if ending == "csv" else "\t"
        path.write_text("".join(mark.join(line) + "\n" for line in (names, "axyzw")), encoding="utf-8")
    else:
        table = pa.Table.from_arrays([pa.array([letter]) for letter in "axyzw"], names=names)
        with path.open("wb") as file:
            if ending == "parquet":
                pq.write_table(table, file)
            else:
                with pa.ipc.new_stream(file, table.schema) as writer:
                    writer.write_table(table)
    with pytest.raises(InputError) as caught:
        read("label", str(path))
    assert str(caught.value) == f"{path} has two columns 'label'; expected a name for each"
    if ending in ("csv", "tsv"):
        assert [(x.text, x.label) for x in read("label", str(path), label_column="text")] == [("a", "a")]


def test_a_row_that_is_no_example_is_named(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"text": "a", "label": "x"}, {"text": 3, "label": "x"}])
    with pytest.raises(InputError) as caught:
        read("label", path)
    assert str(caught.value) == f"{path} row 2: expected text as text, got a number"


@pytest.mark.parametrize(
    ("keys", "sentence", "hint"),
    [
        ({"prompt_column": "Q", "completion_column": "a"}, "column 'Q' not in [q, a]", "data.prompt_column: q"),
        ({"template": "{qq}", "completion_column": "a"}, "column 'qq' not in [q, a]", "data.template {qq}: q"),
        ({"prompt_column": "q", "completion_column": "b"}, "column 'b' not in [q, a]", "data.completion_column"),
    ],
)
def test_a_column_that_is_missing_is_named_by_its_key(tmp_path, keys, sentence, hint):
    with pytest.raises(InputError) as caught:
        completion(tmp_path, **keys)
    assert sentence in str(caught.value)
    assert caught.value.hint.startswith(hint)


@pytest.mark.parametrize("template", ["no name", "{", "{}", "a } b"])
def test_a_template_without_names_is_refused(tmp_path, template):
    with pytest.raises(InputError, match="template"):
        completion(tmp_path, template=template, completion_column="a")
