"""Question answering as transformers 4.57 did it: windows over the context, a softmax a window, whole words."""

import dataclasses
import inspect
import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llmkit import checking, heads, runtime
from llmkit.encoding.prompts import mask_surrogates
from llmkit.errors import InputError
from llmkit.loading import Loaded
from llmkit.tasks.compat.examples import Example, is_lazy, read_example, read_examples, read_lazily
from llmkit.tasks.compat.spans import Choice, Floats, Tally, Window
from llmkit.tasks.sampling import check_count

logger = logging.getLogger("llmkit")

MAX_SEQ_LEN, DOC_STRIDE = 384, 128  # where neither the call nor the tokenizer bids less
SEGMENTS = "token_type_ids"
NO_SETTINGS = {"question", "context", "data", "X", "batch_size", "num_workers", "padding"}
# Tokenizers that gave segments in transformers 4.57 and give none in 5.23, without the ending Fast.
GAVE_SEGMENTS = {"Albert", "Cpm", "Funnel", "Herbert", "RemBert", "RoFormer", "Splinter", "XLNet"}


@dataclass(frozen=True)
class Cut:
    """Holds how a context is cut into windows; the names are those of transformers 4.

    `doc_stride` is what neighbours share. `max_question_len` has no effect, as in 4.57 with a fast tokenizer.
    """

    max_seq_len: int | None = None
    doc_stride: int | None = None
    max_question_len: int = 64


