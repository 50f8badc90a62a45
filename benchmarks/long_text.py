"""One long text through a verb: seconds, and the memory that it takes above what one short text takes.

The models have one small layer with random weights and the tokenizer of builtin/tiny: memory is what is measured, not
what they say.
"""

import argparse
import resource
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForQuestionAnswering, AutoModelForSeq2SeqLM
from transformers import AutoModelForSequenceClassification as AutoModelForClassification

import llmkit
from benchmarks.pairing import describe_processor

UNIT = (
    "It was a cold morning, and the sea was grey; nobody answered the captain. 今天天气很好，我们去公园散步吧。"
    "He looked at the letter of 1847 for a long time 😀.\n"
)
DECODER = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 512}
SEQ2SEQ = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
SEQ2SEQ |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 512}


def main(arguments: list[str]) -> None:
    """Print one line a verb; each wants a process of its own, since a peak never falls."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks long-text", description=__doc__)
    parser.add_argument("verb", choices=["translate", "answer", "classify"])
    parser.add_argument("--mb", type=float, default=10, help="megabytes of text")
    given = parser.parse_args(arguments)
    torch.manual_seed(0)
    text = UNIT * int(given.mb * 1e6 / len(UNIT.encode()))
    call = VERBS[given.verb]()
    call(UNIT)
    before, started = _peak(), time.perf_counter()
    pieces = call(text)
    print(
        f"{given.verb}: {len(text.encode()) / 1e6:.1f} MB in {time.perf_counter() - started:.0f} s, {pieces:,} pieces, "
        f"peak {_peak()} MiB, {_peak() - before} MiB above that of one line ({describe_processor()}, "
        f"{torch.get_num_threads()} threads)"
    )


def _peak() -> int:
    """Read the highest resident memory of this process, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _load(auto: Any, kind: str, shape: dict[str, int]) -> llmkit.Loaded:
    tokenizer = llmkit.load("builtin/tiny").tokenizer
    end = tokenizer.eos_token_id
    ids = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end, "decoder_start_token_id": end}
    config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), **shape, **ids)
    return llmkit.Loaded(auto.from_config(config).eval(), tokenizer, f"one layer of {kind}")


def _translate() -> Callable[[str], int]:
    lm = _load(AutoModelForSeq2SeqLM, "bart", SEQ2SEQ)
    return lambda text: llmkit.translate(text, model=lm, num_beams=1, max_new_tokens=2).num_windows


def _answer() -> Callable[[str], int]:
    lm = _load(AutoModelForQuestionAnswering, "gpt2", DECODER)
    return lambda text: len(llmkit.answer("Who answered?", context=text, model=lm, top=3).alternatives) + 1


def _classify() -> Callable[[str], int]:
    lm = _load(AutoModelForClassification, "gpt2", DECODER)
    return lambda text: llmkit.classify(text, model=lm).num_windows


VERBS: dict[str, Callable[[], Callable[[str], int]]] = {
    "translate": _translate,
    "answer": _answer,
    "classify": _classify,
}
