"""`llmkit data inspect`: rows as the model sees them, and the ledger."""

import json

import numpy as np
import pytest
from conftest import TEXTS, byte_level_tokenizer, fallback_tokenizer, wordpiece_tokenizer
from objective_recipes import KINDS, objective_recipe, write_rows

from llmkit.data.inspecting import show_row


def row_of(*documents):
    return {
        "input_ids": np.concatenate([np.array(ids, np.int64) for ids in documents]),
        "document_ids": np.repeat(np.arange(len(documents)), [len(ids) for ids in documents]),
    }


def show(tokenizer, *texts):
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    is_target = np.concatenate([np.arange(len(part)) > 0 for part in ids])
    return show_row(tokenizer, row_of(*ids), is_target, "row 0")


def test_show_row_marks_documents_tokens_and_targets():
    assert show(byte_level_tokenizer(), "hello the sea<|endoftext|>", "公园\n\tx").splitlines() == [
        "row 0: 15 tokens, 13 targets, 2 documents",
        "  ┌ [he]│l│l│o│ the│ s│ea│<|endoftext|>",
        "  ┌ [公园×4]│⏎│⇥│x",
    ]


def test_show_row_shows_chinese_pieces_and_spaces_of_other_tokenizers():
    assert (
        show(wordpiece_tokenizer(), "今天天气 hello morning[SEP]").splitlines()[1]
        == "  ┌ [今]│天│天│气│hello│morning│[SEP]"
    )
    assert show(fallback_tokenizer(), "the 天气 公").splitlines()[1] == "  ┌ [ the]│ │天│气│ │公×3"


def test_show_row_shows_half_characters_token_by_token():
    tokenizer = byte_level_tokenizer()
    ids = tokenizer("界")["input_ids"]
    assert len(ids) > 1
    shown = show_row(tokenizer, row_of([*ids[1:], *tokenizer(" x")["input_ids"]]), [True] * (len(ids) + 1), "row 0")
    assert shown.splitlines()[1].startswith("  ┌ �│")


def test_show_row_keeps_lines_short():
    shown = show(byte_level_tokenizer(), " ".join(TEXTS)).splitlines()
    assert len(shown) > 4
    assert max(len(line) for line in shown[1:]) <= 110
    assert [line[:4] for line in shown[1:]] == ["  ┌ ", *["  │ "] * (len(shown) - 2)]


@pytest.fixture
def recipe(make_recipe, tmp_path):
    """A function that writes a recipe file and returns its path."""

    def write(**changes):
        (tmp_path / "r.yaml").write_text(json.dumps(make_recipe(**changes)), encoding="utf-8")
        return tmp_path / "r.yaml"

    return write


def test_inspect_shows_three_rows_and_the_ledger(recipe, stories, llmkit_cli):
    code, out, err = llmkit_cli("data", "inspect", recipe(), "data.eval_rows=2")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "max_length 32, packed, documents apart by position_ids"
    rows = [line for line in lines if line.startswith("row ")]
    assert [line.split(",")[0] for line in rows] == ["row 0", "row 1", "row 2"]
    assert all(" 32 tokens, " in line for line in rows)
    assert "  documents  120 read" in lines
    assert " trained on + " in lines[-1]
    assert " held out + 120 at the start of a document" in lines[-1]
    assert "\x1b" not in out


def test_inspect_counts_the_targets_that_the_collator_leaves(recipe, llmkit_cli):
    from llmkit.recipe.reading import read_recipe
    from llmkit.training.building import plan

    path = recipe()
    code, out, _ = llmkit_cli("data", "inspect", path)
    assert code == 0
    made = plan(read_recipe(path))
    counts = [int((made.parts.data_collator([made.data.train[i]])["labels"] >= 0).sum()) for i in range(3)]
    shown = [int(line.split(" tokens, ")[1].split(" ")[0]) for line in out.splitlines() if line.startswith("row ")]
    assert shown == counts


def test_inspect_shows_a_document_a_row_without_packing(recipe, llmkit_cli):
    code, out, _ = llmkit_cli("data", "inspect", recipe(), "data.pack=false")
    assert code == 0
    assert out.startswith("max_length 32, one document a row\n")
    assert out.count("1 document") == 3


def test_inspect_shows_all_rows_of_little_data(recipe, tmp_path, llmkit_cli):
    (tmp_path / "one.jsonl").write_text('{"text": "one"}\n' * 2, encoding="utf-8")
    more = (f"data.path={tmp_path / 'one.jsonl'}", "data.pack=false", "train.global_batch_size=1")
    code, out, err = llmkit_cli("data", "inspect", recipe(), *more)
    assert (code, err) == (0, "")
    assert [line[:5] for line in out.splitlines() if line.startswith("row ")] == ["row 0", "row 1"]


@pytest.fixture
def recipe_of(tmp_path, tmp_path_factory, monkeypatch):
    """A function that writes a recipe file of a kind and returns its path."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))

    def write(kind):
        (tmp_path / "r.yaml").write_text(json.dumps(objective_recipe(kind, tmp_path)), encoding="utf-8")
        return tmp_path / "r.yaml"

    return write


def test_inspect_brackets_the_prompt_of_a_completion(recipe_of, tmp_path, llmkit_cli):
    data = write_rows(tmp_path / "one.jsonl", [{"ask": "the sea", "say": " was 天气"}])
    path = recipe_of("completion")
    code, out, err = llmkit_cli("data", "inspect", path, f"data.path={data}", "train.global_batch_size=1")
    assert (code, err) == (0, "")
    assert out.splitlines()[1:6] == [
        "A text begins at each ┌. │ parts tokens (天×3: a character of three, marked as its first one is).",
        "[ ] is no target: it belongs to the prompt.",
        "",
        f"row 0, {data} row 1: 13 tokens, 5 targets, 1 document",
        "  ┌ [Q]│[:]│[ the]│[ s]│[ea]│[ ]│[A]│[:]│ was│ │天│气│<|endoftext|>",
    ]


BRACKETS = {
    "causal-lm": "of another row (of a character of several tokens, as 天×3, only the first).",
    "completion": "[ ] is no target: it belongs to the prompt.",
    "masked-lm": "[ ] is no target (a token's own brackets, as [MASK], do not count); the others are to be restored.",
    "seq2seq": "[ ] is no target: it belongs to the source.",
    "denoising": "[ ] is no target: it belongs to the source.",
    "classification": "[ ] is no target: the label below the text is.",
    "question-answering": "[ ] is outside the answer; where the row has none, the token that says so has no brackets.",
}


@pytest.mark.parametrize("kind", KINDS)
def test_inspect_says_what_the_brackets_of_an_objective_mean(recipe_of, llmkit_cli, kind):
    code, out, err = llmkit_cli("data", "inspect", recipe_of(kind))
    assert (code, err) == (0, "")
    assert out.splitlines()[2:4] == [BRACKETS[kind], ""]


def test_inspect_answers_a_typo_with_one_sentence(recipe, llmkit_cli):
    code, out, err = llmkit_cli("data", "inspect", recipe(), "data.pth=x")
    assert (code, out) == (2, "")
    assert err.startswith("llmkit: error: ")
    assert "did you mean 'path'?" in err
    assert err.count("\n") == 1
