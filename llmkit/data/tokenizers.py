"""Tokenizers of one's own: byte-level BPE, GPT-2's kind, with the special tokens of an objective."""

import logging
import os
import shutil
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmkit.data.examples import Pair, read_examples
from llmkit.data.ledger import Counts
from llmkit.data.sources import Document, OnBad, is_shards, list_files, read_documents
from llmkit.errors import InputError, RunError
from llmkit.recipe.schema import DataSpec, SourceSpec

END_OF_TEXT = "<|endoftext|>"
SENTINEL = "<extra_id_{}>"  # what stands for a span that an encoder-decoder restores, as T5's tokenizers name it
NUM_SENTINELS = 100  # as in T5's
NUM_BYTES = 256
PIECE = 2**16  # characters that the trainer is given at a time: it holds hundreds of pieces
TOKENIZER_FILES = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}


@dataclass(frozen=True)
class Kind:
    """Holds the special tokens of a tokenizer.

    Attributes:
        roles: The tokens by their names in transformers; their ids count from 0 in this order.
        others: Further ones, whose ids follow.
        single: How a text is framed, in the form of tokenizers' TemplateProcessing; None: not at all.
        pair: How two are. All have the type id 0, which models without token_type_ids read alike.
    """

    roles: Mapping[str, str]
    others: Sequence[str] = ()
    single: str | None = None
    pair: str | None = None

    @property
    def tokens(self) -> list[str]:
        """Every special token once, in the order of the ids."""
        return list(dict.fromkeys([*self.roles.values(), *self.others]))


