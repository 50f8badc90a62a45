"""Scale, by simulation and on paper: what changes from 1 GPU to 1,000, and from 1 GB of text to 10 TB.

Rows, their order, hashing and saving are those of llmkit, called here as each of up to 1,000 processes would; GPUs,
links, disks and failures, which are not here, come from the sources that are named beside their numbers.
"""

import argparse
import bisect
import itertools
import math
import mmap
import os
import random
import sys
import tempfile
import time
import timeit
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from benchmarks.pairing import describe_processor
from llmkit import runfolder
from llmkit.data import store as stores
from llmkit.data.ledger import Counts
from llmkit.data.order import OrderedRows, ShuffledRows, shuffle_index
from llmkit.data.rows import TokenRows
from llmkit.data.store import TokenStore
from llmkit.data.streaming import StreamedRows
from llmkit.data.tokenizing import Ids, Piece
from llmkit.training import saving
from llmkit.training.devices import GPUS
from llmkit.training.estimating import GIB, UTILIZATION

VOCAB_SIZE, LENGTH, ID_BYTES, PAGE = 8192, 1024, 2, 4096
# Documents and their bytes. Source: dataset_info of C4, configuration en, split train, on the Hugging Face hub.
C4_DOCUMENTS, C4_BYTES = 364_868_892, 828_589_180_707
# Bytes of text a token of GPT-2. Source: OpenWebText's own page, 40 GB; nanoGPT's readme of it, 9,040,017,095 tokens.
TOKEN_BYTES = 40e9 / 9_040_017_095
TEXTS = {"1 GB": 1e9, "C4 en": C4_BYTES, "10 TB": 1e13}
# Parameters of GPT-2's four sizes, as GPT2LMHeadModel of transformers counts them; the last is a round number.
MODELS = {"124M": 124_439_808, "355M": 354_823_168, "774M": 774_030_080, "1.5B": 1_557_611_200, "7B": 7_000_000_000}
GPU, MICRO_TOKENS = "H100", 12 * LENGTH  # the micro-batch of recipes/pretrain/gpt2-124m.yaml
# Bytes a second in one direction. NVLink of an H100: half of 900 GB/s. Source: NVIDIA, H100 data sheet (SXM).
LINKS = {"NVLink, H100": 450e9, "400 Gbit/s": 50e9, "100 Gbit/s": 12.5e9}
# GPU-hours to an interruption that nobody planned. Sources: Llama 3 (arXiv 2407.21783, section 3.3.4): 419 in 54 days
# on 16,384 H100; OPT (arXiv 2205.01068, section 2.5): 35 restarts by hand and about 70 others in 2 months on 992 A100.
FAILURES = {"Llama 3": 54 * 24 * 16_384 / 419, "OPT-175B": 60 * 24 * 992 / 105}
INTERVALS = 200_000  # that are simulated: the share of time lost is then right to a few hundredths of itself


