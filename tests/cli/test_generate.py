"""`llmkit generate` from the outside: whole texts, rows of files, tables that are taken up again."""

import csv
import itertools
import json
import resource
import subprocess
import sys

import pytest

from llmkit import generate, generate_batch


@pytest.fixture
def tiny(make_checkpoint):
    return make_checkpoint("gpt2")


def test_generate_prints_the_continuation_alone(llmkit_cli, tiny, loaded):
    code, out, err = llmkit_cli("generate", "Once upon", "-m", tiny, "-t", 0, "-n", 8)
    want = generate("Once upon", model=loaded("gpt2"), temperature=0, max_new_tokens=8).text
    assert (code, out, err) == (0, want + "\n", "")


def test_generate_notes_the_seed_it_drew(llmkit_cli, tiny):
    code, out, err = llmkit_cli("generate", "Once upon", "-m", tiny, "-n", 8)
    seed = err.removeprefix("llmkit: note: seed ").strip()
    assert llmkit_cli("generate", "Once upon", "-m", tiny, "-n", 8, "--seed", seed) == (0, out, "")
    assert code == 0


def test_generate_prints_the_fields_of_the_result_as_json(llmkit_cli, tiny, loaded):
    _, out, _ = llmkit_cli("generate", "今天天气", "-m", tiny, "-t", 0, "-n", 8, "--json")
    want = generate("今天天气", model=loaded("gpt2"), temperature=0, max_new_tokens=8)
    got = json.loads(out)
    assert (got["text"], got["token_ids"], got["finish_reason"]) == (want.text, list(want.token_ids), "length")
    assert set(got) == {"text", "token_ids", "finish_reason", "num_prompt_tokens", "seed", "seconds"}
    assert "\\u" not in out


def test_generate_takes_piped_input_as_one_text_without_its_last_line_break(llmkit_cli, tiny):
    _, want, _ = llmkit_cli("generate", "Once\nupon", "-m", tiny, "-t", 0, "-n", 8)
    assert llmkit_cli("generate", "-m", tiny, "-t", 0, "-n", 8, stdin="Once\nupon\n")[1] == want
    assert llmkit_cli("generate", "-m", tiny, "-t", 0, "-n", 8, stdin="Once\nupon\r\n")[1] == want


def test_generate_does_not_read_standard_input_where_text_is_given(llmkit_cli, tiny):
    code, out, _ = llmkit_cli("generate", "a", "-m", tiny, "-t", 0, "-n", 4, stdin="Once upon a time")
    assert out == llmkit_cli("generate", "a", "-m", tiny, "-t", 0, "-n", 4)[1]
    assert code == 0


