"""From an example to the rows of tokens that a model is trained on: one way of encoding for training and use."""

import functools
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from llmkit import windows
from llmkit.data.columns import describe
from llmkit.data.examples import Completion, Kind, Label, Labelled, Pair, Question
from llmkit.encoding import pairs, prompts, segments
from llmkit.encoding.directions import Direction
from llmkit.errors import InputError

logger = logging.getLogger("llmkit")

OnLong = Literal["error", "cut", "split", "drop"]
Array = npt.NDArray[Any]
Row = dict[str, Array]
ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]

IGNORED = -100  # the label of what is no target


@dataclass(frozen=True)
class Encoded:
    """Holds an example as rows; none where it is longer than a row may be and is left out for that.

    `long` is the key that states how long a row may be, and the tokens that the example has.
    """

    rows: Sequence[Row]
    long: tuple[str, int] | None = None


class Encoder(Protocol):
    """Turns examples of one kind into rows."""

    @property
    def kind(self) -> Kind:
        """What it takes."""
        ...

    @property
    def facts(self) -> Mapping[str, object]:
        """All that decides what it gives, beside the tokenizer, as JSON."""
        ...

    def encode(self, example: Any) -> Encoded:
        """Encode an example.

        Raises:
            InputError: It cannot be encoded; names it.
        """
        ...


def _check_max_length(max_length: int, *, overlap: int = 0, num_special: int = 0) -> None:
    from llmkit.data.rows import check_max_length  # which imports torch: labels and windows are found without it

    check_max_length(max_length, overlap=overlap, num_special=num_special)


@dataclass(frozen=True)
class CompletionEncoder:
    """Encodes a prompt as it is in use, and after it the completion and end-of-text, which alone are targets.

    `cut` takes the beginning of a long prompt away, as `--truncate left` does, and the end of a completion that even
    alone is too long.
    """

    tokenizer: Any
    max_length: int
    on_long: OnLong
    kind: Kind = "completion"

    def __post_init__(self) -> None:
        """Check that a row can hold a token of the prompt and one of the completion.

        Raises:
            InputError: It cannot.
        """
        _check_max_length(self.max_length, overlap=1)

    @property
    def facts(self) -> Mapping[str, object]:
        """All that decides what it gives."""
        return {"max_length": self.max_length, "on_long": self.on_long, "template": self.tokenizer.chat_template}

    def encode(self, example: Completion) -> Encoded:
        """Encode an example: input_ids and labels, Shape: (length,) each."""
        given = example.prompt
        if example.is_turn and isinstance(given, str):
            given = prompts.ask(self.tokenizer, given)
        try:
            prompt = prompts.encode_prompt(self.tokenizer, given)
        except InputError as err:
            raise InputError(f"{example.where}: {err}", hint=err.hint) from None
        end = prompts.end_of_text(self.tokenizer)
        completion = [*segments.encode_texts(self.tokenizer, [example.completion])[0], *([] if end is None else [end])]
        length = len(prompt) + len(completion)
        if length > self.max_length:
            if self.on_long != "cut":
                return Encoded([], ("max_length", length))
            completion = completion[: self.max_length - 1]
            prompt = prompts.cut_left(self.tokenizer, prompt, self.max_length - len(completion))
        ids = np.array([*prompt, *completion], np.int32)
        labels = np.where(np.arange(len(ids)) < len(prompt), IGNORED, ids).astype(np.int32)
        return Encoded([{"input_ids": ids, "labels": labels}])


