"""`python -m benchmarks NAME [options]`."""

import importlib
import sys

NAMES = {
    "baselines": "benchmarks.baselines",
    "curve": "benchmarks.curve",
    "decode": "benchmarks.decode",
    "embed": "benchmarks.embed",
    "first-token": "benchmarks.first_token",
    "long-text": "benchmarks.long_text",
    "memory": "benchmarks.memory",
    "plain": "benchmarks.plain",
    "scale": "benchmarks.scale",
    "tasks": "benchmarks.tasks",
    "teach": "benchmarks.teach",
    "tatoeba": "benchmarks.tatoeba",
    "tokenize": "benchmarks.tokenize",
    "train": "benchmarks.train",
}

if len(sys.argv) < 2 or sys.argv[1] not in NAMES:
    sys.exit(f"usage: python -m benchmarks {{{','.join(NAMES)}}} [options]")
importlib.import_module(NAMES[sys.argv[1]]).main(sys.argv[2:])
