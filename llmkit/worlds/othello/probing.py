"""Probes: what a hidden state tells of each square, by a linear map or a small network, of games that are held out.

    class of a square = argmax W x + b,  W of hidden x (squares * 3)

x is scaled by its mean and one number for all its coordinates, so that directions stay what they are in the model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmkit.worlds.othello.figures import Figure, Share, summarize
from llmkit.worlds.othello.labels import EMPTY, Labels

NUM_CLASSES = 3
HIDDEN = 128  # of the network
EPOCHS, BATCH, RATE = 12, 1024, 5e-3


@dataclass(frozen=True, eq=False)
class Rows:
    """Holds positions for a probe: hidden states, the game of each, and labels by their kind.

    Attributes:
        x: Shape: (positions, hidden)
        games: The number of the game of each position, from 0. Shape: (positions,)
        labels: Of each kind, Shape: (positions, squares)
    """

    x: Tensor
    games: NDArray[np.int64]
    labels: Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Split:
    """Holds the positions that a probe learns, those it is chosen by, and those it is judged by: of games apart."""

    train: Rows
    validation: Rows
    test: Rows


@dataclass(frozen=True, eq=False)
class Probe:
    """Tells the classes of all squares from a hidden state, by a linear map or through one layer of ReLU.

    Attributes:
        mean: Of what it learnt from. Shape: (hidden,)
        scale: The same for all coordinates. Shape: ()
        layers: The map, or the maps.
        validated: The share of squares that it tells right in the games by which it was chosen.
    """

    mean: Tensor
    scale: Tensor
    layers: Any
    validated: float = 0.0

    def score(self, x: Tensor) -> Tensor:
        """Score the classes. Shape: (..., hidden) to (..., squares, 3)."""
        scores: Tensor = self.layers((x - self.mean) / self.scale)
        return scores.unflatten(-1, (-1, NUM_CLASSES))

    def directions(self, squares: Tensor, sources: Tensor, targets: Tensor) -> Tensor:
        """Find the directions, of length 1, that lead a linear probe from one class of a square to another.

        Shape: (cases,) each to (cases, hidden).
        """
        weight = self.layers[-1].weight.detach().unflatten(0, (-1, NUM_CLASSES))
        found: Tensor = weight[squares, targets] - weight[squares, sources]
        return found / found.norm(dim=1, keepdim=True)


def begin_probe(x: Tensor, num_squares: int, seed: int, *, is_linear: bool) -> Probe:
    """Begin a probe of hidden states, Shape: (positions, hidden), with weights drawn by a seed."""
    size, width = num_squares * NUM_CLASSES, x.shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inner = () if is_linear else (torch.nn.Linear(width, HIDDEN), torch.nn.ReLU())
        layers = torch.nn.Sequential(*inner, torch.nn.Linear(width if is_linear else HIDDEN, size))
    scale = (x if x.is_floating_point() else x[: 16 * BATCH].float()).std()
    return Probe(x.mean(0, dtype=torch.float32), scale + 1e-6, layers.to(x.device))


def split_games(number: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Split games into those a probe learns, those it is chosen by, and those it is judged by: 8, 1 and 1 of ten."""
    rows = np.arange(number)
    return rows[: number * 8 // 10], rows[number * 8 // 10 : number * 9 // 10], rows[number * 9 // 10 :]


def train_probe(split: Split, kind: str, seed: int, *, is_linear: bool = True) -> Probe:
    """Train a probe by Adam with a learning rate that falls to 0, and take the epoch that is best on other games."""
    train, validation = split.train, split.validation
    y, generator = train.labels[kind].long(), torch.Generator().manual_seed(seed)
    probe = begin_probe(train.x, y.shape[1], seed, is_linear=is_linear)
    optimizer = torch.optim.Adam(probe.layers.parameters(), lr=RATE)
    num_steps = EPOCHS * -(-len(y) // BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / num_steps)
    best, kept = -1.0, {}
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(y), generator=generator).to(y.device).split(BATCH):
            loss = torch.nn.functional.cross_entropy(probe.score(train.x[rows]).flatten(0, 1), y[rows].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        found = float((classify(probe, validation.x) == validation.labels[kind]).float().mean())
        if found > best:
            best, kept = found, {name: value.clone() for name, value in probe.layers.state_dict().items()}
    probe.layers.load_state_dict(kept)
    probe.layers.requires_grad_(False)
    return replace(probe, validated=best)


def classify(probe: Probe, x: Tensor) -> Tensor:
    """Find the class of every square. Shape: (..., hidden) to (..., squares), as uint8."""
    with torch.inference_mode():
        return torch.cat([probe.score(part).argmax(-1).to(torch.uint8) for part in x.split(4 * BATCH)])


def judge(found: Tensor, right: Tensor, games: NDArray[np.int64], seed: int) -> dict[str, Figure]:
    """Judge classes that were found.

    Args:
        found: Shape: (positions, squares)
        right: Shape: (positions, squares)
        games: The game of each position. Shape: (positions,)
        seed: Of the intervals.

    Returns:
        `accuracy` over all squares; `occupied`, over those that hold a disc; `recall`, the mean over the three classes;
        `board`, the share of positions in which every square is right.
    """
    is_right, labels = (found == right).cpu().numpy(), right.cpu().numpy()

    def count(mask: NDArray[np.bool_]) -> Share:
        return Share(_add_up(games, (is_right & mask).sum(1)), _add_up(games, mask.sum(1)))

    by_class = {f"class{i}": count(labels == i) for i in range(NUM_CLASSES)}
    shares = {
        "accuracy": count(np.ones_like(is_right)),
        "occupied": count(labels != EMPTY),
        "board": Share(_add_up(games, is_right.all(1)), _add_up(games, np.ones(len(games)))),
    }
    return summarize({**shares, **by_class}, seed, means={"recall": tuple(by_class)})


def find_selectivity(probe: Probe, control: Probe, rows: Rows, seed: int) -> Figure:
    """Find by how much a probe of boards is righter, of all squares, than one of boards dealt out anew.

    Source: Hewitt and Liang 2019, Designing and interpreting probes with control tasks.
    """
    mine, theirs = (
        (classify(one, rows.x) == rows.labels[kind]).sum(1).cpu().numpy()
        for one, kind in ((probe, "relative"), (control, "shuffled"))
    )
    squares = np.full(len(mine), rows.labels["relative"].shape[1])
    more = Share(_add_up(rows.games, mine - theirs), _add_up(rows.games, squares))
    return summarize({"selectivity": more}, seed)["selectivity"]


def _add_up(games: NDArray[np.int64], values: NDArray[np.generic]) -> NDArray[np.float64]:
    """Add up what stands beside each position, game by game. Shape: (games,)."""
    return np.bincount(games, values.astype(np.float64)).astype(np.float64)


def find_majority(labels: Labels, mask: NDArray[np.bool_]) -> Labels:
    """Find the class that each square has most often at each ply. Shape: (plies - 1, squares).

    Args:
        labels: Shape: (games, plies - 1, squares)
        mask: Which of the positions count. Shape: (games, plies - 1)
    """
    counts = [((labels == i) & mask[..., None]).sum(axis=0) for i in range(NUM_CLASSES)]
    return np.asarray(np.stack(counts).argmax(axis=0), np.uint8)


def gather(x: Tensor, mask: NDArray[np.bool_], labels: Mapping[str, Labels]) -> Split:
    """Gather the positions that count, split by game.

    Args:
        x: Hidden states, or whole numbers, which stay as they are. Shape: (games, plies - 1, hidden)
        mask: Which positions count. Shape: (games, plies - 1)
        labels: Shape of each: (games, plies - 1, squares)
    """
    parts = []
    for rows in split_games(len(x)):
        chosen = mask[rows]
        numbers = np.broadcast_to(np.arange(len(rows))[:, None], chosen.shape)[chosen]
        picked = {kind: torch.from_numpy(one[rows][chosen]).to(x.device) for kind, one in labels.items()}
        read = x[torch.from_numpy(rows)][torch.from_numpy(chosen)]
        parts.append(Rows(read.float() if read.is_floating_point() else read, numbers, picked))
    return Split(*parts)


def one_hot_history(ids: NDArray[np.int64], num_squares: int) -> Tensor:
    """Write the moves so far as numbers: 1 for each pair of a square and the ply that took it.

    Args:
        ids: Tokens of games, 0 after the end. Shape: (games, plies - 1)
        num_squares: Squares that can be played.

    Returns:
        Shape: (games, plies - 1, (plies - 1) * num_squares), as int8.
    """
    games, plies = ids.shape
    found = np.zeros((games, plies, plies, num_squares), np.int8)
    game, ply = np.nonzero(ids)
    found[game, ply, ply, ids[game, ply] - 1] = 1
    return torch.from_numpy(np.maximum.accumulate(found, axis=1).reshape(games, plies, -1))
