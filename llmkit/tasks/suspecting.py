"""What makes the translation of a piece look wrong; bounds are wide, so that few good translations are suspected."""

import re
import unicodedata
from collections.abc import Iterator

WIDE = re.compile("[\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
HANGUL = re.compile("[\uac00-\ud7af]")
WEIGHTS = {"wide": 3, "hangul": 2}  # an English translation has about 3 letters a Chinese character
RATIO, SLACK = 3.0, 20.0
REPEATED = re.compile(r"(.{1,40}?)\1{3,}", re.DOTALL)
REPEATED_WEIGHT = 20.0
NUMBER = re.compile(r"\d[\d.,:'’\u00a0\u202f/-]*")
SIGNIFICANT = 3


def find_faults(source: str, made: str, *, reached_bound: bool) -> tuple[str, ...]:
    """Name what looks wrong with a translation; nothing where it looks right.

    - "bound": it was ended by the bound on its length, so its end is lost.
    - "empty": nothing came of a text.
    - "length": weighed, it is more than 3 times as long as its source or less than a third, and that by 20 letters; a
      Han character or kana weighs 3, a Hangul syllable 2, any other letter or digit 1.
    - "repetition": it says one thing of up to 40 characters 4 times or more in a row, at a weight of 20 or more, and
      its source does not.
    - "digits": a number of its source with 3 or more digits, zeros at its ends not counted, is not among its digits.
      Smaller numbers are often written as words; 1,000,000 may be 100万.
    """
    if not any(c.isalnum() for c in made):
        return ("bound", "empty") if reached_bound else ("empty",)
    faults = ["bound"] if reached_bound else []
    before, after = weigh(source), weigh(made)
    if max(before, after) > RATIO * min(before, after) + SLACK:
        faults.append("length")
    if measure_repetition(made) >= REPEATED_WEIGHT > measure_repetition(source):
        faults.append("repetition")
    digits = "".join(_numbers(made))
    if any(number.strip("0") not in digits for number in _numbers(source) if len(number.strip("0")) >= SIGNIFICANT):
        faults.append("digits")
    return tuple(faults)


def weigh(text: str) -> float:
    """Weigh a text by its letters and digits, so that texts of different scripts compare."""
    wide, hangul = len(WIDE.findall(text)), len(HANGUL.findall(text))
    others = sum(c.isalnum() for c in text) - wide - hangul
    return float(WEIGHTS["wide"] * wide + WEIGHTS["hangul"] * hangul + max(others, 0))


def measure_repetition(text: str) -> float:
    """Weigh the heaviest stretch of a text that says one thing, with a letter in it, 4 times or more in a row."""
    runs = (m[0] for m in REPEATED.finditer(text) if any(c.isalpha() for c in m[1]))
    return max((weigh(run) for run in runs), default=0.0)


def _numbers(text: str) -> Iterator[str]:
    """Give the digits of each number, in ASCII, without the marks that group them."""
    for match in NUMBER.finditer(text):
        yield "".join(str(unicodedata.digit(c)) for c in match[0] if unicodedata.digit(c, None) is not None)
