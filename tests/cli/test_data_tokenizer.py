"""`llmkit data tokenizer`: the path to stdout, and one sentence with the command's own options when it fails."""

import pytest


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
