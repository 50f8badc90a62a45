"""Hub ids, against a stand-in hub on loopback; each call in a process of its own: the client reads its settings once.

The stand-in answers what huggingface_hub 2.4 asks: the facts of a repository, its tree, and the files by HEAD and GET.
"""

import hashlib
import http.server
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import threading

import pytest

COMMIT = "c0ffee" + "0" * 34
FILES = {
    "config.json": b'{"model_type": "gpt2", "n_positions": 64}',
    "generation_config.json": b"{}",
    "model.safetensors": (2).to_bytes(8, "little") + b"{}",
    "tokenizer.json": b'{"model": {"vocab": {"a": 0}}}',
    "vocab.txt": b"a\n",
    "merges.txt": b"a b\n",
    "chat_template.jinja": b"{{ messages }}",
    "source.spm": b"s",
    "README.md": b"# A model",
    "pytorch_model.bin": b"pickled",
    "tf_model.h5": b"keras",
    "modeling_own.py": b"raise SystemExit",
    "consolidated.safetensors": b"once more",
    "onnx/model.onnx": b"onnx",
    "onnx/config.json": b"{}",
    "onnx/model.safetensors": b"onnx",
}
TOKENIZER_FILES = {
    *("config.json", "generation_config.json", "tokenizer.json", "vocab.txt", "merges.txt", "chat_template.jinja"),
    "source.spm",
}
LOCATE = """
import json, sys, time
from llmkit.errors import LlmkitError
from llmkit.locating import locate
time.sleep = lambda seconds: None  # the client waits between its attempts
options = json.loads(sys.argv[1])
try:
    found = locate(**options)
    print(json.dumps({"files": sorted(p.name for p in found.path.rglob("*")), "notes": found.notes}))
except LlmkitError as err:
    print(json.dumps({"error": type(err).__name__, "sentence": str(err), "hint": err.hint}))
"""
RUN = """
import json, sys
from llmkit.cli import main
code = main.run(sys.argv[1:])
print(json.dumps({"code": code, "torch": "torch" in sys.modules, "transformers": "transformers" in sys.modules}))
"""


