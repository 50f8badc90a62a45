"""All that is measured of a model of Othello, as one JSON object."""

import dataclasses
import functools
import json
import operator
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from llmkit import runfolder, runtime
from llmkit.errors import DamagedError, InputError
from llmkit.loading import Loaded
from llmkit.recipe.reading import read_recipe
from llmkit.worlds.othello import intervening, labels, legality, playing, probing, recovering, transposing
from llmkit.worlds.othello.board import SIZES
from llmkit.worlds.othello.figures import Figure
from llmkit.worlds.othello.games import Games, draw_games
from llmkit.worlds.othello.intervening import Cases
from llmkit.worlds.othello.predicting import Player, make_player
from llmkit.worlds.othello.probing import Probe, Rows, Split
from llmkit.worlds.othello.showing import show_examples
from llmkit.worlds.othello.tokens import encode

VERSION = 2
# What the probes of each form are asked, of the model and of one that is not trained.
ASKED = {"linear": labels.KINDS, "network": ("relative", "absolute", "shuffled")}
BARE = {"linear": ("relative", "absolute"), "network": ("relative", "absolute")}
# The block of the stream `probe` from which each kind of games is drawn, so that none is used twice.
BLOCKS = {"probes": 0, "choosing": 100_000, "judging": 200_000, "states": 300_000}
CONFIG = ("model_type", "num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size")
SMALL = (
    "On 4 by 4 squares nearly every game that is held out was trained on: these figures show that all runs, no more."
)

Json = dict[str, Any]
Named = Mapping[str, Figure]
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Sizes:
    """Holds how much is drawn.

    Attributes:
        num_games: Games by which moves are judged.
        num_probe_games: Games for the probes: of ten, eight are learnt from, one chooses, and one judges.
        num_cases: Interventions; half as many choose the edit.
        num_pairs: Pairs of prefixes, of one state and of two.
    """

    num_games: int = 2000
    num_probe_games: int = 4000
    num_cases: int = 300
    num_pairs: int = 200

    def __post_init__(self) -> None:
        for name, least in (("num_games", 10), ("num_probe_games", 20), ("num_cases", 4), ("num_pairs", 2)):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be {least} or more, got {getattr(self, name)}")


class Probes:
    """Holds the probes of every layer: linear ones and networks, by what they were asked."""

    def __init__(self) -> None:
        self.layers: list[dict[str, dict[str, Probe]]] = []

    def add(self, split: Split, asked: Mapping[str, Sequence[str]], seed: int) -> Json:
        """Train the probes of the next layer; return how they are judged."""
        forms = {
            form: {kind: probing.train_probe(split, kind, seed, is_linear=form == "linear") for kind in kinds}
            for form, kinds in asked.items()
        }
        self.layers.append(forms)
        return {
            form: {kind: _judge(probe, split.test, kind, seed) for kind, probe in of.items()}
            for form, of in forms.items()
        }

    def take(self, form: str, kind: str) -> dict[int, Probe]:
        """Take the probes of a form and a kind by layer, that of what goes into the first block as layer 0."""
        return {layer: forms[form][kind] for layer, forms in enumerate(self.layers)}

    def find_best(self) -> dict[str, dict[str, int]]:
        """Find for each form and kind the layer whose probe is best in the games by which probes are chosen."""
        return {
            form: {kind: int(np.argmax([one[form][kind].validated for one in self.layers])) for kind in kinds}
            for form, kinds in self.layers[0].items()
        }


def measure(
    lm: Loaded, sizes: Sizes, *, seed: int = 0, curve: list[Json] | None = None, tell: Tell = lambda sentence: None
) -> Json:
    """Measure a model of Othello: its moves, what its hidden states hold, and what changing these does.

    Args:
        lm: The model, whose tokens are the squares of a board.
        sizes: How much is drawn.
        seed: Settles all that is drawn.
        curve: The losses of its training, as {"games": ..., "loss": ...}, to be kept with the figures.
        tell: Is told, in a sentence, what is done.

    Returns:
        What worldmodel.json holds.

    Raises:
        InputError: The tokens are not those of a board, or the model is not a decoder whose blocks can be read.
    """
    player, start = make_player(lm), time.perf_counter()
    board, untrained = player.board, player.untrained(seed)
    seconds: dict[str, float] = {}

    def tick(name: str) -> None:
        seconds[name] = round(time.perf_counter() - start - sum(seconds.values()), 1)
        tell(f"{name}: {seconds[name]:,.0f} s")

    held, others = (draw_games(board, sizes.num_games, seed, "validation", first=block) for block in (0, 100_000))
    moves: Json = {"model": legality.measure_legality(player, held, seed)}
    moves["untrained"] = legality.measure_legality(untrained, held, seed)
    moves["chance"] = legality.measure_chance(held, others, seed)
    moves["chance"] |= legality.measure_head(untrained, held, others, seed)
    moves["games"] = playing.measure_games(player, held.take(slice(0, 500)), seed)
    tick("moves")
    probe_games = _draw(player, sizes.num_probe_games, seed, "probes")
    found, probes, bare = _measure_probes(player, untrained, probe_games, seed, tell)
    tick("probes")
    edits, cases = _measure_edits(player, probes, bare, sizes.num_cases, seed)
    tick("interventions")
    states = _measure_states(player, untrained, sizes.num_pairs, seed)
    tick("states")
    best, mine = int(found["best"]["linear"]["relative"]), probes.take("linear", "relative")
    return {
        "version": VERSION,
        "checkpoint": lm.name,
        "board": board.size,
        "seed": seed,
        "sizes": dataclasses.asdict(sizes),
        "model": {name: getattr(player.model.config, name, None) for name in CONFIG},
        "num_parameters": sum(one.numel() for one in player.model.parameters()),
        "environment": runtime.describe_environment(),
        "seconds": {**seconds, "all": round(time.perf_counter() - start, 1)},
        "moves": moves,
        "probes": found,
        "interventions": edits,
        "states": states,
        "curve": curve or [],
        "examples": show_examples(player, mine, best, probe_games, cases, edits["edit"]),
    }


