"""Squares as tokens: `[PAD]` is 0, and the squares that can be played follow, row by row: a1, b1, ..."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmkit.data.ledger import Counts
from llmkit.data.store import write_documents
from llmkit.errors import InputError
from llmkit.worlds.othello.board import SIZES, Board, unpack
from llmkit.worlds.othello.games import BLOCK, Games, draw_block
from llmkit.worlds.othello.wthor import BOARD, read_games

PAD = "[PAD]"
Ids = NDArray[np.int64]


def list_tokens(board: Board) -> list[str]:
    """List the tokens of a board in the order of their ids."""
    return [PAD, *board.names]


def make_tokenizer(board: Board) -> Any:
    """Make the tokenizer of a board: words of squares, apart by spaces."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({token: i for i, token in enumerate(list_tokens(board))}, unk_token=PAD))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token=PAD)


def find_board(tokenizer: Any) -> Board:
    """Find the board whose squares are the tokens of a checkpoint.

    Raises:
        InputError: There is none.
    """
    vocabulary = tokenizer.get_vocab()
    for size in SIZES:
        if vocabulary == {token: i for i, token in enumerate(list_tokens(Board(size)))}:
            return Board(size)
    hint = "llmkit world othello games writes games, and llmkit pretrain othello-6x6 trains on them"
    raise InputError("the checkpoint does not know the squares of an Othello board as its tokens", hint=hint)


def encode(games: Games) -> Ids:
    """Turn moves into ids, 0 after the end. Shape: (games, plies)."""
    return encode_moves(games.board, games.moves)


def encode_moves(board: Board, moves: NDArray[np.integer]) -> Ids:
    """Turn the bits of squares into ids, -1 into 0. Shape: as `moves`."""
    table = np.zeros(65, np.int64)
    table[list(board.squares)] = np.arange(1, board.num_plies + 1)
    return np.asarray(table[moves])  # -1 is the last of the table: 0


def legal_tokens(games: Games) -> NDArray[np.bool_]:
    """Tell which tokens may follow t moves. Shape: (games, plies + 1, plies), the squares in the order of their ids."""
    return unpack(games.legal, games.board.squares)


def write_games(board: Board, number: int, seed: int, folder: Path) -> None:
    """Write random games as the token shards that `llmkit pretrain` reads: a game is a document.

    Args:
        board: The board.
        number: How many games.
        seed: Settles the games, as STREAMS' train.
        folder: The folder to make; what lies there is replaced.

    Raises:
        RunError: The disk is full, or the folder cannot be written.
    """
    parts = (
        draw_block(board, min(BLOCK, number - block * BLOCK), seed, "train", block)
        for block in range(-(-number // BLOCK))
    )
    about = f"random games of Othello on {board.size} by {board.size} squares, seed {seed}"
    _write(board, parts, folder, about, {"seed": seed, "block_size": BLOCK})


def write_championships(paths: Sequence[Path], folder: Path) -> None:
    """Write the games of WTHOR files in the same form.

    Args:
        paths: The files.
        folder: The folder to make; what lies there is replaced.

    Raises:
        InputError: There is no such file.
        DamagedError: It is no WTHOR file of a board of 8 rows, or a move is not legal.
        RunError: The disk is full, or the folder cannot be written.
    """
    parts = [read_games(path) for path in paths]
    names = [path.name for path in paths]
    _write(BOARD, parts, folder, f"championship games of Othello, {', '.join(names)}", {"files": names})


def _write(board: Board, parts: Iterable[Games], folder: Path, about: str, facts: Mapping[str, Any]) -> None:
    def spell() -> Iterator[tuple[Ids, Ids]]:
        for games in parts:
            ids = encode(games)
            yield ids[ids > 0], games.lengths

    facts = {"board": board.size, **facts}
    write_documents(folder, spell(), make_tokenizer(board), counts=Counts(about), facts=facts)
