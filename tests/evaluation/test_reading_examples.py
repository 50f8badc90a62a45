"""From files to examples, and the keys that name them."""

import gzip
import json

import pytest

from llmkit.data.examples import Labelled, Pair, Question
from llmkit.errors import InputError
from llmkit.evaluation.keys import DataKeys, find_task, read_keys
from llmkit.evaluation.reading import read_examples

SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "A",
            "paragraphs": [
                {
                    "context": "猫坐在垫子上 😀。",
                    "qas": [
                        {"id": "q1", "question": "谁？", "answers": [{"text": "猫", "answer_start": 0}] * 2},
                        {"id": "q2", "question": "何时？", "answers": [{"text": "猫"}], "is_impossible": True},
                    ],
                },
                {
                    "context": "The dog.",
                    "qas": [{"question": "Who?", "answers": [{"text": "dog"}, {"text": "The dog"}]}],
                },
            ],
        }
    ],
}


def write(path, content):
    path.write_bytes(gzip.compress(content.encode()) if path.suffix == ".gz" else content.encode())
    return path


def read(task, path=None, **keys):
    data = {"path": path, **keys} if path is not None else keys
    return list(read_examples(read_keys(data, task), task))


def refuse(call):
    with pytest.raises(InputError) as caught:
        call()
    return str(caught.value), caught.value.hint


@pytest.mark.parametrize(
    ("name", "content", "keys"),
    [
        ("a.tsv", 'text\tlabel\nwarm "film\tpositive\n很差\tnegative\n', {}),
        ("a.tsv", 'warm "film\tpositive\n很差\tnegative\n', {"column_names": ["text", "label"]}),
        ("a.csv", 'label,review,n\npositive,"warm ""film",1\nnegative,很差,2\n', {"text_column": "review"}),
        (
            "a.jsonl.gz",
            '{"row": {"t": "warm \\"film"}, "label": "positive"}\n{"row": {"t": "很差"}, "label": "negative"}\n',
            {"text_column": "row.t"},
        ),
        ("a.json", '[{"text": "warm \\"film", "label": "positive"}, {"text": "很差", "label": "negative"}]', {}),
    ],
)
def test_texts_with_labels_are_read_from_any_table(tmp_path, name, content, keys):
    rows = read("classification", write(tmp_path / name, content), **keys)
    assert [(row.text, row.label) for row in rows] == [('warm "film', "positive"), ("很差", "negative")]
    assert rows[1].where == f"{tmp_path / name} row 2"


def test_number_as_label_stays_a_number(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"text": "x", "label": 1}\n')
    assert read("classification", path) == [Labelled(f"{path} row 1", "x", 1)]


def test_pairs_are_read_from_columns(tmp_path):
    path = write(tmp_path / "a.tsv", "Hi.\t嗨。\n")
    assert read("translation", path, column_names=["source", "target"]) == [Pair(f"{path} row 1", "Hi.", "嗨。")]


def test_pairs_are_read_from_the_lines_of_two_files(tmp_path):
    long = "a" * 2**20 + "b"  # longer than the block in which lines are read
    source, target = write(tmp_path / "test.en", f"Hi.\n\n{long}\n"), write(tmp_path / "test.de", "Hallo.\n\nc")
    rows = read("translation", source_path=source, target_path=target)
    assert [(row.source, row.target) for row in rows] == [("Hi.", "Hallo."), ("", ""), (long, "c")]
    assert rows[1].where == f"{source} line 2"


def test_two_files_of_unequal_length_are_refused(tmp_path):
    source, target = write(tmp_path / "test.en", "Hi.\nBye.\n"), write(tmp_path / "test.de", "Hallo.\n")
    told = refuse(lambda: read("translation", source_path=source, target_path=target))
    assert told == (f"{target} has 1 lines, {source} has more; expected a line for each line", None)
    told = refuse(lambda: read("translation", source_path=target, target_path=source))
    assert told == (f"{target} has 1 lines, {source} has more; expected a line for each line", None)


@pytest.mark.parametrize("name", ["dev.json", "dev.json.gz"])
def test_squad_is_read_with_its_answers(tmp_path, name):
    path = write(tmp_path / name, json.dumps(SQUAD))
    expected = [
        Question(f"{path} question q1", "谁？", "猫坐在垫子上 😀。", ("猫", "猫"), (0, 0)),
        Question(f"{path} question q2", "何时？", "猫坐在垫子上 😀。", ()),
        Question(f"{path} question {path} row 1", "Who?", "The dog.", ("dog", "The dog"), (None, None)),
    ]
    assert read("question-answering", path) == expected


@pytest.mark.parametrize(
    ("answers", "expected", "starts"),
    [
        ("cat", ("cat",), (None,)),
        ("", (), ()),
        (None, (), ()),
        (["cat", "the cat"], ("cat", "the cat"), (None, None)),
        ({"text": ["cat"], "answer_start": [0]}, ("cat",), (0,)),
        ([{"text": "cat", "answer_start": 0}], ("cat",), (0,)),
    ],
)
def test_questions_are_read_from_rows(tmp_path, answers, expected, starts):
    path = write(tmp_path / "a.jsonl", json.dumps({"question": "Who?", "context": "The cat.", "answers": answers}))
    assert read("question-answering", path) == [Question(f"{path} row 1", "Who?", "The cat.", expected, starts)]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"paragraphs": "x"}, "row 1: expected a list as paragraphs, got text"),
        ({"paragraphs": [3]}, "row 1: expected objects in paragraphs, got a number"),
        ({"paragraphs": [{"qas": []}]}, "row 1: expected text as context, got null"),
        ({"paragraphs": [{"context": "x"}]}, "row 1: expected a list as qas, got null"),
        (
            {"paragraphs": [{"context": "x", "qas": [{"id": "7", "question": "?"}]}]},
            "question 7: expected a list as answers, got null",
        ),
        (
            {"paragraphs": [{"context": "x", "qas": [{"id": "7", "answers": []}]}]},
            "question 7: expected text as question, got null",
        ),
        (
            {"paragraphs": [{"context": "x", "qas": [{"id": "7", "answers": [], "is_impossible": False}]}]},
            "question 7: no right answer, and is_impossible is false; expected an answer",
        ),
    ],
)
def test_damaged_squad_is_refused(tmp_path, change, sentence):
    path = write(tmp_path / "dev.json", json.dumps({"data": [change]}))
    assert refuse(lambda: read("question-answering", path)) == (f"{path} {sentence}", None)


