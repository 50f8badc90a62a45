"""Whole games: a model that plays on until the end, and with detours."""

import numpy as np
import torch
from numpy.typing import NDArray

from llmkit.worlds.othello.board import Bits, choose_evenly, place
from llmkit.worlds.othello.figures import Figure, Share, summarize
from llmkit.worlds.othello.games import Games, walk
from llmkit.worlds.othello.predicting import Player
from llmkit.worlds.othello.tokens import encode_moves

DETOURS = (0.1, 0.5)


def measure_games(player: Player, games: Games, seed: int) -> dict[str, Figure]:
    """Measure how many games a model finishes without an illegal move.

    Returns:
        `after_K`, where K moves were drawn at random and the model draws the rest from its probabilities, for 1, a
        quarter and half of the most moves; `detour_P` after 1 move, where at each later ply a legal move at random
        takes the place of the model's with probability P.
    """
    plies = games.board.num_plies
    plans = {f"after_{start}": (start, 0.0) for start in (1, plies // 4, plies // 2)}
    plans |= {f"detour_{share:g}": (1, share) for share in DETOURS}
    found = {}
    for name, (start, detour) in plans.items():
        whole = play_out(player, games, start, detour, seed)
        found[name] = Share(whole.astype(np.float64), np.ones(len(games)))
    return summarize(found, seed)


def play_out(player: Player, games: Games, start: int, detour: float, seed: int) -> NDArray[np.bool_]:
    """Let a model finish games, and tell which of them it finished legally.

    Args:
        player: The model, whose moves are drawn from its probabilities of the squares.
        games: The games that give the first moves.
        start: How many of them, 1 or more.
        detour: With what probability a legal move at random takes the place of the model's.
        seed: Of the draws.

    Returns:
        Shape: (games,)
    """
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    bits = np.array(games.board.squares)
    is_right, cache, given = np.ones(len(games), np.bool_), None, np.zeros((len(games), 0), np.int64)

    def choose(ply: int, legal: Bits) -> NDArray[np.int64]:
        nonlocal cache, given
        if ply < start:
            moves = games.moves[:, ply].astype(np.int64)
        else:
            q, cache = player.step(given, cache)
            given = given[:, :0]
            moves = bits[torch.multinomial(q, 1, generator=generator)[:, 0].numpy()]
            drawn = choose_evenly(legal, rng.random(len(legal)))
            moves = np.where((rng.random(len(legal)) < detour) & (legal != 0), drawn, moves)
            is_illegal = place(moves) & legal == 0
            is_right[is_illegal & (legal != 0)] = False
            moves = np.where(is_illegal, -1, moves)
        given = np.concatenate([given, encode_moves(games.board, moves)[:, None]], axis=1)
        return moves

    walk(games.board, len(games), choose)
    return is_right