@dataclass(frozen=True)
class PairEncoder:
    """Encodes a source and a target for an encoder-decoder, each as in use; `cut` takes the end of either away."""

    tokenizer: Any
    direction: Direction
    max_length: int
    max_target_length: int
    on_long: OnLong
    kind: Kind = "pair"

    def __post_init__(self) -> None:
        """Check that a row can hold a token of the source, and of the target, beside what stands around it.

        Raises:
            InputError: It cannot.
        """
        _check_max_length(self.max_length, num_special=len(self.direction.encode(self.tokenizer, "")))
        least = 1 + len(self.direction.encode_target(self.tokenizer, ""))
        if self.max_target_length < least:
            got = f"got {self.max_target_length}; expected {least} or more"
            raise InputError(f"data.max_target_length: a target needs a token and what stands around it, {got}")

    @property
    def facts(self) -> Mapping[str, object]:
        """All that decides what it gives."""
        told = {key: str(value) for key, value in vars(self.direction).items() if key != "settings"}
        return {"lengths": [self.max_length, self.max_target_length], "on_long": self.on_long, "direction": told}

    def encode(self, example: Pair) -> Encoded:
        """Encode an example: input_ids, Shape: (length,), and labels, Shape: (target length,)."""
        source = self.direction.encode(self.tokenizer, example.source)
        target = self.direction.encode_target(self.tokenizer, example.target)
        for key, ids, most in (
            ("max_length", source, self.max_length),
            ("max_target_length", target, self.max_target_length),
        ):
            if len(ids) <= most:
                continue
            if self.on_long != "cut":
                return Encoded([], (key, len(ids)))
            del ids[most - 1 : -1]  # what ends it stays
        return Encoded([{"input_ids": np.array(source, np.int32), "labels": np.array(target, np.int32)}])


@dataclass(frozen=True)
class LabelEncoder:
    """Encodes a text as in use, and its label by the names of the classes.

    A label is a name, or a number from 0; several, or none, where the classes don't exclude each other; a value, or one
    for each label, in a regression.
    """

    tokenizer: Any
    labels: Sequence[str]
    problem_type: ProblemType
    with_types: bool
    max_length: int
    on_long: OnLong
    kind: Kind = "label"

    def __post_init__(self) -> None:
        """Check that a row can hold a token of the text beside the special ones.

        Raises:
            InputError: It cannot.
        """
        _check_max_length(self.max_length, num_special=self._frame.num_special)

    @property
    def facts(self) -> Mapping[str, object]:
        """All that decides what it gives."""
        shape = {"max_length": self.max_length, "on_long": self.on_long, "with_types": self.with_types}
        return {**shape, "labels": list(self.labels), "problem_type": self.problem_type}

    def encode(self, example: Labelled) -> Encoded:
        """Encode an example: input_ids, Shape: (length,), and labels, Shape: () a class, or (labels,) values."""
        frame = self._frame
        ids = segments.begin(self.tokenizer, segments.encode_texts(self.tokenizer, [example.text])[0], frame)
        room = self.max_length - frame.num_special
        if len(ids) > room and self.on_long in ("error", "drop"):
            return Encoded([], ("max_length", len(ids) + frame.num_special))
        parts = list(windows.spans(len(ids), room, 0)) if self.on_long == "split" else [(0, min(len(ids), room))]
        labels = self._encode_label(example)
        rows = []
        for start, stop in parts:
            wrapped = frame.wrap(ids[start:stop])
            row: Row = {"input_ids": np.array(wrapped.ids, np.int32), "labels": labels}
            if self.with_types:
                row["token_type_ids"] = np.array(wrapped.type_ids, np.int32)
            rows.append(row)
        return Encoded(rows)

    @functools.cached_property
    def _frame(self) -> segments.Frame:
        return segments.find_frame(self.tokenizer)

    def _encode_label(self, example: Labelled) -> Array:
        given = example.label if isinstance(example.label, tuple) else (example.label,)
        if self.problem_type == "regression":
            values = [self._to_value(example.where, label) for label in given]
            if len(values) != len(self.labels):
                raise InputError(f"{example.where}: expected {len(self.labels)} values as label, got {len(values)}")
            return np.array(values, np.float32)
        if self.problem_type == "multi_label_classification":
            if isinstance(example.label, str):  # of a table without lists
                given = tuple(name for name in (part.strip() for part in example.label.split(",")) if name)
            chosen = {self._find_label(example.where, label) for label in given}
            return np.array([float(i in chosen) for i in range(len(self.labels))], np.float32)
        if len(given) != 1:
            raise InputError(
                f"{example.where}: got {len(given)} labels; expected one",
                hint="model.problem_type: multi_label_classification takes several",
            )
        return np.array(self._find_label(example.where, given[0]), np.int64)

    def _find_label(self, where: str, label: Label) -> int:
        try:
            return find_label(label, self.labels, where)
        except InputError as err:
            hint = f"model.labels names all labels of the data, as in model.labels=[{str(label)[:40]}, ...]"
            raise InputError(str(err), hint=hint) from None

    @staticmethod
    def _to_value(where: str, label: Label) -> float:
        try:
            value = float(label) if isinstance(label, str | int | float) else float("nan")
        except ValueError:
            value = float("nan")
        if not np.isfinite(value):
            raise InputError(f"{where}: expected a number as label, got {label!r}")
        return value


