"""`llmkit world othello`: from games to figures and their page, in a minute on a board of 4 by 4."""

import io
import json
import re
import shutil
import sys

import numpy as np
import pytest
from othello_rules import write_wthor
from transformers import AutoTokenizer

from llmkit.cli.main import run
from llmkit.data.store import TokenStore
from llmkit.recipe.reading import read_recipe
from llmkit.worlds.othello.board import Board
from llmkit.worlds.othello.games import BLOCK, draw_games
from llmkit.worlds.othello.tokens import encode, list_tokens


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Games, a run on them, its figures and its page."""
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        assert (
            run(["world", "othello", "games", "--board", "4", "--num-games", "20000", "--seed", "1", "-o", "games"])
            == 0
        )
        keys = ["data.path=games", "train.max_steps=300", "train.mixed_precision=no", "eval.every_steps=100"]
        assert run(["pretrain", "othello-4x4", *keys, "train.threads=1"]) == 0
        sizes = ["--num-games", "400", "--num-probe-games", "400", "--num-cases", "40", "--num-pairs", "30"]
        assert run(["world", "othello", "evaluate", "runs/othello-4x4", *sizes]) == 0
        assert run(["world", "othello", "report", "runs/othello-4x4"]) == 0
    return folder


@pytest.fixture
def found(place):
    return json.loads((place / "runs" / "othello-4x4" / "worldmodel.json").read_text(encoding="utf-8"))


def test_games_are_token_shards_with_their_tokenizer(place):
    store = TokenStore.open(place / "games")
    facts = json.loads((place / "games" / "shards.json").read_text(encoding="utf-8"))
    assert (facts["board"], facts["seed"], facts["block_size"]) == (4, 1, BLOCK)
    assert store.num_documents == 20_000
    games = draw_games(Board(4), 20_000, 1, "train")
    ids = encode(games)
    assert np.array_equal(store.read(0, store.num_tokens), ids[ids > 0])
    assert np.array_equal(np.diff(store.starts), games.lengths)
    tokenizer = AutoTokenizer.from_pretrained(place / "games")
    assert tokenizer.convert_ids_to_tokens(list(range(13))) == list_tokens(Board(4))
    assert tokenizer("b1 a1 d4")["input_ids"] == [2, 1, 12]
    assert tokenizer.pad_token_id == 0


def test_championships_are_written_in_the_same_form(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_wthor(tmp_path / "a.wtb", [[56, 64, 53]])
    write_wthor(tmp_path / "b.wtb", [[56, 66, 65]])
    assert run(["world", "othello", "games", "--wthor", "a.wtb", "--wthor", "b.wtb", "-o", "games"]) == 0
    store, tokenizer = TokenStore.open(tmp_path / "games"), AutoTokenizer.from_pretrained(tmp_path / "games")
    assert store.num_documents == 2
    assert tokenizer.decode(store.read(0, store.num_tokens)) == "f5 d6 c5 f5 f6 e6"
    facts = json.loads((tmp_path / "games" / "shards.json").read_text(encoding="utf-8"))
    assert (facts["board"], facts["files"]) == (8, ["a.wtb", "b.wtb"])


def test_a_run_learns_moves_and_its_states_hold_some_of_the_board(found):
    moves, probes = found["moves"], found["probes"]
    assert moves["model"]["top1_legal"]["value"] > 0.85
    assert moves["untrained"]["top1_legal"]["value"] < 0.5
    best = probes["layers"][probes["best"]["linear"]["relative"]]
    assert best["linear"]["relative"]["occupied"]["value"] > probes["majority"]["occupied"]["value"]
    assert best["selectivity"]["value"] > 0.1
    shuffled = best["linear"]["shuffled"]["accuracy"]["value"]
    assert best["selectivity"]["value"] == pytest.approx(best["linear"]["relative"]["accuracy"]["value"] - shuffled)
    assert best["selectivity"]["interval"][0] > 0
    assert probes["history"]["accuracy"]["n"] == best["linear"]["relative"]["accuracy"]["n"]
    low, high = best["linear"]["relative"]["recall"]["interval"]
    assert low < best["linear"]["relative"]["recall"]["value"] < high
    assert best["layer"] > 0  # embeddings know no board
    edits = found["interventions"]["ways"]
    assert edits["probe"]["error"]["value"] < edits["null"]["error"]["value"]


def test_figures_say_how_they_were_measured(found):
    assert (found["version"], found["board"], found["seed"]) == (2, 4, 0)
    assert found["sizes"] == {"num_games": 400, "num_probe_games": 400, "num_cases": 40, "num_pairs": 30}
    assert [row["games"] for row in found["curve"]] == [12_800, 25_600, 38_400]
    assert [one["layer"] for one in found["probes"]["layers"]] == [0, 1, 2]
    line, best = found["probes"]["layers"][0], found["probes"]["best"]
    kinds = {form: set(line[form]) for form in ("linear", "network")}
    assert kinds == {
        "linear": {"relative", "absolute", "shuffled", "no_flips"},
        "network": {"relative", "absolute", "shuffled"},
    }
    bare = {form: set(of) for form, of in line["untrained"].items()}
    assert bare == {"linear": {"relative", "absolute"}, "network": {"relative", "absolute"}}
    assert {form: set(best[form]) for form in kinds} == kinds
    assert {form: set(of) for form, of in best["untrained"].items()} == bare
    assert set(found["interventions"]["ways"]) == {"null", "probe", "random", "untrained", "shuffled", "gradient"}
    states = found["states"]
    assert {"epsilon_0.01", "epsilon_0.001", "epsilon_0.05", "agreement", "agreement_apart"} < set(states)
    assert set(states["untrained"]) == {"epsilon_0.01", "agreement", "agreement_apart"}
    assert states["agreement_apart"]["total_variation"]["value"] > 2 * states["agreement"]["total_variation"]["value"]
    low, high = found["moves"]["model"]["legal_mass"]["interval"]
    assert low < found["moves"]["model"]["legal_mass"]["value"] < high


def test_the_same_seed_gives_the_same_figures(place, found, monkeypatch, capsys):
    monkeypatch.chdir(place)
    sizes = ["--num-games", "400", "--num-probe-games", "400", "--num-cases", "40", "--num-pairs", "30"]
    assert run(["world", "othello", "evaluate", "runs/othello-4x4", *sizes, "-o", "again", "--quiet", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    again = json.loads((place / "again" / "worldmodel.json").read_text(encoding="utf-8"))
    assert printed == again
    for key in ("moves", "probes", "interventions", "states", "examples"):
        assert again[key] == found[key]
    assert not (place / "again" / "worldmodel.html").exists()


def test_the_page_holds_curves_boards_and_figures_and_asks_for_nothing(place, found):
    page = (place / "runs" / "othello-4x4" / "worldmodel.html").read_text(encoding="utf-8")
    assert "http://" not in page
    assert "https://" not in page
    assert "src=" not in page.replace("style-src", "")
    assert "<script" not in page
    assert "nearly every game that is held out was trained on" in page
    assert page.count('aria-label="board"') == 3 * len(found["examples"]["game"]["boards"]) + 3
    assert page.count("<figure>") == 3
    best, states = (
        found["probes"]["layers"][found["probes"]["best"]["linear"]["relative"]],
        found["states"]["epsilon_0.01"],
    )
    for value in (
        found["moves"]["model"]["top1_legal"],
        best["selectivity"],
        best["linear"]["relative"]["recall"],
        best["linear"]["no_flips"]["occupied"],
        best["network"]["absolute"]["occupied"],
        best["network"]["shuffled"]["occupied"],
        best["untrained"]["network"]["relative"]["occupied"],
        found["interventions"]["ways"]["probe"]["gain"],
        found["states"]["untrained"]["epsilon_0.01"]["recall"],
        found["states"]["agreement_apart"]["total_variation"],
        states["compression_q3"],
        states["recall_empty"],
    ):
        assert f"{value['value']:.4f} [{value['interval'][0]:.4f}, {value['interval'][1]:.4f}]" in page
    assert f"{found['states']['num_left_out']} more were drawn, and are of one." in page


def play(text, arguments, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    return run(["world", "othello", "play", *arguments])


def test_a_game_is_played_to_its_end_in_the_terminal(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    squares = "\n".join(list_tokens(Board(4))[1:]) + "\n"
    assert play(squares * 12, ["runs/othello-4x4"], monkeypatch) == 0
    out, err = capsys.readouterr()
    taken = re.findall(r"^(?:you take|the model takes) (\w\d)", out, re.MULTILINE)
    assert len(set(taken)) == len(taken) >= 8
    black, white = (int(word.strip(",")) for word in out.splitlines()[-1].split()[1::2])
    assert black + white == len(taken) + 4
    assert "may not be taken; expected" in err
    assert "the board on the right is read from layer" in err


def test_the_model_begins_where_you_are_white(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    assert play("q\n", ["runs/othello-4x4", "--white", "--quiet"], monkeypatch) == 0
    out = capsys.readouterr().out
    assert next(line for line in out.splitlines() if "takes" in line).startswith("the model takes ")
    assert "you take" not in out


def test_a_checkpoint_without_a_tokenizer_is_played_and_measured_with_that_of_the_games(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    (place / "bare").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(place / "runs" / "othello-4x4" / "final" / name, place / "bare")
    options = ["--tokenizer", "games", "--dtype", "bfloat16"]
    assert play("q\n", ["bare", "--white", *options], monkeypatch) == 0
    assert "the model takes " in capsys.readouterr().out
    sizes = ["--num-games", "40", "--num-probe-games", "40", "--num-cases", "8", "--num-pairs", "4"]
    assert run(["world", "othello", "evaluate", "bare", *options, *sizes, "-o", "measured"]) == 0
    found = json.loads((place / "measured" / "worldmodel.json").read_text(encoding="utf-8"))
    assert found["moves"]["model"]["top1_legal"]["value"] > 0.85


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["games", "--board", "5", "--num-games", "9", "-o", "x"], "unknown board, got 5; expected 4, 6 or 8"),
        (["games", "--board", "4", "--num-games", "0", "-o", "x"], "--num-games must be 1 or more, got 0"),
        (["games", "-o", "x"], "expected --num-games, or --wthor with files of championships"),
        (
            ["games", "--wthor", "a.wtb", "--num-games", "9", "-o", "x"],
            "expected --num-games, or --wthor with files of championships",
        ),
        (
            ["games", "--wthor", "a.wtb", "--board", "6", "-o", "x"],
            "championships are played on 8 rows, got --board 6",
        ),
        (["games", "--wthor", "a.wtb", "-o", "x"], "no such file: a.wtb"),
        (
            ["games", "--num-games", "9", "--seed", "-1", "-o", "x"],
            "--seed must be 0 or more, got -1",
        ),
        (["evaluate", "runs/othello-4x4", "-o", "x", "--seed", "-1"], "--seed must be 0 or more, got -1"),
        (["play", "runs/othello-4x4", "--seed", "-1"], "--seed must be 0 or more, got -1"),
        (["play", "runs/othello-4x4", "--seed", str(2**32)], f"--seed must be below 2**32, got {2**32}"),
        (["games", "--num-games", "9", "-o", "games"], "games exists already"),
        (["games", "--num-games", "9", "-o", "runs", "--overwrite"], "runs holds no games; expected a new folder"),
        (["evaluate", "runs/othello-4x4"], "runs/othello-4x4/worldmodel.json exists already"),
        (
            ["evaluate", "runs/othello-4x4/final"],
            "runs/othello-4x4/final is no run; expected one, or -o DIR for worldmodel.json",
        ),
        (["evaluate", "runs/none"], "runs/none is no run; expected one, or -o DIR for worldmodel.json"),
        (["evaluate", "some/model"], "some/model is no run; expected one, or -o DIR for worldmodel.json"),
        (["evaluate", "runs/none", "-o", "x"], "no such checkpoint: runs/none"),
        (["evaluate", "runs/none", "-o", "x", "--num-cases", "1"], "num_cases must be 4 or more, got 1"),
        (
            ["evaluate", "builtin/tiny", "-o", "x"],
            "the checkpoint does not know the squares of an Othello board as its tokens",
        ),
        (["evaluate", "runs/othello-4x4", "-o", "x", "--num-cases", "1"], "num_cases must be 4 or more, got 1"),
        (["report", "games"], "no worldmodel.json in games"),
        (["report", "runs/othello-4x4"], "runs/othello-4x4/worldmodel.html exists already"),
        (["play", "builtin/tiny"], "the checkpoint does not know the squares of an Othello board as its tokens"),
    ],
)
def test_a_wrong_call_is_one_sentence(place, arguments, sentence, monkeypatch, capsys):
    monkeypatch.chdir(place)
    assert run(["world", "othello", *arguments]) == 2
    assert f"llmkit: error: {sentence}" in capsys.readouterr().err
    assert not (place / "x").exists()


def test_games_that_cannot_be_written_are_told_without_a_word_on_the_cache(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x", encoding="utf-8")
    assert run(["world", "othello", "games", "--board", "4", "--num-games", "9", "-o", "file/games"]) == 1
    assert capsys.readouterr().err == "llmkit: error: the token store file/games cannot be written: Not a directory\n"


def test_an_output_below_a_file_is_told_before_anything_is_measured(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    (place / "afile").write_text("x", encoding="utf-8")
    for verb in ("evaluate", "report"):
        assert run(["world", "othello", verb, "runs/othello-4x4", "-o", "afile/sub"]) == 2
        out, err = capsys.readouterr()
        assert (out, err) == ("", f"llmkit: error: {place / 'afile'} is no folder\n")


def test_the_page_shows_names_as_text(place, found, monkeypatch):
    monkeypatch.chdir(place)
    (place / "odd").mkdir()
    found["examples"]["edit"] |= {"best": "<img src=x>", "square": "<b>"}
    (place / "odd" / "worldmodel.json").write_text(json.dumps(found), encoding="utf-8")
    assert run(["world", "othello", "report", "odd"]) == 0
    page = (place / "odd" / "worldmodel.html").read_text(encoding="utf-8")
    assert "<img" not in page
    assert "&lt;img src=x&gt;" in page
    assert "<b>" not in page


def test_a_damaged_measurement_is_told(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    (place / "broken").mkdir(exist_ok=True)
    for text in ("{", '{"version": 99}', "[]", '{"version": 1}', '{"version": 1, "board": 4, "moves": []}'):
        (place / "broken" / "worldmodel.json").write_text(text, encoding="utf-8")
        assert run(["world", "othello", "report", "broken"]) == 1
        assert "broken/worldmodel.json" in capsys.readouterr().err


@pytest.mark.parametrize("size", [4, 6, 8])
def test_the_presets_are_of_their_board(size):
    recipe = read_recipe(f"othello-{size}x{size}", ["data.path=games"])
    plies = size**2 - 4
    assert (recipe.data.max_length, recipe.model.config["n_positions"]) == (plies, plies)
    assert (recipe.data.pack, recipe.data.end_of_text) == (False, False)
    assert recipe.train.mixed_precision == (None if size == 8 else "no")
