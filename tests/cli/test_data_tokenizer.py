"""`llmkit data tokenizer`: the path to stdout, and one sentence with the command's own options when it fails."""

import json

import pytest

from llmkit.recipe.reading import find_recipes

RECIPE = """\
version: 1
objective: causal-lm
model: {config: {model_type: gpt2}, tokenizer: not/made/yet}
data:
  mix:
    - {path: en.jsonl, text_column: body, clean: {urls: true}, eval_documents: 3}
    - {path: zh.jsonl, clean: {urls: true}}
train: {max_steps: 2}
"""
ENGLISH, CHINESE = "Once upon a time {} there was a fox https://e.org/x", "人工智能的未来{}是什么。https://e.org/x"


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """A file of both languages as `a.csv` in the working folder."""
    monkeypatch.chdir(tmp_path)
    rows = "Once upon a time,1\n人工智能的未来,2\n" * 4
    (tmp_path / "a.csv").write_text("body,id\n" + rows, encoding="utf-8")
    (tmp_path / "gb.txt").write_bytes("天气很好\n".encode("gb18030") * 4)
    return tmp_path


def test_data_tokenizer_writes_a_folder_and_prints_its_path(corpus, llmkit_cli):
    call = ("data", "tokenizer", "a.csv", "-o", "tok", "--vocab-size", "270", "--text-column", "body")
    assert llmkit_cli(*call) == (0, "tok\n", "")
    assert sorted(p.name for p in (corpus / "tok").iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
    assert llmkit_cli(*call) == (2, "", "llmkit: error: tok exists already\nhint: --overwrite replaces it\n")
    assert llmkit_cli(*call, "--overwrite") == (0, "tok\n", "")


def test_data_tokenizer_notes_a_smaller_vocabulary_unless_quiet(corpus, llmkit_cli):
    call = ("data", "tokenizer", "gb.txt", "--encoding", "gb18030", "--vocab-size", "9000", "-o")
    code, out, err = llmkit_cli(*call, "one")
    assert (code, out) == (0, "one\n")
    assert err.startswith("llmkit: note: the files give 26")
    assert llmkit_cli(*call, "two", "--quiet") == (0, "two\n", "")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("a.csv",), "a.csv: column 'text' not in [body, id]\nhint: --text-column NAME takes another\n"),
        (("gb.txt",), "gb.txt line 1 byte 1: not utf-8\nhint: --encoding gb18030\n"),
        (("b.csv",), "no such file: b.csv\nhint: did you mean a.csv?\n"),
    ],
)
def test_data_tokenizer_ends_with_2_and_one_sentence(corpus, llmkit_cli, arguments, error):
    call = ("data", "tokenizer", *arguments, "-o", "tok", "--vocab-size", "300")
    assert llmkit_cli(*call) == (2, "", f"llmkit: error: {error}")
    assert not (corpus / "tok").exists()


def write_rows(folder, name, texts, column="text"):
    lines = [json.dumps({column: text}, ensure_ascii=False) + "\n" for text in texts]
    (folder / name).write_text("".join(lines), encoding="utf-8")


@pytest.fixture
def recipe(corpus):
    """`r.yaml`, a mixture of `en.jsonl` and `zh.jsonl`, and `cleaned.jsonl`, the texts that it trains on, cleaned."""
    write_rows(corpus, "en.jsonl", [ENGLISH.format(i) for i in range(9)], "body")
    write_rows(corpus, "zh.jsonl", [CHINESE.format(i) for i in range(9)])
    kept = [text.format(i).split("https")[0].strip() for i in range(6) for text in (ENGLISH, CHINESE)]
    write_rows(corpus, "cleaned.jsonl", kept)
    (corpus / "r.yaml").write_text(RECIPE, encoding="utf-8")
    return corpus


def read_vocabulary(folder):
    return json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]


def test_data_tokenizer_of_a_recipe_is_that_of_its_cleaned_data(recipe, llmkit_cli):
    options = ("--vocab-size", "290")
    assert llmkit_cli("data", "tokenizer", "r.yaml", "-o", "one", *options) == (0, "one\n", "")
    assert llmkit_cli("data", "tokenizer", "cleaned.jsonl", "-o", "two", *options) == (0, "two\n", "")
    assert read_vocabulary(recipe / "one") == read_vocabulary(recipe / "two")
    assert sorted(p.name for p in (recipe / "one").iterdir()) == ["tokenizer.json", "tokenizer_config.json"]


