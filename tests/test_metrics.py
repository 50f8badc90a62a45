"""Metrics against the published definitions, written down here once more in other words, and against stored values."""

import json
import pathlib
import random
import re

import pytest
import sacrebleu

from llmkit import metrics
from llmkit.errors import InputError
from llmkit.evaluation.outcomes import count_labels, sum_labels

VALUES = json.loads(pathlib.Path(__file__).with_name("metric_values.json").read_text(encoding="utf-8"))
WORDS = [
    "the",
    "a",
    "an",
    "The",
    "cat",
    "Cat,",
    "sat",
    "(on)",
    "mat.",
    "'s",
    "theatre",
    "U.S.A.",
    "1,000",
    "—",
    "猫",
    "\u3000",
    "\t",
]


def tokens(text):
    """Normalize as SQuAD's scripts do: lower case, then no ASCII punctuation, then no articles, then single spaces."""
    lowered = "".join(c for c in text.lower() if not (c.isascii() and c.isprintable() and not c.isalnum() and c != " "))
    found, word_character = [], re.compile(r"\w")
    for piece in re.split(r"(\w+)", lowered):  # an article is a whole run of word characters
        found.append(" " if piece in ("a", "an", "the") and word_character.match(piece) else piece)
    return "".join(found).split()


def bag_f1(gold, found):
    left, same = list(gold), 0
    for token in found:
        if token in left:
            left.remove(token)
            same += 1
    if not same:
        return 0.0
    precision, recall = same / len(found), same / len(gold)
    return 2 * precision * recall / (precision + recall)


def v1(prediction, answers):
    """SQuAD v1.1: exact match and F1, each the best over the right answers."""
    found = tokens(prediction)
    return float(any(tokens(a) == found for a in answers)), max(bag_f1(tokens(a), found) for a in answers)


def v2(prediction, answers):
    """SQuAD v2.0: answers that normalize to nothing do not count; without any, only the empty answer is right."""
    found = tokens(prediction)
    golds = [tokens(a) for a in answers if tokens(a)] or [[]]
    scores = [bag_f1(gold, found) if gold and found else float(gold == found) for gold in golds]
    return float(found in golds), max(scores)


def synthetic(count, *, unanswerable):
    """Predictions near their answers: equal, cut, lengthened, articles and punctuation alone, empty."""
    rng = random.Random(0)
    text = lambda: " ".join(rng.choices(WORDS, k=rng.randint(1, 5)))  # noqa: E731
    for _ in range(count):
        answers = [text() for _ in range(rng.randint(0 if unanswerable else 1, 3))]
        near = rng.choice(answers or [text()])
        yield rng.choice([near, near.upper(), near[2:], near + " " + text(), text(), "the", "", "!"]), answers


@pytest.mark.parametrize(("definition", "reference"), [("squad-v1.1", v1), ("squad-v2.0", v2)])
def test_answers_are_scored_as_squad_does(definition, reference):
    rows = list(synthetic(2000, unanswerable=definition == "squad-v2.0"))
    expected = [reference(*row) for row in rows]
    assert sum(0 < f1 < 1 for _, f1 in expected) > 300
    found = [
        (metrics.exact_match(*row, definition=definition), metrics.f1(*row, definition=definition)) for row in rows
    ]
    assert found == expected


@pytest.mark.parametrize(
    ("prediction", "answers", "v1_scores", "v2_scores"),
    [
        ("The  Cat!", ["cat"], (1, 1), (1, 1)),
        ("a", ["the"], (1, 0), (1, 1)),  # no words on either side: F1 is 0 in v1.1
        ("cat", ["the", "cat"], (1, 1), (1, 1)),
        ("the", ["cat"], (0, 0), (0, 0)),
        ("", ["the", "cat"], (1, 0), (0, 0)),  # an answer without words is dropped in v2.0
        ("cat sat", ["cat", "sat on it"], (0, 2 / 3), (0, 2 / 3)),
    ],
)
def test_squad_versions_differ_only_where_nothing_is_left(prediction, answers, v1_scores, v2_scores):
    for definition, scores in (("squad-v1.1", v1_scores), ("squad-v2.0", v2_scores)):
        assert metrics.exact_match(prediction, answers, definition=definition) == scores[0]
        assert metrics.f1(prediction, answers, definition=definition) == scores[1]


@pytest.mark.parametrize(
    ("definition", "prediction", "score"),
    [
        ("squad-v2.0", "", 1),
        ("squad-v2.0", "The!", 1),
        ("squad-v2.0", "cat", 0),
        ("cmrc-2018", "", 1),
        ("cmrc-2018", "。", 1),
        ("cmrc-2018", "猫", 0),
    ],
)
def test_question_without_answer_wants_none(definition, prediction, score):
    assert metrics.exact_match(prediction, [], definition=definition) == score
    assert metrics.f1(prediction, [], definition=definition) == score


