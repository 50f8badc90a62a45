"""Whether a model takes two prefixes of one state alike, and tells two states apart: compression and distinction.

A token is accepted after a prefix where the model gives it more than `epsilon`; a sequence where each of its tokens is.
For states q1 and q2 the boundary is the shortest sequences accepted at the one and not at the other.

    compression precision   the share of pairs of prefixes of one state of which all suffixes drawn after the first are
                            accepted after the second: the mean over the pairs of each state, then over states
    distinction precision   of the model's boundary of two states, the share that is legal at the one and not at the
                            other
    distinction recall      of the true boundary of two states, the share that the model accepts at the one and not at
                            the other

Source: Vafa and others 2024, section 3. Here a state is the board and the side to move; the two states of a distinction
are never the same; the two prefixes of a compression are made by `transposing`, since drawn games share openings only.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from llmkit.worlds.othello.board import QUARTERS, Bits, choose_evenly
from llmkit.worlds.othello.figures import Figure, Share, summarize
from llmkit.worlds.othello.games import Games, walk
from llmkit.worlds.othello.predicting import Ids, Player
from llmkit.worlds.othello.tokens import encode
from llmkit.worlds.othello.transposing import Pairs, cut_moves, follow, number_states

EPSILONS = (0.01, 0.001, 0.05)
SAMPLES = 30  # suffixes of a prefix


@dataclass(frozen=True, eq=False)
class Suffixes:
    """Holds the suffixes of prefixes: SAMPLES rows for each of these, one after the other.

    Attributes:
        games: Games that end with the prefix, one a row.
        plies: Its moves. Shape: (rows,)
        ids: Tokens, 0 after the end. Shape: (rows, plies)
    """

    games: Games
    plies: NDArray[np.int64]
    ids: Ids

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The tokens of each suffix. Shape: (rows,)."""
        return np.asarray((self.ids > 0).sum(axis=1))


def measure_compression(player: Player, pairs: Pairs, epsilon: float, seed: int) -> dict[str, Figure]:
    """Measure compression precision, over all states and by the quarter of the plies in which the prefixes end."""
    drawn = sample(player, pairs.first, pairs.plies, epsilon, seed)
    accepted = count_accepted(player, _repeat(pairs.second), drawn, epsilon)
    is_alike = (accepted >= drawn.lengths).reshape(len(pairs), SAMPLES).all(axis=1)
    states = number_states(pairs)
    alike = np.bincount(states, is_alike) / np.bincount(states)  # a mean for each state
    quarter = pairs.first.board.quarter(pairs.plies[np.unique(states, return_index=True)[1]])
    shares = {"compression": Share(alike, np.ones(len(alike)))}
    for i in range(QUARTERS):
        counted = np.where(quarter == i, 1.0, 0.0)
        shares[f"compression_q{i + 1}"] = Share(alike * counted, counted)
    return summarize(shares, seed)


def draw_boundary(pairs: Pairs, seed: int) -> Suffixes:
    """Draw the true boundary of pairs: legal at the first state, cut at the first move that is not at the other."""
    true = continue_at_random(pairs.first, pairs.plies, seed)
    return _cut(true, follow(_repeat(pairs.second), true.plies, true.ids)[0])


def measure_distinction(player: Player, pairs: Pairs, real: Suffixes, epsilon: float, seed: int) -> dict[str, Figure]:
    """Measure distinction precision and recall; a pair without any boundary counts as 1, and how many do is told.

    Args:
        player: The model.
        pairs: Pairs of two states.
        real: Their true boundary, of draw_boundary.
        epsilon: Above which a token is accepted.
        seed: Of what is drawn.

    Returns:
        `precision`, `recall`, and `precision_empty` and `recall_empty`, the share of pairs without a boundary.
    """
    second = _repeat(pairs.second)
    drawn = sample(player, pairs.first, pairs.plies, epsilon, seed)
    found = _cut(drawn, count_accepted(player, second, drawn, epsilon))
    legal_one, legal_two = (
        follow(games, found.plies, found.ids)[0] >= found.lengths for games in (found.games, second)
    )
    precision, none = _mean_by_pair(found, legal_one & ~legal_two)
    one, two = (count_accepted(player, games, real, epsilon) >= real.lengths for games in (real.games, second))
    recall, no_real = _mean_by_pair(real, one & ~two)
    ones = np.ones(len(pairs))
    shares = {"precision": precision, "recall": recall, "precision_empty": none, "recall_empty": no_real}
    return summarize({name: Share(values, ones) for name, values in shares.items()}, seed)