def _draw(player: Player, number: int, seed: int, name: str) -> Games:
    return draw_games(player.board, number, seed, "probe", first=BLOCKS[name])


def _measure_probes(
    player: Player, untrained: Player, games: Games, seed: int, tell: Tell
) -> tuple[Json, Probes, Probes]:
    """Train and judge probes of every layer, of the model and of one that is not trained, and the other controls."""
    mask, asked = legality.find_judged(games), {kind: labels.label(games, kind, seed) for kind in labels.KINDS}
    probes, bare = Probes(), Probes()
    layers: list[Json] = []
    for layer in range(player.num_layers + 1):
        split = _gather(player, games, layer, mask, asked)
        line: Json = {"layer": layer, **probes.add(split, ASKED, seed)}
        mine, dealt = (probes.layers[layer]["linear"][kind] for kind in ("relative", "shuffled"))
        line["selectivity"] = probing.find_selectivity(mine, dealt, split.test, seed)
        split = _gather(untrained, games, layer, mask, {kind: asked[kind] for kind in BARE["linear"]})
        line["untrained"] = bare.add(split, BARE, seed)
        layers.append(line)
        right = line["linear"]["relative"]["occupied"]
        tell(f"layer {layer} of {player.num_layers}: right of occupied squares {right}")
    found: Json = {"layers": layers, "best": {**probes.find_best(), "untrained": bare.find_best()}}
    found["majority"] = _judge_majority(games, mask, asked["relative"], seed)
    found["history"] = _judge_history(games, mask, asked["relative"], seed)
    return found, probes, bare


def _gather(
    player: Player, games: Games, layer: int, mask: NDArray[np.bool_], asked: Mapping[str, labels.Labels]
) -> Split:
    return probing.gather(player.read(encode(games)[:, :-1], layer), mask, asked)


def _judge(probe: Probe, rows: Rows, kind: str, seed: int) -> dict[str, Figure]:
    return probing.judge(probing.classify(probe, rows.x), rows.labels[kind], rows.games, seed)


def _judge_majority(games: Games, mask: NDArray[np.bool_], right: labels.Labels, seed: int) -> Named:
    learnt, _, judged = probing.split_games(len(games))
    most = probing.find_majority(right[learnt], mask[learnt])
    chosen = mask[judged]
    numbers, plies = np.nonzero(chosen)
    return probing.judge(torch.from_numpy(most[plies]), torch.from_numpy(right[judged][chosen]), numbers, seed)


def _judge_history(games: Games, mask: NDArray[np.bool_], right: labels.Labels, seed: int) -> Named:
    x = probing.one_hot_history(encode(games)[:, :-1], games.board.num_plies)
    split = probing.gather(x, mask, {"relative": right})
    return _judge(probing.train_probe(split, "relative", seed), split.test, "relative", seed)


