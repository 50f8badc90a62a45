"""From a cold start to the first token on stdout: `llmkit generate` beside a plain transformers script.

Both load the same GPT-2 124M-shaped checkpoint (random weights, float32) from a folder and decode greedily.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from benchmarks.pairing import compare, describe_processor

PLAIN = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
model, tokenizer = AutoModelForCausalLM.from_pretrained(sys.argv[1]), AutoTokenizer.from_pretrained(sys.argv[1])
inputs = tokenizer(sys.argv[2], return_tensors="pt")
out = model.generate(**inputs, max_new_tokens=1, do_sample=False, pad_token_id=0)
print(tokenizer.decode(out[0, inputs.input_ids.shape[1]:]), flush=True)
"""
PROMPT = "It was a cold morning"


def main(arguments: list[str]) -> None:
    """Print the seconds to the first token of both."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks first-token", description=__doc__)
    parser.add_argument("--pairs", type=int, default=9)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(Path(folder))
        ours = [sys.executable, "-m", "llmkit", "generate", PROMPT, "-m", folder, "-n", "1", "-t", "0"]
        plain = [sys.executable, "-c", PLAIN, folder, PROMPT]
        result = compare(lambda: wait_for_output(ours), lambda: wait_for_output(plain), given.pairs)
    low, high = result.interval
    print(f"{describe_processor()}; torch {torch.__version__}; {given.pairs} pairs in turn, warm file cache")
    print("| | llmkit generate, s | plain transformers, s | times as fast (interval) |\n|---|---|---|---|")
    a, b = statistics.median(result.a), statistics.median(result.b)
    print(f"| first token | {a:.2f} | {b:.2f} | {result.ratio:.2f} ({low:.2f}-{high:.2f}) |")


def save_checkpoint(folder: Path) -> None:
    """Save a GPT-2 of 124 M random parameters with a tokenizer of bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({"<|endoftext|>": 0} | {c: i for i, c in enumerate(alphabet, 1)}, []))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>").save_pretrained(folder)
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0)).save_pretrained(folder)


def wait_for_output(command: list[str]) -> float:
    """Run a command until its first byte of output comes; give the seconds."""
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        first = process.stdout.read(1)
        seconds = time.perf_counter() - started
        process.stdout.read()
    assert first and process.returncode == 0, f"exit {process.returncode}: {' '.join(command[:4])}"
    return seconds