def test_data_tokenizer_takes_keys_of_a_recipe(recipe, llmkit_cli):
    keys = ("data.mix=null", "data.path=zh.jsonl", "data.clean.urls=true")
    call = ("data", "tokenizer", "r.yaml", *keys, "-o", "tok", "--vocab-size", "999", "--quiet")
    assert llmkit_cli(*call) == (0, "tok\n", "")
    write_rows(recipe, "zh-alone.jsonl", [CHINESE.format(i).split("https")[0] for i in range(9)])
    call = ("data", "tokenizer", "zh-alone.jsonl", "-o", "other", "--vocab-size", "999", "--quiet")
    assert llmkit_cli(*call) == (0, "other\n", "")
    assert read_vocabulary(recipe / "tok") == read_vocabulary(recipe / "other")


def test_data_tokenizer_takes_a_recipe_by_its_name_unless_a_file_has_it(recipe, llmkit_cli):
    name = "shakespeare-small"
    assert name in find_recipes()
    call = ("data", "tokenizer", name, "-o")
    size = ("--vocab-size", "270")
    keys = ("data.path=en.jsonl", "data.text_column=body", "data.eval_rows=null", "data.clean.urls=true")
    assert llmkit_cli(*call, "one", *size, *keys) == (0, "one\n", "")
    (recipe / name).mkdir()
    write_rows(recipe / name, "zh.jsonl", [CHINESE.format(i) for i in range(9)])
    assert llmkit_cli(*call, "two", *size) == (0, "two\n", "")
    assert read_vocabulary(recipe / "one") != read_vocabulary(recipe / "two")
    assert llmkit_cli("data", "tokenizer", f"{name}/zh.jsonl", "-o", "three", *size) == (0, "three\n", "")
    assert read_vocabulary(recipe / "two") == read_vocabulary(recipe / "three")
    assert llmkit_cli(*call, "four", *size, *keys)[:2] == (2, "")  # keys are files, where the name is a folder


def test_data_tokenizer_hints_at_the_keys_of_a_recipe(recipe, llmkit_cli):
    call = ("data", "tokenizer", "r.yaml", "-o", "tok", "--vocab-size", "280")
    error = "llmkit: error: {}\nhint: {}\n"
    assert llmkit_cli(*call, "data.mix.0.text_column=bodi") == (
        2,
        "",
        error.format("en.jsonl row 1: column 'bodi' not in [body]", "data.text_column: body"),
    )
    hint = "data.text_column=NAME and data.encoding=NAME do it for a recipe"
    for option in (("--text-column", "body"), ("--encoding", "gb18030")):
        sentence = "--text-column and --encoding cannot act on a recipe"
        assert llmkit_cli(*call, *option) == (2, "", error.format(sentence, hint))
    assert not (recipe / "tok").exists()


@pytest.mark.parametrize("mixed", [False, True])
def test_data_tokenizer_of_a_recipe_of_translations_reads_both_sides(corpus, llmkit_cli, mixed):
    sides = {"train.en": [f"{i} sailors saw the sea" for i in range(9)], "train.zh": ["你看见了大海吗"] * 9}
    for name, lines in sides.items():
        (corpus / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        (corpus / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    keys = ["data.source_path=train.en", "data.target_path=train.zh"]
    if mixed:
        keys = ["data.mix=[{source_path: train.en, target_path: train.zh}]"]
    size = ("--vocab-size", "9999", "--quiet")
    call = ("data", "tokenizer", "translation-en-de-small", *keys, "data.eval_rows=2", "-o", "one", *size)
    assert llmkit_cli(*call) == (0, "one\n", "")
    both = ("train.en.txt", "train.zh.txt", "--for", "seq2seq")
    assert llmkit_cli("data", "tokenizer", *both, "-o", "two", *size) == (0, "two\n", "")
    assert set(read_vocabulary(corpus / "one")) == set(read_vocabulary(corpus / "two"))
    assert llmkit_cli("data", "tokenizer", "train.en.txt", "--for", "seq2seq", "-o", "en", *size) == (0, "en\n", "")
    assert set(read_vocabulary(corpus / "en")) < set(read_vocabulary(corpus / "one"))
