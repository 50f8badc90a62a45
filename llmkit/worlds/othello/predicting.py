"""What a model says after a prefix of moves: probabilities of squares, and hidden states."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from llmkit import hidden_states
from llmkit.errors import InputError
from llmkit.heads import context_length
from llmkit.loading import Loaded
from llmkit.worlds.othello.board import Board
from llmkit.worlds.othello.tokens import find_board

ROWS = 512  # games of a pass

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Player:
    """Holds a model of a board.

    Attributes:
        model: A causal language model of transformers, whose token 0 is the pad and whose others are squares.
        board: The board.
    """

    model: Any
    board: Board

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return next(self.model.parameters()).device

    @property
    def num_layers(self) -> int:
        """The number of blocks."""
        return len(hidden_states.find_blocks(self.model))

    def forward(self, ids: Ids) -> torch.Tensor:
        """Compute the logits of all tokens after every prefix, pads seen as tokens. Shape: (games, length, tokens)."""
        given = torch.from_numpy(ids).to(self.device)
        found: torch.Tensor = self.model(input_ids=given, attention_mask=torch.ones_like(given), use_cache=False).logits
        return found.float()

    def step(self, ids: Ids, cache: Any) -> tuple[torch.Tensor, Any]:
        """Go on by some tokens: the probabilities of the squares after the last, on the CPU, and the next cache.

        Args:
            ids: The tokens that are new. Shape: (games, new)
            cache: What the call before gave; None begins.
        """
        given = torch.from_numpy(ids).to(self.device)
        length = ids.shape[1] + (cache.get_seq_length() if cache is not None else 0)
        mask = torch.ones((len(ids), length), dtype=torch.long, device=self.device)
        with torch.inference_mode():
            out = self.model(input_ids=given, attention_mask=mask, past_key_values=cache, use_cache=True)
        return out.logits[:, -1, 1:].float().softmax(-1).cpu(), out.past_key_values

    def predict(self, ids: Ids) -> tuple[Floats, Floats]:
        """Compute log-probabilities of the squares after every prefix, and the probability that went to the pad.

        The pad is taken out, and the others sum to 1.

        Args:
            ids: Tokens of games, 0 after the end. Shape: (games, length)

        Returns:
            In nats, Shape: (games, length, squares), and from 0 to 1, Shape: (games, length).
        """
        squares, pads = [], []
        with torch.inference_mode():
            for start in range(0, len(ids), ROWS):
                logits = self.forward(ids[start : start + ROWS])
                squares.append(logits[..., 1:].log_softmax(-1).cpu().numpy())
                pads.append(logits.softmax(-1)[..., 0].cpu().numpy())
        return np.concatenate(squares), np.concatenate(pads)

    def read(self, ids: Ids, layer: int) -> torch.Tensor:
        """Read hidden states after every prefix: of layer 0 what goes into the first block, then what each block gives.

        Shape: (games, length, hidden), in float32 where the model lies.
        """
        found = []
        with torch.inference_mode(), hidden_states.reading(self.model) as states:
            for start in range(0, len(ids), ROWS):
                self.forward(ids[start : start + ROWS])
                found.append(states[layer].float())
        return torch.cat(found)

    def untrained(self, seed: int) -> "Player":
        """Make a model of the same config whose weights are drawn as before a training."""
        from transformers import AutoModelForCausalLM

        with _seeded(seed):
            model = AutoModelForCausalLM.from_config(self.model.config, trust_remote_code=False)
        return Player(model.to(self.device).eval(), self.board)


def make_player(lm: Loaded) -> Player:
    """Take a checkpoint as a player of the board whose squares are its tokens.

    Raises:
        InputError: They are those of none, or the model does not read a whole game, or has other tokens.
    """
    board, config = find_board(lm.tokenizer), lm.model.config
    context, least = context_length(config), board.num_plies - 1
    if context is not None and context < least:
        raise InputError(f"the model reads {context} tokens; expected {least} or more, a game without its last move")
    if config.vocab_size != board.num_plies + 1:
        raise InputError(
            f"the model has {config.vocab_size} tokens; expected {board.num_plies + 1}, a pad and the squares"
        )
    return Player(lm.model, board)


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Let torch draw from a seed on the CPU, and leave its state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
