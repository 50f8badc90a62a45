"""Championship games of WTHOR files.

A file has 16 bytes of header, then 68 bytes a game: three numbers of a tournament and its players, two scores, and 60
bytes of moves, each 10 times the row plus the column, both from 1, with 0 after the end; passes are not written.

Source: Fédération française d'Othello, format of the WTHOR base.
"""

import os
from pathlib import Path

import numpy as np

from llmkit.errors import DamagedError, InputError
from llmkit.worlds.othello.board import Board
from llmkit.worlds.othello.games import Games, replay

HEADER, RECORD, BEGIN = 16, 68, 8  # bytes: of the file, of a game, and before its moves
BOARD = Board(8)


def read_games(path: str | os.PathLike[str]) -> Games:
    """Read the games of a WTHOR file and replay them; those without a move are left out.

    Raises:
        InputError: There is no such file.
        DamagedError: It is no WTHOR file of a board of 8 rows, holds no moves, or a move is not legal.
    """
    place = Path(path)
    if not place.is_file():
        raise InputError(f"no such file: {place}")
    content = place.read_bytes()
    number = int.from_bytes(content[4:8], "little")
    if len(content) != HEADER + number * RECORD or content[12] not in (0, 8):
        raise DamagedError(f"{place} is no WTHOR file of games on 8 by 8 squares")
    records = np.frombuffer(content, np.uint8, offset=HEADER).reshape(number, RECORD)[:, BEGIN:].astype(np.int64)
    if not records.any():
        raise DamagedError(f"{place} holds no moves")
    rows, columns = records // 10 - 1, records % 10 - 1
    is_square = (rows >= 0) & (rows <= 7) & (columns >= 0) & (columns <= 7)
    if ((records > 0) & ~is_square).any():
        raise DamagedError(f"{place} names a square that is none")
    try:
        games = replay(BOARD, np.where(records > 0, 8 * rows + columns, -1))
    except InputError as err:
        raise DamagedError(f"{place}: {err}") from err
    return games.take(np.flatnonzero(games.lengths > 0))
