"""Whether the moves of a model are legal, and how far its probabilities are from the best guess.

A game is judged after every prefix of at least one move but the whole. L is the set of legal squares then, q what the
model gives the squares, and p the truth of a random game: even over L.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from llmkit.worlds.othello.board import QUARTERS
from llmkit.worlds.othello.figures import Figure, Share, share, summarize
from llmkit.worlds.othello.games import Games
from llmkit.worlds.othello.predicting import Player
from llmkit.worlds.othello.tokens import encode, legal_tokens

TOPS = (3, 5)
HEAD_EPOCHS, HEAD_BATCH = 40, 1024


def measure_legality(player: Player, games: Games, seed: int) -> dict[str, Figure]:
    """Measure the moves of a model.

    Returns:
        `top1_legal`, and by quarters of a game `top1_legal_q1` to `_q4`; `legal_mass`, the sum of q over L;
        `top3_legal` and `top5_legal`, the share of the k best squares that are legal, of at most |L|; `set_f1` of as
        many best squares as are legal; `cross_entropy` of the moves that were played, `floor`, the mean of log |L|, and
        `kl`, of p from q, in nats a move; `alpha`, 1 - kl / the KL of p from even over all squares; `pad_mass`.
    """
    log_q, pads = player.predict(encode(games)[:, :-1])
    q, legal, mask = np.exp(log_q), legal_tokens(games)[:, 1:-1], find_judged(games)
    number = np.maximum(legal.sum(-1), 1)
    order = np.argsort(-log_q, axis=-1)
    is_legal = np.take_along_axis(legal, order, axis=-1)  # of the squares from the best on
    ranks = np.arange(legal.shape[-1])
    played = np.maximum(encode(games)[:, 1:] - 1, 0)
    kl = -np.where(legal, log_q, 0).sum(-1) / number - np.log(number)
    shares = {"top1_legal": share(is_legal[..., 0], mask)}
    quarter = games.board.quarter(np.arange(1, games.board.num_plies))
    for i in range(QUARTERS):
        shares[f"top1_legal_q{i + 1}"] = share(is_legal[..., 0], mask & (quarter == i))
    shares["legal_mass"] = share(np.where(legal, q, 0).sum(-1), mask)
    for top in TOPS:
        shares[f"top{top}_legal"] = share(is_legal[..., :top].sum(-1) / np.minimum(number, top), mask)
    best = is_legal & (ranks < number[..., None])
    shares["set_f1"] = share(best.sum(-1) / number, mask)
    shares["cross_entropy"] = share(-np.take_along_axis(log_q, played[..., None], -1)[..., 0], mask)
    shares["floor"] = share(np.log(number), mask)
    shares["kl"] = share(kl, mask)
    even = share(np.log(legal.shape[-1]) - np.log(number), mask)
    shares["alpha"] = Share(even.sums - shares["kl"].sums, even.sums, n=int(mask.sum()))
    shares["pad_mass"] = share(pads, mask)
    return summarize(shares, seed)


def find_judged(games: Games) -> NDArray[np.bool_]:
    """Tell after which prefixes, of 1 move and more, a move follows. Shape: (games, plies - 1)."""
    return np.asarray(games.moves[:, 1:] >= 0)


def measure_chance(games: Games, others: Games, seed: int) -> dict[str, Figure]:
    """Measure what needs no model: an empty square at random, and at each ply the square that is legal most often.

    Args:
        games: The games that are judged.
        others: The games that settle the square of each ply.
        seed: Of the intervals.
    """
    legal, mask = legal_tokens(games)[:, 1:-1], find_judged(games)
    num_empty = games.board.size**2 - np.bitwise_count(games.own | games.opp)[:, 1:-1].astype(np.int64)
    most = legal_tokens(others)[:, 1:-1].sum(axis=0).argmax(axis=-1)
    by_ply = np.take_along_axis(legal, most[None, :, None], axis=-1)[..., 0]
    shares = {"random_empty": share(legal.sum(-1) / np.maximum(num_empty, 1), mask), "ply_only": share(by_ply, mask)}
    return summarize(shares, seed)


def measure_head(untrained: Player, games: Games, others: Games, seed: int) -> dict[str, Figure]:
    """Measure a linear head that learns the moves of other games over the hidden states of an untrained model."""
    layer = untrained.num_layers
    states, mask = untrained.read(encode(others)[:, :-1], layer), torch.from_numpy(find_judged(others))
    x, y = states[mask].cpu(), torch.from_numpy(encode(others)[:, 1:])[mask] - 1
    mean, scale = x.mean(0), x.std() + 1e-6
    generator = torch.Generator().manual_seed(seed)
    head = torch.zeros(x.shape[1] + 1, games.board.num_plies, requires_grad=True)
    optimizer, num_steps = torch.optim.Adam([head], lr=1e-2), HEAD_EPOCHS * -(-len(x) // HEAD_BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / num_steps)
    for _ in range(HEAD_EPOCHS):
        for rows in torch.randperm(len(x), generator=generator).split(HEAD_BATCH):
            loss = torch.nn.functional.cross_entropy((x[rows] - mean) / scale @ head[:-1] + head[-1], y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    with torch.inference_mode():
        judged = untrained.read(encode(games)[:, :-1], layer).cpu()
        best = ((judged - mean) / scale @ head[:-1] + head[-1]).argmax(-1).numpy()
    legal = np.take_along_axis(legal_tokens(games)[:, 1:-1], best[..., None], axis=-1)[..., 0]
    return summarize({"untrained_head": share(legal, find_judged(games))}, seed)
