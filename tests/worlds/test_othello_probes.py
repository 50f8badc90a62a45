from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from othello_players import Oracle
from othello_rules import Table, to_bits, to_square

from llmkit import Loaded
from llmkit.errors import InputError
from llmkit.hidden_states import reading
from llmkit.worlds.othello import intervening, labels, measuring, probing
from llmkit.worlds.othello.board import Board
from llmkit.worlds.othello.games import draw_games
from llmkit.worlds.othello.legality import find_judged, measure_head
from llmkit.worlds.othello.match import Match
from llmkit.worlds.othello.measuring import Sizes, measure
from llmkit.worlds.othello.predicting import Player
from llmkit.worlds.othello.tokens import encode, make_tokenizer


@pytest.fixture(scope="module")
def games():
    return draw_games(Board(6), 150, 31, "probe")


@pytest.fixture(scope="module")
def player():
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=33, n_positions=32, n_embd=32, n_layer=2, n_head=2)
    return Player(transformers.GPT2LMHeadModel(config).eval(), Board(6))


def make_loaded(**changes):
    shape = {"vocab_size": 13, "n_positions": 11, "n_embd": 16, "n_layer": 1, "n_head": 2}
    tokenizer = make_tokenizer(Board(4))
    return Loaded(transformers.GPT2LMHeadModel(transformers.GPT2Config(**{**shape, **changes})).eval(), tokenizer)


def test_a_model_that_reads_all_moves_but_the_last_is_measured():
    sizes = Sizes(num_games=10, num_probe_games=20, num_cases=4, num_pairs=2)
    found = measure(make_loaded(), sizes)
    assert found["states"]["num_prefixes"] > 0


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"n_positions": 10}, "the model reads 10 tokens; expected 11 or more, a game without its last move"),
        ({"vocab_size": 16}, "the model has 16 tokens; expected 13, a pad and the squares"),
    ],
)
def test_a_model_of_another_size_than_the_board_is_refused_at_once(changes, sentence):
    for call in (lambda lm: measure(lm, Sizes()), lambda lm: Match(lm, 0)):
        with pytest.raises(InputError, match=f"^{sentence}$"):
            call(make_loaded(**changes))


def walk_slowly(games):
    """Every position that counts: its game, its ply, and the table, by the slow rules."""
    for row in range(len(games)):
        table = Table(games.board.size)
        for ply in range(int(games.lengths[row])):
            if ply:
                yield row, ply, table
            table.play(to_square(games.moves[row, ply]))


def test_labels_are_those_of_the_slow_rules(games):
    some = games.take(slice(0, 40))
    relative, absolute = labels.label(some, "relative"), labels.label(some, "absolute")
    for row, ply, table in walk_slowly(some):
        for i, bit in enumerate(some.board.fields):
            disc = table.discs.get(to_square(bit))
            expected = (2, 2) if disc is None else (int(disc != table.side), int(disc == 0))
            assert (relative[row, ply - 1, i], absolute[row, ply - 1, i]) == expected


def test_a_board_without_flips_keeps_each_disc_as_it_was_placed(games):
    some = games.take(slice(0, 30))
    found = labels.label(some, "no_flips")
    low, high = 2, 3
    for row in range(len(some)):
        placed = {(low, low): 0, (high, high): 0, (high, low): 1, (low, high): 1}
        for ply in range(int(some.lengths[row])):
            if ply:
                side = int(some.is_black[row, ply])
                for i, bit in enumerate(some.board.fields):
                    disc = placed.get(to_square(bit))
                    assert found[row, ply - 1, i] == (2 if disc is None else int(disc != side))
            placed[to_square(some.moves[row, ply])] = int(some.is_black[row, ply])


def test_shuffled_boards_are_those_of_other_games_at_the_same_ply(games):
    right, dealt = labels.label(games, "relative"), labels.label(games, "shuffled", 1)
    mask = find_judged(games)
    for ply in (3, 20, 30):
        rows = mask[:, ply]
        boards = [sorted(map(tuple, one[rows, ply].tolist())) for one in (right, dealt)]
        assert boards[0] == boards[1]
    assert (right[mask] != dealt[mask]).any(axis=1).mean() > 0.9


