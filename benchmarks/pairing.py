"""Two ways of doing the same, timed in turn, compared pair by pair."""

import math
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Comparison:
    """Holds the seconds of two ways, in pairs.

    `ratio` is the median of b/a over the pairs: above 1, a is the faster. `interval` are the order statistics between
    which the median lies with at least 95 % (9 pairs: the second and the eighth; source: the binomial distribution).
    """

    a: tuple[float, ...]
    b: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        """The ratio b/a of each pair, smallest first."""
        return sorted(y / x for x, y in zip(self.a, self.b, strict=True))

    @property
    def ratio(self) -> float:
        """The median ratio."""
        return statistics.median(self.ratios)

    @property
    def interval(self) -> tuple[float, float]:
        """The interval of the median ratio."""
        n, cut = len(self.ratios), 0
        while n >= 6 and _tail(n, cut + 1) <= 0.025:
            cut += 1
        return self.ratios[cut - 1 if cut else 0], self.ratios[n - cut if cut else n - 1]


def _tail(n: int, k: int) -> float:
    """Compute P(X < k) for X binomial (n, 1/2)."""
    return sum(math.comb(n, i) for i in range(k)) / float(2**n)


def compare(a: Callable[[], object], b: Callable[[], object], pairs: int) -> Comparison:
    """Time two functions in turn, after one uncounted run of each; the one that goes first alternates."""
    a(), b()
    seconds: tuple[list[float], list[float]] = ([], [])
    for i in range(pairs):
        for which in (0, 1) if i % 2 == 0 else (1, 0):
            started = time.perf_counter()
            (a, b)[which]()
            seconds[which].append(time.perf_counter() - started)
    return Comparison(tuple(seconds[0]), tuple(seconds[1]))


def describe_processor() -> str:
    """Name the processor, its cores and whether it computes bfloat16 natively."""
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.is_file() else ""
    names = [line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")]
    native = "native bfloat16" if "avx512_bf16" in text else "no native bfloat16"
    vectors = "AVX-512" if "avx512f" in text else "AVX2" if "avx2" in text else "no AVX2"
    return f"{len(names) or 1} cores {names[0] if names else platform.processor()}, {vectors}, {native}"