class Hub(http.server.ThreadingHTTPServer):
    """The repository some/repo; `log` holds what was asked, `wrong` maps a path to what is answered instead."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.log, self.wrong, self.files = [], {}, dict(FILES)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def fetched(self):
        """The files that were sent."""
        return {path.split("/", 5)[5] for method, path in self.log if method == "GET" and "/resolve/" in path}

    def close(self):
        self.shutdown()
        self.server_close()


class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        path = self.path.partition("?")[0]
        self.server.log.append((self.command, path))
        if path in self.server.wrong:
            self.answer(*self.server.wrong[path])
        elif path in (
            "/api/models/some/repo",
            "/api/models/some/repo/revision/main",
            "/api/models/some/repo/revision/v1",
        ):
            siblings = [{"rfilename": name} for name in self.server.files]
            self.answer(200, json.dumps({"id": "some/repo", "sha": COMMIT, "siblings": siblings}).encode())
        elif path == f"/api/models/some/repo/tree/{COMMIT}":
            entries = [
                {"type": "file", "path": name, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}
                for name, body in self.server.files.items()
            ]
            self.answer(200, json.dumps(entries).encode())
        elif path.startswith(f"/some/repo/resolve/{COMMIT}/"):
            body = self.server.files[path.split("/", 5)[5]]
            self.answer(200, body, {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X-Repo-Commit": COMMIT})
        elif path.startswith("/api/models/some/repo/"):
            self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        else:
            self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})

    do_GET = do_HEAD

    def answer(self, status, body=b"", headers=None, length=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length or len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
        self.close_connection = length is not None  # less is sent than was promised


@pytest.fixture
def hub():
    server = Hub()
    yield server
    server.close()


@pytest.fixture
def closed_port():
    """A port of loopback that refuses connections."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def child(script, *arguments, port, home, before=(), **environment):
    """Run a script in a process that knows only the stand-in hub: (what it printed as JSON, its stderr)."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    env |= {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    env |= {"HF_HUB_DISABLE_TELEMETRY": "1", **environment}
    done = subprocess.run(
        [*before, sys.executable, "-c", script, *arguments],
        env=env,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.fixture
def ask(hub, tmp_path):
    """A function that locates some/repo at the hub, or at another port: what came of it; stderr must stay empty."""

    def call(name="some/repo", port=None, **options):
        answer, err = child(LOCATE, json.dumps({"name": name, **options}), port=port or hub.server_port, home=tmp_path)
        assert err == ""
        assert len(answer.get("sentence", "")) <= 300
        return answer

    return call


def test_hub_gives_the_files_that_are_needed_and_no_others(ask, hub):
    assert ask() == {"files": sorted({*TOKENIZER_FILES, "model.safetensors"}), "notes": []}
    assert hub.fetched() == {*TOKENIZER_FILES, "model.safetensors"}


def test_hub_gives_no_weights_when_only_a_tokenizer_is_wanted(ask, hub):
    assert ask(weights=False) == {"files": sorted(TOKENIZER_FILES), "notes": []}
    assert hub.fetched() == TOKENIZER_FILES


def test_hub_is_not_asked_for_a_file_twice(ask, hub):
    first = ask()
    hub.log.clear()
    assert ask() == first
    assert [(method, path) for method, path in hub.log if "/resolve/" in path] == []


def test_cache_serves_offline(ask, hub):
    first = ask()
    hub.log.clear()
    assert ask(offline=True) == first
    assert hub.log == []


def test_cache_serves_a_named_revision_offline(ask):
    assert ask(revision="v1") == ask(revision="v1", offline=True)


def test_cache_serves_when_the_hub_is_gone(ask, hub):
    first = ask()
    hub.close()
    assert ask() == first


@pytest.mark.parametrize("status", [500, 503])
def test_cache_serves_when_the_hub_is_out_of_order(ask, hub, status):
    first = ask()
    hub.wrong["/api/models/some/repo"] = (status,)
    assert ask() == first


@pytest.mark.parametrize("listed", [True, False])
def test_cache_with_a_tokenizer_alone_is_no_checkpoint(ask, tmp_path, listed):
    ask(weights=False)
    if not listed:  # as other programs leave the cache: without the list of what the repository holds
        shutil.rmtree(tmp_path / "hub" / "models--some--repo" / "trees")
    assert ask(offline=True)["error"] == "HubError"
    assert ask(offline=True, weights=False)["files"] == sorted(TOKENIZER_FILES)


@pytest.mark.parametrize("path", ["/api/models/some/repo", f"/some/repo/resolve/{COMMIT}/model.safetensors"])
def test_hub_error_says_that_a_repository_is_gated(ask, hub, path):
    hub.wrong[path] = (403, b"", {"X-Error-Code": "GatedRepo"})
    assert ask() == {
        "error": "HubError",
        "sentence": "some/repo is gated: ask for access on its page, then set HF_TOKEN",
        "hint": None,
    }


@pytest.mark.parametrize("status", [401, 404])
def test_hub_error_says_that_there_is_no_such_repository(ask, hub, status):
    hub.wrong["/api/models/some/repo"] = (status, b"", {"X-Error-Code": "RepoNotFound"})
    assert ask() == {
        "error": "HubError",
        "sentence": "the hub has no model some/repo (or it is private: set HF_TOKEN)",
        "hint": None,
    }


def test_hub_error_says_that_there_is_no_such_revision(ask):
    assert ask(revision="v9") == {"error": "HubError", "sentence": "some/repo has no revision 'v9'", "hint": None}


def test_hub_error_gives_the_status_of_another_refusal(ask, hub):
    hub.wrong["/api/models/some/repo"] = (403,)
    assert ask() == {"error": "HubError", "sentence": "the hub answered 403 for some/repo", "hint": None}


def test_hub_error_says_that_the_hub_is_out_of_order(ask, hub):
    hub.wrong["/api/models/some/repo"] = (500,)
    assert ask()["sentence"] == (
        "some/repo is neither a folder here nor in the local cache, and the hub cannot be asked: it answered 500"
    )


def test_hub_error_says_that_the_connection_broke_within_a_file(ask, hub):
    hub.wrong[f"/some/repo/resolve/{COMMIT}/model.safetensors"] = (
        *(200, b"half", {"ETag": '"e"', "X-Repo-Commit": COMMIT}),
        1000,
    )
    answer = ask()
    assert answer["error"] == "HubError"
    assert answer["sentence"].startswith(
        "some/repo is neither a folder here nor in the local cache, and the hub cannot be asked: "
        "it could not be downloaded ("
    )


def test_cache_of_a_broken_download_is_no_checkpoint(ask, hub):
    path = f"/some/repo/resolve/{COMMIT}/model.safetensors"
    hub.wrong[path] = (200, b"half", {"ETag": '"e"', "X-Repo-Commit": COMMIT}, 1000)
    ask()
    assert ask(offline=True)["error"] == "HubError"
    del hub.wrong[path]
    assert "model.safetensors" in ask()["files"]


def test_hub_refuses_a_repository_without_safetensors(ask, hub):
    del hub.files["model.safetensors"], hub.files["consolidated.safetensors"]
    assert ask() == {
        "error": "InputError",
        "sentence": "some/repo holds no safetensors weights; expected model.safetensors",
        "hint": "hf download some/repo --local-dir FOLDER, then llmkit export safetensors FOLDER OUT",
    }


def test_hub_error_says_that_nothing_answers_at_the_address(ask, closed_port):
    answer = ask(port=closed_port)
    assert (answer["error"], answer["sentence"]) == (
        "HubError",
        "some/repo is neither a folder here nor in the local cache, and the hub cannot be asked: "
        "no connection to 127.0.0.1 (Connection refused)",
    )


def test_doctor_takes_a_hub_id(hub, tmp_path):
    answer, err = child(RUN, "doctor", "some/repo", port=hub.server_port, home=tmp_path)
    assert (answer["code"], answer["torch"], err) == (0, False, "")


def test_doctor_calls_a_hub_id_what_the_user_called_it(hub, tmp_path):
    hub.files["model.safetensors"] = b"cut"
    answer, err = child(RUN, "doctor", "some/repo", port=hub.server_port, home=tmp_path)
    assert (answer["code"], err) == (
        1,
        "llmkit: error: some/repo/model.safetensors is truncated or not a safetensors file (3 bytes)\n",
    )


def test_generate_ends_before_torch_is_imported_when_the_hub_does_not_answer(closed_port, tmp_path):
    answer, err = child(RUN, "generate", "hi", "-m", "some/repo", port=closed_port, home=tmp_path)
    assert answer == {"code": 1, "torch": False, "transformers": False}
    assert err.startswith("llmkit: error: some/repo is neither a folder here nor in the local cache")


def test_generate_ends_before_torch_is_imported_when_there_is_no_network(tmp_path):
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-n", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("a process without a network cannot be made here")
    arguments = ("generate", "hi", "-m", "some/repo")
    answer, err = child(
        RUN, *arguments, port=80, home=tmp_path, before=(unshare, "-n"), HF_ENDPOINT="http://hub.invalid"
    )
    assert answer == {"code": 1, "torch": False, "transformers": False}
    assert err.startswith(
        "llmkit: error: some/repo is neither a folder here nor in the local cache, and the hub cannot be asked: no "
    )


def test_generate_loads_from_the_hub(hub, tmp_path, make_checkpoint):
    hub.files = {p.name: p.read_bytes() for p in pathlib.Path(make_checkpoint("gpt2")).iterdir()}
    arguments = ("generate", "Once", "-m", "some/repo", "-n", "4", "-t", "0", "--quiet")
    answer, err = child(RUN, *arguments, port=hub.server_port, home=tmp_path)
    assert (answer["code"], err) == (0, "")
