"""From a pair of languages to what a checkpoint for translation is fed: its codes, its prefix, its first token."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from llmkit.encoding import languages
from llmkit.encoding.prompts import end_of_text, replace_surrogates
from llmkit.errors import InputError

NLLB_CODE = re.compile("[a-z]{3}_[A-Z][a-z]{3}")
T5_TASK = re.compile("translation_([A-Za-z_-]+)_to_([A-Za-z_-]+)")


@dataclass(frozen=True)
class Direction:
    """Holds from which language to which, and how a checkpoint is told.

    Attributes:
        src_lang: The source language as it was asked for.
        tgt_lang: The target language, likewise.
        source: The code of the source language, where it is known.
        target: The code of the target language, likewise.
        text: What stands before each source text.
        ids: The ids before and after those of a source; None where the tokenizer's own stand there.
        first_id: The id that each translation begins with (forced_bos_token_id).
        settings: The settings of generation that the checkpoint states for this pair.
    """

    src_lang: str | None = None
    tgt_lang: str | None = None
    source: str | None = None
    target: str | None = None
    text: str = ""
    ids: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    first_id: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def encode(self, tokenizer: Any, text: str) -> list[int]:
        """Encode a source text."""
        encoded = tokenizer(
            self.text + replace_surrogates(text), add_special_tokens=self.ids is None, truncation=False, verbose=False
        )
        ids = [int(i) for i in encoded["input_ids"]]
        return ids if self.ids is None else [*self.ids[0], *ids, *self.ids[1]]

    def encode_target(self, tokenizer: Any, text: str) -> list[int]:
        """Encode a translation as the decoder is to write it, with what ends it."""
        clean = replace_surrogates(text)
        if self.first_id is None:
            ids = [int(i) for i in tokenizer(text_target=clean, truncation=False, verbose=False)["input_ids"]]
            end = end_of_text(tokenizer)
            return ids if end is None or (ids and ids[-1] == end) else [*ids, end]
        before = tokenizer.tgt_lang
        try:
            tokenizer.tgt_lang = self.target
            return [int(i) for i in tokenizer(text_target=clean, truncation=False, verbose=False)["input_ids"]]
        finally:
            tokenizer.tgt_lang = before


def find_direction(
    model: Any,
    tokenizer: Any,
    *,
    name: str,
    facts: Mapping[str, object],
    src_lang: str | None = None,
    tgt_lang: str | None = None,
) -> Direction:
    """Find how an encoder-decoder is told the languages, by what its tokenizer and config hold.

    Codes that are tokens (NLLB, M2M100, mBART) come before `>>code<<` (multilingual Marian), these before the one pair
    that a tokenizer states, this before T5's prefix. A checkpoint that says nothing takes any language that ISO 639
    knows: it decides no more than where sentences end and whether spaces stand between them. The pair of llmkit.json is
    asked for where the call asks for none, so that a checkpoint is told the languages as its training told it; null
    there means that it was trained without a word about them, and is used so.

    Raises:
        InputError: A language is not known to the checkpoint, or is missing.
    """
    trained, asked = _trained_pair(facts), (src_lang, tgt_lang)
    if trained is not None:
        wanted = tuple(_check_side(name, side, asked, trained) for side in (0, 1))
        told = find_direction(model, tokenizer, name=name, facts={}, src_lang=wanted[0], tgt_lang=wanted[1])
        return replace(told, src_lang=src_lang, tgt_lang=tgt_lang)
    if facts.get("languages", "") is None:
        return _by_nothing(asked)
    pair = _stated_pair(tokenizer)
    codes = token_codes(tokenizer)
    if codes:
        return _by_tokens(tokenizer, codes, name, asked, pair)
    if prefixes := list(getattr(tokenizer, "supported_language_codes", None) or ()):
        return _by_prefix(prefixes, name, asked, pair)
    if pair != (None, None):
        return _by_pair(name, asked, pair)
    tasks = getattr(model.config, "task_specific_params", None) or {}
    found = {task: said for task, said in tasks.items() if T5_TASK.fullmatch(task) and isinstance(said, dict)}
    if found or (model.config.model_type == "t5" and asked != (None, None)):
        return _by_sentence(found, name, asked)
    return _by_nothing(asked)


def _by_nothing(asked: tuple[str | None, str | None]) -> Direction:
    """Take the languages for what they are, and tell the checkpoint nothing."""
    for code in asked:
        check_language(code)
    return Direction(*asked, *asked)


def token_codes(tokenizer: Any) -> dict[str, int]:
    """List the language codes that are tokens of a tokenizer, each with its id; none where it has no such."""
    if not hasattr(tokenizer, "src_lang"):
        return {}
    if to_token := getattr(tokenizer, "lang_code_to_token", None):  # M2M100
        return {code: int(tokenizer.get_lang_id(code)) for code in to_token}
    if to_id := getattr(tokenizer, "lang_code_to_id", None):  # mBART
        return {code: int(i) for code, i in to_id.items() if i is not None and i != tokenizer.unk_token_id}
    return {token: int(i) for token, i in tokenizer.get_added_vocab().items() if NLLB_CODE.fullmatch(token)}


def check_language(code: str | None) -> None:
    """Check that ISO 639 knows a language.

    Raises:
        InputError: It does not.
    """
    if code is not None and not languages.parse(code).is_known:
        near = languages.nearest(code, languages.LANGUAGES)
        raise InputError(f"unknown language, got {code!r}; expected a code of ISO 639 such as {', '.join(near)}")


def _trained_pair(facts: Mapping[str, object]) -> tuple[str, str] | None:
    """Read the pair that a checkpoint was trained for, as llmkit.json states it."""
    stated = facts.get("languages")
    parts = stated.split("-") if isinstance(stated, str) else stated
    if isinstance(parts, Sequence) and len(parts) == 2 and all(isinstance(p, str) and p for p in parts):
        return str(parts[0]), str(parts[1])
    return None


def _stated_pair(tokenizer: Any) -> tuple[str | None, str | None]:
    """Read the pair that a checkpoint was made for, as its tokenizer states it."""
    pair = [getattr(tokenizer, f"{side}_lang", None) for side in ("source", "target")]  # Marian
    if hasattr(tokenizer, "tgt_lang") and tokenizer.tgt_lang:  # NLLB, M2M100 and mBART, where a pair was saved
        pair = [tokenizer.src_lang, tokenizer.tgt_lang]
    return (pair[0] or None, pair[1] or None)


def _by_tokens(
    tokenizer: Any,
    codes: Mapping[str, int],
    name: str,
    asked: tuple[str | None, str | None],
    pair: tuple[str | None, str | None],
) -> Direction:
    source = _find(name, 0, asked[0] or pair[0], codes)
    target = _find(name, 1, asked[1] or pair[1], codes)
    before = tokenizer.src_lang
    try:
        tokenizer.src_lang = source  # sets prefix_tokens and suffix_tokens, which are all that is wanted
        ids = (tuple(tokenizer.prefix_tokens), tuple(tokenizer.suffix_tokens))
    finally:
        tokenizer.src_lang = before
    return Direction(*asked, source, target, ids=ids, first_id=codes[target])


def _find(name: str, side: int, asked: str | None, codes: Mapping[str, int] | Sequence[str]) -> str:
    kind = ("source", "target")[side]
    if asked is None:
        option = ("--from CODE (in Python: src_lang=)", "--to CODE (in Python: tgt_lang=)")[side]
        raise InputError(f"{name} knows {len(codes)} languages, got no {kind} language; expected {option}")
    found = languages.match(asked, codes)
    if found is None:
        near = ", ".join(code.strip("<>") for code in languages.nearest(asked, codes))
        raise InputError(
            f"unknown {kind} language, got {asked!r}; expected one of the {len(codes)} of {name}, such as {near}"
        )
    return found


def _by_prefix(
    prefixes: Sequence[str], name: str, asked: tuple[str | None, str | None], pair: tuple[str | None, str | None]
) -> Direction:
    """Choose a >>code<<; none where the one language that a checkpoint states as its target is meant as a whole.

    So opus-mt-en-pt, which states pt and has >>por<< and >>pob<<, reads pt as transformers 4's pipeline fed it.
    """
    source = _check_side(name, 0, asked, pair)
    wanted, stated = asked[1], pair[1]
    names_one = wanted is not None and wanted.strip("<>") in {prefix.strip("<>") for prefix in prefixes}
    is_whole = wanted is None or (not names_one and languages.parse(wanted) == languages.parse(stated or ""))
    if stated is not None and languages.parse(stated).is_known and is_whole:
        return Direction(*asked, source, stated)
    only = prefixes[0] if len(prefixes) == 1 else None
    target = _find(name, 1, wanted or only, prefixes)
    return Direction(*asked, source, target.strip("<>"), text=f"{target} ")


def _by_pair(name: str, asked: tuple[str | None, str | None], pair: tuple[str | None, str | None]) -> Direction:
    return Direction(*asked, _check_side(name, 0, asked, pair), _check_side(name, 1, asked, pair))


def _check_side(
    name: str, side: int, asked: tuple[str | None, str | None], pair: tuple[str | None, str | None]
) -> str | None:
    """Give the language of a side; a stated group of languages (mul, ROMANCE) takes any."""
    code, stated = asked[side], pair[side]
    if stated is None or not languages.parse(stated).is_known:
        check_language(code)
        return code
    if code is not None and not languages.means_same(code, stated):
        got = f"{asked[0] or pair[0]} to {asked[1] or pair[1]}"
        raise InputError(f"{name} translates from {pair[0]} to {pair[1]}, got {got}; expected that pair")
    return stated


def _by_sentence(tasks: Mapping[str, Mapping[str, Any]], name: str, asked: tuple[str | None, str | None]) -> Direction:
    """Find T5's prefix: one that the config states, else in the words of those it was trained with.

    Source: `task_specific_params` of t5-small; Raffel et al. 2020, "Exploring the Limits of Transfer Learning".
    """
    for code in asked:
        check_language(code)
    pairs = {tuple(T5_TASK.fullmatch(task).groups()): said for task, said in tasks.items()}  # type: ignore[union-attr]
    fits = [p for p in pairs if all(a is None or languages.means_same(a, b) for a, b in zip(asked, p, strict=True))]
    if len(fits) == 1:
        said = dict(pairs[fits[0]])
        prefix = str(said.pop("prefix", "") or "")
        source, target = fits[0]
        return Direction(*asked, source, target, text=prefix, settings=said)
    if asked[0] is None or asked[1] is None:
        known = ", ".join(" to ".join(p) for p in pairs) or "any"
        raise InputError(f"{name} translates several pairs ({known}), got one language at most; expected both")
    text = f"translate {languages.name(asked[0])} to {languages.name(asked[1])}: "
    return Direction(*asked, *asked, text=text)
