"""Count the Han bigrams of the Chinese texts that builtin/tiny was trained on, for tests/test_builtin.py.

    python tests/han_bigrams.py chinese_tech.jsonl.gz

writes tests/han_bigrams.txt: in its first line the share of bigrams of the held-out documents that the list knows, then
a line for each first character, which is followed by all second ones that occur with it three times or more. The held
out documents are not counted.
"""

import collections
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from llmkit import read_recipe
from llmkit.data.ledger import Counts
from llmkit.data.sources import read_documents

LIST = Path(__file__).with_name("han_bigrams.txt")
RUN = re.compile("[\u4e00-\u9fff]{2,}")
AT_LEAST = 3


def bigrams(texts: Iterable[str]) -> Iterator[str]:
    """List the pairs of Han that stand side by side."""
    return (run[i : i + 2] for text in texts for run in RUN.findall(text) for i in range(len(run) - 1))


def read_list() -> tuple[float, set[str]]:
    """Read the share of the held-out text and the bigrams."""
    first, *lines = LIST.read_text(encoding="utf-8").splitlines()
    return float(first.rpartition(" ")[2]), {line[0] + second for line in lines for second in line[1:]}


def share(texts: Iterable[str], known: set[str]) -> float:
    """Compute the share of the bigrams of texts that are known."""
    pairs = list(bigrams(texts))
    return sum(pair in known for pair in pairs) / len(pairs)


def main(path: str) -> None:
    """Write the list."""
    recipe = read_recipe("tiny", {"data.mix.0.path": "unread.jsonl", "data.mix.1.path": path})
    assert recipe.data.mix is not None
    source = recipe.data.mix[1]
    texts = [document.text for document in read_documents(source, counts=Counts("texts"))]
    held = int(source.eval_documents or 0)
    counted = collections.Counter(bigrams(texts[:-held]))
    seconds: dict[str, str] = {}
    for pair in sorted(pair for pair, number in counted.items() if number >= AT_LEAST):
        seconds[pair[0]] = seconds.get(pair[0], "") + pair[1]
    known = {first + second for first, line in seconds.items() for second in line}
    lines = [f"{len(known)} bigrams; share in held-out text: {share(texts[-held:], known):.4f}"]
    LIST.write_text("\n".join([*lines, *(first + line for first, line in seconds.items())]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