def main(arguments: list[str]) -> None:
    """Print the tables of docs/concepts/scale.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks scale", description=__doc__)
    parser.add_argument("--save-seconds", type=float, default=60, help="that a checkpoint takes")
    parser.add_argument("--restart-minutes", type=float, nargs="+", default=[10, 120], help="from failure to training")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print(f"{describe_processor()}; 1 thread; Python {sys.version.split()[0]}, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _print_readers(folder / "readers", 8_000_000)
        _begin("Readers of a stream of 3,000,000 tokens", "processes", "tokens that pass through each")
        for world in (1, 8):
            print(f"| {world} | {_span(count_streamed(list(draw_documents(3_000_000)), world))} |", flush=True)
        hashed, checked = _print_large_store(folder / "large")
        _print_order()
        _print_texts(folder / "readers", hashed, checked)
        _print_checkpoints(folder, hashed)
    _print_goodput(given.save_seconds, given.restart_minutes)
    _print_memory()
    _print_links()


def _begin(title: str, *head: str) -> None:
    print(f"\n## {title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}", flush=True)


def _span(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,}-{high:,}"


def _spell(seconds: float) -> str:
    limits = ((100, "s", 1), (6000, "min", 60), (math.inf, "h", 3600))
    return next(f"{seconds / one:.1f} {unit}" for limit, unit, one in limits if seconds < limit)


def _time(call: Callable[[], object], repeats: int = 3) -> float:
    """Give the seconds of the fastest of some calls."""
    return min(timeit.repeat(call, number=1, repeat=repeats))


class NotedStore(TokenStore):
    """Reads a token store, and notes each span that is read: (first token, tokens)."""

    spans: list[tuple[int, int]]

    def read(self, start: int, length: int) -> Ids:
        """Read tokens."""
        self.spans.append((start, length))
        return super().read(start, length)


@dataclass(frozen=True)
class Reading:
    """Holds what one process read: the positions of its rows, and the span of each in the store."""

    positions: list[int]
    spans: list[tuple[int, int]]


def deal(start: int, stop: int, micro: int, *, world: int, rank: int) -> Iterator[range]:
    """Deal out the positions from the start of a step to the end of another: the micro-batches of one process.

    This is the slice of llmkit.training.loop.read_steps; tests/data/test_scale.py compares the two.
    """
    starts = range(start, stop, micro)
    return (range(first, first + micro) for first in starts[rank::world])


def read_as(store: NotedStore, rows: OrderedRows, stop: int, micro: int, *, world: int) -> list[Reading]:
    """Read rows up to a position, as each of so many processes would."""
    readings = []
    for rank in range(world):
        store.spans, positions = [], list(itertools.chain(*deal(0, stop, micro, world=world, rank=rank)))
        for position in positions:
            rows[position]
        readings.append(Reading(positions, store.spans))
    return readings


def count_once(readings: Iterable[Reading], num_rows: int) -> int:
    """Count the rows of the first epoch that are read once by one process, by where they stand in the store."""
    found = Counter(s for r in readings for p, (s, _) in zip(r.positions, r.spans, strict=True) if p < num_rows)
    return sum(number == 1 for number in found.values())


def find_pages(spans: Iterable[tuple[int, int]], ends: Sequence[int]) -> set[tuple[int, int]]:
    """Find the pages that spans touch, as (shard, page of its file); `ends` are those of the shards in bytes."""
    pages = set()
    for first, length in spans:
        start, stop = first * ID_BYTES, (first + length) * ID_BYTES
        while start < stop:
            shard = bisect.bisect(ends, start)
            before, end = ends[shard - 1] if shard else 0, min(stop, ends[shard])
            pages |= {(shard, page) for page in range((start - before) // PAGE, (end - before - 1) // PAGE + 1)}
            start = end
    return pages


def make_tokenizer() -> Any:
    """Make a tokenizer of VOCAB_SIZE words."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    end = "<|endoftext|>"
    words = {end: 0} | {f"w{i}": i for i in range(1, VOCAB_SIZE)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, unk_token=end)), eos_token=end)


def draw_documents(num_tokens: int) -> Iterator[Piece]:
    """Draw random documents, as long as those of C4 on the average."""
    draw, mean, left = np.random.default_rng(0), C4_BYTES / C4_DOCUMENTS / TOKEN_BYTES, num_tokens
    while left:
        ids = draw.integers(0, VOCAB_SIZE, min(left, int(draw.integers(1, round(2 * mean)))))
        left -= len(ids)
        yield ids, True, ""


def write_sample(folder: Path, num_tokens: int, shard_tokens: int) -> None:
    """Write a token store of random documents, with shards of another size."""
    with mock.patch.object(stores, "SHARD_TOKENS", shard_tokens):
        stores.write_store(folder, draw_documents(num_tokens), make_tokenizer(), counts=Counts("random documents"))


