import numpy as np
import pytest
import torch
from othello_players import Even, Oracle

from llmkit.loading import Loaded
from llmkit.worlds.othello import labels, match, measuring
from llmkit.worlds.othello.board import Board
from llmkit.worlds.othello.board import name as name_square
from llmkit.worlds.othello.figures import share, summarize
from llmkit.worlds.othello.games import draw_games
from llmkit.worlds.othello.legality import measure_chance, measure_legality
from llmkit.worlds.othello.playing import measure_games
from llmkit.worlds.othello.predicting import Player
from llmkit.worlds.othello.tokens import encode, legal_tokens, make_tokenizer


@pytest.fixture(scope="module")
def games():
    return draw_games(Board(6), 120, 11, "probe")


def values(figures):
    return {name: figure.value for name, figure in figures.items()}


def test_one_that_knows_the_rules_has_the_best_of_every_figure(games):
    found = measure_legality(Oracle(None, games.board), games, 0)
    floor = found["floor"].value
    whole = [f"top1_legal{quarter}" for quarter in ("", "_q1", "_q2", "_q3", "_q4")]
    whole += ["top3_legal", "top5_legal", "set_f1"]
    assert [found[name].value for name in whole] == [1.0] * 8
    assert found["legal_mass"].value == pytest.approx(1, abs=1e-6)
    assert found["cross_entropy"].value == pytest.approx(floor, abs=1e-6)
    assert found["kl"].value == pytest.approx(0, abs=1e-6)
    assert found["alpha"].value == pytest.approx(1, abs=1e-6)
    assert found["pad_mass"].value == 0
    assert found["top1_legal"].n == found["alpha"].n == int((games.moves[:, 1:] >= 0).sum())
    assert floor == pytest.approx(1.5358, abs=0.02)  # of random games, measured on 100,000


def test_one_that_knows_nothing_has_the_figures_of_chance(games):
    found = measure_legality(Even(None, games.board), games, 0)
    legal, mask = legal_tokens(games)[:, 1:-1], games.moves[:, 1:] >= 0
    number = legal.sum(-1)[mask]
    assert found["legal_mass"].value == pytest.approx((number / 32).mean(), rel=1e-6)
    assert found["cross_entropy"].value == pytest.approx(np.log(32), rel=1e-6)
    assert found["kl"].value == pytest.approx(np.log(32) - np.log(number).mean(), rel=1e-6)
    assert found["alpha"].value == pytest.approx(0, abs=1e-6)
    assert found["pad_mass"].value == 0.25


class Ranked(Player):
    """Gives the squares one order, whatever was played: a1 most."""

    def predict(self, ids):
        scores = -np.arange(self.board.num_plies, dtype=np.float32)
        log_q = scores - np.log(np.exp(scores).sum())
        return np.broadcast_to(log_q, (*ids.shape, len(scores))), np.zeros(ids.shape, np.float32)


def test_figures_are_those_of_a_walk_position_by_position(games):
    found = measure_legality(Ranked(None, games.board), games, 0)
    top1, top3, f1, mass = [], [], [], []
    q = np.exp(-np.arange(32.0)) / np.exp(-np.arange(32.0)).sum()
    is_legal = legal_tokens(games)
    for row in range(len(games)):
        for t in range(1, int(games.lengths[row])):
            legal = set(np.flatnonzero(is_legal[row, t]).tolist())
            top1.append(0 in legal)
            top3.append(len(legal & {0, 1, 2}) / min(3, len(legal)))
            f1.append(len(legal & set(range(len(legal)))) / len(legal))
            mass.append(sum(q[i] for i in legal))
    expected = {"top1_legal": top1, "top3_legal": top3, "set_f1": f1, "legal_mass": mass}
    for name, one in expected.items():
        assert found[name].value == pytest.approx(np.mean(one), rel=1e-5), name


def test_chance_is_counted_position_by_position(games):
    others = draw_games(games.board, 400, 12, "validation")
    found = measure_chance(games, others, 0)
    shares, hits = [], []
    best = legal_tokens(others).sum(axis=0).argmax(axis=-1)
    is_legal = legal_tokens(games)
    for row in range(len(games)):
        for t in range(1, int(games.lengths[row])):
            legal = is_legal[row, t]
            num_empty = 36 - 4 - t
            shares.append(legal.sum() / num_empty)
            hits.append(legal[best[t]])
    assert found["random_empty"].value == pytest.approx(np.mean(shares), rel=1e-9)
    assert found["ply_only"].value == pytest.approx(np.mean(hits), rel=1e-9)
    assert found["random_empty"].value == pytest.approx(0.446, abs=0.01)  # measured on 100,000 games


def test_one_that_knows_the_rules_finishes_every_game_and_one_that_does_not_none(games):
    some = games.take(slice(0, 60))
    names = {"after_1", "after_8", "after_16", "detour_0.1", "detour_0.5"}
    assert values(measure_games(Oracle(None, games.board), some, 0)) == dict.fromkeys(names, 1.0)
    assert values(measure_games(Even(None, games.board), some, 0)) == dict.fromkeys(names, 0.0)


def test_an_interval_is_over_games_and_not_over_positions():
    """Games that agree within themselves count as one draw each, so the interval is wide."""
    whole = np.repeat(np.arange(40)[:, None] % 2, 30, axis=1)
    found = summarize({"x": share(whole, np.ones(whole.shape, bool))}, 0)["x"]
    assert found.value == 0.5
    low, high = found.interval
    assert 0.28 < high - low < 0.34  # 2 * 1.96 * sqrt(0.25 / 40) = 0.31
    assert found.n == 1200


def test_games_end_in_the_tokens_with_zeros(games):
    ids = encode(games)
    assert ((ids > 0).sum(axis=1) == games.lengths).all()
    assert ids.max() == 32


def test_games_that_measure_one_thing_measure_no_other():
    player = Player(None, Board(6))
    kinds = [measuring._draw(player, 40, 0, name) for name in ("probes", "choosing", "judging", "states")]
    kinds += [draw_games(Board(6), 40, 0, stream) for stream in ("train", "validation")]
    moves = [tuple(row) for games in kinds for row in games.moves.tolist()]
    assert len(set(moves)) == 240


def test_a_match_shows_what_is_read_in_the_colours_of_the_board(games, monkeypatch):
    """A reader that is right, of black to move and of white, shows the board and marks nothing."""
    monkeypatch.setattr(match, "train_reader", lambda player, seed: match.Reader(None, 0))
    monkeypatch.setattr(match, "make_player", lambda lm: lm.model)
    played = match.Match(Loaded(Oracle(None, Board(6)), make_tokenizer(Board(6))), 0)
    monkeypatch.setattr(match.Player, "read", lambda self, ids, layer: np.zeros((1, ids.shape[1], 1)))
    right = torch.from_numpy(labels.label(games, "relative")[0])
    monkeypatch.setattr(match, "classify", lambda probe, x: right[len(played.moves) - 1][None])
    sides = set()
    for bit in games.moves[0, :20]:
        played.play(name_square(int(bit)))
        sides.add(played.is_black_to_move)
        board = played.show()
        assert "!" not in board
        assert board.count("●") == 2 * played.count()[0]
    assert sides == {True, False}