def test_a_probe_reads_what_is_planted_and_no_more(games):
    """Hidden states that hold the board in a basis drawn at random, and noise: right for the board, not for chance."""
    right, mask = labels.label(games, "relative"), find_judged(games)
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(right).long(), 3).flatten(-2).float()
    basis = torch.randn(108, 160, generator=torch.Generator().manual_seed(0))
    noise = torch.randn((*mask.shape, 160), generator=torch.Generator().manual_seed(1))
    split = probing.gather(
        one_hot @ basis + 0.1 * noise, mask, {"relative": right, "shuffled": labels.label(games, "shuffled")}
    )
    found = {}
    for kind in ("relative", "shuffled"):
        probe = probing.train_probe(split, kind, 0)
        found[kind] = probing.judge(probing.classify(probe, split.test.x), split.test.labels[kind], split.test.games, 0)
    assert found["relative"]["occupied"].value > 0.95
    assert found["shuffled"]["occupied"].value < 0.6
    noise_split = probing.gather(noise, mask, {"relative": right})
    probe = probing.train_probe(noise_split, "relative", 0)
    judged = noise_split.test
    blind = probing.judge(probing.classify(probe, judged.x), judged.labels["relative"], judged.games, 0)
    assert blind["occupied"].value < 0.6


def test_the_parts_of_a_split_share_no_game(games):
    parts = probing.split_games(len(games))
    assert [len(part) for part in parts] == [120, 15, 15]
    assert len(set(np.concatenate(parts).tolist())) == 150
    split = probing.gather(torch.zeros(150, 31, 4), find_judged(games), {"relative": labels.label(games, "relative")})
    assert len(split.test.x) == int(find_judged(games)[135:].sum())
    assert len(np.unique(split.test.games)) == 15


def test_judge_counts_as_a_walk_does():
    rng = np.random.default_rng(0)
    right, found = (torch.from_numpy(rng.integers(0, 3, (60, 9)).astype(np.uint8)) for _ in range(2))
    found[:20] = right[:20]
    games = np.repeat(np.arange(6), 10)
    judged = probing.judge(found, right, games, 0)
    a, b = found.numpy(), right.numpy()
    assert judged["accuracy"].value == pytest.approx((a == b).mean())
    assert judged["occupied"].value == pytest.approx((a == b)[b != 2].mean())
    assert judged["board"].value == pytest.approx((a == b).all(axis=1).mean())
    assert judged["recall"].value == pytest.approx(np.mean([(a == b)[b == i].mean() for i in range(3)]))
    assert judged["occupied"].n == int((b != 2).sum())
    low, high = judged["recall"].interval
    assert low < judged["recall"].value < high
    assert set(judged) == {"accuracy", "occupied", "board", "recall"}


def test_controls_are_judged_on_the_games_that_judge_the_probes(games):
    mask, right = find_judged(games), labels.label(games, "relative")
    learnt, _, judged = probing.split_games(len(games))
    most = probing.find_majority(right[learnt], mask[learnt])
    expected = np.mean((most == right[judged])[mask[judged]])
    for judge in (measuring._judge_majority, measuring._judge_history):
        assert judge(games, mask, right, 0)["accuracy"].n == mask[judged].sum() * 36
    assert measuring._judge_majority(games, mask, right, 0)["accuracy"].value == pytest.approx(expected)


def test_whole_numbers_are_probed_as_their_floats_are(games):
    mask, right = find_judged(games), {"relative": labels.label(games, "relative")}
    x = probing.one_hot_history(encode(games)[:, :-1], 32)
    found = []
    for values in (x, x.float()):
        split = probing.gather(values, mask, right)
        assert split.train.x.dtype == values.dtype
        probe = probing.train_probe(split, "relative", 0)
        found.append(probing.classify(probe, split.test.x))
    assert torch.equal(*found)


def test_a_head_finds_the_legal_moves_where_hidden_states_tell_them(games):
    """Hidden states that are the legal squares, and such as say nothing."""
    oracle, others = Oracle(None, games.board), draw_games(games.board, 600, 32, "probe")
    found = []
    for sign in (1.0, 0.0):

        def read(ids, layer, sign=sign):
            return sign * torch.from_numpy(oracle.predict(ids)[0]).exp()

        told = SimpleNamespace(num_layers=1, read=read)
        found.append(measure_head(told, games, others, 0)["untrained_head"])
    assert found[0].value > 0.95
    assert found[1].value < 0.3
    assert found[0].n == find_judged(games).sum()