def test_question_without_answer_is_refused_by_squad_v1():
    with pytest.raises(
        InputError, match=r"^squad-v1\.1 cannot score a question without an answer; expected squad-v2\.0$"
    ):
        metrics.f1("cat", [])


def test_chinese_answers_are_scored_as_cmrc_does():
    expected = [(em, f1) for _, _, em, f1 in VALUES["chinese"]]
    assert sum(0 < f1 < 1 for _, f1 in expected) > 100
    found = [
        (metrics.exact_match(p, answers, definition="cmrc-2018"), metrics.f1(p, answers, definition="cmrc-2018"))
        for p, answers, _, _ in VALUES["chinese"]
    ]
    assert found == expected


@pytest.mark.parametrize(
    ("prediction", "answer", "exact", "f1"),
    [
        ("《战国无双3》", "战国无双3", 1, 1),  # full-width punctuation does not count
        ("人工智能。", "人工 智能", 0, 1),  # a space counts for the exact match alone
        ("人工智", "人工智能", 0, 6 / 7),  # characters
        ("智人工能", "人工智能", 0, 0.5),  # the longest run, not the common characters
        ("iPhone 15手机", "iphone 15 Pro手机", 0, 4 / 9),  # words elsewhere: iphone, 15, and pro, 手, 机
        ("……", "", 0, 0),
    ],
)
def test_chinese_answers_count_characters(prediction, answer, exact, f1):
    assert metrics.exact_match(prediction, [answer], definition="cmrc-2018") == exact
    assert metrics.f1(prediction, [answer], definition="cmrc-2018") == pytest.approx(f1)


@pytest.mark.parametrize("case", VALUES["labels"])
def test_labels_are_scored_as_scikit_learn_does(case):
    assert metrics.accuracy(case["predictions"], case["labels"]) == case["accuracy"]
    assert metrics.f1_macro(case["predictions"], case["labels"]) == pytest.approx(case["f1_macro"], abs=1e-12)


def some_rows(count, seed=0):
    """Predictions near their references: English, Chinese, empty and marks alone."""
    rng = random.Random(seed)
    pieces = {"en": [*WORDS, *"nobody", "answered", "him", "3.14", "dollars", "don't"]}
    pieces["zh"] = [*"猫坐在垫子上他说你好世界价格是元", "。", "，", "！", "《", "》", "3.14"]
    pieces["marks"] = [*"!?.,。，…"]
    for _ in range(count):
        kind = rng.choice(["en", "en", "zh", "zh", "marks", "empty"])
        words = rng.choices(pieces[kind], k=rng.randint(1, 12)) if kind != "empty" else []
        cut = rng.choice([0, 0, 1, 3])
        found = rng.choice([words, words[cut:], words[: len(words) - cut], [*words, "end"], words[::-1], []])
        yield [(" " if kind == "en" else "").join(part) for part in (found, words)]


def test_2000_labels_are_scored_as_scikit_learn_does():
    scores = pytest.importorskip("sklearn.metrics")
    rng = random.Random(1)
    rows = [(rng.choice("abcdefgh"), rng.choice("aaabbcdefg")) for _ in range(2000)]
    for begin, end in ((0, 2000), *((i, i + rng.randint(1, 40)) for i in range(0, 1960, 20))):
        found, right = zip(*rows[begin:end], strict=True)
        accuracy = scores.accuracy_score(right, found)
        f1_macro = scores.f1_score(right, found, average="macro", zero_division=0)
        assert metrics.accuracy(found, right) == pytest.approx(accuracy, rel=1e-12)
        assert metrics.f1_macro(found, right) == pytest.approx(f1_macro, rel=1e-12)
        numbers = [["abcdefgh".index(label) for label in labels] for labels in (found, right)]
        drawn = sum_labels(*numbers, 8).metrics()
        assert drawn == pytest.approx({"accuracy": accuracy, "f1_macro": f1_macro}, rel=1e-12)
        confusion = scores.confusion_matrix(right, found, labels=list("abcdefgh"))
        assert [list(row) for row in count_labels(*numbers, list("abcdefgh")).counts] == confusion.tolist()


@pytest.mark.parametrize("tokenize", ["13a", "zh", "char"])
def test_2000_translations_are_scored_as_sacrebleu_does(tokenize):
    rows = list(some_rows(2000))
    for begin, end in ((0, 2000), *((i, i + 1 + i % 7) for i in range(0, 1900, 100))):
        found, right = map(list, zip(*rows[begin:end], strict=True))
        wanted = sacrebleu.corpus_bleu(found, [right], tokenize=tokenize, force=True).score
        assert metrics.bleu(found, right, tokenize=tokenize).value == wanted
        assert metrics.chrf(found, right).value == sacrebleu.corpus_chrf(found, [right]).score
    assert 20 < metrics.bleu(*map(list, zip(*rows, strict=True)), tokenize=tokenize).value < 90


