"""Translate texts of any length: translate and translate_batch."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypedDict, Unpack

from transformers import GenerationConfig

from llmkit import sentences
from llmkit.defaults import default_checkpoint
from llmkit.encoding import languages
from llmkit.encoding.directions import Direction, check_language, find_direction
from llmkit.errors import InputError
from llmkit.heads import find_head
from llmkit.loading import Checkpoint, Loaded, load
from llmkit.tasks import searching, suspecting
from llmkit.tasks.prompting import Prompter
from llmkit.tasks.results import Translation
from llmkit.tasks.sampling import check_count, check_names, check_settings
from llmkit.tasks.searching import Draft, Searcher

logger = logging.getLogger("llmkit")

RETRY_BEAMS = 4
READ_AHEAD = 16  # batches that are planned together


class Translating(TypedDict, total=False):
    """The settings of translation.

    src_lang: The language of the text: a code of ISO 639 (en, zh, fra), or as the checkpoint writes it (fra_Latn,
        en_XX). None where the checkpoint knows one pair alone.
    tgt_lang: The language to translate to, likewise.
    num_beams: Above 1 searches with beams; else the checkpoint's, else 1.
    max_new_tokens: At most so many tokens a sentence; else the checkpoint's limit, else twice the sentence's
        tokens and 32.
    batch_size: At most so many sentences at a time; None leaves it to the memory.
    config: A GenerationConfig of transformers, used alone in the place of the settings above.
    """

    src_lang: str | None
    tgt_lang: str | None
    num_beams: int | None
    max_new_tokens: int | None
    batch_size: int | None
    config: GenerationConfig | None


def translate(text: str, *, model: Checkpoint | None = None, **settings: Unpack[Translating]) -> Translation:
    """Translate a text of any length, sentence by sentence; its paragraphs and line breaks are kept.

    A sentence whose translation looks wrong (`suspecting.find_faults`) is translated again with 4 beams, and that is
    taken where it looks right; where both look wrong the first stays and is listed in `suspect`. With `num_beams` or
    `config` each is translated once, as they say.

    Args:
        text: The text; lines, indentation and what has neither letter nor digit stay as they are.
        model: A checkpoint's name, loaded at each call, or a Loaded; None takes the default for the pair. An
            encoder-decoder, or a causal model, which is asked by a prompt.
        **settings: See Translating.

    Raises:
        TypeError: The text is not a str.
        InputError: A setting is out of range, or the checkpoint does not know a language.
    """
    if not isinstance(text, str):
        raise TypeError(f"the text must be a str, got {type(text).__name__}")
    check_names(settings, Translating)
    return prepare(model, **settings).run([text])[0]


def translate_batch(
    texts: Sequence[str], *, model: Checkpoint | None = None, **settings: Unpack[Translating]
) -> list[Translation]:
    """Translate many texts; the results come in the order given, each what translate returns for it alone.

    Arguments and errors are those of translate; a TypeError names the index, and nothing is started.
    """
    if isinstance(texts, str) or not isinstance(texts, Sequence):
        raise TypeError(f"texts must be a list of texts, got {type(texts).__name__}")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"text {i} must be a str, got {type(text).__name__}")
    check_names(settings, Translating)
    return prepare(model, **settings).run(texts)


class Engine(Protocol):
    """Translates pieces that are short enough."""

    @property
    def num_beams(self) -> int:
        """The beams of a first search."""
        ...

    @property
    def tokens_at_once(self) -> int:
        """How many tokens of sources and translations a batch may hold."""
        ...

    def encode(self, text: str) -> list[int]:
        """Encode a piece."""
        ...

    def fits(self, ids: Sequence[int]) -> bool:
        """Tell whether the model takes a piece."""
        ...

    def is_empty(self, ids: Sequence[int]) -> bool:
        """Tell whether the tokenizer found nothing in a piece."""
        ...

    def run(self, rows: Sequence[list[int]], num_beams: int | None = None) -> list[Draft]:
        """Translate encoded pieces, in their order; with `num_beams` in the place of the settled ones."""
        ...


@dataclass
class _Page:
    """Holds a text on its way: its pieces, what has become of each, and which of them look wrong."""

    text: str
    spans: list[sentences.Span] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    suspect: list[int] = field(default_factory=list)
    num_done: int = 0
    is_cut: bool = False

    @property
    def is_done(self) -> bool:
        """Whether all pieces are there and translated."""
        return self.is_cut and self.num_done == len(self.spans)


@dataclass(frozen=True)
class _Piece:
    page: _Page
    index: int
    ids: list[int]

    @property
    def source(self) -> str:
        """The text of the piece."""
        start, end = self.page.spans[self.index]
        return self.page.text[start:end]


@dataclass(frozen=True)
class Job:
    """Holds what all texts of one call share: the languages, the engine, and whether it may try again."""

    direction: Direction
    engine: Engine
    tries_again: bool

    def run(self, texts: Iterable[str]) -> list[Translation]:
        """Translate texts, in their order."""
        return list(self.stream(texts))

    def stream(self, texts: Iterable[str], progress: Callable[[int, int], None] | None = None) -> Iterator[Translation]:
        """Translate texts as they are read, in their order; only what a few batches need is held.

        Args:
            texts: The texts, drawn as there is room.
            progress: Told how many characters of how many of a text are translated.
        """
        pages: list[_Page] = []
        waiting: list[_Piece] = []
        room = READ_AHEAD * self.engine.tokens_at_once
        for text in texts:
            pages.append(page := _Page(text))
            for span, ids in self._cut(text):
                page.spans.append(span)
                page.parts.append("")
                waiting.append(_Piece(page, len(page.spans) - 1, ids))
                room -= len(ids) + searching.bound_of(len(ids))
                if room <= 0:
                    self._translate(waiting)
                    waiting.clear()
                    room = READ_AHEAD * self.engine.tokens_at_once
                    if progress is not None:
                        progress(span[1], len(text))
            page.is_cut = True
            while pages and pages[0].is_done:
                yield self._finish(pages.pop(0))
        self._translate(waiting)
        for page in pages:
            yield self._finish(page)

    def _cut(self, text: str) -> Iterator[tuple[sentences.Span, list[int]]]:
        """Cut a text into pieces that the model takes, each with its ids."""
        source = self.direction.source
        for span in sentences.split(text, languages.short(source) if source is not None else "en"):
            ids = self.engine.encode(text[slice(*span)])
            if self.engine.fits(ids):
                yield span, ids
                continue
            for part in sentences.cut(text, span, lambda piece: self.engine.fits(self.engine.encode(piece))):
                yield part, self.engine.encode(text[slice(*part)])

    def _translate(self, pieces: Sequence[_Piece]) -> None:
        """Translate pieces, those that look wrong a second time, and write them to their pages."""
        able = [piece for piece in pieces if not self.engine.is_empty(piece.ids)]
        drafts = self.engine.run([piece.ids for piece in able])
        faulty = [i for i, (piece, draft) in enumerate(zip(able, drafts, strict=True)) if _looks_wrong(piece, draft)]
        suspect = set(faulty)
        if faulty and self.tries_again and self.engine.num_beams < RETRY_BEAMS:
            again = self.engine.run([able[i].ids for i in faulty], RETRY_BEAMS)
            for i, draft in zip(faulty, again, strict=True):
                if not _looks_wrong(able[i], draft):
                    drafts[i] = draft
                    suspect.discard(i)
        for i, (piece, draft) in enumerate(zip(able, drafts, strict=True)):
            _put(piece, draft.text, is_suspect=i in suspect)
        for piece in pieces:
            if self.engine.is_empty(piece.ids):  # its tokenizer knows nothing of it: it stays as it is
                _put(piece, piece.source, is_suspect=True)

    def _finish(self, page: _Page) -> Translation:
        target = self.direction.target
        spaced = None if target is None or not languages.parse(target).is_known else not languages.is_spaceless(target)
        return Translation(
            text=sentences.join(page.text, page.spans, page.parts, spaced=spaced),
            src_lang=self.direction.src_lang,
            tgt_lang=self.direction.tgt_lang,
            num_windows=len(page.spans),
            suspect=tuple(page.spans[i] for i in sorted(page.suspect)),
        )


def _looks_wrong(piece: _Piece, draft: Draft) -> bool:
    return bool(suspecting.find_faults(piece.source, draft.text, reached_bound=draft.reached_bound))


def _put(piece: _Piece, text: str, *, is_suspect: bool) -> None:
    """Write a translation to its place: one line, without white space at its ends, which the gaps hold."""
    page = piece.page
    page.parts[piece.index] = " ".join(text.split()) if sentences.SPLITS.search(text) else text.strip()
    page.num_done += 1
    if is_suspect:
        page.suspect.append(piece.index)


def prepare(
    model: Checkpoint | None,
    *,
    src_lang: str | None = None,
    tgt_lang: str | None = None,
    num_beams: int | None = None,
    max_new_tokens: int | None = None,
    batch_size: int | None = None,
    config: GenerationConfig | None = None,
) -> Job:
    """Check the settings, load the model where only its name is given, and find how it is told the languages.

    Raises:
        InputError: A setting is out of range, config is given beside others or draws, or a language is not known.
    """
    check_settings({"num_beams": num_beams, "max_new_tokens": max_new_tokens, "config": config})
    if batch_size is not None:
        check_count("batch_size", batch_size)
    if config is not None and (config.do_sample or (config.num_return_sequences or 1) > 1):
        raise InputError("translation never draws and gives one text, got a config with do_sample or more sequences")
    for side, code in (("src_lang", src_lang), ("tgt_lang", tgt_lang)):
        if code is not None and (not isinstance(code, str) or not code.strip("<>_- ")):
            raise InputError(f"{side} must be a language code, got {code!r}; expected one such as en or zh")
    if model is None:
        model = default_checkpoint("translation", languages.name_pair(src_lang, tgt_lang))
    lm = load(model, task=("translation", "generation"))
    asked = {"src_lang": src_lang, "tgt_lang": tgt_lang}
    tries_again = num_beams is None and config is None
    if find_head(lm.model) == "generation" or not lm.model.config.is_encoder_decoder:
        direction = _find_words(lm, asked)
        prompter = Prompter(
            lm,
            direction,
            num_beams=num_beams,
            max_new_tokens=max_new_tokens,
            config=config,
            batch_size=batch_size,
        )
        return Job(direction, prompter, tries_again)
    direction = find_direction(lm.model, lm.tokenizer, name=_name(lm), facts=lm.facts or {}, **asked)
    settled = searching.settle(lm, direction, num_beams=num_beams, max_new_tokens=max_new_tokens, config=config)
    return Job(direction, Searcher(lm, direction, settled, batch_size), tries_again)


def _name(lm: Loaded) -> str:
    return lm.name or "the model"


def _find_words(lm: Loaded, asked: Mapping[str, str | None]) -> Direction:
    """Find the languages that a prompt names."""
    source, target = asked["src_lang"], asked["tgt_lang"]
    for code in (source, target):
        check_language(code)
    if target is None:
        option = "--to CODE (in Python: tgt_lang=)"
        raise InputError(f"{_name(lm)} is asked by a prompt, got no target language; expected {option}")
    return Direction(source, target, source, target)
