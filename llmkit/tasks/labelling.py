"""Three ways to score labels: by a head, by entailment, and by the words of a language model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from llmkit.batching import Budget
from llmkit.encoding import segments
from llmkit.encoding.prompts import classification_prompt
from llmkit.encoding.segments import Frame
from llmkit.errors import InputError
from llmkit.loading import Loaded
from llmkit.scoring import score_continuations
from llmkit.tasks.logits import Head

SLACK = 8  # tokens by which a text may grow where it meets a prompt, and by a sixteenth where it is cut


@dataclass(frozen=True)
class Window:
    """Holds a window of a text: its ids, and the text itself where it is one window."""

    ids: Sequence[int]
    text: str | None


class Method(Protocol):
    """Scores the labels of windows.

    `labels` are in the order of the scores, `frame` holds what the tokenizer adds, `room` the tokens of text that a
    window of so many tokens has.
    """

    labels: tuple[str, ...]
    frame: Frame

    def room(self, size: int) -> int:
        """Count the tokens of text in a window of `size` tokens."""
        ...

    def measure(self, windows: Sequence[Window], budget: Budget) -> torch.Tensor:
        """Compute the values of each window that are averaged over a text. Shape: (windows, values), float64."""
        ...

    def read(self, values: torch.Tensor) -> torch.Tensor:
        """Turn the averaged values of a text into scores. Shape: (values,) to (labels,)."""
        ...


class ByHead:
    """Scores the labels that a head was trained for.

    The function is that of transformers' own pipeline: none for regression, the logistic function for several labels at
    once and for one label, else softmax. Source: TextClassificationPipeline.postprocess in transformers 5.23.
    """

    def __init__(self, lm: Loaded) -> None:
        self.labels = head_labels(lm)
        self.frame = segments.find_frame(lm.tokenizer)
        self._head, self._problem = Head(lm), lm.model.config.problem_type

    def room(self, size: int) -> int:
        """Count the tokens of text in a window of `size` tokens."""
        return size - self.frame.num_special

    def measure(self, windows: Sequence[Window], budget: Budget) -> torch.Tensor:
        """Compute the logits of each window. Shape: (windows, labels)."""
        return self._head.compute([self.frame.wrap(window.ids) for window in windows], budget)

    def read(self, values: torch.Tensor) -> torch.Tensor:
        """Apply the head's function."""
        if self._problem == "regression":
            return values
        if self._problem == "multi_label_classification" or len(self.labels) == 1:
            return values.sigmoid()
        return values.softmax(-1)


class ByEntailment:
    """Scores any labels by a model that tells whether one text follows from another.

    Each label is set into a hypothesis, and the softmax goes over the logits with which the text entails each; a label
    by itself is weighed against contradiction. Source: Yin et al. 2019, arXiv:1909.00161;
    ZeroShotClassificationPipeline in transformers 5.23.
    """

    def __init__(self, lm: Loaded, labels: tuple[str, ...], hypothesis: str, entailment: int) -> None:
        self.labels = labels
        self.frame = segments.find_frame(lm.tokenizer, pair=True)
        self._head, self._columns = Head(lm), [-1 if entailment == 0 else 0, entailment]
        self._hypotheses = segments.encode_texts(lm.tokenizer, [hypothesis.format(label) for label in labels])

    def room(self, size: int) -> int:
        """Count the tokens of text in a window of `size` tokens, beside the longest hypothesis."""
        return size - self.frame.num_special - max(map(len, self._hypotheses))

    def measure(self, windows: Sequence[Window], budget: Budget) -> torch.Tensor:
        """Compute the logits of contradiction and entailment. Shape: (windows, 2 * labels), label by label."""
        rows = [self.frame.wrap(window.ids, hypothesis) for window in windows for hypothesis in self._hypotheses]
        return self._head.compute(rows, budget)[:, self._columns].reshape(len(windows), -1)

    def read(self, values: torch.Tensor) -> torch.Tensor:
        """Compare the entailments of the labels, or that of the only label with its contradiction."""
        pairs = values.reshape(-1, 2)
        return pairs.softmax(-1)[:, 1] if len(pairs) == 1 else pairs[:, 1].softmax(-1)


class ByPrompt:
    """Scores any labels by the log-probability of each after a prompt; the softmax goes over the labels."""

    def __init__(self, lm: Loaded, labels: tuple[str, ...]) -> None:
        self.labels = labels
        self.frame = Frame([], [], [], (0, 0))
        self._lm = lm
        self._empty = self._ask("")

    def _ask(self, text: str) -> tuple[list[int], list[list[int]]]:
        return classification_prompt(self._lm.tokenizer, text, self.labels)

    def room(self, size: int) -> int:
        """Count the tokens of text in a window of `size` tokens, beside the prompt and the longest label."""
        prompt, labels = self._empty
        left = size - len(prompt) - max(map(len, labels))
        return left - left // 16 - SLACK

    def measure(self, windows: Sequence[Window], budget: Budget) -> torch.Tensor:
        """Compute the log-probability of each label, in nats. Shape: (windows, labels)."""
        asked = [self._ask(self._read(window)) for window in windows]
        prompts = [prompt for prompt, labels in asked for _ in labels]
        found = score_continuations(self._lm.model, prompts, [label for _, labels in asked for label in labels], budget)
        return torch.tensor([sum(tokens) for tokens in found], dtype=torch.float64).reshape(len(windows), -1)

    def _read(self, window: Window) -> str:
        if window.text is not None:
            return window.text
        decoded: str = self._lm.tokenizer.decode(list(window.ids))
        return decoded.strip("\ufffd")  # half a character at a border

    def read(self, values: torch.Tensor) -> torch.Tensor:
        """Normalize over the labels."""
        return values.softmax(-1)


def head_labels(lm: Loaded) -> tuple[str, ...]:
    """Find the labels of a head: those of llmkit.json where they fit it, else those of its config."""
    config = lm.model.config
    stated = (lm.facts or {}).get("labels")
    if isinstance(stated, list) and len(stated) == config.num_labels and all(isinstance(x, str) for x in stated):
        return tuple(stated)
    return tuple(str(config.id2label[i]) for i in range(config.num_labels))


def find_entailment(lm: Loaded) -> int | None:
    """Find the label of a head that means entailment, by its name; None where there is none."""
    found = (i for i, label in enumerate(head_labels(lm)) if label.lower().startswith("entail"))
    return next(found, None)


def check_hypothesis(hypothesis: str) -> None:
    """Check a template.

    Raises:
        InputError: It has no place for the label, or more than that.
    """
    try:
        good = hypothesis.format("x") != hypothesis.format("y")
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        good = False
    if not good:
        raise InputError(
            f"hypothesis needs a place for the label, got {hypothesis!r}; expected such as 'This example is {{}}.'"
        )
