"""Makes metric_values.json, what scikit-learn and NLTK say, in an environment of its own: neither is a dependency.

python -m venv elsewhere && elsewhere/bin/pip install scikit-learn==1.9.1 nltk==3.10.4
elsewhere/bin/python tests/metric_values.py
"""

import json
import pathlib
import random
import re

PLACE = pathlib.Path(__file__).with_suffix(".json")
WORDS = "the 3.14 1,000 don't it's boys' rock 'n' (b.c.) u.s. \"the yes man\" 40% a:b 10:30 end. co., why? x—y ... 1–2"
HAN = "战国无双人工智能的未来是什么没有人知道今天天气很好"
MARKS = "，。：？！“”；’《》……·、「」（）－～『』-:_*^/\\~`+="


def label_cases(rng):
    """Labels at random: few and many, absent classes, ties, numbers and names."""
    cases = [([0, 0, 0], [1, 1, 1]), ([1, 1], [1, 1]), ([0, 1, 0, 1], [0, 1, 1, 0]), ([2, 2, 2, 2], [0, 1, 2, 3])]
    for size, names in ((7, "ab"), (50, "abc"), (200, "abcdefgh"), (30, "aaaaab"), (12, "abcdefghijkl")):
        cases.append((rng.choices(names, k=size), rng.choices(names, k=size)))
    return cases


def some_text(rng):
    """A short answer of Chinese, words and marks."""
    parts = []
    for _ in range(rng.randint(0, 4)):
        start = rng.randrange(len(HAN))
        parts.append(HAN[start : start + rng.randint(1, 5)])
        others = ["", "", rng.choice(MARKS), " " + rng.choice(WORDS.split(" ")), '"ABC def"', "The Yes Man"]
        parts.append(rng.choice(others))
    return "".join(parts)


def change(rng, text):
    """A prediction near an answer: cut, lengthened, in capitals or another one."""
    cut = rng.randint(0, len(text))
    return rng.choice([text, text[cut:], text[:cut], text.upper(), text + "。", some_text(rng) + text, some_text(rng)])


def segments(text):
    """The segments of CMRC 2018's script: characters and words, without its marks."""
    from nltk.tokenize import word_tokenize

    kept = "".join(c for c in text.lower().strip() if c not in MARKS.replace("…", ""))
    found = []
    for part in re.split("([\u4e00-\u9fa5])", kept):
        found += [part] if re.fullmatch("[\u4e00-\u9fa5]", part) else word_tokenize(part, preserve_line=True)
    return found


def chinese_scores(prediction, answers):
    """Exact match and F1 by that script."""
    best = 0.0
    for answer in answers:
        a, b = segments(answer), segments(prediction)
        runs = (
            n
            for n in range(min(len(a), len(b)), 0, -1)
            if any(a[i : i + n] == b[k : k + n] for i in range(len(a) - n + 1) for k in range(len(b) - n + 1))
        )
        same = next(runs, 0)
        if same:
            precision, recall = same / len(b), same / len(a)
            best = max(best, 2 * precision * recall / (precision + recall))
    bare = str.maketrans("", "", MARKS.replace("…", ""))
    plain = [text.lower().strip().translate(bare) for text in (prediction, *answers)]
    return float(plain[0] in plain[1:]), best


def main():
    """Write the values."""
    from sklearn.metrics import accuracy_score, f1_score

    rng = random.Random(0)
    labels = [
        {
            "predictions": predictions,
            "labels": golds,
            "accuracy": float(accuracy_score(golds, predictions)),
            "f1_macro": float(f1_score(golds, predictions, average="macro", zero_division=0)),
        }
        for predictions, golds in label_cases(rng)
    ]
    chinese = []
    for _ in range(300):
        answers = [some_text(rng) or HAN for _ in range(rng.randint(1, 3))]
        prediction = change(rng, rng.choice(answers))
        chinese.append([prediction, answers, *chinese_scores(prediction, answers)])
    rows = ",\n".join(json.dumps(row, ensure_ascii=False) for row in chinese)
    cases = ",\n".join(json.dumps(case) for case in labels)
    PLACE.write_text(f'{{"labels": [\n{cases}\n],\n"chinese": [\n{rows}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
