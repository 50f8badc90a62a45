"""Small checkpoints beside what needs no neural network, on the same held-out rows in the same run.

Sentiment: logistic regression over TF-IDF of words, pairs of words and up to three characters, trained on the same
reviews; its strength of regularization is chosen on dev. Translation: of the nearest training sentence, by TF-IDF of up
to four characters, the translation that stands beside it.

    python -m benchmarks baselines sentiment $LLMKIT_DATA/sentiment --model runs/sentiment-small
    python -m benchmarks baselines translation tatoeba
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline, make_union

import llmkit
from llmkit import metrics
from llmkit.evaluation.keys import read_keys
from llmkit.evaluation.reading import read_examples

WORDS = r"(?u)[^\W\u4e00-\u9fff]+"
STRENGTHS = (1.0, 10.0)
REVIEWS: Mapping[str, Mapping[str, object]] = {
    "sst2": {"column_names": ["text", "label"]},
    "chnsenticorp": {"text_column": "text_a"},
}


def read_reviews(folder: Path, name: str, part: str) -> tuple[list[str], list[int]]:
    """Read the texts and labels of a part of a data set."""
    keys = read_keys({"path": str(folder / name / f"{part}.tsv"), **REVIEWS[name]}, "classification")
    rows: Sequence[Any] = list(read_examples(keys, "classification"))
    return [row.text for row in rows], [int(row.label) for row in rows]


def fit_regression(texts: Sequence[str], labels: Sequence[int], strength: float) -> Any:
    """Fit logistic regression over TF-IDF."""
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=WORDS)
    characters = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), sublinear_tf=True, min_df=2)
    regression = LogisticRegression(C=strength, max_iter=1000)
    return make_pipeline(make_union(words, characters), regression).fit(texts, labels)


def compare_sentiment(folder: Path, checkpoint: str) -> None:
    """Print the accuracy of a checkpoint and of the regression on the test rows of both data sets."""
    parts = {name: [read_reviews(folder, name, part) for part in ("train", "dev", "test")] for name in REVIEWS}
    texts = [text for train, _, _ in parts.values() for text in train[0]]
    labels = [label for train, _, _ in parts.values() for label in train[1]]
    models = [fit_regression(texts, labels, strength) for strength in STRENGTHS]
    best = max(models, key=lambda model: sum(model.score(*dev) for _, dev, _ in parts.values()))
    for name, (_, _, test) in parts.items():
        data = {"path": str(folder / name / "test.tsv"), **REVIEWS[name]}
        ours = llmkit.evaluate(checkpoint, on="sentiment", data=data).metrics["accuracy"]
        print(f"{name}: {checkpoint} {ours:.4f}, TF-IDF and logistic regression {best.score(*test):.4f}")


def find_nearest(train: Sequence[str], test: Sequence[str]) -> list[int]:
    """Find, for each sentence of a test, the nearest one trained on."""
    vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, 4), sublinear_tf=True)
    known = vectorizer.fit_transform(train)
    return [int(row.argmax()) for row in vectorizer.transform(test) @ known.T]


def compare_translation(folder: Path) -> None:
    """Print BLEU and chrF of either on the test rows, in both directions."""
    for direction, tokenize in (("en-zh", "zh"), ("zh-en", "13a")):
        path = folder / direction
        keys = {part: read_keys(path / f"{part}.jsonl", "translation") for part in ("train", "test")}
        train, test = ([(row.source, row.target) for row in read_pairs(keys[part])] for part in ("train", "test"))
        nearest = find_nearest([source for source, _ in train], [source for source, _ in test])
        found, right = [train[i][1] for i in nearest], [target for _, target in test]
        theirs = f"BLEU {metrics.bleu(found, right, tokenize=tokenize).value:.1f}, chrF"
        theirs += f" {metrics.chrf(found, right).value:.1f}"
        name = f"builtin/translate-{direction}"
        ours = llmkit.evaluate(name, on="translation", data=path / "test.jsonl").metrics
        print(f"{name}: BLEU {ours['bleu']:.1f}, chrF {ours['chrf']:.1f}; nearest sentence: {theirs}")


def read_pairs(keys: Any) -> list[Any]:
    """Read pairs of sentences."""
    return list(read_examples(keys, "translation"))


def main(argv: list[str]) -> None:
    """Compare one task's checkpoints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks baselines")
    parser.add_argument("task", choices=["sentiment", "translation"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="runs/sentiment-small", help="what classifies")
    args = parser.parse_args(argv)
    if args.task == "sentiment":
        compare_sentiment(args.folder, args.model)
    else:
        compare_translation(args.folder)
