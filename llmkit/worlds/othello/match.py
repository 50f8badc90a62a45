"""A game against a model, in text: the board, and beside it the one that a probe reads in the model's hidden states."""

from dataclasses import dataclass

import numpy as np

from llmkit.errors import InputError
from llmkit.loading import Loaded
from llmkit.worlds.othello import labels, legality, probing
from llmkit.worlds.othello.board import COLUMNS, name
from llmkit.worlds.othello.games import Games, attempt, draw_games
from llmkit.worlds.othello.labels import EMPTY
from llmkit.worlds.othello.predicting import Player, make_player
from llmkit.worlds.othello.probing import Probe, classify
from llmkit.worlds.othello.tokens import encode

READER_GAMES = 800  # that the probe learns from, before the game
DISCS = ("●", "○")  # black, white


@dataclass(frozen=True, eq=False)
class Reader:
    """Holds the probe by which boards are read, and its layer."""

    probe: Probe
    layer: int


@dataclass(frozen=True)
class Move:
    """Holds a move of the model: the square that it gave most, its probability, and what was played, a legal one."""

    wanted: str
    probability: float
    played: str


def train_reader(player: Player, seed: int) -> Reader:
    """Train linear probes of all layers on random games, and take the layer that reads other games best."""
    games = draw_games(player.board, READER_GAMES, seed, "probe")
    mask, asked = legality.find_judged(games), {"relative": labels.label(games, "relative")}
    found = []
    for layer in range(player.num_layers + 1):
        split = probing.gather(player.read(encode(games)[:, :-1], layer), mask, asked)
        found.append(Reader(probing.train_probe(split, "relative", seed), layer))
    return max(found, key=lambda reader: reader.probe.validated)


class Match:
    """Plays one game; squares are named as `c4`, and passes happen by themselves.

    Attributes:
        player: The model.
        reader: What reads its hidden states.
        moves: The bits of the squares that were taken.
    """

    def __init__(self, lm: Loaded, seed: int) -> None:
        """Take a model whose tokens are the squares of a board.

        Raises:
            InputError: They are not.
        """
        self.player = make_player(lm)
        self.reader = train_reader(self.player, seed)
        self.moves: list[int] = []
        self._rng = np.random.default_rng(seed)

    @property
    def game(self) -> Games:
        """The game so far."""
        return attempt(self.player.board, np.array([self.moves or [-1]], np.int64))[0]

    @property
    def legal(self) -> list[str]:
        """The squares that may be taken; none at the end."""
        bits = int(self.game.legal[0, len(self.moves)])
        return [name(bit) for bit in self.player.board.squares if bits >> bit & 1]

    @property
    def is_black_to_move(self) -> bool:
        """Whether black is to move."""
        return bool(self.game.is_black[0, len(self.moves)])

    def play(self, square: str) -> None:
        """Take a square.

        Raises:
            InputError: It may not be taken.
        """
        if square not in self.legal:
            raise InputError(f"{square!r} may not be taken; expected {', '.join(self.legal)}")
        self.moves.append(next(bit for bit in self.player.board.squares if name(bit) == square))

    def answer(self) -> Move:
        """Let the model take a square: the legal one that it gives most; the first move of a game is drawn."""
        if not self.moves:
            legal = self.legal
            square = str(self._rng.choice(legal))
            self.play(square)
            return Move(square, 1 / len(legal), square)
        log_q, _ = self.player.predict(encode(self.game)[:, : len(self.moves)])
        names, q = self.player.board.names, np.exp(log_q[0, -1])
        ranked = [names[i] for i in np.argsort(-q)]
        played = next(square for square in ranked if square in self.legal)
        self.play(played)
        return Move(ranked[0], float(q.max()), played)

    def count(self) -> tuple[int, int]:
        """Count the discs of black and of white."""
        board = self._board()
        return int((board == 0).sum()), int((board == 1).sum())

    def show(self) -> str:
        """Show the board, `·` where a square may be taken, and beside it what the model believes, `!` where it errs."""
        size, true, legal = self.player.board.size, self._board(), set(self.legal)
        read = self._belief()
        top = "  " + " ".join(COLUMNS[:size])
        lines = [f"{top}     {top}" if read is not None else top]
        for row in range(size):
            cells, beliefs = [], []
            for column in range(size):
                i = row * size + column
                here = "·" if f"{COLUMNS[column]}{row + 1}" in legal else " "
                cells.append(here if true[i] == EMPTY else DISCS[true[i]])
                if read is not None:
                    mark = "!" if read[i] != true[i] else " "
                    beliefs.append((" " if read[i] == EMPTY else DISCS[read[i]]) + mark)
            line = f"{row + 1} {' '.join(cells)}"
            lines.append(f"{line}     {row + 1} {''.join(beliefs)}".rstrip() if read is not None else line.rstrip())
        return "\n".join(lines)

    def _board(self) -> labels.Labels:
        """Find the discs: 0 black, 1 white, 2 none. Shape: (squares,)."""
        game, ply = self.game, len(self.moves)
        own, opp = int(game.own[0, ply]), int(game.opp[0, ply])
        black, white = (own, opp) if self.is_black_to_move else (opp, own)
        discs = [0 if black >> bit & 1 else 1 if white >> bit & 1 else EMPTY for bit in self.player.board.fields]
        return np.array(discs, np.uint8)

    def _belief(self) -> labels.Labels | None:
        """Read the discs in the hidden states after the last move; None before the first and after the last."""
        if not self.moves or not self.legal:
            return None
        ids = encode(self.game)[:, : len(self.moves)]
        found = classify(self.reader.probe, self.player.read(ids, self.reader.layer)[0, -1:])[0].cpu().numpy()
        if self.is_black_to_move:
            return np.asarray(found, np.uint8)
        return np.asarray(np.array([1, 0, EMPTY], np.uint8)[found])  # mine is white's
