"""Label texts: classify and sentiment, by a head, by entailment, or by the words of a language model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict, Unpack

import torch

from llmkit import runtime, windows
from llmkit.batching import Budget
from llmkit.defaults import default_checkpoint
from llmkit.encoding import segments
from llmkit.errors import InputError, RunError
from llmkit.heads import find_head
from llmkit.loading import Checkpoint, Loaded, load
from llmkit.tasks.labelling import ByEntailment, ByHead, ByPrompt, Method, Window, check_hypothesis, find_entailment
from llmkit.tasks.results import Classification
from llmkit.tasks.sampling import check_count, check_names

TASKS = ("classification", "generation")  # the heads that can label a text
SENTIMENT = ("negative", "positive")  # where the checkpoint brings no labels of its own
HYPOTHESIS = "This example is {}."
AT_ONCE = 4096  # windows that are planned together


class Labelling(TypedDict, total=False):
    """The settings of classification.

    labels: The labels to choose from; None takes the checkpoint's own.
    hypothesis: What an entailment model is asked, with {} for the label ("This example is {}.").
    max_length: The tokens of a window, special ones included; None takes what the model does.
    stride: The tokens of the text that neighbouring windows share; None takes none.
    batch_size: At most so many windows at a time; None finds it from the free memory.
    """

    labels: Sequence[str] | None
    hypothesis: str | None
    max_length: int | None
    stride: int | None
    batch_size: int | None


def classify(text: str, *, model: Checkpoint | None = None, **settings: Unpack[Labelling]) -> Classification:
    """Label a text of any length.

    A checkpoint with a classification head has its own labels. One trained on entailment (NLI) takes any labels, and so
    does a language model, which is asked for the label in a prompt. A text that is longer than the model takes is read
    in windows: what the model says of each (logits; for a language model log-probabilities) is averaged, each window
    with the weight of its tokens, and the scores are computed from that average. `num_windows` tells how many there
    were.

    Args:
        text: The text.
        model: A checkpoint's name, loaded at each call, or a Loaded; None takes the default.
        **settings: See Labelling.

    Raises:
        TypeError: The text or a label is not a str.
        InputError: An argument is out of range or does not go with the checkpoint, or the text is empty and the
            tokenizer has no token to begin one with.
    """
    if not isinstance(text, str):
        raise TypeError(f"the text must be a str, got {type(text).__name__}")
    check_names(settings, Labelling)
    return prepare(model, **settings).answer([text])[0]


def classify_batch(
    texts: Sequence[str], *, model: Checkpoint | None = None, **settings: Unpack[Labelling]
) -> list[Classification]:
    """Label many texts; the results come in the order given, each what classify returns for it alone.

    Arguments are those of classify.

    Raises:
        TypeError: A text is not a str; names its index, and nothing is started.
        InputError: As for classify.
    """
    _check_texts(texts)
    check_names(settings, Labelling)
    return prepare(model, **settings).answer(texts)


def sentiment(text: str, *, model: Checkpoint | None = None, **settings: Unpack[Labelling]) -> Classification:
    """Tell the sentiment of a text: classify, with negative and positive where a checkpoint has no such labels.

    Arguments and errors are those of classify.
    """
    if not isinstance(text, str):
        raise TypeError(f"the text must be a str, got {type(text).__name__}")
    check_names(settings, Labelling)
    return prepare(model, fallback=SENTIMENT, **settings).answer([text])[0]


def sentiment_batch(
    texts: Sequence[str], *, model: Checkpoint | None = None, **settings: Unpack[Labelling]
) -> list[Classification]:
    """Tell the sentiment of many texts; the results come in the order given.

    Arguments and errors are those of classify_batch.
    """
    _check_texts(texts)
    check_names(settings, Labelling)
    return prepare(model, fallback=SENTIMENT, **settings).answer(texts)


def _check_texts(texts: Sequence[str]) -> None:
    if isinstance(texts, str) or not isinstance(texts, Sequence):
        raise TypeError(f"texts must be a list of texts, got {type(texts).__name__}")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"text {i} must be a str, got {type(text).__name__}")


@dataclass(frozen=True)
class Source:
    """Holds a text and its ids, without special tokens."""

    text: str
    ids: Sequence[int]


@dataclass(frozen=True)
class Job:
    """Holds what all texts of one call share: the model, how labels are scored, the windows and the batches.

    Attributes:
        lm: The checkpoint.
        method: Scores the labels.
        room: The tokens of text in a window.
        overlap: The tokens of text that neighbouring windows share.
        budget: What a batch may hold.
    """

    lm: Loaded
    method: Method
    room: int
    overlap: int
    budget: Budget

    def answer(self, texts: Sequence[str]) -> list[Classification]:
        """Label texts.

        Raises:
            InputError: A text cannot be read; names its index where there are several, and none is labelled.
            RunError: The model gives numbers that are not finite.
        """
        sources = []
        for i, source in enumerate(self.encode(texts)):
            if isinstance(source, InputError):
                raise source if len(texts) == 1 else InputError(f"text {i}: {source}", hint=source.hint)
            sources.append(source)
        return self.run(sources)

    def encode(self, texts: Sequence[str]) -> list[Source | InputError]:
        """Encode texts together; in the place of a text that cannot be read stands why."""
        found: list[Source | InputError] = []
        for text, ids in zip(texts, segments.encode_texts(self.lm.tokenizer, texts), strict=True):
            try:
                found.append(Source(text, segments.begin(self.lm.tokenizer, ids, self.method.frame)))
            except InputError as err:
                found.append(err)
        return found

    def run(self, sources: Sequence[Source]) -> list[Classification]:
        """Label encoded texts.

        Raises:
            RunError: The model gives numbers that are not finite.
        """
        spans = [list(windows.spans(len(source.ids), self.room, self.overlap)) for source in sources]
        cut = [
            Window(source.ids[start:end], source.text if len(own) == 1 else None)
            for source, own in zip(sources, spans, strict=True)
            for start, end in own
        ]
        if not cut:
            return []
        groups = (cut[first : first + AT_ONCE] for first in range(0, len(cut), AT_ONCE))
        values = torch.cat([self.method.measure(group, self.budget) for group in groups])
        if not bool(torch.isfinite(values).all()):
            raise RunError(f"{self.lm.name or 'the model'} gives scores that are not finite")
        weights = torch.tensor([max(len(window.ids), 1) for window in cut], dtype=torch.float64)
        results, first = [], 0
        for own in spans:
            part = slice(first, first + len(own))
            first += len(own)
            share = weights[part] / weights[part].sum()
            results.append(self._result(self.method.read(share @ values[part]).tolist(), len(own)))
        return results

    def _result(self, scores: list[float], num_windows: int) -> Classification:
        ranked = dict(sorted(zip(self.method.labels, scores, strict=True), key=lambda pair: -pair[1]))
        label = next(iter(ranked))
        return Classification(label=label, score=ranked[label], scores=ranked, num_windows=num_windows)


def prepare(
    model: Checkpoint | None,
    labels: Sequence[str] | None = None,
    hypothesis: str | None = None,
    max_length: int | None = None,
    stride: int | None = None,
    batch_size: int | None = None,
    *,
    fallback: tuple[str, ...] | None = None,
) -> Job:
    """Check the arguments, load the model where only its name is given, and choose how labels are scored.

    Arguments are those of classify; `fallback` are the labels where neither the call nor the checkpoint has any.

    Raises:
        TypeError: A label is not a str.
        InputError: An argument is out of range, or does not go with the checkpoint.
    """
    check_arguments(labels, hypothesis, max_length, stride, batch_size)
    lm = load(model if model is not None else default_checkpoint("classification"), task=TASKS)
    method = _choose(lm, None if labels is None else tuple(labels), hypothesis, fallback)
    room = method.room(size := segments.settle_size(lm, max_length))
    if room < 1:
        raise InputError(f"a window of {size:,} tokens leaves no room for the text beside what is asked of it")
    overlap = segments.settle_stride(lm, stride)
    if overlap >= room:
        raise InputError(
            f"stride out of range, got {overlap:,}; expected less than {room:,}, the tokens of text in a window"
        )
    return Job(lm, method, room, overlap, Budget(runtime.token_budget(lm.model), batch_size))


def check_arguments(
    labels: Sequence[str] | None,
    hypothesis: str | None,
    max_length: int | None,
    stride: int | None,
    batch_size: int | None,
) -> None:
    """Check arguments before any work.

    Raises:
        TypeError: A label is not a str.
        InputError: An argument is out of range.
    """
    for name, value in (("max_length", max_length), ("batch_size", batch_size)):
        if value is not None:
            check_count(name, value)
    if stride is not None and (isinstance(stride, bool) or not isinstance(stride, int) or stride < 0):
        raise InputError(f"stride out of range, got {stride!r}; expected a whole number from 0")
    if hypothesis is not None:
        check_hypothesis(hypothesis)
    if labels is None:
        return
    if isinstance(labels, str) or not isinstance(labels, Sequence) or not all(isinstance(x, str) for x in labels):
        raise TypeError(f"labels must be a list of str, got {labels!r}")
    if not labels or not all(label.strip() for label in labels) or len(set(labels)) < len(labels):
        raise InputError(f"labels must be there, not empty and each once, got {', '.join(labels) or 'none'}")


def _choose(
    lm: Loaded, labels: tuple[str, ...] | None, hypothesis: str | None, fallback: tuple[str, ...] | None
) -> Method:
    """Choose how labels are scored, by the head of the model and the labels that are wanted."""
    name = lm.name or "the model"
    is_language_model = find_head(lm.model) == "generation"
    entailment = None if is_language_model else find_entailment(lm)
    if hypothesis is not None and entailment is None:
        raise InputError(f"hypothesis goes with a model trained on entailment, {name} is none")
    if is_language_model:
        wanted = labels or fallback
        if wanted is None or len(wanted) < 2:
            raise InputError(
                f"{name} is a language model without labels of its own, got {len(wanted or ())}; expected two or more",
                hint="--labels negative,positive (in Python: labels=['negative', 'positive'])",
            )
        return ByPrompt(lm, wanted)
    own = ByHead(lm)
    wanted = labels or (fallback if entailment is not None else None)
    if hypothesis is not None and wanted is None:
        raise InputError("hypothesis needs the labels that are set into it, got none; expected labels beside it")
    if wanted is None or (hypothesis is None and set(wanted) == set(own.labels)):
        return own
    if entailment is None:
        raise InputError(
            f"{name} has the labels {', '.join(own.labels)}, got {', '.join(wanted)}",
            hint="for others -m names a language model, or a model of entailment (in Python: model=)",
        )
    return ByEntailment(lm, wanted, hypothesis or HYPOTHESIS, entailment)