def test_selectivity_is_the_difference_of_two_accuracies(games, player):
    mask = find_judged(games)
    asked = {kind: labels.label(games, kind) for kind in ("relative", "shuffled")}
    split = probing.gather(player.read(encode(games)[:, :-1], 1), mask, asked)
    probes = {kind: probing.train_probe(split, kind, 0) for kind in asked}
    found = probing.find_selectivity(probes["relative"], probes["shuffled"], split.test, 0)
    right = {
        kind: float((probing.classify(probe, split.test.x) == split.test.labels[kind]).float().mean())
        for kind, probe in probes.items()
    }
    assert found.value == pytest.approx(right["relative"] - right["shuffled"], abs=1e-6)
    assert found.interval[0] < found.value < found.interval[1]
    assert found.n == split.test.labels["relative"].numel()


def test_the_majority_is_of_each_ply_and_square(games):
    right, mask = labels.label(games, "relative"), find_judged(games)
    most = probing.find_majority(right, mask)
    for ply, square in ((0, 0), (10, 14), (29, 35)):
        counts = np.bincount(right[mask[:, ply], ply, square], minlength=3)
        assert most[ply, square] == counts.argmax()


def test_the_moves_so_far_are_written_as_pairs_of_square_and_ply():
    ids = np.array([[3, 1, 2], [1, 2, 0]])
    found = probing.one_hot_history(ids, 3).numpy()
    assert found.shape == (2, 3, 9)
    assert [np.flatnonzero(one).tolist() for one in found[0]] == [[2], [2, 3], [2, 3, 7]]
    assert [np.flatnonzero(one).tolist() for one in found[1]] == [[0], [0, 4], [0, 4]]


def test_cases_turn_a_disc_over_and_other_squares_become_legal(games):
    cases = intervening.draw_cases(games, 60, 3)
    assert len(cases) == 60
    for i in range(len(cases)):
        table = Table(6)
        for bit in cases.games.moves[i, : cases.plies[i]]:
            table.play(to_square(bit))
        square = to_square(cases.games.board.fields[cases.squares[i]])
        assert cases.sources[i] == int(table.discs[square] != table.side)
        before = to_bits(table.legal())
        table.discs[square] = 1 - table.discs[square]
        after = to_bits(table.legal())
        expected = [[bool(bits >> bit & 1) for bit in cases.games.board.squares] for bits in (before, after)]
        assert [cases.before[i].tolist(), cases.after[i].tolist()] == expected
        assert cases.after[i].any()
        assert expected[0] != expected[1]


def test_an_edit_moves_the_last_position_alone_from_its_first_layer_on(games, player):
    cases = intervening.draw_cases(games, 20, 3)
    shift, added = intervening.steer_at_random(32, len(cases), 1, 3.0, 0), {}

    def keep(layer, x):
        added[layer] = (shift(layer, x) - x).norm(dim=-1).numpy()
        return shift(layer, x)

    with torch.no_grad(), reading(player.model) as states:  # what a block gives, before it is edited
        intervening.predict_edited(player, cases, intervening.keep)
        plain = [one.clone() for one in states]
        intervening.predict_edited(player, cases, keep)
    assert {layer: float(one.max()) for layer, one in added.items()} == pytest.approx({1: 3.0, 2: 3.0}, abs=1e-4)
    moved = (states[2] - plain[2]).norm(dim=-1).numpy()
    before = np.arange(moved.shape[1]) < cases.plies[:, None] - 1
    assert torch.equal(states[1], plain[1])
    assert moved[before].max() == 0
    assert moved[np.arange(20), cases.plies - 1].min() > 1e-3
    late = intervening.steer_at_random(32, len(cases), 2, 3.0, 0)
    assert torch.equal(late(1, plain[1]), plain[1])


def test_no_edit_predicts_what_the_model_predicts(games, player):
    cases = intervening.draw_cases(games, 20, 3)
    plain = np.exp(player.predict(encode(cases.games))[0][np.arange(20), cases.plies - 1])
    assert intervening.predict_edited(player, cases, intervening.keep) == pytest.approx(plain, abs=1e-6)
    still = intervening.steer_at_random(32, 20, 1, 0.0, 0)
    assert intervening.predict_edited(player, cases, still) == pytest.approx(plain, abs=1e-6)