@pytest.mark.parametrize(
    ("name", "content", "sentence", "hint"),
    [
        (
            "a.tsv",
            "no movement\t0\n",
            ": column 'text' not in [no movement, 0]",
            "data.text_column=NAME takes another; data.column_names=[NAME,NAME] where the file has no header",
        ),
        ("a.tsv", "text\tlabels\nx\t1\n", ": column 'label' not in [text, labels]", "data.label_column=labels"),
        (
            "a.jsonl",
            '{"text": "x", "label": 1}\n{"text": 3, "label": 1}\n',
            " row 2: expected text as text, got a number",
            None,
        ),
        (
            "a.jsonl",
            '{"text": "x", "label": 0.5}\n',
            " row 1: expected text or a whole number as label, got a number",
            None,
        ),
        ("a.jsonl", '{"text": "x", "label": 1}\n{"text": "x"}\n', " row 2: column 'label' not in [text]", None),
        ("a.csv", "text,label\nx\n", " row 1: expected 2 fields, got 1", None),
        ("a.csv", b"text,label\n\xb0\xa1,1\n", " line 2 byte 1: not utf-8", "data.encoding=gb18030"),
        ("a.txt", "x\n", " has no columns; expected csv, tsv, jsonl, json, parquet or arrow", None),
    ],
)
def test_bad_rows_are_refused(tmp_path, name, content, sentence, hint):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert refuse(lambda: read("classification", path)) == (f"{path}{sentence}", hint)


@pytest.mark.parametrize(
    ("task", "arguments", "sentence"),
    [
        (
            "classification",
            ["data.text_colum=x"],
            "command line: data.text_colum=x: unknown key 'text_colum'; did you mean 'text_column'?",
        ),
        (
            "classification",
            ["optim.lr=3"],
            "command line: optim.lr=3: expected a key of data, such as data.text_column",
        ),
        ("classification", ["text"], "command line: expected key=value, got 'text'"),
        (
            "classification",
            ["data.column_names=x"],
            "command line: data.column_names=x: expected a list of names, got 'x'",
        ),
        ("classification", ["data.text_column=3"], "command line: data.text_column=3: expected text, got 3"),
        (
            "classification",
            ["data.source_column=x"],
            "data.source_column cannot act with classification; expected text_column, label_column",
        ),
        (
            "translation",
            ["data.source_path=x"],
            "got data.source_path alone; expected data.source_path and data.target_path",
        ),
        (
            "translation",
            ["data.source_path=x", "data.target_path=y"],
            "got data.source_path beside --data (data.path); expected one of the two",
        ),
    ],
)
def test_keys_that_cannot_act_are_refused(task, arguments, sentence):
    assert refuse(lambda: read_keys("x.tsv", task, arguments)) == (sentence, None)


def test_columns_cannot_act_on_the_lines_of_two_files():
    arguments = ["data.source_path=x", "data.target_path=y", "data.target_column=z"]
    told = refuse(lambda: read_keys(None, "translation", arguments))
    assert told == ("data.target_column cannot act beside data.source_path, whose lines have no columns", None)


def test_several_wrong_keys_are_told_together():
    with pytest.raises(InputError, match=r"^the call has 2 problems$") as caught:
        read_keys("x.tsv", "classification", ["data.x=1", "data.text_column=2"])
    assert len(caught.value.details) == 2


@pytest.mark.parametrize("task", ["translation", "question-answering", "classification"])
def test_no_data_is_refused(task):
    also = ", or data.source_path and data.target_path" if task == "translation" else ""
    told = refuse(lambda: read_keys(None, task))
    assert told == (f"no data to evaluate on; expected --data FILE (in Python: data=){also}", None)


def test_keys_come_in_one_form_from_everywhere(tmp_path):
    keys = DataKeys(path="x.tsv", text_column="t")
    assert read_keys("x.tsv", "classification", ["data.text_column=t"]) == keys
    assert read_keys({"path": "x.tsv", "text_column": "t"}, "classification") == keys
    assert read_keys(keys, "classification") == keys
    assert read_keys(tmp_path, "classification").path == str(tmp_path)


def test_unknown_task_suggests_the_nearest():
    assert find_task("sentiment") == "classification"
    names = "translation, question-answering, classification, sentiment, generation, perplexity"
    sentence = f"unknown task, got 'sentimet'; expected {names}"
    assert refuse(lambda: find_task("sentimet")) == (sentence, "did you mean sentiment?")


@pytest.mark.parametrize(
    ("name", "number", "unanswerable"),
    [("squad_v1.1_dev.json", 10570, 0), ("squad_v2.0_dev_half.json", 6078, 3168), ("cmrc2018_dev.json", 3219, 0)],
)
def test_published_sets_are_read_whole(data, name, number, unanswerable):
    rows = read("question-answering", data / "qa" / name)
    assert (len(rows), sum(not row.answers for row in rows)) == (number, unanswerable)
    assert all(row.question.strip() and row.context.strip() for row in rows)
