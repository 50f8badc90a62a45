import numpy as np
import pytest
from othello_players import Even, Halved, Leaky, Oracle
from othello_rules import Table, to_square

from llmkit.worlds.othello import recovering, transposing
from llmkit.worlds.othello.board import Board
from llmkit.worlds.othello.games import Games, draw_games
from llmkit.worlds.othello.recovering import (
    SAMPLES,
    continue_at_random,
    count_accepted,
    draw_boundary,
    measure_compression,
    measure_distinction,
    sample,
)
from llmkit.worlds.othello.tokens import encode
from llmkit.worlds.othello.transposing import (
    Pairs,
    compare_predictions,
    follow,
    number_states,
    pair_at_random,
    transpose,
)


@pytest.fixture(scope="module")
def games():
    return draw_games(Board(6), 1500, 21, "probe")


@pytest.fixture(scope="module")
def alike(games):
    return transpose(games, 4)


@pytest.fixture(scope="module")
def apart(games):
    return pair_at_random(games, 40, 4)[0]


def stand(games, row, plies):
    """The state after a prefix, by the slow rules."""
    table = Table(games.board.size)
    for bit in games.moves[row, :plies]:
        table.play(to_square(bit))
    return table.side, tuple(sorted(table.discs.items()))


def test_transposed_prefixes_differ_and_come_to_one_state(games, alike):
    assert 0.1 < len(alike) / len(games) < 0.6
    for row in range(0, len(alike), 5):
        plies = alike.plies[row]
        first, second = alike.first.moves[row, :plies], alike.second.moves[row, :plies]
        assert first.tolist() != second.tolist()
        assert sorted(first.tolist()) == sorted(second.tolist())
        assert stand(alike.first, row, plies) == stand(alike.second, row, plies)


def test_pairs_at_random_are_as_long_and_stand_apart(apart):
    assert len(apart) == 40
    for row in range(len(apart)):
        plies = apart.plies[row]
        assert plies >= 1
        assert stand(apart.first, row, plies) != stand(apart.second, row, plies)


def test_one_that_knows_the_rules_takes_one_state_alike_and_tells_two_apart(games, alike, apart):
    player = Oracle(None, games.board)
    some = alike.take(np.arange(30))
    agreement = compare_predictions(player, some, 0)
    assert {name: one.value for name, one in agreement.items()} == {"total_variation": 0.0, "top1_differs": 0.0}
    assert measure_compression(player, some, 0.01, 0)["compression"].value == 1.0
    found = measure_distinction(player, apart, draw_boundary(apart, 0), 0.01, 0)
    assert (found["precision"].value, found["recall"].value) == (1.0, 1.0)
    assert (found["precision_empty"].value, found["recall_empty"].value) == (0.0, 0.0)


def test_one_that_accepts_everything_compresses_all_and_tells_nothing_apart(games, alike, apart):
    player = Even(None, games.board)
    assert measure_compression(player, alike.take(np.arange(20)), 0.01, 0)["compression"].value == 1.0
    found = measure_distinction(player, apart, draw_boundary(apart, 0), 0.01, 0)
    assert (found["precision_empty"].value, found["recall"].value) == (1.0, 0.0)
    assert found["precision"].value == 1.0  # a boundary that is empty counts as 1


@pytest.fixture(scope="module")
def halved(games):
    """A player that knows the rules after half the openings, pairs of one state, and where it knows them of each."""
    player, pairs = Halved(None, games.board), transpose(games, 4)
    # up to 24 moves a game that goes on blindly is never legal to its end
    pairs = pairs.take(np.flatnonzero((pairs.plies >= 5) & (pairs.plies < 25)))
    return player, pairs, *(player.knows(encode(one)) for one in (pairs.first, pairs.second))


