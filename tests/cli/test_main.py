"""The command as a process: what it imports, how it ends, what reaches stderr."""

import functools
import os
import signal
import subprocess
import sys
import time

import pytest

LLMKIT = [sys.executable, "-m", "llmkit"]
COMMANDS = [
    (),
    ("generate",),
    ("chat",),
    ("pretrain",),
    ("finetune",),
    ("recipes",),
    ("data",),
    ("doctor",),
    ("export",),
    ("export", "safetensors"),
    ("export", "merge"),
]


def run(*arguments, **settings):
    settings |= {"capture_output": True, "text": True, "encoding": "utf-8", "timeout": 120}
    return subprocess.run([*LLMKIT, *map(str, arguments)], check=False, **settings)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_is_plain_text_without_anything_heavy(command):
    code = f"""
import sys
from llmkit.cli import main
code = main.run([*{command!r}, "--help"])
print(code, [m for m in ("torch", "transformers", "datasets", "peft", "accelerate", "rich") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", check=True)
    assert done.stdout.splitlines()[-1] == "0 []"
    assert done.stdout.startswith("Usage: llmkit")
    assert "─" not in done.stdout


def test_import_of_llmkit_is_light():
    code = "import sys, llmkit; print([m for m in ('torch', 'transformers', 'typer') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_version_is_printed():
    from llmkit import __version__

    assert run("--version").stdout == f"llmkit {__version__}\n"


def test_no_arguments_print_the_help():
    done = run()
    assert (done.returncode, done.stdout.split("\n")[0]) == (0, "Usage: llmkit [OPTIONS] COMMAND [ARGS]...")


def test_debug_shows_where_an_error_comes_from(llmkit_cli):
    code, _, err = llmkit_cli("generate", "hi", "-m", "./nowhere", "--debug")
    assert code == 2
    assert "Traceback (most recent call last)" in err
    assert err.splitlines()[-1] == "llmkit: error: no such checkpoint: ./nowhere"


def test_an_unforeseen_error_is_one_sentence(llmkit_cli, monkeypatch):
    monkeypatch.setattr("llmkit.cli.generate.check", lambda *a, **k: 1 / 0)
    code, out, err = llmkit_cli("generate", "hi")
    assert (code, out) == (1, "")
    sentence, hint = err.splitlines()
    assert sentence == "llmkit: error: unexpected ZeroDivisionError: division by zero"
    assert hint == "hint: --debug shows where it comes from"


def test_nothing_of_the_libraries_reaches_the_user(make_checkpoint):
    done = run("generate", "今天", "-m", make_checkpoint("gpt2"), "-n", 4, "--seed", 1, "--num-beams", 2)
    assert (done.returncode, done.stderr) == (0, "")


def test_text_is_utf8_whatever_the_locale_says(make_checkpoint):
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    environment = {**os.environ, **ascii_only}
    folder = make_checkpoint("gpt2")
    plain = run("generate", "今天天气很好", "-m", folder, "-t", 0, "-n", 30, "--json")
    done = run("generate", "-m", folder, "-t", 0, "-n", 30, "--json", env=environment, input="今天天气很好")
    assert done.stdout.split('"seconds"')[0] == plain.stdout.split('"seconds"')[0]
    assert done.returncode == 0


def test_a_closed_pipe_ends_quietly(make_checkpoint):
    command = [*LLMKIT, "generate", "a", "-m", str(make_checkpoint("gpt2")), "-N", "500", "-n", "20"]
    with subprocess.Popen([*command, "--quiet"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        err = process.stderr.read()
    assert (process.returncode, err) == (0, b"")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_with_its_exit_code(make_checkpoint, number, code):
    command = [*LLMKIT, "chat", "-m", str(make_checkpoint("bloom")), "--seed", "1", "hi"]
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a background job begins deaf to it
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=heed) as process:
        process.stdout.read(1)  # it is talking, and a model without a context would not soon end
        time.sleep(0.1)
        process.send_signal(number)
        process.stdout.read()
        err = process.stderr.read().decode()
    assert process.returncode == code
    assert "Traceback" not in err
