"""Language codes of a translation: read from a task's name, checked against the tokenizer, set for one text alone."""

import difflib
import re
from dataclasses import dataclass
from typing import Any

from llmkit.errors import InputError

TASK = re.compile(r"translation_([^_]+)_to_([^_]+)")


@dataclass(frozen=True)
class Source:
    """Holds an encoded text and the token that its translation begins with, where the tokenizer names one."""

    ids: list[int]
    forced_bos: int | None = None


def read_pair(task: str) -> tuple[str | None, str | None]:
    """Read the languages in a task's name; None where it names none.

    Raises:
        InputError: The name begins as a translation between two languages, but is none.
    """
    if task.startswith("translation_") and not TASK.fullmatch(task):
        raise InputError(f"unknown task, got {task!r}; expected translation or translation_xx_to_yy")
    found = TASK.fullmatch(task)
    return (found[1], found[2]) if found else (None, None)


def encode_pair(tokenizer: Any, text: str, src_lang: str | None, tgt_lang: str | None, truncation: object) -> Source:
    """Encode a text with the tokenizer of a multilingual model, whose own languages stay as they were.

    Raises:
        InputError: A language is not given, or the tokenizer does not know it.
    """
    if src_lang is None or tgt_lang is None:
        raise InputError(
            "this model translates between many languages, got none; expected src_lang= and tgt_lang=",
            hint="llmkit.pipeline('translation', ..., src_lang='en_XX', tgt_lang='de_DE'), in the model's own codes",
        )
    for name, code in (("src_lang", src_lang), ("tgt_lang", tgt_lang)):
        check_code(tokenizer, name, code)
    before = tokenizer.src_lang
    try:
        inputs = tokenizer._build_translation_inputs(
            text, return_tensors=None, src_lang=src_lang, tgt_lang=tgt_lang, truncation=truncation
        )
    finally:
        tokenizer.src_lang = before
    return Source(list(inputs["input_ids"]), int(inputs["forced_bos_token_id"]))


def check_code(tokenizer: Any, name: str, code: str) -> None:
    """Check that a tokenizer has a token for a language.

    Raises:
        InputError: It has none; transformers would take its unknown token in silence.
    """
    codes = getattr(tokenizer, "lang_code_to_token", None)  # M2M100's, whose tokens are written __en__
    if codes is None:
        known = [str(token).strip("_") for token in tokenizer.all_special_tokens]
        tokens = (code, f"__{code}__")
        is_known = any(tokenizer.convert_tokens_to_ids(token) not in (None, tokenizer.unk_token_id) for token in tokens)
    else:
        known, is_known = list(codes), code in codes
    if not is_known:
        near = difflib.get_close_matches(code, known, n=1, cutoff=0.3)
        hint = f"did you mean {near[0]!r}?" if near else None
        raise InputError(f"{name} is not a language of this model, got {code!r}", hint=hint)
