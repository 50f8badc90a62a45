import numpy as np
import pytest
from conftest import DATA
from othello_rules import Table, to_bits, to_square, write_wthor

from llmkit.errors import DamagedError, InputError
from llmkit.worlds.othello.board import SIZES, Board, name, pick, unpack
from llmkit.worlds.othello.games import BLOCK, attempt, draw_block, draw_games, replay
from llmkit.worlds.othello.wthor import read_games


def follow_slowly(games, row):
    """Replay a game by the slow rules and compare every position."""
    table = Table(games.board.size)
    for ply in range(games.moves.shape[1] + 1):
        mine = {square for square, disc in table.discs.items() if disc == table.side}
        yours = {square for square, disc in table.discs.items() if disc != table.side}
        legal = table.legal()
        assert int(games.own[row, ply]) == to_bits(mine)
        assert int(games.opp[row, ply]) == to_bits(yours)
        assert int(games.legal[row, ply]) == to_bits(legal)
        assert bool(games.is_black[row, ply]) == (table.side == 1)
        if ply == games.moves.shape[1] or games.moves[row, ply] < 0:
            return legal, table.legal(1 - table.side)
        table.play(to_square(games.moves[row, ply]))
    return None


@pytest.mark.parametrize(("size", "number"), [(4, 500), (6, 500), (8, 500)])
def test_random_games_follow_the_slow_rules_on_every_ply_to_their_end(size, number):
    games = draw_games(Board(size), number, 5, "train")
    ends = [follow_slowly(games, row) for row in range(number)]
    assert ends == [(set(), set())] * number


@pytest.mark.parametrize(
    ("size", "mean_length", "with_pass", "num_legal"), [(6, 31.95, 0.403, 5.33), (8, 59.97, 0.344, 8.62)]
)
def test_random_games_are_as_random_games_are(size, mean_length, with_pass, num_legal):
    games = draw_games(Board(size), 8000, 1, "train")
    is_parity = (np.arange(games.own.shape[1]) % 2 == 0) == games.is_black
    assert games.lengths.mean() == pytest.approx(mean_length, abs=0.02)
    assert (~is_parity & (games.legal > 0)).any(axis=1).mean() == pytest.approx(with_pass, abs=0.02)
    later = games.legal[:, 1:]
    assert np.bitwise_count(later[later > 0]).mean() == pytest.approx(num_legal, abs=0.06)


def test_every_legal_move_is_drawn_evenly():
    games = draw_games(Board(8), 12_000, 9, "train")
    counts = np.unique(games.moves[:, 0], return_counts=True)[1]
    assert counts.size == 4
    assert np.abs(counts / 12_000 - 0.25).max() < 0.02


def test_seed_stream_and_block_settle_a_game():
    board = Board(6)
    first = draw_games(board, 300, 7, "train")
    again = draw_games(board, 100, 7, "train")
    assert np.array_equal(first.moves[:100], again.moves)
    others = [draw_games(board, 100, 8, "train"), draw_games(board, 100, 7, "validation")]
    others += [draw_games(board, 100, 7, "probe"), draw_block(board, 100, 7, "train", 1)]
    drawn = [tuple(row) for games in [again, *others] for row in games.moves.tolist()]
    assert len(set(drawn)) == len(drawn)


def test_games_of_two_blocks_follow_each_other():
    board = Board(4)
    games = draw_games(board, BLOCK + 5, 3, "train")
    assert np.array_equal(games.moves[BLOCK:], draw_block(board, 5, 3, "train", 1).moves)
    assert len(games) == BLOCK + 5


def test_replay_gives_the_games_that_were_drawn():
    games = draw_games(Board(8), 200, 2, "train")
    again = replay(Board(8), games.moves)
    for part in ("moves", "own", "opp", "legal", "is_black"):
        assert np.array_equal(getattr(games, part), getattr(again, part))


