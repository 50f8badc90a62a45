"""More examples for a small classifier: sentences and parts of reviews that a larger one is sure of.

Of each document of a collection (.jsonl) some sentences are drawn, every second one set in SST-2's manner: lower case,
marks apart. Of each review of SST-2 (.tsv) some runs of words are drawn. A teacher labels them, and what it gives less
than a bound is left out.

    python -m benchmarks teach runs/sentiment-lora $LLMKIT_DATA/web/{c4,openwebtext}.jsonl -o taught.jsonl
    python -m benchmarks teach runs/sentiment-lora $LLMKIT_DATA/sentiment/sst2/train.tsv -o parts.jsonl --most 10
"""

import argparse
import json
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import llmkit
from llmkit import sentences

WORDS = range(5, 41)  # of a sentence that is taken
APART = re.compile(r"([.,!?;:()\"]|'s\b|n't\b)")


def draw_sentences(text: str, most: int, rng: random.Random) -> Iterator[str]:
    """Draw at most so many sentences of a document."""
    found = [" ".join(text[begin:end].split()) for begin, end in sentences.split(text, "en")]
    whole = [one for one in found if len(one.split()) in WORDS and one[-1] in ".!?" and one[0].isupper()]
    for i, one in enumerate(rng.sample(whole, min(most, len(whole)))):
        yield one if i % 2 else set_apart(one)


def draw_parts(words: Sequence[str], most: int, rng: random.Random) -> Iterator[str]:
    """Draw runs of words of a review, of two words and more."""
    for _ in range(most if len(words) > 2 else 0):
        length = rng.randint(2, len(words) - 1)
        begin = rng.randint(0, len(words) - length)
        yield " ".join(words[begin : begin + length])


def draw(paths: Sequence[Path], most: int) -> Iterator[str]:
    """Draw of every document and review."""
    rng = random.Random(0)
    for path in paths:
        for line in filter(None, path.read_text(encoding="utf-8").split("\n")):
            if path.suffix == ".tsv":
                yield from draw_parts(line.partition("\t")[0].split(), most, rng)
            else:
                yield from draw_sentences(json.loads(line)["text"], most, rng)


def set_apart(text: str) -> str:
    """Set a sentence as SST-2 has its own."""
    return " ".join(APART.sub(r" \1 ", text.lower()).split())


def main(argv: list[str]) -> None:
    """Write labelled sentences as JSON lines."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks teach")
    parser.add_argument("teacher")
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--bound", type=float, default=0.9)
    parser.add_argument("--most", type=int, default=20, help="sentences of a document, parts of a review")
    args = parser.parse_args(argv)
    drawn = list(dict.fromkeys(draw(args.files, args.most)))
    labels = llmkit.classify_batch(drawn, model=llmkit.load(args.teacher, task="classification"))
    sure = [(text, one.label) for text, one in zip(drawn, labels, strict=True) if one.score >= args.bound]
    rows = [{"text": text, "label": label} for text, label in sure]
    args.output.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8")
    positive = sum(label == "positive" for _, label in sure)
    print(f"{len(rows):,} of {len(drawn):,} texts, {positive:,} of them positive")