# What objectives ask of a tokenizer.
KINDS: Mapping[str, Kind] = {
    "causal-lm": Kind({"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT}),
    "masked-lm": Kind(
        {
            "pad_token": "[PAD]",
            "unk_token": "[UNK]",
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
            "mask_token": "[MASK]",
        },
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
    ),
    "seq2seq": Kind(
        {"pad_token": "<pad>", "eos_token": END_OF_TEXT},
        others=[SENTINEL.format(i) for i in range(NUM_SENTINELS)],
        single=f"$A {END_OF_TEXT}",
        pair=f"$A {END_OF_TEXT} $B {END_OF_TEXT}",
    ),
}


def train_tokenizer(
    files: Sequence[str | Path] | DataSpec,
    out: Path,
    vocab_size: int,
    *,
    objective: str = "causal-lm",
    of_pairs: bool = False,
    text_column: str = "text",
    encoding: str = "utf-8",
    lowercase: bool = False,
    overwrite: bool = False,
) -> Path:
    """Train a byte-level BPE tokenizer on texts and write it as a folder that AutoTokenizer loads.

    Text is neither normalised nor prefixed, so that any text comes back as it was, unless `lowercase` is set. For
    causal-lm end-of-text is bos and eos, and there is no pad token: were end-of-text the pad, collators that mask by
    the pad's id would hide every end-of-text from the loss. For masked-lm [CLS] and [SEP] are set around each text, and
    [MASK], [PAD] and [UNK] are there; for seq2seq end-of-text follows each text, and `<pad>` and the sentinels
    `<extra_id_0>` to `<extra_id_99>` are there. The same files give the same tokenizer.json, byte for byte.

    Args:
        files: Files, globs or folders, of the kinds that data.path takes; or the data section of a recipe, whose texts
            are cleaned by its rules, without the documents it holds out. Of a mixture the sources give bytes by their
            weights (unset: alike), until the first has no more.
        out: The folder to write.
        vocab_size: Tokens in all, special ones among them; fewer where the files hold too few pairs that occur twice,
            with a note.
        objective: What models the tokenizer is for: causal-lm, masked-lm or seq2seq.
        of_pairs: Whether the data section is one of texts and their translations: both are read.
        text_column: The column that holds the text, where there are columns.
        encoding: The encoding of text files.
        lowercase: Whether capitals are read as small letters, as an uncased BERT does: for classifiers.
        overwrite: Whether a tokenizer in `out` is replaced.

    Returns:
        The folder.

    Raises:
        InputError: `out` exists, the objective is another, the size does not hold the 256 bytes and the special tokens,
            or the files cannot be read or hold no text.
        RunError: The folder cannot be written.
    """
    kind = _find_kind(objective, vocab_size)
    _check_place(out, overwrite)
    if isinstance(files, DataSpec):
        counts, pieces = _begin_mixture(files, of_pairs)
    else:
        paths = [path for name in files for path in list_files(str(name))]
        counts = Counts(", ".join(str(name) for name in files)[:160])
        specs = [SourceSpec(path=str(path), text_column=text_column, encoding=encoding) for path in paths]
        pieces = (piece for spec in specs for piece in _read_pieces(spec, counts))
    tokenizer = _train(pieces, vocab_size, kind, lowercase)
    if counts.documents == 0:
        raise InputError(f"0 examples in {counts.name}")
    if len(tokenizer) < vocab_size:
        logging.getLogger("llmkit").info(f"the files give {len(tokenizer):,} tokens, not {vocab_size:,}")
    _write(tokenizer, out)
    return out


def _find_kind(objective: str, vocab_size: int) -> Kind:
    """Find what an objective asks for, and check that a vocabulary of this size holds it."""
    if objective not in KINDS:
        raise InputError(f"no tokenizer is made for objective {objective!r}; expected causal-lm, masked-lm or seq2seq")
    kind = KINDS[objective]
    number = len(kind.tokens)
    if vocab_size < NUM_BYTES + number:
        special = "end-of-text" if kind.tokens == [END_OF_TEXT] else f"{number} special tokens"
        sentence = f"vocab_size must hold {NUM_BYTES} bytes and {special}, got {vocab_size}"
        raise InputError(f"{sentence}; expected {NUM_BYTES + number} or more")
    return kind


def _write(tokenizer: Any, out: Path) -> None:
    part = out.with_name(f"{out.name}.part-{os.getpid()}")
    try:
        part.mkdir(parents=True)
        tokenizer.save_pretrained(part)
        if out.exists():
            shutil.rmtree(out)
        part.rename(out)
    except OSError as err:
        raise RunError(f"{out} cannot be written: {err.strerror}") from err
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _check_place(out: Path, overwrite: bool) -> None:
    """Refuse a place that holds anything but a tokenizer, which is never deleted, and one that cannot be written to."""
    if os.path.lexists(out) and not overwrite:
        raise InputError(f"{out} exists already", hint="--overwrite replaces it")
    if os.path.lexists(out) and (out.is_symlink() or not out.is_dir()):
        raise InputError(f"{out} is not a folder; expected a new one")
    if out.is_dir() and (others := sorted({p.name for p in out.iterdir()} - TOKENIZER_FILES)):
        raise InputError(f"{out} holds more than a tokenizer, such as {others[0]}; expected a new folder")
    parent = next(p for p in out.absolute().parents if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise InputError(f"cannot write to {out}; expected a folder in a place that can be written to")


def _begin_mixture(data: DataSpec, of_pairs: bool = False) -> tuple[Counts, Iterator[str]]:
    sources: Sequence[SourceSpec] = data.mix or [data]
    for part in sources:
        if part.path is None and part.source_path is None:
            raise InputError("no data to train on; expected data.path, or data.mix with a path each")
        if part.path is not None and is_shards(part.path):
            raise InputError(f"{part.path} holds token shards; a tokenizer is made from texts")
    weights = [part.weight or 1.0 for part in data.mix or []] or [1.0]
    counts = Counts(", ".join(str(part.path or part.source_path) for part in sources)[:160])
    read = _read_sides if of_pairs else _read_pieces
    return counts, _mix([read(part, counts, data.on_bad) for part in sources], weights)


def _mix(sources: Sequence[Iterator[str]], weights: Sequence[float]) -> Iterator[str]:
    """Take pieces from the source that is furthest behind its share of bytes, until one has no more."""
    given = [0.0] * len(sources)
    while True:
        i = min(range(len(sources)), key=lambda i: given[i] / weights[i])
        piece = next(sources[i], None)
        if piece is None:
            return
        given[i] += len(piece.encode())
        yield piece


def _read_pieces(spec: SourceSpec, counts: Counts, on_bad: OnBad = "error") -> Iterator[str]:
    documents = read_documents(spec, on_bad=on_bad, counts=counts)
    for document in _leave_last(documents, spec.eval_documents or 0, str(spec.path)):
        text, start = document.text, 0
        while start < len(text):
            end = start + PIECE
            if end < len(text):
                end = text.rfind("\n", start, end) + 1 or end
            yield text[start:end]
            start = end


def _read_sides(spec: SourceSpec, counts: Counts, on_bad: OnBad = "error") -> Iterator[str]:
    for pair in read_examples(spec, "pair", on_bad=on_bad, counts=counts):
        assert isinstance(pair, Pair)
        yield pair.source
        yield pair.target


def _leave_last(documents: Iterator[Document], number: int, name: str) -> Iterator[Document]:
    """Leave the last documents out; a part of a long one waits only until so many others have begun after it."""
    waiting: deque[Document] = deque()
    num_begun, begins, is_empty = 0, True, True  # of those that wait
    for document in documents:
        num_begun, begins = num_begun + begins, document.ends
        waiting.append(document)
        while waiting and num_begun > number:
            num_begun, is_empty = num_begun - waiting[0].ends, False
            yield waiting.popleft()
    if number and is_empty:
        sentence = f"data.eval_documents would hold out {number:,} of the {num_begun:,} documents of {name}"
        raise InputError(f"{sentence}, and leave none")


def _train(pieces: Iterator[str], vocab_size: int, kind: Kind, lowercase: bool) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=kind.tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(pieces, trainer)
    options: dict[str, Any] = {**kind.roles, "clean_up_tokenization_spaces": False}
    if kind.single is not None:
        framing = [(token, i) for i, token in enumerate(kind.tokens) if token in kind.single.split()]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=kind.single, pair=kind.pair, special_tokens=framing
        )
        options["model_input_names"] = ["input_ids", "attention_mask"]  # not every model takes token_type_ids
    if kind.others:
        options["extra_special_tokens"] = list(kind.others)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **options)