class QuestionAnsweringPipeline:
    """Answers questions from contexts; called as transformers 4.57's pipeline of this name was.

    Attributes:
        model: The model.
        tokenizer: Its tokenizer.
        device: Where the model computes.
        task: "question-answering".
    """

    task = "question-answering"
    framework = "pt"

    def __init__(self, lm: Loaded, **settings: object) -> None:
        if getattr(lm.tokenizer, "backend_tokenizer", None) is None:
            raise InputError(
                f"question-answering needs a tokenizer that knows characters, got {type(lm.tokenizer).__name__}; "
                "expected a fast one (tokenizer.json)"
            )
        self.model, self.tokenizer = lm
        self.device = self.model.device
        accepts = inspect.signature(self.model.forward).parameters
        names = set(self.tokenizer.model_input_names) | ({SEGMENTS} if gave_segments(lm) else set())
        self._names = {name for name in names if name in accepts}
        self._fixed = {"use_cache": False} if "use_cache" in accepts else {}
        self._settings = given(settings)
        self._settle(self._settings)

    def __call__(self, *args: object, **kwargs: object) -> Any:
        """Answer one or several questions.

        Args:
            *args: A dictionary with question and context, several, a list, a generator or a Dataset of them; or a
                question and a context.
            **kwargs: `question` and `context`, texts or lists, in the place of args, and the settings: top_k,
                doc_stride, max_answer_len, max_seq_len, handle_impossible_answer, align_to_words, batch_size (windows
                a forward).

        Returns:
            For one question {"score", "start", "end", "answer"}, or with top_k above 1 a list of up to so many; for
            several a list of these; for a generator or Dataset an iterator over these.

        Raises:
            InputError: A question, a context or a setting must be mended.
        """
        cut, choice, batch_size = self._settle({**self._settings, **given(kwargs)})
        examples = read_examples(args, kwargs)
        if is_lazy(examples):
            return self._answer((read_example(item) for item in read_lazily(examples)), cut, choice, batch_size)
        answers = list(self._answer(examples, cut, choice, batch_size))
        return answers[0] if len(answers) == 1 else answers

    def _settle(self, settings: Mapping[str, object]) -> tuple[Cut, Choice, int]:
        for name in ("top_k", "max_answer_len", "max_seq_len", "batch_size"):
            if name in settings:
                check_count(name, settings[name])  # type: ignore[arg-type]
        cuts, choices = ({f.name for f in dataclasses.fields(kind)} for kind in (Cut, Choice))
        for name in settings.keys() - cuts - choices - NO_SETTINGS:
            logger.info(f"{name} has no effect on question-answering")
        cut = dataclasses.replace(Cut(), **{k: v for k, v in settings.items() if k in cuts})  # type: ignore[arg-type]
        choice = dataclasses.replace(Choice(), **{k: v for k, v in settings.items() if k in choices})  # type: ignore[arg-type]
        return cut, choice, settings.get("batch_size", 1)  # type: ignore[return-value]

    def _answer(self, examples: Any, cut: Cut, choice: Choice, batch_size: int) -> Iterator[Any]:
        """Answer examples in their order, `batch_size` windows a forward, reading no further ahead than a batch."""
        rows = (row for example in examples for row in self._rows(example, cut, choice))
        while batch := list(itertools.islice(rows, batch_size)):
            logits = self._forward([window for window, _, _ in batch])
            for (window, tally, is_last), (start, end) in zip(batch, logits, strict=True):
                tally.add(window, start, end)
                if is_last:
                    yield tally.best()

    def _rows(self, example: Example, cut: Cut, choice: Choice) -> Iterator[tuple[Window, Tally, bool]]:
        encodings, tally = self._encode(example, cut), Tally(example.context, choice)
        for i, encoding in enumerate(encodings):
            yield self._window(encoding), tally, i == len(encodings) - 1

    @property
    def _question_first(self) -> bool:
        """Whether the question stands before the context; with a tokenizer that pads on the left it stands after it."""
        return bool(self.tokenizer.padding_side == "right")

    def _encode(self, example: Example, cut: Cut) -> list[Any]:
        """Cut an example into windows, Encodings of tokenizers, with the whole question in each."""
        size, stride = self._sizes(cut)
        question, context = mask_surrogates(example.question), mask_surrogates(example.context)
        self._check_room(question, context, size, stride)
        first, second = (question, context) if self._question_first else (context, question)
        encoded = self.tokenizer(
            text=first,
            text_pair=second,
            truncation="only_second" if self._question_first else "only_first",
            max_length=size,
            stride=stride,
            return_overflowing_tokens=True,
            verbose=False,
        )
        encodings: list[Any] = encoded.encodings
        limit, longest = self._limit(), max(len(encoding) for encoding in encodings)
        if limit is not None and longest > limit:
            raise InputError(f"max_seq_len is too large, got windows of {longest} tokens; the model takes {limit}")
        return encodings

    def _window(self, encoding: Any) -> Window:
        """Mark the tokens that an answer may hold; with the context first transformers 4.57 allowed all."""
        ids = np.array(encoding.ids)
        if self._question_first:
            in_context = np.array([sequence == 1 for sequence in encoding.sequence_ids])
            allowed = in_context | (ids == self.tokenizer.cls_token_id)
        else:
            allowed = np.ones(len(ids), bool)
        return Window(encoding.ids, encoding.type_ids, allowed, encoding, int(self._question_first))

    def _sizes(self, cut: Cut) -> tuple[int, int]:
        """Settle the length of a window and what neighbours share, in tokens."""
        limit = self._limit() or MAX_SEQ_LEN
        size = cut.max_seq_len or min(self.tokenizer.model_max_length, MAX_SEQ_LEN, limit)
        stride = min(size // 2, DOC_STRIDE) if cut.doc_stride is None else cut.doc_stride
        if not 0 <= stride <= size:
            raise InputError(f"doc_stride out of range, got {stride}; expected 0 to max_seq_len ({size})")
        return size, stride

    def _limit(self) -> int | None:
        """The longest window that the model takes, in tokens."""
        return heads.context_length(self.model.config)

    def _check_room(self, question: str, context: str, size: int, stride: int) -> None:
        """Check that a window holds the question and moves on; the tokenizer itself would panic or say little."""
        taken = len(self._count(question)) + self.tokenizer.num_special_tokens_to_add(pair=True)
        marks = self.tokenizer.num_special_tokens_to_add(pair=False)
        room = size - taken
        if stride < room and stride < size - marks:
            return
        if len(self._count(context)) > room:
            if room <= 0:
                raise InputError(
                    f"the question fills the window of {size} tokens, got {taken} with the marks around it",
                    hint="max_seq_len=N makes the window larger",
                )
            raise InputError(
                f"doc_stride is too large, got {stride}; expected fewer than the {room} tokens that the question leaves"
            )
        if stride >= size - marks:
            raise InputError(f"doc_stride is too large, got {stride}; expected fewer than {size - marks}")

    def _count(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def _forward(self, windows: Sequence[Window]) -> list[tuple[Floats, Floats]]:
        """Compute the logits of each window, in a batch padded on the right. Shape of each: (length of the window,)."""
        longest = max(len(window.ids) for window in windows)

        def stack(rows: Sequence[Sequence[int]], fill: int) -> torch.Tensor:
            padded = [[*row, *[fill] * (longest - len(row))] for row in rows]
            return torch.tensor(padded, dtype=torch.long, device=self.device)

        inputs = {"input_ids": stack([w.ids for w in windows], self.tokenizer.pad_token_id or 0)}
        if "attention_mask" in self._names or len(windows) > 1:
            inputs["attention_mask"] = stack([[1] * len(w.ids) for w in windows], 0)
        if SEGMENTS in self._names:
            inputs[SEGMENTS] = stack([w.type_ids for w in windows], 0)
        with runtime.quiet(), torch.inference_mode():
            output = self.model(**inputs, **self._fixed)
        start, end = (output[name].float().cpu().numpy() for name in ("start_logits", "end_logits"))
        return [(start[i, : len(w.ids)], end[i, : len(w.ids)]) for i, w in enumerate(windows)]


def gave_segments(lm: Loaded) -> bool:
    """Tell whether transformers 4.57 fed a checkpoint segments that the tokenizer of transformers 5.23 leaves out.

    A checkpoint that llmkit trained is fed as in its training.
    """
    if lm.facts or "model_input_names" in getattr(lm.tokenizer, "init_kwargs", {}):
        return False
    if type(lm.tokenizer).__name__.removesuffix("Fast").removesuffix("Tokenizer") in GAVE_SEGMENTS:
        return True
    described = Path(str(getattr(lm.tokenizer, "name_or_path", ""))) / "tokenizer_config.json"
    return described.is_file() and checking.read_json(described).get("tokenizer_class") == "PreTrainedTokenizerFast"


def given(settings: Mapping[str, object]) -> dict[str, object]:
    """Keep the settings that say something, under today's names; transformers 4 took None for the default."""
    kept = {name: value for name, value in settings.items() if value is not None}
    if "topk" in kept:
        alias = kept.pop("topk")
        kept.setdefault("top_k", alias)
    return kept
