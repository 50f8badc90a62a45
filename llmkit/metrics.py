"""Metrics as they were published: of answers, labels and translations.

Each comes in the unit of its source: `exact_match` and `f1` of one answer, `accuracy` and `f1_macro` from 0 to 1,
`bleu` and `chrf` from 0 to 100. The published scripts for answers print the mean over all questions times 100.
"""

import contextlib
import os
import re
import string
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llmkit.errors import InputError

Definition = Literal["squad-v1.1", "squad-v2.0", "cmrc-2018"]

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)
HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
KANA = re.compile("[\u3040-\u30ff]")
# The published script's marks and characters. Its mark of two dots clusters never equals one character, so … stays.
CMRC_MARKS = str.maketrans("", "", "-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
CMRC_HAN = "\u4e00-\u9fa5"
CMRC_PARTS = re.compile(f"[{CMRC_HAN}]|[^{CMRC_HAN}]+")
# Where a word of the Penn Treebank begins or ends beside spaces.
OPENING_QUOTE = re.compile(r'(?:^|(?<=[ (\[{<]))"')
BREAKS = re.compile(
    r"""\.{2,} | '' | `` | [][;@\#$%&?!(){}<>"“„‘«»”’*–—]  # marks that stand alone everywhere
    | [:,](?!\d)                                        # 1,000 and 1:30 stay whole
    | (?<=[^.])\.(?=[])}>"'»”’\ ]*$)                    # the full stop at the very end
    | (?<![\w'])'(?=\w)(?!(?:re|ve|ll|[mtsdn])\b)       # a single quote that opens
    | (?<=[^'])'(?=\s|$)                                # one that closes
    | (?<=[^'\ ])(?:'(?:[smd]|ll|re|ve)|n't)\b          # it's, don't
    """,
    re.VERBOSE,
)
# Language -> tokenizer of sacrebleu; all others are 13a. Its own for Japanese, ja-mecab, needs a dictionary to install.
BLEU_TOKENIZERS = {"zh": "zh", "zho": "zh", "cmn": "zh", "yue": "zh", "ja": "char", "jpn": "char"}


def exact_match(prediction: str, answers: Sequence[str], *, definition: Definition = "squad-v1.1") -> float:
    """Tell whether an answer equals one of the right ones, both normalized: 1.0 or 0.0.

    Args:
        prediction: The answer; "" says that there is none.
        answers: The right answers; none where the question has no answer.
        definition: squad-v1.1 and squad-v2.0 drop case, ASCII punctuation, English articles and further white space;
            cmrc-2018 drops case and the marks of its script, full-width ones among them.

    Raises:
        InputError: There is no right answer, and the definition is squad-v1.1.

    Source: evaluate-v1.1.py and evaluate-v2.0.py of SQuAD (Rajpurkar et al. 2016, 2018); squad-style-data/
    cmrc2018_evaluate.py, v5, of CMRC 2018 (Cui et al. 2019), with the rule of SQuAD v2.0 where there is no answer.
    """
    normalize = _drop_marks if definition == "cmrc-2018" else _normalize
    wanted = normalize(prediction)
    return float(any(normalize(answer) == wanted for answer in _right_answers(answers, definition)))


def f1(prediction: str, answers: Sequence[str], *, definition: Definition = "squad-v1.1") -> float:
    """Compute the F1 of an answer against the right answer that it is nearest to, from 0 to 1.

    The SQuAD definitions count the words that both hold, in any order; where one of the two has no words, F1 is 0 in
    v1.1, and in v2.0 it is 1 if neither has. cmrc-2018 counts the longest run of segments that stands in both, a
    segment being a Chinese character or a word in another script, by the rules of the Penn Treebank: as NLTK's
    word_tokenize, which the script calls, but for the borders of sentences.

    Args:
        prediction: The answer; "" says that there is none.
        answers: The right answers; none where the question has no answer.
        definition: See exact_match.

    Raises:
        InputError: There is no right answer, and the definition is squad-v1.1.

    Source: as exact_match.
    """
    golds = _right_answers(answers, definition)
    if definition == "cmrc-2018":
        found = _segment(prediction)
        return max(_overlap(found, _segment(gold)) for gold in golds) if answers else float(not found)
    return max(_share(_normalize(prediction).split(), _normalize(gold).split(), definition) for gold in golds)


def _right_answers(answers: Sequence[str], definition: Definition) -> Sequence[str]:
    """Give the right answers; "" alone says that only no answer is right."""
    if definition == "squad-v2.0":
        return [answer for answer in answers if _normalize(answer)] or [""]
    if not answers and definition == "squad-v1.1":
        raise InputError("squad-v1.1 cannot score a question without an answer; expected squad-v2.0")
    return answers or [""]


def _normalize(text: str) -> str:
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def _share(prediction: list[str], gold: list[str], definition: Definition) -> float:
    """Compute F1 over bags of words."""
    if definition != "squad-v1.1" and not (prediction and gold):
        return float(prediction == gold)
    return _mean((Counter(prediction) & Counter(gold)).total(), len(prediction), len(gold))


def _mean(same: int, num_predicted: int, num_gold: int) -> float:
    """Compute the harmonic mean of precision and recall."""
    if same == 0:
        return 0.0
    precision, recall = same / num_predicted, same / num_gold
    return 2 * precision * recall / (precision + recall)


def _drop_marks(text: str) -> str:
    return text.lower().strip().translate(CMRC_MARKS)


def _segment(text: str) -> list[str]:
    """Cut a text into Chinese characters and the words of all else."""
    segments: list[str] = []
    for part in CMRC_PARTS.findall(_drop_marks(text)):
        segments += BREAKS.sub(r" \g<0> ", OPENING_QUOTE.sub("``", part)).split()
    return segments


def _overlap(prediction: list[str], gold: list[str]) -> float:
    """Compute F1 over the longest common run of segments."""
    longest = 0
    ends = [0] * (len(gold) + 1)  # the length of the common run that ends at each segment of gold
    for segment in prediction:
        ends = [0, *(ends[i] + 1 if segment == other else 0 for i, other in enumerate(gold))]
        longest = max(longest, *ends)
    return _mean(longest, len(prediction), len(gold))


def accuracy(predictions: Sequence[Hashable], labels: Sequence[Hashable]) -> float:
    """Compute the share of right labels, from 0 to 1; there must be one at least.

    Source: accuracy_score of scikit-learn 1.9.
    """
    return sum(a == b for a, b in zip(predictions, labels, strict=True)) / len(labels)


def f1_macro(predictions: Sequence[Hashable], labels: Sequence[Hashable]) -> float:
    """Compute the mean of the F1 of each label, from 0 to 1.

    It runs over the labels that occur in either sequence; one that is never predicted rightly counts 0.

    Source: f1_score(average="macro", zero_division=0) of scikit-learn 1.9.
    """
    right = Counter(a for a, b in zip(predictions, labels, strict=True) if a == b)
    sizes = Counter(predictions) + Counter(labels)
    return sum(2 * right[label] / size for label, size in sizes.items()) / len(sizes)


@dataclass(frozen=True)
class Score:
    """Holds a figure from 0 to 100 and the signature without which it cannot be compared with another."""

    value: float
    signature: str


def bleu(translations: Sequence[str], references: Sequence[str], *, tokenize: str = "13a") -> Score:
    """Compute the BLEU of a whole set of translations, one reference each.

    Args:
        translations: What was translated.
        references: The right translations.
        tokenize: A tokenizer of sacrebleu; see choose_tokenizer.

    Source: sacrebleu's corpus BLEU (Papineni et al. 2002; Post 2018).
    """
    metric = _make_metrics(tokenize)["bleu"]
    value = float(metric.corpus_score(translations, [references]).score)
    return Score(value, str(metric.get_signature()))


def chrf(translations: Sequence[str], references: Sequence[str]) -> Score:
    """Compute the chrF2 of a whole set of translations, one reference each.

    Source: sacrebleu's corpus chrF (Popović 2015).
    """
    metric = _make_metrics()["chrf"]
    value = float(metric.corpus_score(translations, [references]).score)
    return Score(value, str(metric.get_signature()))


def chrf_of_each(translations: Sequence[str], references: Sequence[str]) -> list[float]:
    """Compute the chrF2 of each translation by itself. Source: sacrebleu's sentence chrF."""
    metric = _make_metrics()["chrf"]
    pairs = zip(translations, references, strict=True)
    return [float(metric.sentence_score(found, [right]).score) for found, right in pairs]


def _make_metrics(tokenize: str = "13a") -> dict[str, Any]:
    from sacrebleu.metrics import BLEU, CHRF

    # force keeps a warning about tokenized text away, and does no more
    return {"bleu": BLEU(tokenize=tokenize, force=True), "chrf": CHRF()}


def resample_translations(
    translations: Sequence[str], references: Sequence[str], *, tokenize: str = "13a", resamples: int, seed: int
) -> dict[str, tuple[float, float]]:
    """Compute the 95 % interval of bleu and chrf: mean - half width to mean + half width of sacrebleu's bootstrap.

    Args:
        translations: What was translated.
        references: The right translations.
        tokenize: As for bleu.
        resamples: So many times the rows are drawn anew.
        seed: What they are drawn by.

    Source: sacrebleu's bootstrap (Koehn 2004).
    """
    # The test, of one system: corpus_score(n_bootstrap=) stops where a resample scores 0 (2.6).
    (found,) = _resample([translations], references, tokenize, resamples, seed)
    return {name: (float(one.mean - one.ci), float(one.mean + one.ci)) for name, one in found.items()}


def compare_translations(
    first: Sequence[str],
    second: Sequence[str],
    references: Sequence[str],
    *,
    tokenize: str = "13a",
    resamples: int,
    seed: int,
) -> dict[str, float]:
    """Compute how probable it is that two sets of translations of the same texts differ in bleu and chrf by chance.

    Args:
        first: The translations of one system.
        second: Those of the other.
        references: The right translations.
        tokenize: As for bleu.
        resamples: So many times the rows are drawn anew.
        seed: What they are drawn by.

    Returns:
        The p-values of bleu and chrf, from 0 to 1; 1 for equal translations.

    Source: sacrebleu's paired bootstrap test (Koehn 2004).
    """
    if list(first) == list(second):
        return {"bleu": 1.0, "chrf": 1.0}  # sacrebleu counts greater differences, and finds none where all are 0
    _, found = _resample([second, first], references, tokenize, resamples, seed)
    return {name: float(one.p_value) for name, one in found.items()}


def _resample(
    systems: Sequence[Sequence[str]], references: Sequence[str], tokenize: str, resamples: int, seed: int
) -> list[dict[str, Any]]:
    """Let sacrebleu test systems against the first; give of each its result by metric."""
    from sacrebleu.significance import PairedTest

    metrics = _make_metrics(tokenize)
    with _seeding(seed):
        named = [(str(i), list(system)) for i, system in enumerate(systems)]
        _, found = PairedTest(named, metrics, [list(references)], test_type="bs", n_samples=resamples)()
    results = [found[name] for name in found if name != "System"]  # by sacrebleu's names, in the order given
    return [dict(zip(metrics, ones, strict=True)) for ones in zip(*results, strict=True)]


@contextlib.contextmanager
def _seeding(seed: int) -> Iterator[None]:
    """Seed sacrebleu's bootstrap, counted from its own default, since it takes 0 for no seed.

    It reads its seed from the environment alone (2.6), which is left as it was.
    """
    name, before = "SACREBLEU_SEED", os.environ.get("SACREBLEU_SEED")
    os.environ[name] = str(12345 + seed)
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def choose_tokenizer(language: str | None, references: Sequence[str]) -> str:
    """Choose sacrebleu's tokenizer by the target language, or by the script of the references where none is stated.

    Args:
        language: A code such as zh, zh_CN or zho_Hans.
        references: The right translations.

    Returns:
        zh for Chinese, char for Japanese, else 13a, which finds no words in text without spaces.
    """
    if language is not None:
        return BLEU_TOKENIZERS.get(re.split("[-_]", language.lower())[0], "13a")
    if 2 * sum(KANA.search(text) is not None for text in references) > len(references):
        return "char"
    return "zh" if 2 * sum(HAN.search(text) is not None for text in references) > len(references) else "13a"