def test_compression_is_lost_where_the_second_way_is_taken_otherwise(games, halved):
    """Suffixes of all squares alike are refused by one that knows the rules; legal ones are accepted by both."""
    player, pairs, first, second = halved
    kept = np.flatnonzero(first != second)[:24]
    found, lost = measure_compression(player, pairs.take(kept), 0.01, 0), second[kept]
    assert 0.2 < lost.mean() < 0.8
    assert found["compression"].value == pytest.approx(1 - lost.mean())
    quarters = games.board.quarter(pairs.plies[kept])
    for i in np.unique(quarters):
        assert found[f"compression_q{i + 1}"].value == pytest.approx(1 - lost[quarters == i].mean())
        assert found[f"compression_q{i + 1}"].n == (quarters == i).sum()


def test_a_state_counts_once_in_compression_however_many_pairs_it_has(halved):
    player, pairs, first, second = halved
    lost, kept = (np.flatnonzero((first != second) & (second == one))[0] for one in (True, False))
    some = pairs.take(np.array([lost, kept, kept, kept]))
    assert number_states(some).tolist() in ([0, 1, 1, 1], [1, 0, 0, 0])
    found = measure_compression(player, some, 0.01, 0)["compression"]
    assert (found.value, found.n) == (0.5, 2)


def test_one_suffix_that_is_refused_is_enough(games, alike, monkeypatch):
    def refuse_one(player, games, suffixes, epsilon):
        return suffixes.lengths - (np.arange(len(suffixes.lengths)) == 2 * SAMPLES + 7)

    monkeypatch.setattr(recovering, "count_accepted", refuse_one)
    found = measure_compression(Even(None, games.board), alike.take(np.arange(8)), 0.01, 0)["compression"]
    assert found.value == pytest.approx(7 / 8)


def test_states_are_numbered_by_their_board_and_their_side(alike):
    seen = {}
    for row, number in enumerate(number_states(alike).tolist()):
        seen.setdefault(number, set()).add(stand(alike.first, row, alike.plies[row]))
    assert len(seen) > 500
    assert {len(states) for states in seen.values()} == {1}
    one = alike.first.take(np.array([0, 0]))
    sides = np.stack([one.is_black[0], ~one.is_black[0]])
    turned = Games(one.board, one.moves, one.own, one.opp, one.legal, sides)
    assert number_states(Pairs(turned, turned, alike.plies[[0, 0]])).tolist() in ([0, 1], [1, 0])


def test_predictions_after_two_ways_are_compared_square_by_square(games, halved):
    """Of n squares of 32 that are legal, 1 / n and 1 / 32 each: they differ by 1 - n / 32."""
    player, pairs, first, second = halved
    kept = np.flatnonzero(first != second)[:30]
    found = compare_predictions(player, pairs.take(kept), 0)
    legal = [pairs.first.legal[row, pairs.plies[row]] for row in kept]
    assert found["total_variation"].value == pytest.approx(1 - np.bitwise_count(legal).mean() / 32, abs=1e-6)
    differs = np.mean([not int(bits) >> games.board.squares[0] & 1 for bits in legal])  # of squares alike the first
    assert 0.5 < differs <= 1
    assert found["top1_differs"].value == pytest.approx(differs)


def test_tokens_that_are_not_accepted_are_never_drawn(games, apart):
    player, some = Leaky(None, games.board), apart.take(np.arange(6))
    for epsilon, is_legal in ((0.01, True), (0.001, False)):
        drawn = sample(player, some.first, some.plies, epsilon, 0)
        assert bool((follow(drawn.games, drawn.plies, drawn.ids)[0] == drawn.lengths).all()) == is_legal


def test_suffixes_go_on_from_their_prefix_legally_where_the_rules_are_known(games, apart):
    drawn = sample(Oracle(None, games.board), apart.first, apart.plies, 0.01, 0)
    assert len(drawn.ids) == len(apart) * SAMPLES
    real = continue_at_random(apart.first, apart.plies, 0)
    for suffixes in (drawn, real):
        num_legal, is_over = follow(suffixes.games, suffixes.plies, suffixes.ids)
        assert (num_legal == suffixes.lengths).all()
        assert (num_legal >= 1).all()
        assert is_over.all()