@pytest.fixture(scope="module")
def probes(games, player):
    mask, asked = find_judged(games), {"relative": labels.label(games, "relative")}
    split = probing.gather(player.read(encode(games)[:, :-1], 1), mask, asked)
    return {one: probing.train_probe(split, "relative", 0, is_linear=one == "linear") for one in ("linear", "network")}


def test_a_direction_leads_from_one_class_to_the_other(probes):
    probe, x = probes["linear"], torch.zeros(1, 32)
    ways = probe.directions(torch.tensor([3, 7]), torch.tensor([1, 0]), torch.tensor([0, 1]))
    assert ways.norm(dim=1).tolist() == pytest.approx([1, 1])
    way = ways[1]
    before, after = probe.score(x)[0, 7], probe.score(x + way)[0, 7]
    assert float((after[1] - after[0]) - (before[1] - before[0])) > 0


def test_the_edit_with_the_least_error_on_other_cases_is_chosen(monkeypatch):
    """Errors are planted: the least at layer 2 with alpha 4, and by gradients at layer 3."""
    monkeypatch.setattr(intervening, "steer", lambda probes, cases, first, alpha: (first, alpha))
    monkeypatch.setattr(intervening, "follow_gradient", lambda networks, cases, first: (first, 0))
    monkeypatch.setattr(intervening, "predict_edited", lambda player, cases, shift: shift)
    monkeypatch.setattr(intervening, "find_error", lambda q, cases: abs(q[0] - 2) + abs(q[1] - 4))
    assert intervening.choose_edit(None, {1: None, 2: None, 3: None}, None) == (2, 4.0)
    monkeypatch.setattr(intervening, "find_error", lambda q, cases: abs(q[0] - 3))
    assert intervening.choose_first(None, {1: None, 2: None, 3: None}, None) == 3


def test_steps_by_gradients_end_where_the_network_reads_the_turned_disc(games, player, probes):
    cases = intervening.draw_cases(games, 20, 3)
    x = player.read(cases.ids, 1)[torch.arange(20), torch.from_numpy(cases.plies - 1)]
    moved = intervening.follow_gradient({1: probes["network"]}, cases, 1)(1, x)
    read = probing.classify(probes["network"], moved)[torch.arange(20), torch.from_numpy(cases.squares)]
    assert (read.numpy() == 1 - cases.sources).all()
    assert torch.equal(intervening.follow_gradient({1: probes["network"]}, cases, 2)(1, x), x)


def test_an_edit_is_judged_by_the_changed_board(games):
    cases = intervening.draw_cases(games, 20, 3)
    perfect = cases.after / cases.after.sum(axis=1, keepdims=True)
    kept = cases.before / cases.before.sum(axis=1, keepdims=True)
    still = intervening.judge_edit(kept.astype(np.float32), kept, cases, 0)
    best = intervening.judge_edit(perfect.astype(np.float32), kept, cases, 0)
    assert {name: one.value for name, one in best.items()} == pytest.approx(
        {"error": 0, "gain": still["error"].value, "top1_legal": 1, "legal_mass": 1, "changed": 1}, abs=1e-6
    )
    assert (still["gain"].value, still["gain"].interval) == (0, (0, 0))
    lost = (cases.before & ~cases.after).any(axis=1)
    assert still["changed"].value == pytest.approx(-1) if lost.all() else still["changed"].value < 0
    assert still["error"].value > 0
    assert intervening.judge_unchanged(kept.astype(np.float32), cases, 0).value == 0
    assert intervening.judge_unchanged(perfect.astype(np.float32), cases, 0).value > 0
    rng = np.random.default_rng(0)
    q = rng.random(cases.after.shape).astype(np.float32)
    errors = []
    for i in range(20):
        right = set(np.flatnonzero(cases.after[i]).tolist())
        errors.append(len(set(np.argsort(-q[i])[: len(right)].tolist()) ^ right))
    found = intervening.judge_edit(q, kept, cases, 0)
    assert found["error"].value == pytest.approx(np.mean(errors))
    assert found["gain"].value == pytest.approx(still["error"].value - np.mean(errors))
    legal = [cases.after[i, np.argmax(q[i])] for i in range(20)]
    assert found["top1_legal"].value == pytest.approx(np.mean(legal))
    assert intervening.find_error(q, cases) == pytest.approx(np.mean(errors))