def test_generate_gives_a_line_for_each_line_of_a_file(llmkit_cli, tiny, loaded, tmp_path):
    lines = ["Once upon", "", "今天天气很好", "It was a cold morning"]
    (tmp_path / "in.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    _, out, _ = llmkit_cli("generate", "-f", tmp_path / "in.txt", "-m", tiny, "-t", 0, "-n", 12, "--json")
    want = generate_batch(lines, model=loaded("gpt2"), temperature=0, max_new_tokens=12)
    assert [json.loads(line)["text"] for line in out.splitlines()] == [g.text for g in want]


def test_generate_escapes_line_breaks_so_that_a_result_is_one_line(llmkit_cli, tiny, tmp_path, monkeypatch):
    from llmkit import Generation
    from llmkit.tasks.generation import Job

    result = Generation("a\nb\r\\n今天", (1,), "length", 1, None, 0.0)
    monkeypatch.setattr(Job, "run_in_order", lambda self, encoded, **settings: iter([result] * len(encoded)))
    (tmp_path / "in.txt").write_text("x\ny\n", encoding="utf-8")
    _, out, _ = llmkit_cli("generate", "-f", tmp_path / "in.txt", "-m", tiny, "-t", 0)
    assert out == "a\\nb\\r\\\\n今天\n" * 2


def test_generate_reads_rows_from_standard_input_with_a_dash(llmkit_cli, tiny, tmp_path):
    (tmp_path / "in.txt").write_text("Once\nupon\n", encoding="utf-8")
    want = llmkit_cli("generate", "-f", tmp_path / "in.txt", "-m", tiny, "-t", 0, "-n", 4)[1]
    assert llmkit_cli("generate", "-f", "-", "-m", tiny, "-t", 0, "-n", 4, stdin="Once\nupon\n")[1] == want


def test_generate_puts_the_error_of_a_row_in_its_place_and_does_the_rest(llmkit_cli, tiny, tmp_path):
    rows = [
        '{"text": "Once"}',
        '{"text": null}',
        "{",
        '{"other": 1}',
        '{"text": "' + "word " * 200 + '"}',
        '{"text": "a"}',
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    code, out, _ = llmkit_cli("generate", "-f", tmp_path / "in.jsonl", "-m", tiny, "-t", 0, "-n", 4, "--json")
    got = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    assert [g.get("row") for g in got] == [None, 2, 3, 4, 5, None]
    assert got[1] == {"row": 2, "error": "expected text in column 'text', got null"}
    assert got[3] == {"row": 4, "error": "expected text in column 'text', got nothing"}
    assert got[4]["error"].startswith("the prompt has ")


def test_generate_says_the_error_of_a_row_on_stderr_without_json(llmkit_cli, tiny, tmp_path):
    (tmp_path / "in.jsonl").write_text('{"text": "Once"}\n{"text": 3}\n', encoding="utf-8")
    code, out, err = llmkit_cli("generate", "-f", tmp_path / "in.jsonl", "-m", tiny, "-t", 0, "-n", 4)
    assert (code, err) == (1, "llmkit: error: row 2: expected text in column 'text', got int\n")
    assert len(out.split("\n")) == 3


def test_generate_reads_a_tsv_without_quoting(llmkit_cli, tiny, tmp_path):
    (tmp_path / "in.tsv").write_text('text\tid\n"Once\t1\nupon"\t2\n', encoding="utf-8")
    code, out, _ = llmkit_cli("generate", "-f", tmp_path / "in.tsv", "-m", tiny, "-t", 0, "-n", 4)
    assert (code, len(out.splitlines())) == (0, 2)


def test_generate_takes_a_byte_order_mark_away(llmkit_cli, tiny, tmp_path):
    (tmp_path / "in.csv").write_text("\ufefftext,id\nOnce,1\n", encoding="utf-8")
    assert llmkit_cli("generate", "-f", tmp_path / "in.csv", "-m", tiny, "-t", 0, "-n", 4)[0] == 0


def test_generate_keeps_every_column_and_the_encoding_of_a_table(llmkit_cli, tiny, loaded, tmp_path):
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text('id,text\n1,"今天\n天气"\n2,Once\n', encoding="gb18030")
    call = ("generate", "-f", source, "-m", tiny, "-t", 0, "-n", 6, "-o", target, "--encoding", "gb18030")
    assert llmkit_cli(*call)[:2] == (0, "")
    with target.open(encoding="gb18030", newline="") as file:
        rows = list(csv.DictReader(file))
    want = generate_batch(["今天\n天气", "Once"], model=loaded("gpt2"), temperature=0, max_new_tokens=6)
    assert [(r["id"], r["text"]) for r in rows] == [("1", "今天\n天气"), ("2", "Once")]
    assert [r["generation"] for r in rows] == [g.text.encode("gb18030", "replace").decode("gb18030") for g in want]
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".part"] == []


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".txt"])
@pytest.mark.parametrize("samples", [1, 2])
def test_generate_takes_up_a_broken_run_at_every_byte(llmkit_cli, tiny, tmp_path, suffix, samples):
    source, target = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    content = {
        ".jsonl": '{"text": "Once", "id": "a\\"b"}\n{"text": 7}\n{"text": "今天"}\n',
        ".csv": 'text,id\n"On\nce","a""b"\nupon,2\n今天,3\n',
        ".tsv": 'text\tid\nOnce\ta"b\nupon\t2\n今天\t3\n',
        ".txt": "Once\nupon\n今天\n",
    }[suffix]
    source.write_text(content, encoding="utf-8")
    call = ("generate", "-f", source, "-m", tiny, "--seed", 3, "-n", 5, "-o", target, "-N", samples)
    code = llmkit_cli(*call)[0]
    whole = target.read_bytes()
    for cut in itertools.chain(range(0, len(whole), 7), [len(whole)]):
        target.unlink()
        part = target.with_name(target.name + ".part")
        part.write_bytes(whole[:cut])
        llmkit_cli(*call)
        assert (target.read_bytes(), part.exists()) == (whole, False), cut
    assert code == (1 if suffix == ".jsonl" else 0)


