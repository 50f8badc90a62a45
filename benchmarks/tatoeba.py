"""Tatoeba's English-Chinese pairs, split so that no held-out sentence was trained on in either language.

Many sentences have several translations: a split by rows would put one of them into training and another into the test.
Pairs that share a side, but for case, punctuation and script, stand in one group, and a group goes to one part whole.
The Chinese is simplified and traditional mixed. Where it is to be written, it is brought to simplified by OpenCC; where
it is to be read, training sees both forms. A third direction, en-hant, has the pairs that are traditional alone.

    pip install opencc
    python -m benchmarks tatoeba $LLMKIT_DATA/translation/tatoeba_en_zh.tsv -o tatoeba
"""

import argparse
import hashlib
import json
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from opencc import OpenCC

PARTS = {"test": 1000, "dev": 500}  # rows at least; the rest trains
SIMPLIFY = OpenCC("t2s")

Pair = tuple[str, str]


def find_key(text: str) -> str:
    """Reduce a sentence to what it has in common with its variants: letters and figures, lower case, simplified."""
    return "".join(c for c in SIMPLIFY.convert(text).casefold() if unicodedata.category(c)[0] in "LN")


def group_pairs(pairs: Sequence[Pair]) -> list[list[Pair]]:
    """Group pairs that share a side, directly or by others between them."""
    parents = list(range(len(pairs)))

    def find(i: int) -> int:
        while parents[i] != i:
            parents[i] = parents[parents[i]]
            i = parents[i]
        return i

    seen: dict[tuple[int, str], int] = {}
    for i, pair in enumerate(pairs):
        for side, text in enumerate(pair):
            parents[find(i)] = find(seen.setdefault((side, find_key(text)), i))
    groups: dict[int, list[Pair]] = defaultdict(list)
    for i, pair in enumerate(pairs):
        groups[find(i)].append(pair)
    return sorted(groups.values(), key=_draw)


def _draw(group: list[Pair]) -> bytes:
    """Give the place of a group in an order that looks random and depends on its sentences alone."""
    return hashlib.sha256(min(find_key(english) for english, _ in group).encode()).digest()


def split(pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
    """Split pairs into test, dev and train."""
    parts: dict[str, list[Pair]] = {name: [] for name in (*PARTS, "train")}
    for group in group_pairs(pairs):
        name = next((name for name, size in PARTS.items() if len(parts[name]) < size), "train")
        parts[name] += group
    return parts


def write(path: Path, rows: Iterable[Pair]) -> int:
    """Write rows as JSON lines, each once."""
    kept = dict.fromkeys(rows)
    lines = (json.dumps({"source": source, "target": target}, ensure_ascii=False) for source, target in kept)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return len(kept)


def main(argv: list[str]) -> None:
    """Write en-zh, zh-en and en-hant, each as train.jsonl, dev.jsonl and test.jsonl."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks tatoeba")
    parser.add_argument("file", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args(argv)
    lines = args.file.read_text(encoding="utf-8").splitlines()
    parts = split([(english, chinese) for english, chinese in (line.split("\t") for line in lines)])
    for direction in ("en-zh", "zh-en", "en-hant"):
        (args.output / direction).mkdir(parents=True, exist_ok=True)
    for name, pairs in parts.items():
        written = [(english, SIMPLIFY.convert(chinese)) for english, chinese in pairs]
        read = [(chinese, english) for english, chinese in pairs]
        if name == "train":
            read += [(chinese, english) for english, chinese in written]
        to_chinese = write(args.output / "en-zh" / f"{name}.jsonl", written)
        to_english = write(args.output / "zh-en" / f"{name}.jsonl", read)
        traditional = [pair for pair, simplified in zip(pairs, written, strict=True) if pair != simplified]
        to_traditional = write(args.output / "en-hant" / f"{name}.jsonl", traditional)
        print(
            f"{name}: {to_chinese:,} pairs en-zh, {to_english:,} zh-en, {to_traditional:,} en-hant, of {len(pairs):,}"
        )