def test_each_translation_is_scored_as_sacrebleu_does():
    found, right = zip(*some_rows(2000), strict=True)
    wanted = [sacrebleu.sentence_chrf(a, [b]).score for a, b in zip(found, right, strict=True)]
    assert metrics.chrf_of_each(found, right) == wanted


def cmrc(prediction, answers):
    """CMRC 2018: characters, and the words between spaces elsewhere; the longest run in both, tried by length."""
    drop = set("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
    bare = ["".join(c for c in text.lower().strip() if c not in drop) for text in (prediction, *answers)]
    cut = [re.findall("[\u4e00-\u9fa5]|[^\\s\u4e00-\u9fa5]+", text) for text in bare]
    best = 0.0
    for gold in cut[1:]:
        runs = {tuple(gold[i:k]) for i in range(len(gold)) for k in range(i + 1, len(gold) + 1)}
        own = (tuple(cut[0][i:k]) for i in range(len(cut[0])) for k in range(i + 1, len(cut[0]) + 1))
        same = max((len(run) for run in own if run in runs), default=0)
        if same:
            best = max(best, 2 / (len(cut[0]) / same + len(gold) / same))
    return float(bare[0] in bare[1:]), best


def test_2000_chinese_answers_are_scored_as_cmrc_does():
    rng = random.Random(2)
    parts = [*"战国无双人工智能的未来", "，", "。", "《", "》", "？", " ", " abc ", " Yes ", " x1 "]
    text = lambda: "".join(rng.choices(parts, k=rng.randint(0, 9)))  # noqa: E731
    rows = []
    for _ in range(2000):
        answers = [text() for _ in range(rng.randint(1, 3))]
        near = rng.choice(answers)
        rows.append((rng.choice([near, near.upper(), near[2:], near + "。", near + text(), text(), ""]), answers))
    expected = [cmrc(*row) for row in rows]
    assert sum(0 < f1 < 1 for _, f1 in expected) > 500
    for row, (exact, f1) in zip(rows, expected, strict=True):
        assert metrics.exact_match(*row, definition="cmrc-2018") == exact
        assert metrics.f1(*row, definition="cmrc-2018") == pytest.approx(f1, rel=1e-12)


ENGLISH = ["The cat sat on the mat.", "He said: 'hello, world'!", "It costs 3.14 dollars ."] * 40
CHINESE = ["猫坐在垫子上。", "他说：“你好，世界！”", "它的价格是3.14元。"] * 40


@pytest.mark.parametrize(("tokenize", "texts"), [("13a", ENGLISH), ("zh", CHINESE), ("char", CHINESE)])
def test_translations_are_scored_as_sacrebleu_does(tokenize, texts):
    found = [text.replace("cat", "dog").replace("垫子", "桌子") for text in texts]
    bleu, chrf = metrics.bleu(found, texts, tokenize=tokenize), metrics.chrf(found, texts)
    assert bleu.value == pytest.approx(sacrebleu.corpus_bleu(found, [texts], tokenize=tokenize).score, abs=1e-9)
    assert chrf.value == pytest.approx(sacrebleu.corpus_chrf(found, [texts]).score, abs=1e-9)
    assert 10 < bleu.value < 95
    version = sacrebleu.__version__
    assert bleu.signature == f"nrefs:1|case:mixed|eff:no|tok:{tokenize}|smooth:exp|version:{version}"
    assert chrf.signature == f"nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:{version}"


def test_bleu_of_tokenized_text_warns_nobody(caplog, capsys):
    metrics.bleu(["a b ."] * 120, ["a b ."] * 120)
    assert (caplog.text, *capsys.readouterr()) == ("", "", "")


@pytest.mark.parametrize(
    ("language", "references", "tokenizer"),
    [
        ("zh", ["hello"], "zh"),
        ("zh_CN", [], "zh"),
        ("zho_Hant", [], "zh"),
        ("ja", [], "char"),
        ("jpn_Jpan", [], "char"),
        ("de", ["猫"], "13a"),
        (None, ["Guten Tag"], "13a"),
        (None, ["猫坐在垫子上。", "你好", "OK"], "zh"),
        (None, ["猫はマットの上に", "こんにちは", "OK"], "char"),
    ],
)
def test_bleu_tokenizer_follows_the_target_language(language, references, tokenizer):
    assert metrics.choose_tokenizer(language, references) == tokenizer
