"""Two machines, each a network namespace of its own, finish one run; it is the run of one process."""

import json
import os
import subprocess
import sys
import uuid

import pytest
from conftest import byte_level_tokenizer
from small_runs import read_curve, small_recipe, write_stories

import llmkit
from llmkit.recipe.reading import dump_recipe, read_recipe


def call(*words):
    subprocess.run(words, check=True, capture_output=True)


@pytest.fixture
def hosts():
    """The names of two network namespaces that reach each other as 10.77.0.1 and 10.77.0.2."""
    tag = uuid.uuid4().hex[:6]
    names = [f"llmkit-{tag}-{i}" for i in range(2)]
    ends = [f"v{tag}{i}" for i in range(2)]
    try:
        for name in names:
            call("ip", "netns", "add", name)
        call(
            "ip", "link", "add", ends[0], "netns", names[0], "type", "veth", "peer", "name", ends[1], "netns", names[1]
        )
        for i, (name, end) in enumerate(zip(names, ends, strict=True)):
            call("ip", "-n", name, "addr", "add", f"10.77.0.{i + 1}/24", "dev", end)
            call("ip", "-n", name, "link", "set", end, "up")
            call("ip", "-n", name, "link", "set", "lo", "up")
        yield names
    except (FileNotFoundError, subprocess.CalledProcessError) as err:
        pytest.skip(f"no network namespaces can be made here: {err}")
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def test_two_hosts_finish_the_run_of_one_process(hosts, tmp_path):
    write_stories(tmp_path / "stories.jsonl")
    byte_level_tokenizer().save_pretrained(tmp_path / "tokenizer")
    recipe = small_recipe(tmp_path, "run", model={"dtype": "float64"}, data={"eval_rows": 5})
    path = tmp_path / "r.yaml"
    path.write_text(dump_recipe(read_recipe(recipe)), encoding="utf-8")
    layout = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "MULTI_CPU",
        "use_cpu": True,
        "num_machines": 2,
    }
    layout |= {"num_processes": 2, "main_process_ip": "10.77.0.1", "main_process_port": 29517, "mixed_precision": "no"}
    started = []
    for rank, host in enumerate(hosts):
        file = tmp_path / f"host-{rank}.json"
        file.write_text(json.dumps({**layout, "machine_rank": rank}))
        words = ["ip", "netns", "exec", host, sys.executable, "-m", "llmkit", "pretrain", path, "--accelerate", file]
        words.append(f"output_dir={tmp_path / 'two'}")
        environment = {k: v for k, v in os.environ.items() if k != "GLOO_SOCKET_IFNAME"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(words, env=environment, **pipes))
    (out, err), (out_2, err_2) = (process.communicate(timeout=120) for process in started)
    assert [process.returncode for process in started] == [0, 0], err + err_2
    assert (out, out_2, err_2) == (f"{tmp_path / 'two'}\n", "", "")
    llmkit.train({**recipe, "output_dir": str(tmp_path / "one")})
    one, two = read_curve(tmp_path / "one"), read_curve(tmp_path / "two")
    assert [step for step, _ in two] == [step for step, _ in one]
    assert [loss for _, loss in two] == pytest.approx([loss for _, loss in one], rel=1e-12)
