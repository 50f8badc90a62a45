"""The forms in which transformers 4 took questions and contexts, brought to one."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import GeneratorType
from typing import Any

from torch.utils.data import Dataset

from llmkit.errors import InputError

FORM = '{"question": ..., "context": ...}'


@dataclass(frozen=True)
class Example:
    """Holds a question and the text that is to answer it."""

    question: str
    context: str


def is_lazy(inputs: object) -> bool:
    """Tell whether inputs are read as they are needed, so that the answers come one by one as well."""
    return isinstance(inputs, GeneratorType | Dataset)


def read_lazily(inputs: Any) -> Iterator[Any]:
    """Iterate over a generator, or over a Dataset of torch, which may know only its length and its items."""
    if isinstance(inputs, GeneratorType) or hasattr(inputs, "__iter__"):
        yield from inputs
    else:
        yield from (inputs[i] for i in range(len(inputs)))


def read_examples(args: Sequence[object], named: Mapping[str, object]) -> Any:
    """Read the arguments of a call.

    Args:
        args: One or several dictionaries, a list of them, a generator, a Dataset; or a question and a context.
        named: `question` and `context`, each a text or a list, or `data` or `X`, as the first of args.

    Returns:
        A list of Example, or the generator or Dataset as it is; `read_example` reads its items.

    Raises:
        InputError: They are none of these.
    """
    if args:
        given: object = args[0]
        if len(args) == 2 and all(isinstance(arg, str) for arg in args):
            given = [{"question": args[0], "context": args[1]}]
        elif len(args) > 1:
            given = list(args)
    elif "X" in named or "data" in named:
        given = named.get("X", named.get("data"))
    elif "question" in named and "context" in named:
        given = {"question": named["question"], "context": named["context"]}
    else:
        raise InputError(f"a question and a context are needed, got {', '.join(named) or 'neither'}; expected {FORM}")
    if is_lazy(given):
        return given
    if isinstance(given, Mapping) or hasattr(given, "context_text"):
        given = [given]
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise InputError(f"questions cannot be read, got {type(given).__name__}; expected {FORM} or a list of them")
    return [example for item in given for example in read_item(item)]


def read_item(item: object) -> list[Example]:
    """Read a dictionary, or an object with `question_text` and `context_text`; lists in it are paired.

    Raises:
        InputError: It is neither, a text is missing or empty, or the lists differ in length.
    """
    if isinstance(item, Example):
        return [item]
    if hasattr(item, "question_text") and hasattr(item, "context_text"):
        item = {"question": item.question_text, "context": item.context_text}
    if not isinstance(item, Mapping):
        raise InputError(f"a question cannot be read, got {type(item).__name__}; expected {FORM}")
    for key in ("question", "context"):
        value = item.get(key)
        if not isinstance(value, str | list) or not value:
            shown = "an empty one" if isinstance(value, str | list) else type(value).__name__
            raise InputError(f"a question needs a text as {key}, got {shown if key in item else 'none'}")
    questions, contexts = item["question"], item["context"]
    if isinstance(questions, str):
        if not isinstance(contexts, str):
            raise InputError("one question goes with one context, got a list of contexts")
        return [Example(questions, contexts)]
    if isinstance(contexts, str):
        contexts = [contexts] * len(questions)
    if len(questions) != len(contexts):
        raise InputError(f"each question needs a context, got {len(questions)} questions and {len(contexts)} contexts")
    pairs = zip(questions, contexts, strict=True)
    return [one for q, c in pairs for one in read_item({"question": q, "context": c})]


def read_example(item: object) -> Example:
    """Read one item of a generator or Dataset.

    Raises:
        InputError: It is not one question with its context.
    """
    examples = read_item(item)
    if len(examples) != 1:
        raise InputError(f"an item must hold one question, got {len(examples)}")
    return examples[0]
