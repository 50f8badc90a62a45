"""More examples for a small classifier: sentences that a larger one is sure of.

Of each document of a collection some sentences are drawn, and a teacher labels them; what it gives less than a bound is
left out. Every second one is set in SST-2's manner: lower case, marks apart.

    python -m benchmarks teach runs/sentiment-lora $LLMKIT_DATA/web/{c4,openwebtext}.jsonl -o taught.jsonl
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


def read_sentences(paths: Sequence[Path], most: int, rng: random.Random) -> Iterator[str]:
    """Draw at most so many sentences of each document."""
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines():
            text = json.loads(line)["text"]
            found = [" ".join(text[begin:end].split()) for begin, end in sentences.split(text, "en")]
            whole = [one for one in found if len(one.split()) in WORDS and one[-1] in ".!?" and one[0].isupper()]
            yield from rng.sample(whole, min(most, len(whole)))


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
    parser.add_argument("--most", type=int, default=20, help="sentences of a document")
    args = parser.parse_args(argv)
    drawn = list(dict.fromkeys(read_sentences(args.files, args.most, random.Random(0))))
    labels = llmkit.classify_batch(drawn, model=llmkit.load(args.teacher, task="classification"))
    sure = [(text, one.label) for text, one in zip(drawn, labels, strict=True) if one.score >= args.bound]
    rows = [{"text": text if i % 2 else set_apart(text), "label": label} for i, (text, label) in enumerate(sure)]
    args.output.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8")
    positive = sum(label == "positive" for _, label in sure)
    print(f"{len(rows):,} of {len(drawn):,} sentences, {positive:,} of them positive")