def _measure_edits(player: Player, probes: Probes, bare: Probes, number: int, seed: int) -> tuple[Json, Cases]:
    """Choose the edit on some cases, and judge it and its controls on others."""
    linear, shuffled, networks, untrained = (
        {layer: probe for layer, probe in of.items() if layer}
        for of in (
            probes.take("linear", "relative"),
            probes.take("linear", "shuffled"),
            probes.take("network", "relative"),
            bare.take("linear", "relative"),
        )
    )
    choosing, cases = (
        intervening.draw_cases(_draw(player, 4 * many, seed, name), many, seed)
        for name, many in (("choosing", number // 2), ("judging", number))
    )
    first, alpha = intervening.choose_edit(player, linear, choosing)
    first_network = intervening.choose_first(player, networks, choosing)
    width = player.model.config.hidden_size
    ways: dict[str, intervening.Shift] = {
        "null": intervening.keep,
        "probe": intervening.steer(linear, cases, first, alpha),
        "random": intervening.steer_at_random(width, len(cases), first, alpha, seed),
        "untrained": intervening.steer(untrained, cases, first, alpha),
        "shuffled": intervening.steer(shuffled, cases, first, alpha),
        "gradient": intervening.follow_gradient(networks, cases, first_network),
    }
    predicted = {name: intervening.predict_edited(player, cases, shift) for name, shift in ways.items()}
    judged = {name: intervening.judge_edit(q, predicted["null"], cases, seed) for name, q in predicted.items()}
    own = intervening.judge_unchanged(predicted["null"], cases, seed)
    edit = {"first_layer": first, "alpha": alpha, "gradient_first_layer": first_network}
    return {"edit": edit, "num_cases": len(cases), "own_error": own, "ways": judged}, cases


def _measure_states(player: Player, untrained: Player, number: int, seed: int) -> Json:
    """Measure whether prefixes of one state are taken alike, and states told apart; and that of an untrained model."""
    games = _draw(player, max(16 * number, 1000), seed, "states")
    alike, (apart, num_left_out) = transposing.transpose(games, seed), transposing.pair_at_random(games, number, seed)
    some, boundary = alike.take(np.arange(min(number, len(alike)))), recovering.draw_boundary(apart, seed)
    found: Json = {"num_prefixes": len(games), "num_transposed": len(alike), "num_pairs": len(some)}
    found |= {"num_apart": len(apart), "num_left_out": num_left_out, "untrained": {}}
    for one, place, epsilons in (
        (player, found, recovering.EPSILONS),
        (untrained, found["untrained"], recovering.EPSILONS[:1]),
    ):
        place["agreement"] = transposing.compare_predictions(one, alike, seed)
        place["agreement_apart"] = transposing.compare_predictions(one, apart, seed)
        for epsilon in epsilons:
            compression = recovering.measure_compression(one, some, epsilon, seed)
            distinction = recovering.measure_distinction(one, apart, boundary, epsilon, seed)
            place[f"epsilon_{epsilon:g}"] = {**compression, **distinction}
    return found


def to_plain(value: object) -> object:
    """Turn figures within a measurement into what JSON has."""
    if isinstance(value, Figure):
        return dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {name: to_plain(one) for name, one in value.items()}
    return [to_plain(one) for one in value] if isinstance(value, list) else value


def list_lines(found: Json) -> Iterator[str]:
    """List what matters most of a measurement, in lines."""
    if found["board"] == min(SIZES):
        yield SMALL
    moves, probes, edits = found["moves"], found["probes"], found["interventions"]["ways"]
    yield f"legal moves, the best: {moves['model']['top1_legal']} (untrained {moves['untrained']['top1_legal']})"
    yield f"legal mass: {moves['model']['legal_mass']}"
    yield f"cross entropy above the floor, nats: {moves['model']['kl']}"
    layer, mine = pick_best(probes, "linear", "relative")
    yield f"occupied squares, linear probe of layer {layer}: {mine['occupied']}"
    bare, absolute = (pick_best(probes, *of)[1] for of in (("untrained", "linear", "relative"), ("linear", "absolute")))
    yield f"  untrained, its best layer: {bare['occupied']}; majority: {probes['majority']['occupied']}"
    yield f"  moves alone: {probes['history']['occupied']}; black or white, its best layer: {absolute['occupied']}"
    yield f"error after a flip: {edits['probe']['error']}, without the edit {edits['null']['error']}"
    yield f"  less, case by case: {edits['probe']['gain']}"
    yield f"  at random: {edits['random']['error']}; by gradients: {edits['gradient']['error']}"
    yield f"  on the true board, which no edit is to beat: {found['interventions']['own_error']}"
    states, bare = found["states"]["epsilon_0.01"], found["states"]["untrained"]["epsilon_0.01"]
    yield f"one state, two ways: compression {states['compression']} (untrained {bare['compression']})"
    yield f"two states: distinction precision {states['precision']}, recall {states['recall']}"
    yield f"  untrained: precision {bare['precision']}, recall {bare['recall']}"


def pick_best(probes: Mapping[str, Any], *of: str) -> tuple[int, Json]:
    """Pick the best layer of probes, such as ("untrained", "linear", "relative"): its number, and its figures."""
    layer: Any = functools.reduce(operator.getitem, of, probes["best"])
    return layer, functools.reduce(operator.getitem, of, probes["layers"][layer])


def read_curve(run: Path) -> list[Json]:
    """Read how the held-out loss of a run fell with the games it saw; empty for what is no run."""
    if not runfolder.is_run(run):
        return []
    size = read_recipe(run / "recipe.yaml", own_data=True).train.global_batch_size
    rows = runfolder.read_metrics(run / "metrics.jsonl")
    return [{"games": row["step"] * size, "loss": row["eval_loss"]} for row in rows if "eval_loss" in row]


def read_measurement(path: Path) -> Json:
    """Read a worldmodel.json.

    Raises:
        DamagedError: It cannot be read, or is of another version.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise DamagedError(f"{path} cannot be read") from err
    if not isinstance(found, dict) or found.get("version") != VERSION:
        raise DamagedError(f"{path} is no measurement of version {VERSION}")
    return found