def _print_readers(folder: Path, num_tokens: int) -> None:
    write_sample(folder, num_tokens, 1_000_000)
    store = NotedStore.open(folder)
    assert isinstance(store, NotedStore)
    rows = ShuffledRows(TokenRows(store, max_length=LENGTH, on_long="split", pack=True), seed=0)
    ends = np.cumsum([path.stat().st_size for path in sorted(folder.glob("*.bin"))]).tolist()
    head = ("processes", "rows a step", "rows of an epoch read once", "bytes of a process", "shards of a process")
    _begin(f"Readers of {num_tokens:,} tokens in {len(ends)} shards", *head, "4 KiB pages", "µs a row")
    for world, batch, micro in ((1, 512, 8), (8, 512, 8), (64, 512, 8), (1000, 1000, 1)):
        stop, began = -(-rows.num_rows // batch) * batch, time.perf_counter()
        readings = read_as(store, rows, stop, micro, world=world)
        seconds = (time.perf_counter() - began) / stop
        sizes = [sum(length for _, length in reading.spans) * ID_BYTES for reading in readings]
        pages = [find_pages(reading.spans, ends) for reading in readings]
        shards = _span([len({shard for shard, _ in found}) for found in pages])
        print(
            f"| {world:,} | {batch:,} as {micro} | {count_once(readings, rows.num_rows):,} of {rows.num_rows:,} "
            f"| {_span(sizes)} | {shards} | {_span([len(found) for found in pages])} | {seconds * 1e6:.0f} |"
        )


def count_streamed(pieces: Sequence[Piece], world: int) -> list[int]:
    """Count the tokens that pass through each process of a run that reads a stream, up to the end of its last step."""
    num_rows, counted = sum(len(ids) for ids, _, _ in pieces) // LENGTH, []
    for rank in range(world):
        passed: list[int] = []

        def read(epoch: int, passed: list[int] = passed) -> Iterator[Piece]:
            for piece in pieces:
                passed.append(len(piece[0]))
                yield piece

        rows = StreamedRows(read, max_length=LENGTH, on_long="split", pack=True, seed=0)
        for position in itertools.chain(*deal(0, num_rows // (8 * world) * 8 * world, 8, world=world, rank=rank)):
            rows[position]
        counted.append(sum(passed))
    return counted


def _print_large_store(folder: Path) -> tuple[float, float]:
    """Print what a cold row costs; return the bytes a second of hashing and of looking at each id, both from memory."""
    write_sample(folder, 1 << 26, 1 << 27)
    path = folder / "shard-00000.bin"
    _begin("A cold row of 2 KiB", "the shard mapped", "KiB read from the disk", "ms")
    for name, at_random in (("as llmkit does", False), ("with MADV_RANDOM", True)):
        kib, seconds = _read_cold(path, at_random=at_random)
        print(f"| {name} | {kib:,.0f} | {seconds * 1e3:.1f} |")
    store, size = TokenStore.open(folder), path.stat().st_size
    store.check_ids(VOCAB_SIZE)  # into memory
    return size / _time(lambda: runfolder.hash_file(path)), size / _time(lambda: store.check_ids(VOCAB_SIZE))


def _read_cold(path: Path, *, at_random: bool) -> tuple[float, float]:
    """Read 16 rows of a file that the system does not hold in memory: (KiB from the disk, seconds) a row; on Linux."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # as np.memmap does for a store
    if at_random:
        held.madvise(mmap.MADV_RANDOM)
    size, draw = LENGTH * ID_BYTES, random.Random(0)
    places, before = [draw.randrange(len(held) // 2 - LENGTH) * 2 for _ in range(16)], _count_disk()
    seconds = _time(lambda: [held[place : place + size] for place in places], repeats=1)
    return (_count_disk() - before) / 1024 / len(places), seconds / len(places)


def _count_disk() -> int:
    lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("read_bytes")).split()[1])


def _print_order() -> None:
    _begin("Order", "rows", "µs a row", "memory at most, KiB", "a stored permutation, GB")
    for size in (10**6, 10**9, 10**12):
        places = range(0, size, size // 2000)

        def find(places: range = places, size: int = size) -> None:
            for place in places:
                shuffle_index(place, size, 0, 1)

        tracemalloc.start()
        find()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        print(f"| {size:,} | {_time(find) / len(places) * 1e6:.0f} | {peak / 1024:.1f} | {8 * size / 1e9:,} |")


def measure_starts(folder: Path) -> tuple[float, float]:
    """Measure the bytes a document that a process holds of a store, and that it takes at most until a run begins."""
    tracemalloc.start()
    store = TokenStore.open(folder)
    TokenRows(store, max_length=LENGTH, on_long="split", pack=True)
    assert store.fingerprint
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return store.starts.nbytes / store.num_documents, peak / store.num_documents


def _print_texts(folder: Path, hashed: float, checked: float) -> None:
    held, peak = measure_starts(folder)
    head = ("text", "tokens, 10^9", "ids, GB", "shards", "documents, 10^6", "starts held, GB", "at most, GB")
    last = (f"sha256 at {hashed / 1e9:.1f} GB/s", f"ids at {checked / 1e9:.0f} GB/s")
    _begin(f"A text in each process ({held:.0f} bytes a document held, {peak:.0f} at most)", *head, *last)
    for name, size in TEXTS.items():
        documents, tokens = size * C4_DOCUMENTS / C4_BYTES, size / TOKEN_BYTES
        print(
            f"| {name} | {tokens / 1e9:,.1f} | {tokens * ID_BYTES / 1e9:,.1f} "
            f"| {math.ceil(tokens / stores.SHARD_TOKENS):,} | {documents / 1e6:,.1f} | {documents * held / 1e9:,.3f} "
            f"| {documents * peak / 1e9:,.2f} | {_spell(size / hashed)} | {_spell(tokens * ID_BYTES / checked)} |"
        )


def measure_save(folder: Path) -> tuple[float, float]:
    """Save a step of a small model: (bytes, seconds) a parameter."""
    from transformers import GPT2Config, GPT2LMHeadModel

    ends = {"bos_token_id": 0, "eos_token_id": 0}
    model = GPT2LMHeadModel(GPT2Config(n_layer=6, n_embd=384, n_head=6, vocab_size=VOCAB_SIZE, **ends))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer = torch.optim.AdamW(model.parameters())
    optimizer.step()
    tokenizer, number = make_tokenizer(), sum(parameter.numel() for parameter in model.parameters())
    seconds = _time(lambda: saving.save_step(folder, 1, model, tokenizer, optimizer, {}, keep=1))
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors")) / number, seconds / number


def _print_checkpoints(folder: Path, hashed: float) -> None:
    each, seconds = measure_save(folder / "run")
    here = f"as measured here, {each / seconds / 1e6:.0f} MB/s"
    title = f"Checkpoints ({each:.2f} bytes a parameter)"
    _begin(title, "parameters", "GB", here, "1 GB/s, then sha256", "10 GB/s, then sha256")
    for name in ("124M", "1.5B", "7B"):
        size = MODELS[name] * each
        stated = " | ".join(f"{_spell(size / speed)} + {_spell(size / hashed)}" for speed in (1e9, 10e9))
        print(f"| {name} | {size / 1e9:.1f} | {_spell(size / each * seconds)} | {stated} |")


def find_interval(save: float, mtbf: float) -> float:
    """Find about the best time from one save to the next, all in seconds. Source: Young 1974."""
    return math.sqrt(2 * save * mtbf)


def compute_goodput(interval: float, save: float, restart: float, mtbf: float) -> float:
    """Compute the share of time that stays as training, where failures come at random, in saves and restarts too.

    Source: Daly 2006, the expected time to completion; all times in seconds.
    """
    return interval / (mtbf * math.exp(restart / mtbf) * math.expm1((interval + save) / mtbf))


def simulate_goodput(interval: float, save: float, restart: float, mtbf: float, seed: int = 0) -> float:
    """Run until so many intervals are saved, with failures by a clock that knows nothing of the run."""
    draw = random.Random(seed)
    now, saved, wait, failure = 0.0, 0, 0.0, draw.expovariate(1 / mtbf)
    while saved < INTERVALS:
        end = now + wait + interval + save
        if end <= failure:
            now, saved, wait = end, saved + 1, 0.0
        else:
            now, wait, failure = failure, restart, failure + draw.expovariate(1 / mtbf)
    return saved * interval / now


def _print_goodput(save: float, minutes: Sequence[float]) -> None:
    head = ("a failure every", "GPUs", "hours to a failure", "restart, min", "save every", "goodput", "simulated")
    _begin(f"Goodput, {save:.0f} s a save", *head)
    cases = [*itertools.product(FAILURES, (8, 64, 1000), minutes[:1]), ("Llama 3", 16_384, minutes[0])]
    for source, gpus, restart in [*cases, *itertools.product(FAILURES, (1000,), minutes[1:])]:
        mtbf = FAILURES[source] * 3600 / gpus
        interval = find_interval(save, mtbf)
        found = [compute(interval, save, restart * 60, mtbf) for compute in (compute_goodput, simulate_goodput)]
        print(
            f"| {FAILURES[source]:,.0f} GPU-hours, {source} | {gpus:,} | {mtbf / 3600:,.1f} | {restart:.0f} "
            f"| {_spell(interval)} | {found[0]:.2%} | {found[1]:.2%} |"
        )


def _print_memory() -> None:
    head = ("model", "parameters", "DDP, GiB", "left of 24", "left of 80", "FSDP2 of 8, GiB", "with accumulation, GiB")
    _begin("Weights, gradients and moments of a process", *head)
    for name, number in MODELS.items():
        whole, dealt = 20 * number / GIB, 16 * number / 8 / GIB
        left = " | ".join(f"{memory - whole:.1f}" if whole < memory else "too much" for memory in (24, 80))
        kept = dealt + 4 * number * 7 / 8 / GIB  # gradients stay whole until the last micro-batch
        print(f"| {name} | {number:,.0f} | {whole:.1f} | {left} | {dealt:.1f} | {kept:.1f} |")


def stretch_step(link: float, micro_batches: int, *, sharded: bool) -> float:
    """Compute how many times as long as its arithmetic a step takes, communication hidden behind as much as can be.

    A parameter takes 2 operations a token forward and 4 backward. DDP sends 8 bytes of it behind the last backward
    pass; FSDP2 gathers 4 in each pass and scatters 4 in the last (ZeRO, arXiv 1910.02054, section 7: 3 for 2).
    """
    reached = GPUS[GPU].peak("bf16") * UTILIZATION
    forward, backward, word = 2 * MICRO_TOKENS / reached, 4 * MICRO_TOKENS / reached, 4 / link
    plain = micro_batches * (forward + backward)
    if not sharded:
        return (plain + max(0.0, 2 * word - backward)) / plain
    middle, last = max(backward, word), max(backward, 2 * word)
    return (micro_batches * max(forward, word) + (micro_batches - 1) * middle + last) / plain


def _print_links() -> None:
    reached = GPUS[GPU].peak("bf16") * UTILIZATION
    ways = list(itertools.product((False, True), (1, 10)))
    head = (f"{'FSDP2' if sharded else 'DDP'}, {number} x {MICRO_TOKENS:,}" for sharded, number in ways)
    _begin("A step and its communication", "link", "124M, ms", "1.5B, ms", "tokens that hide it", *head)
    for name, link in LINKS.items():
        sent = " | ".join(f"{8 * MODELS[model] / link * 1e3:,.0f}" for model in ("124M", "1.5B"))
        times = " | ".join(f"{stretch_step(link, number, sharded=sharded):.2f}" for sharded, number in ways)
        print(f"| {name} | {sent} | {2 * reached / link:,.0f} | {times} |")
    passes = ", ".join(f"{name} {4 * MODELS[name] * MICRO_TOKENS / reached * 1e3:,.0f} ms" for name in ("124M", "1.5B"))
    each = reached / (6 * MODELS["124M"])
    print(f"\n{GPU} at {UTILIZATION:.0%} of its peak: backward pass of {MICRO_TOKENS:,} tokens {passes}", end="; ")
    print(f"of 124M {each / (LENGTH - 1):,.0f} rows of {LENGTH:,} a second, {each * TOKEN_BYTES / 1e6:.1f} MB of text")