def sample(player: Player, games: Games, plies: NDArray[np.int64], epsilon: float, seed: int) -> Suffixes:
    """Draw suffixes from a model, up to where the game is over; tokens that are not accepted are never drawn."""
    length, generator = games.board.num_plies, torch.Generator().manual_seed(seed)
    ids = np.zeros((len(plies) * SAMPLES, length), np.int64)
    for ply in np.unique(plies):
        rows = np.flatnonzero(np.repeat(plies == ply, SAMPLES))
        start = np.repeat(encode(games)[plies == ply, :ply], SAMPLES, axis=0)
        given, cache = start, None
        for i in range(length - ply):
            q, cache = player.step(given, cache)
            kept = torch.where((q > epsilon) | (q == q.max(dim=1, keepdim=True).values), q, torch.zeros(()))
            given = torch.multinomial(kept, 1, generator=generator).numpy() + 1
            ids[rows, i] = given[:, 0]
    many, ends = _repeat(games), np.repeat(plies, SAMPLES)
    num_legal, is_over = follow(many, ends, ids)
    return Suffixes(many, ends, np.where(is_over[:, None] & (np.arange(length) >= num_legal[:, None]), 0, ids))


def continue_at_random(games: Games, plies: NDArray[np.int64], seed: int) -> Suffixes:
    """Draw the rest of games evenly from the legal moves, SAMPLES times."""
    many, ends = _repeat(games), np.repeat(plies, SAMPLES)
    moves, rng = cut_moves(many.moves, ends), np.random.default_rng(seed)

    def choose(ply: int, legal: Bits) -> NDArray[np.int64]:
        return np.where(ply < ends, moves[:, ply], choose_evenly(legal, rng.random(len(legal))))

    whole = encode(walk(games.board, len(many), choose))
    columns = np.minimum(np.arange(whole.shape[1]) + ends[:, None], whole.shape[1] - 1)
    inside = np.arange(whole.shape[1]) + ends[:, None] < whole.shape[1]
    return Suffixes(many, ends, np.where(inside, np.take_along_axis(whole, columns, axis=1), 0))


def count_accepted(player: Player, games: Games, suffixes: Suffixes, epsilon: float) -> NDArray[np.int64]:
    """Count how many tokens of each suffix, one after the other, the model accepts after other prefixes, as long.

    Shape: (rows,)
    """
    length, plies = games.board.num_plies, suffixes.plies
    ids = np.where(np.arange(length) < plies[:, None], encode(games), 0)
    columns = np.arange(length) - plies[:, None]
    later = np.take_along_axis(suffixes.ids, np.maximum(columns, 0), axis=1)
    ids = np.where(columns >= 0, later, ids)
    log_q, _ = player.predict(ids[:, :-1])
    given = np.take_along_axis(log_q, np.maximum(ids[:, 1:] - 1, 0)[..., None], axis=-1)[..., 0]
    is_rejected = (columns[:, 1:] >= 0) & (ids[:, 1:] > 0) & (np.exp(given) <= epsilon)
    first = np.where(is_rejected.any(axis=1), is_rejected.argmax(axis=1) + 1 - plies, suffixes.lengths)
    return np.asarray(first)


def _cut(suffixes: Suffixes, num_alike: NDArray[np.int64]) -> Suffixes:
    """Cut suffixes after the first token that is not taken at the other state; one that is taken whole is left out."""
    kept = np.arange(suffixes.ids.shape[1]) <= num_alike[:, None]
    ids = np.where(kept & (num_alike < suffixes.lengths)[:, None], suffixes.ids, 0)
    for start in range(0, len(ids), SAMPLES):  # the same one drawn twice counts once
        _, firsts = np.unique(ids[start : start + SAMPLES], axis=0, return_index=True)
        repeated = np.ones(SAMPLES, np.bool_)
        repeated[firsts] = False
        ids[start : start + SAMPLES][repeated] = 0
    return Suffixes(suffixes.games, suffixes.plies, ids)


def _mean_by_pair(suffixes: Suffixes, values: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Take the mean over the sequences of each pair, 1 where it has none; and where so. Shape: (pairs,) each."""
    counted = (suffixes.lengths > 0).reshape(-1, SAMPLES)
    number = counted.sum(axis=1)
    sums = (values.reshape(-1, SAMPLES) & counted).sum(axis=1)
    return np.where(number > 0, sums / np.maximum(number, 1), 1.0), (number == 0).astype(np.float64)


def _repeat(games: Games) -> Games:
    return games.take(np.repeat(np.arange(len(games)), SAMPLES))
