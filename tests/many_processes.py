"""Train tiny recipes in one process and in two, and write down what each gave.

    python tests/many_processes.py FOLDER [curves|sizes|elastic|sharded]...

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


def fork(count, work, *told):
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
                work(rank, *told)
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


def read_evaluations(run):
    """Read what the evaluations of a run gave."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "loss" not in row]


def compare_weights(one, other):
    """Find the largest difference between the weights of two runs."""
    from safetensors.torch import load_file

    pair = [load_file(next((run / "final").glob("*model.safetensors"))) for run in (one, other)]
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
        fork(count, work, count)
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

    fork(1, work, "whole", STEPS)
    for count, stop in zip((1, 2, 1), (*STOPS, STEPS), strict=True):
        fork(count, work, "parts", stop)

    def find_finished(rank):
        import llmkit

        assert llmkit.train({**recipe, "output_dir": str(folder / "parts")}, resume="auto").finished

    fork(2, find_finished)
    read = {path.stem: json.loads(path.read_text()) for path in folder.glob("parts-*.json")}
    runs = {name: folder / name for name in ("whole", "parts")}
    curves = {name: read_run(run) for name, run in runs.items()}
    return {"read": read, "curves": curves, "weights": compare_weights(*runs.values())}


def shard():
    """Make an Accelerator that shards on CPUs: accelerate 1.15 ignores the plugin there, and is told otherwise."""
    from accelerate import Accelerator, DistributedType, FullyShardedDataParallelPlugin
    from accelerate.state import AcceleratorState, PartialState

    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", cpu_ram_efficient_loading=False
    )
    made = Accelerator(cpu=True, fsdp_plugin=plugin)
    for state in (AcceleratorState, PartialState):
        state._shared_state["distributed_type"] = DistributedType.FSDP
    AcceleratorState._shared_state["fsdp_plugin"] = plugin
    return made


def train_sharded(folder):
    """Train with sharded weights in two processes, and go on in one; and the other way round."""
    from objective_recipes import objective_recipe

    more = {"train": {"max_steps": 6, "micro_batch_size": 2}, "eval": {"every_steps": 3}}
    whole = objective_recipe("causal-lm", folder, data={"eval_rows": 5}, **more)
    whole["eval"]["generate"] = ["the sea", "今天"]
    base = {"name": str(folder / "all" / "whole" / "final"), "dtype": "float64"}
    recipes = {"all": whole, "adapter": {**whole, "model": base, "adapter": {"peft_type": "LORA", "r": 2}}}

    def work(rank, kind, name, stop, sharded):
        from torch.distributed.tensor import DTensor

        import llmkit
        from llmkit.training import keeping, loop

        keeping._is_out_of_time = lambda s: s.state.step >= stop
        accelerator, run_steps = shard() if sharded else None, loop.run_steps

        def watched(s):
            assert sharded == any(isinstance(p, DTensor) for p in s.model.parameters())
            return run_steps(s)

        loop.run_steps = watched
        run = str(folder / kind / name)
        llmkit.train({**recipes[kind], "output_dir": run}, resume="auto", accelerator=accelerator)

    for kind in recipes:
        for name, *counts in (("whole", 1), ("sharded", 2, 2), ("gathered", 2, 1), ("dealt", 1, 2)):
            for count, stop in zip(counts, (6,) if len(counts) == 1 else (3, 6), strict=True):
                fork(count, work, kind, name, stop, count == 2)
    found = {}
    for kind in recipes:
        runs = {name: folder / kind / name for name in ("whole", "sharded", "gathered", "dealt")}
        found[kind] = {
            name: {
                "curve": read_run(run),
                "evaluated": read_evaluations(run),
                "weights": compare_weights(runs["whole"], run),
            }
            for name, run in runs.items()
        }
    return found


PARTS = {"sharded": train_sharded, "curves": train_curves, "sizes": measure_sizes, "elastic": train_elastic}

if __name__ == "__main__":
    place = pathlib.Path(sys.argv[1])
    import llmkit.training.starting

    assert llmkit.training.starting
    for part in sys.argv[2:] or PARTS:
        (place / part).mkdir()
        (place / f"{part}.json").write_text(json.dumps(PARTS[part](place / part)))
