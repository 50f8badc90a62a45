"""Players whose figures are known: one that knows the rules, and one that gives all squares the same."""

import numpy as np
import torch

from llmkit.worlds.othello.games import attempt
from llmkit.worlds.othello.predicting import Player
from llmkit.worlds.othello.tokens import legal_tokens


class Oracle(Player):
    """Gives every legal square the same, and the others nothing."""

    def predict(self, ids):
        bits = np.array([-1, *self.board.squares])
        games, _ = attempt(self.board, bits[ids])
        legal = legal_tokens(games)[:, 1 : ids.shape[1] + 1]
        with np.errstate(divide="ignore"):
            log_q = np.log(legal / np.maximum(legal.sum(-1, keepdims=True), 1))
        return log_q.astype(np.float32), np.zeros(ids.shape, np.float32)

    def step(self, ids, cache):
        whole = ids if cache is None else np.concatenate([cache, ids], axis=1)
        q = np.exp(self.predict(whole)[0][:, -1])
        ended = q.sum(axis=1) == 0
        q[ended] = 1 / q.shape[1]
        return torch.from_numpy(q), whole


class Halved(Oracle):
    """Knows the rules after half of the ways to play the first five moves; else gives every square the same."""

    def knows(self, ids):
        """Whether it does, of each row: exchanging two moves that stand two apart turns it round."""
        return (ids[:, :3] > ids[:, 2:5]).sum(axis=1) % 2 == 0

    def predict(self, ids):
        right, pad = super().predict(ids)
        even = np.float32(-np.log(self.board.num_plies))
        return np.where(self.knows(ids)[:, None, None], right, even), pad

    def step(self, ids, cache):
        q, whole = super().step(ids, cache)
        even = torch.full_like(q, 1 / self.board.num_plies)
        return torch.where(torch.from_numpy(self.knows(whole))[:, None], q, even), whole


class Leaky(Oracle):
    """Gives squares that are not legal a little."""

    def step(self, ids, cache):
        q, whole = super().step(ids, cache)
        return 0.9 * q + 0.1 / self.board.num_plies, whole


class Even(Player):
    """Gives every square the same."""

    def predict(self, ids):
        number = self.board.num_plies
        return np.full((*ids.shape, number), -np.log(number), np.float32), np.full(ids.shape, 0.25, np.float32)

    def step(self, ids, cache):
        return torch.full((len(ids), self.board.num_plies), 1 / self.board.num_plies), ids