def test_generate_begins_no_output_where_the_checkpoint_cannot_be_loaded(llmkit_cli, tmp_path):
    assert llmkit_cli("generate", "hi", "-m", tmp_path, "-o", tmp_path / "out.txt")[0] == 2
    assert list(tmp_path.iterdir()) == []


def test_generate_keeps_what_is_done_when_it_is_interrupted(llmkit_cli, tiny, tmp_path, monkeypatch):
    from llmkit.tasks.generation import Job

    (tmp_path / "in.txt").write_text("Once\nupon\n今天\n", encoding="utf-8")
    call = ("generate", "-f", tmp_path / "in.txt", "-m", tiny, "-t", 0, "-n", 4, "-o", tmp_path / "out.txt")
    llmkit_cli(*call)
    whole = (tmp_path / "out.txt").read_bytes()
    (tmp_path / "out.txt").unlink()
    run = Job.run_in_order

    def interrupted(self, *arguments, **settings):
        yield from itertools.islice(run(self, *arguments, **settings), 2)
        raise KeyboardInterrupt

    monkeypatch.setattr(Job, "run_in_order", interrupted)
    code, _, err = llmkit_cli(*call)
    assert code == 130
    assert "out.txt.part; the same call goes on after it" in err
    assert (tmp_path / "out.txt.part").read_bytes() == b"".join(whole.splitlines(keepends=True)[:2])
    monkeypatch.setattr(Job, "run_in_order", run)
    assert llmkit_cli(*call)[0] == 0
    assert (tmp_path / "out.txt").read_bytes() == whole


def test_generate_gives_several_texts_by_seed(llmkit_cli, tiny):
    _, out, _ = llmkit_cli("generate", "Once", "-m", tiny, "-N", 3, "--seed", 5, "-n", 6, "--json")
    got = [json.loads(line) for line in out.splitlines()]
    assert [g["seed"] for g in got] == [5, 6, 7]
    alone = llmkit_cli("generate", "Once", "-m", tiny, "--seed", 6, "-n", 6, "--json")[1]
    assert got[1]["token_ids"] == json.loads(alone)["token_ids"]


def test_generate_reads_a_large_file_in_chunks(tiny, tmp_path):
    from llmkit.cli import rows

    path = tmp_path / "in.txt"
    path.write_text("Once upon a time\n" * 1000, encoding="utf-8")
    source = rows.read_rows(path, "text", "utf-8")
    assert [next(source).number, next(source).number] == [1, 2]
    assert rows.check_file(path, "text", "utf-8") == 1000


def limited(size):
    """Settings for a process whose files may not grow beyond a size: writing fails as on a full disk."""
    return {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))}


def test_generate_keeps_what_is_done_when_the_disk_is_full(tiny, tmp_path):
    (tmp_path / "in.txt").write_text("Once upon a time\n" * 99, encoding="utf-8")
    call = [sys.executable, "-m", "llmkit", "generate", "-f", "in.txt", "-m", str(tiny), "-t", "0", "-n", "6"]
    settings = {"cwd": tmp_path, "capture_output": True, "text": True, "encoding": "utf-8", "check": False}
    failed = subprocess.run([*call, "-o", "out.txt"], **settings, **limited(900))
    assert failed.returncode == 1
    assert failed.stderr.splitlines() == [
        "llmkit: note: what is done is kept in out.txt.part; the same call goes on after it",
        "llmkit: error: out.txt.part cannot be written any further: File too large",
    ]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.txt", "out.txt.part", "out.txt.part.json"]
    assert subprocess.run([*call, "-o", "out.txt"], **settings).returncode == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.txt", "out.txt"]
    assert (tmp_path / "out.txt").read_text(encoding="utf-8") == subprocess.run(call, **settings).stdout


def test_generate_drops_a_torn_row_however_long_it_is(llmkit_cli, tiny, tmp_path):
    (tmp_path / "in.txt").write_text("Once\nupon\n", encoding="utf-8")
    call = ("generate", "-f", tmp_path / "in.txt", "-m", tiny, "-t", 0, "-n", 4, "-o", tmp_path / "out.txt")
    llmkit_cli(*call)
    whole = (tmp_path / "out.txt").read_bytes()
    (tmp_path / "out.txt").unlink()
    (tmp_path / "out.txt.part").write_bytes(whole.split(b"\n")[0] + b"\n" + b"x" * 1000)
    llmkit_cli(*call)
    assert (tmp_path / "out.txt").read_bytes() == whole
