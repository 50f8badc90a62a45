"""Interventions: a disc is turned over in the hidden states; do the moves that follow fit the changed board?

    x_l + alpha (w_target - w_source) / |w_target - w_source|    after every block l >= first, at the last position

w are the rows of a linear probe of x_l. A case is a prefix, a square with a disc, and the board B' in which that disc
is of the other side; the squares legal in B' are not those of B, and some are. The side to move stays.
Source: Nanda and others 2023, section 4; Li and others 2023, section 4.2, for the edit by gradients of a network.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmkit import hidden_states
from llmkit.worlds.othello.board import unpack
from llmkit.worlds.othello.figures import Figure, Share, summarize
from llmkit.worlds.othello.games import Games
from llmkit.worlds.othello.predicting import Floats, Player
from llmkit.worlds.othello.probing import Probe
from llmkit.worlds.othello.tokens import encode

MINE, YOURS = 0, 1
ALPHAS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
GRADIENT_STEPS, GRADIENT_RATE = 100, 0.05

Shift = Callable[[int, Tensor], Tensor]  # the number of a block, what it gave at the last position -> that, changed


@dataclass(frozen=True, eq=False)
class Cases:
    """Holds prefixes and a square of each whose disc is turned over.

    Attributes:
        games: The games.
        plies: The moves of each prefix. Shape: (cases,)
        squares: The square, of all from a1 row by row. Shape: (cases,)
        sources: Whose disc it is, 0 mine or 1 yours. Shape: (cases,)
        before: The squares that are legal in truth. Shape: (cases, squares that can be played)
        after: Those legal once the disc is turned over. Shape: (cases, squares that can be played)
    """

    games: Games
    plies: NDArray[np.int64]
    squares: NDArray[np.int64]
    sources: NDArray[np.int64]
    before: NDArray[np.bool_]
    after: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.plies)

    @property
    def ids(self) -> NDArray[np.int64]:
        """The tokens of the prefixes, 0 after them. Shape: (cases, longest)."""
        length = int(self.plies.max())
        kept = encode(self.games)[:, :length]
        return np.where(np.arange(length) < self.plies[:, None], kept, 0)


def draw_cases(games: Games, number: int, seed: int) -> Cases:
    """Draw at most one case of each game, up to a number: a ply and a square at random among those that are cases."""
    rng = np.random.default_rng(seed)
    rows = np.arange(len(games))
    plies = 1 + (rng.random(len(games)) * (games.lengths - 1)).astype(np.int64)
    own, opp, legal = (part[rows, plies] for part in (games.own, games.opp, games.legal))
    ranks = rng.permuted(np.tile(np.arange(games.board.size**2), (len(games), 1)), axis=1)
    chosen, after = np.full(len(games), -1), np.zeros(len(games), np.uint64)
    for i in range(ranks.shape[1]):
        bits = np.left_shift(np.uint64(1), np.array(games.board.fields, np.uint64)[ranks[:, i]])
        turned = games.board.legal(own ^ bits, opp ^ bits)
        fits = (chosen < 0) & ((own | opp) & bits != 0) & (turned != 0) & (turned != legal)
        chosen[fits], after[fits] = ranks[fits, i], turned[fits]
    kept = np.flatnonzero((chosen >= 0) & (legal != 0))[:number]
    fields = np.array(games.board.fields, np.uint64)[chosen[kept]]
    is_yours = (opp[kept] >> fields & np.uint64(1)).astype(np.int64)
    before, then = (unpack(bits[kept], games.board.squares) for bits in (legal, after))
    return Cases(games.take(kept), plies[kept], chosen[kept], is_yours, before, then)


def keep(layer: int, x: Tensor) -> Tensor:
    """Make no edit."""
    return x


def steer(probes: Mapping[int, Probe], cases: Cases, first: int, alpha: float) -> Shift:
    """Make the edit along the directions of linear probes, of layer `first` and above."""
    squares, sources = torch.from_numpy(cases.squares), torch.from_numpy(cases.sources)
    turned = {layer: probe.directions(squares, sources, 1 - sources) for layer, probe in probes.items()}
    return lambda layer, x: x + alpha * turned[layer].to(x) if layer >= first else x


def steer_at_random(width: int, number: int, first: int, alpha: float, seed: int) -> Shift:
    """Make the edit along one direction at random for each case, of the same length."""
    drawn = torch.randn(number, width, generator=torch.Generator().manual_seed(seed))
    drawn = drawn / drawn.norm(dim=1, keepdim=True)
    return lambda layer, x: x + alpha * drawn.to(x) if layer >= first else x


def follow_gradient(networks: Mapping[int, Probe], cases: Cases, first: int) -> Shift:
    """Make the edit that Adam finds on the hidden states, so that a network reads the turned disc."""
    rows, squares, sources = (torch.from_numpy(one) for one in (np.arange(len(cases)), cases.squares, cases.sources))

    def shift(layer: int, x: Tensor) -> Tensor:
        if layer < first:
            return x
        targets = (1 - sources).to(x.device)
        with torch.enable_grad():
            found = x.detach().float().clone().requires_grad_()
            optimizer = torch.optim.Adam([found], lr=GRADIENT_RATE)
            for _ in range(GRADIENT_STEPS):
                scores = networks[layer].score(found)[rows, squares]
                loss = torch.nn.functional.cross_entropy(scores, targets, reduction="sum")
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return found.detach().to(x)

    return shift


def predict_edited(player: Player, cases: Cases, shift: Shift) -> Floats:
    """Compute the probabilities of the squares at the last position of each case. Shape: (cases, squares)."""
    rows, last = torch.arange(len(cases)), torch.from_numpy(cases.plies - 1)

    def edit(layer: int, x: Tensor) -> Tensor:
        changed = x.clone()
        changed[rows, last] = shift(layer, x[rows, last])
        return changed

    with torch.no_grad(), hidden_states.editing(player.model, edit):
        logits = player.forward(cases.ids)
    found: Floats = logits[rows, last, 1:].softmax(-1).cpu().numpy()
    return found


def judge_edit(q: Floats, unedited: Floats, cases: Cases, seed: int) -> dict[str, Figure]:
    """Judge the probabilities after an edit by the squares that are legal on the changed board.

    Args:
        q: After the edit. Shape: (cases, squares)
        unedited: Without it. Shape: (cases, squares)
        cases: The cases.
        seed: Of the intervals.

    Returns:
        `error`, squares among the N best that are not legal and legal squares that are not among them, N the number of
        those that are legal; `gain`, by how much it is less than without the edit, case by case; `top1_legal`;
        `legal_mass`; `changed`, over the squares alone that became legal and those that ceased to be: the mass of the
        first minus that of the second, by the mass of both, from -1 to 1.
    """
    errors = _count_errors(q, cases.after)
    best = np.take_along_axis(cases.after, q.argmax(axis=1)[:, None], axis=1)[:, 0]
    gained = np.where(cases.after & ~cases.before, q, 0).sum(axis=1)
    lost = np.where(cases.before & ~cases.after, q, 0).sum(axis=1)
    both, ones = (gained + lost).astype(np.float64), np.ones(len(cases))

    def count(values: NDArray[np.generic]) -> Share:
        return Share(values.astype(np.float64), ones)

    return summarize(
        {
            "error": count(errors),
            "gain": count(_count_errors(unedited, cases.after) - errors),
            "top1_legal": count(best),
            "legal_mass": count(np.where(cases.after, q, 0).sum(axis=1)),
            "changed": Share((gained - lost) / np.where(both > 0, both, 1), np.where(both > 0, 1.0, 0.0)),
        },
        seed,
    )


def choose_edit(player: Player, probes: Mapping[int, Probe], cases: Cases) -> tuple[int, float]:
    """Find the first layer and the alpha whose edit has the least error on cases that are for choosing."""
    tried = [(first, alpha) for first in probes for alpha in ALPHAS]
    errors = [find_error(predict_edited(player, cases, steer(probes, cases, *one)), cases) for one in tried]
    return tried[int(np.argmin(errors))]


def choose_first(player: Player, networks: Mapping[int, Probe], cases: Cases) -> int:
    """Find the first layer whose edit by gradients has the least error on cases that are for choosing."""
    tried: Sequence[int] = list(networks)
    errors = [
        find_error(predict_edited(player, cases, follow_gradient(networks, cases, first)), cases) for first in tried
    ]
    return tried[int(np.argmin(errors))]


def find_error(q: Floats, cases: Cases) -> float:
    """Compute the error alone, without an interval."""
    return float(_count_errors(q, cases.after).mean())


def judge_unchanged(q: Floats, cases: Cases, seed: int) -> Figure:
    """Judge the probabilities without an edit by the true board: the error that the model has of its own."""
    errors = _count_errors(q, cases.before).astype(np.float64)
    return summarize({"error": Share(errors, np.ones(len(cases)))}, seed)["error"]


def _count_errors(q: Floats, legal: NDArray[np.bool_]) -> NDArray[np.int64]:
    best = np.argsort(np.argsort(-q, axis=1), axis=1) < legal.sum(axis=1)[:, None]
    return np.asarray((best != legal).sum(axis=1))
