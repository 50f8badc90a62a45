"""Train tiny recipes in one process and in two, and write down what each gave.

    python tests/many_processes.py FOLDER [curves|sizes|elastic]...

A process is a fork of this one: what a run needs is imported once. FOLDER/NAME.json holds what each part found.
"""

import json
import os
import pathlib
import socket
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

STEPS = 20
STOPS = (7, 13)  # the steps after which the run of `elastic` goes on with another number of processes
SIZES = range(1, 34)


def fork(count, work):
    """Do something in so many processes of one run, and wait for all."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    children = []
    for rank in range(count):
        child = os.fork()
        if not child:
            places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
            os.environ |= {k: str(v) for k, v in {**places, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items()}
            try:
                work(rank)
            except BaseException:
                import traceback

                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(child)
    ends = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    if any(ends):
        raise SystemExit(f"processes ended with {ends}")


def read_run(run):
    """Read the losses, norms and learning rates of a run."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [[row[key] for key in ("step", "loss", "grad_norm", "lr")] for row in rows if "loss" in row]


def compare_weights(one, other):
    """Find the largest difference between the weights of two runs."""
    from safetensors.torch import load_file

    pair = [load_file(run / "final" / "model.safetensors") for run in (one, other)]
    assert pair[0].keys() == pair[1].keys()
    return max(float((pair[0][name] - pair[1][name]).abs().max()) for name in pair[0])


def train_curves(folder):
    """Train each objective with 8 sequences at once, 1 at a time, and 1 at a time in each of two processes."""
    from objective_recipes import KINDS, objective_recipe

    import llmkit

    recipes = {}
    for kind in KINDS:
        (folder / kind).mkdir()
        more = {"schedule": {"name": "cosine", "num_warmup_steps": 4}, "train": {"max_steps": STEPS}}
        recipes[kind] = objective_recipe(kind, folder / kind, data={"eval_rows": 5}, **more)

    def train(name, micro):
        for kind, recipe in recipes.items():
            run = {"output_dir": str(folder / kind / name), "train": {**recipe["train"], "micro_batch_size": micro}}
            llmkit.train({**recipe, **run})

    fork(1, lambda rank: (train("8x1", 8), train("1x8", 1)))
    fork(2, lambda rank: train("2x4", 1))
    found = {}
    for kind in KINDS:
        runs = {name: folder / kind / name for name in ("8x1", "1x8", "2x4")}
        found[kind] = {name: {"curve": read_run(run), "weights": compare_weights(runs["8x1"], run)}
                       for name, run in runs.items()}  # fmt: skip
    return found


def measure_sizes(folder):
    """Evaluate on 1 to 33 rows, 4 at a time, in one process and in two."""
    from dataclasses import replace

    from objective_recipes import objective_recipe
    from torch.utils.data import Subset

    from llmkit.training import keeping, loop

    recipe = objective_recipe("causal-lm", folder, data={"eval_rows": SIZES[-1]}, train={"micro_batch_size": 4})
    recipe["train"]["max_steps"] = 1
    measured = []

    def measure(s):
        dataset = s.plan.parts.eval_dataset
        for size in SIZES:
            s.plan = replace(s.plan, parts=replace(s.plan.parts, eval_dataset=Subset(dataset, range(size))))
            assert keeping.evaluate(s)
            measured.append(s.state.metrics)
        return "time"

    def work(rank, count):
        import llmkit

        loop.run_steps = measure
        llmkit.train({**recipe, "output_dir": str(folder / str(count))})
        (folder / f"{count}-{rank}.json").write_text(json.dumps(measured))

    for count in (1, 2):
        fork(count, lambda rank, count=count: work(rank, count))
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in ("1-0", "2-0", "2-1")}


def train_elastic(folder):
    """Train with one process, go on with two, then with one, beside one that never stops; note the rows read."""
    from objective_recipes import objective_recipe

    recipe = objective_recipe("masked-lm", folder, train={"max_steps": STEPS, "global_batch_size": 4})
    recipe["schedule"] = {"name": "cosine", "num_warmup_steps": 4}

    def work(rank, name, stop):
        import llmkit
        from llmkit.data.order import ShuffledRows
        from llmkit.training import keeping

        read, get = [], ShuffledRows.__getitem__
        ShuffledRows.__getitem__ = lambda self, position: (read.append(position), get(self, position))[1]
        keeping._is_out_of_time = lambda s: s.state.step >= stop
        llmkit.train({**recipe, "output_dir": str(folder / name)}, resume="auto")
        (folder / f"{name}-{stop}-{rank}.json").write_text(json.dumps(read))

    fork(1, lambda rank: work(rank, "whole", STEPS))
    for count, stop in zip((1, 2, 1), (*STOPS, STEPS), strict=True):
        fork(count, lambda rank, stop=stop: work(rank, "parts", stop))
    read = {path.stem: json.loads(path.read_text()) for path in folder.glob("parts-*.json")}
    runs = {name: folder / name for name in ("whole", "parts")}
    curves = {name: read_run(run) for name, run in runs.items()}
    return {"read": read, "curves": curves, "weights": compare_weights(*runs.values())}


PARTS = {"curves": train_curves, "sizes": measure_sizes, "elastic": train_elastic}

if __name__ == "__main__":
    place = pathlib.Path(sys.argv[1])
    import llmkit.training.starting

    assert llmkit.training.starting
    for part in sys.argv[2:] or PARTS:
        (place / part).mkdir()
        (place / f"{part}.json").write_text(json.dumps(PARTS[part](place / part)))
