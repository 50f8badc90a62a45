"""Rows as text: documents, tokens and targets marked, for a person to read."""

import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from llmkit.data.order import Row
from llmkit.data.sequences import IGNORED
from llmkit.recipe.rules import predicts_documents
from llmkit.recipe.schema import Recipe

DOCUMENTS = (
    "A document begins at each ┌. │ parts tokens; [ ] is no target: it begins a document, or repeats the last token\n"
    "of another row (of a character of several tokens, as 天×3, only the first)."
)
OTHERS = "A text begins at each ┌. │ parts tokens (天×3: a character of three, marked as its first one is).\n"
# objective -> what its brackets mean, where its rows are not cut from a stream of documents
BRACKETS = {
    "causal-lm": "[ ] is no target: it belongs to the prompt.",
    "masked-lm": "[ ] is no target (a token's own brackets, as [MASK], do not count); the others are to be restored.",
    "seq2seq": "[ ] is no target: it belongs to the source.",
    "classification": "[ ] is no target: the label below the text is.",
    "question-answering": "[ ] is outside the answer; where the row has none, the token that says so has no brackets.",
}
WIDTH = 110  # columns
MAX_TOKENS = 6  # of a character
ESCAPES = str.maketrans({"\n": "⏎", "\r": "␍", "\t": "⇥", "\0": "␀", "\x1b": "␛"})


def explain(recipe: Recipe) -> str:
    """Explain the marks of a recipe's rows."""
    return DOCUMENTS if predicts_documents(recipe) else OTHERS + BRACKETS[recipe.objective]


def show_example(tokenizer: Any, row: Row, labels: Sequence[str], where: str) -> str:
    """Show a row of an example: a text and its label, a window and its answer, a source and its target, or a prompt.

    Args:
        tokenizer: What made the ids.
        row: A row of the training data.
        labels: The names of a classifier's labels.
        where: The name of the row.
    """
    ids, targets = row["input_ids"], row.get("labels")
    if targets is None:
        places = np.arange(len(ids))
        first, last = int(row["start_positions"]), int(row["end_positions"])
        return show_row(tokenizer, row, (first <= places) & (places <= last), where)
    if targets.ndim == 1 and targets.dtype.kind == "i" and len(targets) == len(ids) and (targets == IGNORED).any():
        return show_row(tokenizer, row, targets != IGNORED, where)
    if targets.dtype.kind == "i" and targets.ndim == 1:
        target = {"input_ids": targets}
        parts = [show_row(tokenizer, row, np.zeros(len(ids), bool), f"{where}, source")]
        parts.append(show_row(tokenizer, target, np.ones(len(targets), bool), f"{where}, target"))
        return "\n".join(parts)
    pairs = zip(labels, np.atleast_1d(targets).tolist(), strict=False)
    told = labels[int(targets)] if targets.ndim == 0 else ", ".join(f"{name} {value:g}" for name, value in pairs)
    return f"{show_row(tokenizer, row, np.zeros(len(ids), bool), where)}\n  label {told}"


def show_row(tokenizer: Any, row: Row, is_target: Sequence[bool] | npt.NDArray[np.bool_], where: str) -> str:
    """Show a row: where it stands, then each document from its own line on.

    Args:
        tokenizer: What made the ids.
        row: A row of the training data.
        is_target: Whether each token is predicted. Shape: (length,)
        where: The name of the row.
    """
    ids = row["input_ids"].tolist()
    documents = row["document_ids"].tolist() if "document_ids" in row else [0] * len(ids)
    num_targets, num_documents = int(np.sum(is_target)), documents[-1] + 1
    count = "1 document" if num_documents == 1 else f"{num_documents:,} documents"
    lines = [f"{where}: {len(ids):,} tokens, {num_targets:,} targets, {count}"]
    for document in range(num_documents):
        first = documents.index(document)
        last = len(documents) - documents[::-1].index(document)
        pieces = [
            piece if is_target[first + start] else f"[{piece}]" for start, piece in _split(tokenizer, ids[first:last])
        ]
        lines += _wrap(pieces, "  ┌ ", "  │ ")
    return "\n".join(lines)


def _split(tokenizer: Any, ids: list[int]) -> Iterator[tuple[int, str]]:
    """Split ids to pieces of text with the place of each: a token, or the tokens that make one character."""
    start = 0
    while start < len(ids):
        most = min(MAX_TOKENS, len(ids) - start)
        texts = (_decode(tokenizer, ids[start : start + count]) for count in range(1, most + 1))
        whole = ((count, text) for count, text in enumerate(texts, 1) if "\ufffd" not in text)
        count, text = next(whole, (1, "\ufffd"))  # what makes no character stands token by token
        yield start, text.translate(ESCAPES) + (f"×{count}" if count > 1 else "")
        start += count


def _decode(tokenizer: Any, ids: list[int]) -> str:
    text = str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))
    begins = str(tokenizer.convert_ids_to_tokens(ids[0])).startswith("▁")  # a space that decoding takes away
    return f" {text}" if begins and not text.startswith(" ") else text


def _wrap(pieces: Sequence[str], begin: str, later: str) -> list[str]:
    """Join pieces to lines that fit the screen; a Chinese character takes two columns."""
    lines, width = [begin], 0
    for i, piece in enumerate(pieces):
        size = sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in piece) + 1
        if width and width + size > WIDTH - len(begin):
            lines.append(later)
            width = 0
        lines[-1] += piece + ("│" if i < len(pieces) - 1 else "")
        width += size
    return lines