def test_replay_names_the_move_that_is_not_legal():
    moves = draw_games(Board(6), 3, 2, "train").moves.astype(np.int64)
    moves[1, 4] = moves[1, 0]
    with pytest.raises(InputError, match=r"^move 5 of game 2 is not legal$"):
        replay(Board(6), moves)
    games, num_legal = attempt(Board(6), moves)
    assert num_legal[1] == 4
    assert (games.moves[1, 4:] == -1).all()


def test_a_board_has_its_squares_by_name():
    board = Board(4)
    assert board.names == ("a1", "b1", "c1", "d1", "a2", "d2", "a3", "d3", "a4", "b4", "c4", "d4")
    assert [len(Board(size).squares) for size in SIZES] == [12, 32, 60]
    assert name(63) == "h8"
    with pytest.raises(InputError, match=r"^unknown board, got 5; expected 4, 6 or 8$"):
        Board(5)


def test_pick_finds_each_bit_by_its_rank():
    rng = np.random.default_rng(0)
    boards = rng.integers(0, 1 << 63, 50, dtype=np.uint64) * np.uint64(2) + rng.integers(0, 2, 50, dtype=np.uint64)
    for bits in boards:
        places = np.flatnonzero(unpack(bits[None], tuple(range(64)))[0])
        many = np.full(len(places), bits)
        assert pick(many, np.arange(len(places))).tolist() == places.tolist()


@pytest.mark.parametrize("every", [400, pytest.param(1, marks=pytest.mark.slow)])
def test_all_championship_games_are_legal_to_the_end(every):
    folder = DATA / "othello"
    if not folder.is_dir():
        pytest.skip("no WTHOR files at hand")
    paths = sorted(folder.glob("*.wtb"))
    number = 0
    for path in paths:
        games = read_games(path)
        number += len(games)
        for row in range(0, len(games), every):
            follow_slowly(games, row)
    assert (len(paths), number) == (20, 61_549)


def test_wthor_moves_are_ten_times_the_row_plus_the_column(tmp_path):
    games = read_games(write_wthor(tmp_path / "a.wtb", [[56, 64], [56, 66, 65]]))
    assert [[name(bit) for bit in row if bit >= 0] for row in games.moves] == [["f5", "d6"], ["f5", "f6", "e6"]]


def test_games_without_a_move_are_left_out(tmp_path):
    games = read_games(write_wthor(tmp_path / "a.wtb", [[], [56, 64], []]))
    assert games.lengths.tolist() == [2]
    assert len(games.own) == 1


@pytest.mark.parametrize(
    ("records", "changes", "sentence"),
    [
        ([[56]], {"size": 10}, "is no WTHOR file of games on 8 by 8 squares"),
        ([[59]], {}, "names a square that is none"),
        ([[56, 64, 5]], {}, "names a square that is none"),
        ([[]], {}, "holds no moves"),
        ([], {}, "holds no moves"),
        ([[56], [11]], {}, "move 1 of game 2 is not legal"),
    ],
)
def test_a_damaged_wthor_file_is_told_in_a_sentence(tmp_path, records, changes, sentence):
    with pytest.raises(DamagedError, match=sentence):
        read_games(write_wthor(tmp_path / "a.wtb", records, **changes))


def test_a_wthor_file_that_is_missing_or_cut_is_told(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_games(tmp_path / "none.wtb")
    path = write_wthor(tmp_path / "a.wtb", [[56]])
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DamagedError, match="is no WTHOR file"):
        read_games(path)


def test_a_prefix_ends_in_a_quarter_of_the_plies():
    assert Board(6).quarter(np.array([1, 7, 8, 15, 16, 24, 31])).tolist() == [0, 0, 1, 1, 2, 3, 3]


def test_one_of_the_games_of_validation_was_trained_on():
    """As docs/concepts/world-models.md says: with the games of its commands."""
    learnt = {moves.tobytes() for moves in draw_games(Board(6), 380_000, 1, "train").moves}
    held = draw_games(Board(6), 20_000, 0, "validation").moves
    assert sum(moves.tobytes() in learnt for moves in held) == 1
