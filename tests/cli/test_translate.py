import csv
import json

import pytest
import small_translators

import llmkit

LINES = ["Good morning.", "How are you?", "今天天气很好。"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("marian")
    return small_translators.save("marian", folder, stated={"max_length": 6}, source_lang="en", target_lang="fr")


@pytest.fixture(scope="module")
def expected(folder):
    lm = llmkit.load(folder, device="cpu")
    return [result.text for result in llmkit.translate_batch(LINES, model=lm, num_beams=1)]


def call(llmkit_cli, folder, *arguments, **options):
    return llmkit_cli("translate", *arguments, "-m", folder, "--num-beams", "1", "--device", "cpu", **options)


def test_translate_prints_one_text_and_notes_what_looks_wrong(llmkit_cli, folder, expected):
    code, out, err = call(llmkit_cli, folder, LINES[0], "--from", "en", "--to", "fr")
    assert (code, out) == (0, expected[0] + "\n")
    assert err == "llmkit: note: 1 of 1 pieces looks wrong; --json lists them as suspect\n"


def test_translate_keeps_the_lines_of_piped_input(llmkit_cli, folder, expected):
    code, out, err = call(llmkit_cli, folder, "--quiet", stdin=f"{LINES[0]}\n\n  {LINES[1]}\n")
    assert (code, out, err) == (0, f"{expected[0]}\n\n  {expected[1]}\n", "")


def test_translate_prints_a_result_as_json(llmkit_cli, folder, expected):
    code, out, _ = call(llmkit_cli, folder, LINES[0], "--to", "fr", "--json")
    assert code == 0
    assert json.loads(out) == {
        "text": expected[0],
        "src_lang": None,
        "tgt_lang": "fr",
        "num_windows": 1,
        "suspect": [[0, 13]],
    }


def test_translate_reads_a_line_a_row_and_counts_all_pieces(llmkit_cli, folder, expected, tmp_path):
    path = tmp_path / "in.txt"
    path.write_text("\n".join(LINES) + "\n\n", encoding="utf-8")
    code, out, err = call(llmkit_cli, folder, "-f", path)
    assert (code, out) == (0, "\n".join([*expected, ""]) + "\n")
    assert err == "llmkit: note: 3 of 3 pieces look wrong; --json lists them as suspect\n"


def test_translate_adds_a_column_to_a_table(llmkit_cli, folder, expected, tmp_path):
    path, made = tmp_path / "in.csv", tmp_path / "out.csv"
    path.write_text("id,en\n1,Good morning.\n2,How are you?\n", encoding="utf-8")
    code, out, _ = call(llmkit_cli, folder, "-f", path, "--column", "en", "-o", made)
    assert (code, out) == (0, "")
    with made.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == [
        {"id": "1", "en": LINES[0], "translation": expected[0]},
        {"id": "2", "en": LINES[1], "translation": expected[1]},
    ]


def test_translate_reports_a_bad_row_and_does_the_rest(llmkit_cli, folder, expected, tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text(
        '{"text": "Good morning."}\n{"text": 3}\n{"text": ["x"]}\n{"text": "How are you?"}\n', encoding="utf-8"
    )
    code, out, _ = call(llmkit_cli, folder, "-f", path, "--json")
    found = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    assert [row.get("text", row.get("error")) for row in found] == [
        expected[0],
        "expected text in column 'text', got int",
        "expected a text, got list",
        expected[1],
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["Hi.", "--from", "de", "--to", "fr"], "translates from en to fr, got de to fr; expected that pair"),
        (["Hi.", "--num-beams", "0"], "num_beams out of range, got 0; expected a whole number from 1 to 1,000"),
        (["Hi.", "--batch-size", "0"], "batch_size out of range, got 0; expected a whole number from 1"),
        (["Hi.", "-n", "0"], "max_new_tokens out of range, got 0; expected a whole number from 1 to 1,000,000"),
    ],
)
def test_translate_refuses_with_one_sentence(llmkit_cli, folder, arguments, sentence):
    code, out, err = llmkit_cli("translate", *arguments, "-m", folder)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].endswith(sentence)


def test_translate_needs_a_checkpoint(llmkit_cli):
    code, _, err = llmkit_cli("translate", "Hi.", "--from", "en", "--to", "tlh")
    assert code == 2
    assert err.startswith("llmkit: error: translation needs a checkpoint, got none; expected -m CHECKPOINT")
    code, _, err = llmkit_cli("translate", "Hi.", "-a", "adapter")
    assert (code, err) == (
        2,
        "llmkit: error: an adapter needs the checkpoint that it was made for, got none; expected -m CHECKPOINT\n",
    )