def find_label(label: object, names: Sequence[str], where: str) -> int:
    """Find which class a label of the data means: by its name, or by its number from 0.

    Raises:
        InputError: It means none of them.
    """
    if label in names:
        return names.index(str(label))
    digits = str(label)
    if isinstance(label, str | int) and digits.isdecimal() and len(digits) < 10 and int(digits) < len(names):
        return int(digits)
    got = repr(label) if isinstance(label, str | int | float) else describe(label)
    raise InputError(f"{where}: unknown label, got {got}; expected {_shorten(names)}, or 0 to {len(names) - 1}")


def note_missing_classes(found: Collection[int], names: Sequence[str], purpose: str) -> None:
    """Note the classes that no example has.

    Args:
        found: The classes that examples have.
        names: The names of all classes.
        purpose: What the examples are for, as "train on".
    """
    if missing := [name for i, name in enumerate(names) if i not in found]:
        logger.info(f"no example to {purpose} is labelled {_shorten(missing)}")


def _shorten(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")


@dataclass(frozen=True)
class WindowEncoder:
    """Encodes a question and windows of its text as in use, with where the answer begins and ends in each.

    A window that does not hold all of the answer points at the token that means that there is none. Of several right
    answers the first counts.
    """

    tokenizer: Any
    with_types: bool
    max_length: int
    stride: int | None
    kind: Kind = "question"

    @property
    def facts(self) -> Mapping[str, object]:
        """All that decides what it gives."""
        return {"max_length": self.max_length, "stride": self.stride, "with_types": self.with_types}

    def encode(self, example: Question) -> Encoded:
        """Encode an example: each row has input_ids, Shape: (length,), start_positions and end_positions, Shape: ()."""
        try:
            context = pairs.encode_context(self.tokenizer, example.context)
            frame = pairs.frame_question(self.tokenizer, example.question)
            room = pairs.find_room(frame, self.max_length)
            stride = pairs.settle_stride(room, self.stride)
        except InputError as err:
            raise InputError(f"{example.where}: {err}", hint=err.hint) from None
        first, last = self._find_answer(example, context)
        rows = []
        for start, stop in windows.spans(len(context.ids), room, stride):
            ids = frame.fill(context.ids[start:stop].tolist())
            inside = first is not None and last is not None and start <= first and last < stop
            if inside:
                assert first is not None
                assert last is not None
                begin, end = (place - start + len(frame.before) for place in (first, last))
            elif frame.null is None:
                continue  # a tokenizer that cannot say so: such a window teaches nothing
            else:
                begin = end = frame.null % len(ids)
            row: Row = {
                "input_ids": np.array(ids, np.int32),
                "start_positions": np.array(begin, np.int64),
                "end_positions": np.array(end, np.int64),
            }
            if self.with_types:
                row["token_type_ids"] = np.array(frame.fill_segments(stop - start), np.int32)
            rows.append(row)
        return Encoded(rows)

    @staticmethod
    def _find_answer(example: Question, context: pairs.Context) -> tuple[int | None, int | None]:
        """Find the first and the last token of the answer; None where there is none.

        Raises:
            InputError: The answer does not stand where the data say, or nowhere in the text.
        """
        if not example.answers:
            return None, None
        answer, start = example.answers[0], example.starts[0] if example.starts else None
        stated = None if start is None else example.context[start : start + len(answer)]
        if stated not in (None, answer):
            raise InputError(
                f"{example.where}: answer_start {start} points to {str(stated)[:40]!r}, the answer is {answer[:40]!r}",
                hint="data.on_bad: skip leaves such rows out",
            )
        start = example.context.find(answer) if start is None else start
        if start < 0 or not answer:
            raise InputError(
                f"{example.where}: the answer {answer[:40]!r} does not stand in the text",
                hint="data.on_bad: skip leaves such rows out",
            )
        stop = start + len(answer)
        inside = np.flatnonzero((context.ends > start) & (context.starts < stop) & (context.ends > context.starts))
        if not len(inside):
            raise InputError(f"{example.where}: no token of the text holds the answer {answer[:40]!r}")
        return int(inside[0]), int(inside[-1])
