"""Examples become rows of tokens as use encodes them, and their targets stand where they should."""

import random

import numpy as np
import pytest
from conftest import TEXTS, byte_level_tokenizer, wordpiece_tokenizer
from qa_models import roberta_tokenizer, t5_tokenizer

from llmkit.data.examples import Completion, Labelled, Pair, Question
from llmkit.data.sequences import CompletionEncoder, LabelEncoder, PairEncoder, WindowEncoder, find_label
from llmkit.encoding import prompts
from llmkit.encoding.directions import Direction
from llmkit.errors import InputError

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def chat_tokenizer():
    """A tokenizer with a chat template."""
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = TEMPLATE
    return tokenizer


# --- completions


@pytest.mark.parametrize("prompt", ["Who? 谁", "", [{"role": "user", "content": "你好"}]])
@pytest.mark.parametrize("completion", [" the captain", "早上好 😀", ""])
def test_completion_and_its_end_are_the_only_targets(prompt, completion):
    tokenizer = chat_tokenizer()
    row = CompletionEncoder(tokenizer, 128, "error").encode(Completion("x", prompt, completion)).rows[0]
    num_prompt = len(prompts.encode_prompt(tokenizer, prompt))
    assert row["input_ids"][:num_prompt].tolist() == prompts.encode_prompt(tokenizer, prompt)
    assert (row["labels"][:num_prompt] == -100).all()
    targets = row["labels"][num_prompt:].tolist()
    assert targets == row["input_ids"][num_prompt:].tolist()
    assert targets[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(targets[:-1]) == completion


def test_text_of_a_template_is_a_turn_where_there_is_a_chat_template():
    for tokenizer in (chat_tokenizer(), byte_level_tokenizer()):
        row = CompletionEncoder(tokenizer, 128, "error").encode(Completion("x", "who?", "you", is_turn=True)).rows[0]
        asked = prompts.ask(tokenizer, "who?")
        assert row["input_ids"][: (row["labels"] < 0).sum()].tolist() == prompts.encode_prompt(tokenizer, asked)


def test_completion_that_is_too_long_is_told_or_cut_on_the_left():
    tokenizer = byte_level_tokenizer()
    example = Completion("x", "the sea was cold and grey " * 3, " so")
    whole = CompletionEncoder(tokenizer, 128, "error").encode(example).rows[0]["input_ids"]
    refused = CompletionEncoder(tokenizer, 9, "error").encode(example)
    assert (list(refused.rows), refused.long) == ([], ("max_length", len(whole)))
    cut = CompletionEncoder(tokenizer, 9, "cut").encode(example).rows[0]
    assert cut["input_ids"].tolist() == whole[-9:].tolist()
    assert cut["labels"][-1] == tokenizer.eos_token_id


def test_completion_that_is_too_long_alone_is_cut_behind_one_token_of_its_prompt():
    tokenizer = byte_level_tokenizer()
    row = CompletionEncoder(tokenizer, 5, "cut").encode(Completion("x", "who?", "the sea was cold")).rows[0]
    targets = tokenizer("the sea was cold")["input_ids"][:4]
    assert row["input_ids"].tolist() == [*tokenizer("who?")["input_ids"][-1:], *targets]
    assert row["labels"].tolist() == [-100, *targets]


# --- pairs


def test_pair_is_a_source_and_a_target_each_with_its_end():
    tokenizer = t5_tokenizer()
    encoder = PairEncoder(tokenizer, Direction(text="translate: "), 64, 64, "error")
    row = encoder.encode(Pair("x", "good morning", "早上好")).rows[0]
    assert row["input_ids"].tolist() == tokenizer("translate: good morning")["input_ids"]
    assert row["labels"].tolist() == tokenizer("早上好")["input_ids"]
    assert row["labels"][-1] == tokenizer.eos_token_id


def test_target_ends_with_end_of_text_also_where_the_tokenizer_adds_none():
    tokenizer = byte_level_tokenizer()
    row = PairEncoder(tokenizer, Direction(), 64, 64, "error").encode(Pair("x", "a", "b")).rows[0]
    assert row["labels"].tolist() == [*tokenizer("b")["input_ids"], tokenizer.eos_token_id]


def test_a_target_needs_room_beside_what_ends_it():
    sentence = r"data.max_target_length: a target needs .*, got 1; expected 2 or more$"
    with pytest.raises(InputError, match=sentence):
        PairEncoder(t5_tokenizer(), Direction(), 64, 1, "cut")
    PairEncoder(t5_tokenizer(), Direction(), 64, 2, "cut")


def test_an_unknown_label_in_training_is_told_with_the_key_that_names_labels():
    encoder = LabelEncoder(wordpiece_tokenizer(), ("bad", "good"), "single_label_classification", False, 64, "error")
    with pytest.raises(InputError) as caught:
        encoder.encode(Labelled("x", "a", "好评"))
    assert caught.value.hint == "model.labels names all labels of the data, as in model.labels=[好评, ...]"


@pytest.mark.parametrize(("sizes", "key"), [((4, 64), "max_length"), ((64, 4), "max_target_length")])
def test_pair_that_is_too_long_is_told_by_its_key_or_cut_before_its_end(sizes, key):
    tokenizer, example = t5_tokenizer(), Pair("x", TEXTS[0], TEXTS[1])
    refused = PairEncoder(tokenizer, Direction(), *sizes, "drop").encode(example)
    assert refused.rows == []
    assert refused.long[0] == key
    row = PairEncoder(tokenizer, Direction(), *sizes, "cut").encode(example).rows[0]
    cut = row["input_ids" if key == "max_length" else "labels"].tolist()
    assert len(cut) == 4
    assert cut[-1] == tokenizer.eos_token_id


# --- labels


def label(given, problem_type="single_label_classification", labels=("bad", "good"), **settings):
    """The rows of a text with a label."""
    settings = {"with_types": True, "max_length": 16, "on_long": "error", **settings}
    encoder = LabelEncoder(wordpiece_tokenizer(), labels, problem_type, **settings)
    return encoder.encode(Labelled("x", "hello world", given)).rows


def test_text_is_encoded_with_its_special_tokens():
    tokenizer = wordpiece_tokenizer()
    row = label("good")[0]
    expected = tokenizer("hello world")
    assert row["input_ids"].tolist() == expected["input_ids"]
    assert row["token_type_ids"].tolist() == expected["token_type_ids"]


@pytest.mark.parametrize(("given", "number"), [("good", 1), ("bad", 0), (1, 1), ("0", 0), (("good",), 1)])
def test_label_is_a_name_or_a_number_from_0(given, number):
    assert label(given)[0]["labels"] == number


@pytest.mark.parametrize("given", ["fine", 2, "2", -1, 0.5, "", None])
def test_label_that_is_none_of_the_names_is_refused(given):
    with pytest.raises(InputError, match="unknown label"):
        find_label(given, ["bad", "good"], "x")


@pytest.mark.parametrize(
    ("given", "values"), [(("good",), [0, 1]), ((), [0, 0]), ((0, "good"), [1, 1]), ("bad, good", [1, 1]), ("", [0, 0])]
)
def test_several_labels_are_values_from_0_to_1(given, values):
    assert label(given, "multi_label_classification")[0]["labels"].tolist() == values


@pytest.mark.parametrize(("given", "labels", "values"), [("0.5", ("a",), [0.5]), ((1, 2.5), ("a", "b"), [1, 2.5])])
def test_values_are_numbers(given, labels, values):
    assert label(given, "regression", labels)[0]["labels"].tolist() == values


@pytest.mark.parametrize(("given", "labels"), [("x", ("a",)), ((1,), ("a", "b")), ("nan", ("a",))])
def test_values_that_are_none_are_refused(given, labels):
    with pytest.raises(InputError):
        label(given, "regression", labels)


def test_two_labels_for_one_class_are_refused_with_the_way_out():
    with pytest.raises(InputError, match="got 2 labels") as caught:
        label(("bad", "good"))
    assert "multi_label" in caught.value.hint


def test_long_text_is_cut_or_split_into_windows_of_one_label():
    tokenizer, text = wordpiece_tokenizer(), "hello world " * 9
    whole = tokenizer(text, add_special_tokens=False)["input_ids"]
    settings = {"with_types": False, "max_length": 7}
    example = Labelled("x", text, "good")
    make = lambda way: LabelEncoder(tokenizer, ("bad", "good"), "single_label_classification", on_long=way, **settings)  # noqa: E731
    assert make("error").encode(example).long == ("max_length", len(whole) + 2)
    cut = make("cut").encode(example).rows
    assert [row["input_ids"].tolist()[1:-1] for row in cut] == [whole[:5]]
    split = make("split").encode(example).rows
    assert [i for row in split for i in row["input_ids"].tolist()[1:-1]] == whole
    assert {int(row["labels"]) for row in split} == {1}


# --- lengths

SINGLE = (("bad", "good"), "single_label_classification", True)
ENCODE = {
    "completion": lambda size, way: CompletionEncoder(byte_level_tokenizer(), size, way).encode(
        Completion("x", "the sea", " so")
    ),
    "source": lambda size, way: PairEncoder(t5_tokenizer(), Direction(), size, 64, way).encode(
        Pair("x", "good morning", "a")
    ),
    "target": lambda size, way: PairEncoder(t5_tokenizer(), Direction(), 64, size, way).encode(
        Pair("x", "a", "good morning")
    ),
    "label": lambda size, way: LabelEncoder(wordpiece_tokenizer(), *SINGLE, size, way).encode(
        Labelled("x", "hello world", "good")
    ),
}


@pytest.mark.parametrize("kind", ENCODE)
@pytest.mark.parametrize("way", ["error", "drop", "cut"])
def test_as_many_tokens_as_may_be_are_whole_and_one_more_is_too_long(kind, way):
    name, key = ("labels", "max_target_length") if kind == "target" else ("input_ids", "max_length")
    (whole,) = ENCODE[kind](64, way).rows
    size = len(whole[name])
    (exact,) = ENCODE[kind](size, way).rows
    assert {n: value.tolist() for n, value in exact.items()} == {n: value.tolist() for n, value in whole.items()}
    longer = ENCODE[kind](size - 1, way)
    assert longer.long == (None if way == "cut" else (key, size))
    assert [len(row[name]) for row in longer.rows] == ([size - 1] if way == "cut" else [])


TOO_SHORT = {
    "completion": (1, "a token and the next one, got 1; expected 2 or more"),
    "source": (1, "a token beside 1 special ones, got 1; expected 2 or more"),
    "label": (2, "a token beside 2 special ones, got 2; expected 3 or more"),
}


@pytest.mark.parametrize("kind", TOO_SHORT)
@pytest.mark.parametrize("way", ["error", "drop", "cut", "split"])
def test_a_length_without_room_for_a_text_is_refused_when_the_encoder_is_made(kind, way):
    size, needed = TOO_SHORT[kind]
    make = {
        "completion": lambda: CompletionEncoder(byte_level_tokenizer(), size, way),
        "source": lambda: PairEncoder(t5_tokenizer(), Direction(), size, 64, way),
        "label": lambda: LabelEncoder(wordpiece_tokenizer(), *SINGLE, size, way),
    }
    with pytest.raises(InputError) as caught:
        make[kind]()
    assert str(caught.value) == f"data.max_length: a row needs {needed}"


# --- questions

TOKENIZERS = {"wordpiece": wordpiece_tokenizer, "roberta": roberta_tokenizer, "byte-level": byte_level_tokenizer}
PIECES = ["the sea ", "was cold. ", "天气很好", "😀 ", "early  ", "Good morning, ", "人工智能"]


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("seed", range(12))
def test_answer_of_each_window_maps_back_to_its_text(kind, seed):
    rng, tokenizer = random.Random(seed), TOKENIZERS[kind]()
    context = "".join(rng.choice(PIECES) for _ in range(rng.randint(2, 25))).strip()
    words = context.split()
    answer = rng.choice(words)
    start = context.index(answer)
    encoder = WindowEncoder(tokenizer, False, rng.choice([24, 32, 64]), rng.choice([None, 0, 3]))
    rows = encoder.encode(Question("x", "what?", context, (answer,), (start,))).rows
    found = 0
    for row in rows:
        first, last = int(row["start_positions"]), int(row["end_positions"])
        if (first, last) == (0, 0) or row["input_ids"][first] == tokenizer.cls_token_id:
            continue
        text = tokenizer.decode(row["input_ids"][first : last + 1], skip_special_tokens=True)
        squeezed = "".join(text.lower().split())
        assert "".join(answer.lower().split()) in squeezed or "[unk]" in text.lower()
        found += 1
    assert found > 0 or len(rows) > 1


def test_windows_without_the_answer_point_at_the_token_that_says_so():
    tokenizer = wordpiece_tokenizer()
    context = "hello world " * 30 + "captain"
    rows = WindowEncoder(tokenizer, True, 24, 4).encode(Question("x", "hello?", context, ("captain",))).rows
    places = [(int(row["start_positions"]), int(row["end_positions"])) for row in rows]
    assert len(rows) > 2
    assert set(places[:-1]) == {(0, 0)}
    assert places[-1][0] > 0
    nothing = WindowEncoder(tokenizer, True, 24, 4).encode(Question("x", "hello?", context, ())).rows
    assert {(int(row["start_positions"]), int(row["end_positions"])) for row in nothing} == {(0, 0)}


def test_tokenizer_without_such_a_token_learns_from_windows_with_the_answer_alone():
    rows = WindowEncoder(byte_level_tokenizer(), False, 24, 2).encode(
        Question("x", "who?", "the sea was cold " * 9 + "captain", ("captain",))
    )
    assert 1 <= len(rows.rows) <= 2


def test_answer_without_a_place_is_found():
    encoder = WindowEncoder(wordpiece_tokenizer(), False, 64, None)
    context = "hello world good hello morning"
    found = [encoder.encode(Question("x", "who?", context, ("good",), starts)).rows[0] for starts in ((), (12,))]
    assert found[0]["start_positions"] == found[1]["start_positions"] > 0


def test_answer_that_does_not_stand_where_the_data_say_is_refused():
    encoder = WindowEncoder(wordpiece_tokenizer(), False, 64, None)
    with pytest.raises(InputError) as caught:
        encoder.encode(Question("row 3", "who?", "hello world good hello", ("hello",), (14,)))
    assert str(caught.value) == "row 3: answer_start 14 points to 'od he', the answer is 'hello'"


@pytest.mark.parametrize("answers", [("captain",), ("",)])
def test_answer_that_is_not_there_is_refused(answers):
    with pytest.raises(InputError, match="does not stand in the text"):
        WindowEncoder(wordpiece_tokenizer(), False, 64, None).encode(Question("row 3", "who?", "hello", answers))


@pytest.mark.parametrize(
    ("kind", "context", "answer", "tokens"),
    [
        ("wordpiece", "天气很好", "气很", ["气", "很"]),
        ("wordpiece", "天气很好", "天气很好", ["天", "气", "很", "好"]),
        ("wordpiece", "hello \u200bworld", "\u200bworld", ["world"]),
        ("roberta", "a  天 气", " 天", ["天"]),  # spaces before a token of their own have no width
    ],
)
def test_answer_is_the_tokens_that_hold_it_and_no_more(kind, context, answer, tokens):
    tokenizer = TOKENIZERS[kind]()
    (row,) = WindowEncoder(tokenizer, False, 64, None).encode(Question("x", "who?", context, (answer,))).rows
    found = row["input_ids"][row["start_positions"] : row["end_positions"] + 1]
    assert [tokenizer.decode([i]) for i in found] == tokens


def test_answer_that_the_tokenizer_leaves_out_is_refused():
    question = Question("row 3", "who?", "hello \u200b world", ("\u200b",))
    with pytest.raises(InputError) as caught:
        WindowEncoder(wordpiece_tokenizer(), False, 64, None).encode(question)
    assert str(caught.value) == "row 3: no token of the text holds the answer '\\u200b'"


def test_rows_are_small_integers():
    encoder = WindowEncoder(wordpiece_tokenizer(), True, 64, None)
    row = encoder.encode(Question("x", "who?", "hello", ("hello",))).rows[0]
    assert {name: value.dtype for name, value in row.items()} == {
        "input_ids": np.int32, "start_positions": np.int64, "end_positions": np.int64, "token_type_ids": np.int32
    }  # fmt: skip