def test_follow_counts_the_legal_tokens_one_after_the_other(games):
    plies = np.full(len(games), 6)
    rest = np.zeros((len(games), 32), np.int64)
    rest[:, :5] = encode(games)[:, 6:11]
    num_legal, is_over = follow(games, plies, rest)
    assert (num_legal == 5).all()
    assert not is_over.any()
    rest[:, 3] = encode(games)[:, 0]  # a square that was taken
    assert (follow(games, plies, rest)[0] == 3).all()


def test_tokens_are_accepted_up_to_the_first_that_is_not(games, apart):
    player = Oracle(None, games.board)
    real = continue_at_random(apart.first, apart.plies, 3)
    second = apart.second.take(np.repeat(np.arange(len(apart)), SAMPLES))
    accepted = count_accepted(player, second, real, 1e-6)
    legal, _ = follow(second, real.plies, real.ids)
    assert (accepted == legal).all()
    assert (accepted < real.lengths).mean() > 0.9


def test_states_are_told_apart_by_the_side_to_move_too(games):
    one = games.take(slice(0, 4))
    turned = Games(one.board, one.moves, one.own, one.opp, one.legal, ~one.is_black)
    plies = np.full(4, 5)
    assert transposing._stand_alike(one, one, plies).all()
    assert not transposing._stand_alike(one, turned, plies).any()


def test_pairs_of_one_state_are_left_out():
    """On 4 by 4 squares a fifth of the pairs of prefixes of one or two moves are one state."""
    pairs, num_left_out = pair_at_random(draw_games(Board(4), 400, 5, "probe"), 300, 5)
    assert 10 < num_left_out < 100
    early = np.flatnonzero(pairs.plies <= 2)
    assert len(early) > 20
    for row in early:
        plies = pairs.plies[row]
        assert stand(pairs.first, row, plies) != stand(pairs.second, row, plies)


def test_a_token_is_accepted_above_epsilon_alone(games, apart):
    """One that knows the rules gives a legal square 1 / |L|: above 0.3 where there are three or fewer."""
    player = Oracle(None, games.board)
    real = continue_at_random(apart.first, apart.plies, 3)
    accepted = count_accepted(player, real.games, real, 0.3)
    for row in range(0, len(real.ids), 40):
        table = Table(6)
        for bit in real.games.moves[row, : real.plies[row]]:
            table.play(to_square(bit))
        expected = 0
        for token in real.ids[row, : real.lengths[row]]:
            if len(table.legal()) > 3:
                break
            table.play(to_square(games.board.squares[token - 1]))
            expected += 1
        assert accepted[row] == expected


def test_a_sequence_that_is_legal_at_both_states_is_no_hit(games, apart, monkeypatch):
    """Where the model rejects all at the second state, its boundary is first tokens, many of them legal there too."""
    monkeypatch.setattr(recovering, "count_accepted", lambda player, games, suffixes, epsilon: suffixes.lengths * 0)
    found = measure_distinction(Oracle(None, games.board), apart, draw_boundary(apart, 0), 0.01, 0)["precision"].value
    drawn = sample(Oracle(None, games.board), apart.first, apart.plies, 0.01, 0)
    shares = []
    for i in range(len(apart)):
        table = Table(6)
        for bit in apart.second.moves[i, : apart.plies[i]]:
            table.play(to_square(bit))
        firsts = set(drawn.ids[i * SAMPLES : (i + 1) * SAMPLES, 0].tolist())
        legal = [to_square(games.board.squares[token - 1]) in table.legal() for token in firsts]
        shares.append(1 - np.mean(legal))
    assert found == pytest.approx(np.mean(shares))
    assert found < 0.9
