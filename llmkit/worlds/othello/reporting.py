"""The page of what was measured of a model of Othello: curves by layer, boards, moves before and after an edit."""

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llmkit import pages
from llmkit.pages import Line
from llmkit.worlds.othello.board import COLUMNS, QUARTERS, Board
from llmkit.worlds.othello.labels import EMPTY
from llmkit.worlds.othello.measuring import SMALL, pick_best

CELL, EDGE = 26, 18  # of a board, in its own units

Json = Mapping[str, Any]

WAYS = {
    "null": "no edit",
    "probe": "along the probe",
    "random": "at random, as long",
    "untrained": "along a probe of the untrained model",
    "shuffled": "along a probe of shuffled boards",
    "gradient": "by gradients of the network",
}
MOVES = {
    "top1_legal": "best move legal",
    "legal_mass": "probability on legal moves",
    "top3_legal": "best 3 legal, of 3 or as many as are legal",
    "top5_legal": "best 5 legal, of 5 or as many as are legal",
    "set_f1": "F1 of as many moves as are legal",
    "cross_entropy": "cross entropy, nats a move",
    "floor": "its floor",
    "kl": "KL of the truth from the model, nats",
    "alpha": "alpha, 1 is the truth and 0 even over all squares",
    "pad_mass": "probability on the pad",
}
STATES = {
    "compression": "compression precision",
    **{f"compression_q{i + 1}": f"compression precision, quarter {i + 1} of the game" for i in range(QUARTERS)},
    "precision": "distinction precision",
    "precision_empty": "pairs without a boundary of the model's",
    "recall": "distinction recall",
    "recall_empty": "pairs without a true boundary",
}


PROBED = {
    "occupied": "occupied squares",
    "accuracy": "all squares",
    "recall": "mean of the three classes",
    "board": "whole board",
}
CONTROLS = {
    ("network", "relative"): "a network",
    ("linear", "absolute"): "black or white",
    ("network", "absolute"): "black or white, a network",
    ("linear", "no_flips"): "a board without flips",
    ("linear", "shuffled"): "boards shuffled",
    ("network", "shuffled"): "boards shuffled, a network",
    ("untrained", "linear", "relative"): "untrained",
    ("untrained", "network", "relative"): "untrained, a network",
    ("untrained", "linear", "absolute"): "untrained, black or white",
    ("untrained", "network", "absolute"): "untrained, black or white, a network",
}


def write_page(found: Json) -> str:
    """Write a measurement as one page of HTML."""
    size, examples = int(found["board"]), found["examples"]
    title = f"Othello on {size} by {size}: does the model hold the board?"
    warning = f"<p>{pages.escape(SMALL)}</p>" if size == Board(4).size else ""
    return pages.make_page(
        title,
        warning,
        pages.make_section("Moves", _list_moves(found["moves"])),
        pages.make_section("What hidden states tell of occupied squares", *_draw_layers(found["probes"])),
        pages.make_section("Every layer", _list_layers(found["probes"]), _list_controls(found["probes"])),
        pages.make_section("Boards of one game", _draw_game(size, examples["game"])),
        pages.make_section("A disc is turned over in the hidden states", _list_edits(found["interventions"])),
        pages.make_section("One such edit", _draw_edit(size, examples["edit"])),
        pages.make_section("Two ways to one board", _list_states(found["states"])),
        pages.make_section("Learning", _draw_curve(found)),
        pages.make_section("How it was measured", pages.make_table((), _list_facts(found))),
    )


def spell(figure: Json | None) -> str:
    """Spell a mean and its interval."""
    if figure is None:
        return ""
    span = figure.get("interval")
    return f"{figure['value']:.4f}" + (f" [{span[0]:.4f}, {span[1]:.4f}]" if span else "")


def _list_moves(moves: Json) -> str:
    rows = [
        (text, spell(moves["model"].get(name)), spell(moves["untrained"].get(name))) for name, text in MOVES.items()
    ]
    quarters = [name for name in moves["model"] if name.startswith("top1_legal_q")]
    rows += [
        (
            f"best move legal, quarter {name[-1]} of the game",
            spell(moves["model"][name]),
            spell(moves["untrained"][name]),
        )
        for name in quarters
    ]
    chance = {
        "random_empty": "an empty square at random",
        "ply_only": "the square most often legal at the ply",
        "untrained_head": "a head trained over the untrained model",
    }
    rows += [(f"best move legal: {text}", spell(moves["chance"][name]), "") for name, text in chance.items()]
    rows += [
        (f"games finished legally, {name.replace('_', ' ')}", spell(one), "") for name, one in moves["games"].items()
    ]
    return pages.make_table(("", "model", "untrained"), rows)


def _draw_layers(probes: Json) -> list[str]:
    layers = probes["layers"]

    def line(name: str, pick: Callable[[Json], Json]) -> Line:
        return Line(name, [(one["layer"], pick(one)["occupied"]["value"]) for one in layers])

    history = probes["history"]["occupied"]["value"]
    ends = (layers[0]["layer"], layers[-1]["layer"])
    return [
        pages.make_chart(
            "linear probe, right squares by layer",
            [
                line("mine or yours", lambda one: one["linear"]["relative"]),
                line("untrained model", lambda one: one["untrained"]["linear"]["relative"]),
                line("black or white", lambda one: one["linear"]["absolute"]),
                Line("from the moves alone", [(end, history) for end in ends]),
            ],
        ),
        pages.make_chart(
            "controls and networks, right squares by layer",
            [
                line("network, mine or yours", lambda one: one["network"]["relative"]),
                line("network, black or white", lambda one: one["network"]["absolute"]),
                line("linear, a board without flips", lambda one: one["linear"]["no_flips"]),
                line("linear, boards shuffled", lambda one: one["linear"]["shuffled"]),
            ],
        ),
    ]


def _list_layers(probes: Json) -> str:
    rows = []
    for one in probes["layers"]:
        mine = one["linear"]["relative"]
        rows.append((str(one["layer"]), *map(spell, (*(mine[key] for key in PROBED), one["selectivity"]))))
    for name, text in (("majority", "majority at the ply"), ("history", "moves alone")):
        rows.append((text, *(spell(probes[name][key]) for key in PROBED), ""))
    return pages.make_table(("layer", *PROBED.values(), "all squares, above shuffled"), rows)


def _list_controls(probes: Json) -> str:
    """List the controls in rows, the layers in columns, and the layer that is chosen."""
    rows = []
    for of, text in CONTROLS.items():
        found = [functools.reduce(operator.getitem, of, one) for one in probes["layers"]]
        rows.append((text, *(spell(one["occupied"]) for one in found), str(pick_best(probes, *of)[0])))
    layers = [f"layer {one['layer']}" for one in probes["layers"]]
    return pages.make_table(("occupied squares", *layers, "chosen"), rows)


def _list_edits(edits: Json) -> str:
    names = ("error", "gain", "top1_legal", "legal_mass", "changed")
    rows = [(text, *(spell(edits["ways"][way][name]) for name in names)) for way, text in WAYS.items()]
    head = (
        "edit",
        "error, squares",
        "less than without, case by case",
        "best move legal",
        "legal mass",
        "changed squares, -1 to 1",
    )
    chosen = edits["edit"]
    text = f"{edits['num_cases']} cases; from layer {chosen['first_layer']} on, alpha {chosen['alpha']:g}"
    text += f"; by gradients from layer {chosen['gradient_first_layer']} on."
    text += f" On the true board, without an edit, the model's error is {spell(edits['own_error'])}."
    return pages.make_table(head, rows) + f"<p>{text}</p>"


def _list_states(states: Json) -> str:
    bare = states["untrained"]
    rows = []
    for key, where in (("agreement", "of one state"), ("agreement_apart", "of two states")):
        for name, text in (("total_variation", "total variation"), ("top1_differs", "another best move")):
            rows.append((f"{text}, two prefixes {where}", spell(states[key][name]), spell(bare[key][name])))
    for key, one in states.items():
        if key.startswith("epsilon_"):
            other, epsilon = bare.get(key, {}), key.removeprefix("epsilon_")
            rows += [
                (
                    f"{text}, tokens above {epsilon}",
                    f"{spell(one[name])}, n = {one[name]['n']:,}",
                    spell(other.get(name)),
                )
                for name, text in STATES.items()
                if name in one
            ]
    text = f"Of {states['num_prefixes']:,} prefixes {states['num_transposed']:,} have a second way to their state, and"
    text += f" {states['num_pairs']:,} of these are compressed. {states['num_apart']:,} pairs are of two states;"
    text += f" {states['num_left_out']:,} more were drawn, and are of one."
    text += (
        " A model that accepts every token compresses all, and tells nothing apart: read the first beside the second."
    )
    return pages.make_table(("", "model", "untrained"), rows) + f"<p>{text}</p>"


def _draw_curve(found: Json) -> str:
    points = [(row["games"], row["loss"]) for row in found["curve"]]
    if not points:
        return ""
    floor = found["moves"]["model"]["floor"]["value"]
    lines = [Line("held-out loss", points), Line("floor", [(points[0][0], floor), (points[-1][0], floor)])]
    return pages.make_chart("nats a move, by games seen", lines)


def _list_facts(found: Json) -> list[tuple[str, str]]:
    facts = {
        "checkpoint": found["checkpoint"],
        "parameters": f"{found['num_parameters']:,}",
        "seed": found["seed"],
        **found["sizes"],
    }
    environment = {key: found["environment"].get(key) for key in ("torch", "transformers", "processor", "threads")}
    seconds = ", ".join(f"{name} {value:g}" for name, value in found["seconds"].items())
    return [
        (name, str(value)) for name, value in {**facts, **environment, "seconds": seconds}.items() if value is not None
    ]


def _draw_game(size: int, game: Json) -> str:
    figures = []
    for one in game["boards"]:
        wrong = [a != b for a, b in zip(one["right"], one["found"], strict=True)]
        figures.append(
            f"<tr><td>after {int(one['ply'])}</td><td>{draw_board(size, one['right'])}</td>"
            f"<td>{draw_board(size, one['found'])}</td><td>{draw_board(size, one['found'], marks=wrong)}"
            f"{sum(wrong)} wrong</td></tr>"
        )
    head = "<tr><th>moves</th><th>the board</th><th>as the probe reads it</th><th>where it errs</th></tr>"
    moves = pages.escape(" ".join(game["moves"]))
    return (
        f"<p>Filled discs are of the side to move. Linear probe of layer {int(game['layer'])}. Moves: {moves}</p>"
        f"<table>{head}{''.join(figures)}</table>"
    )


def _draw_edit(size: int, edit: Json) -> str:
    board, playable = edit["board"], list(Board(size).names)
    names = [f"{COLUMNS[column]}{row + 1}" for row in range(size) for column in range(size)]

    def spread(values: Sequence[Any], other: Any) -> list[Any]:
        return [values[playable.index(one)] if one in playable else other for one in names]

    turned = [one == edit["square"] for one in names]
    flipped = [1 - disc if is_turned else disc for disc, is_turned in zip(board, turned, strict=True)]
    cells = (
        draw_board(size, board, shades=spread(edit["before"], 0.0), dots=spread(edit["legal_before"], False)),
        draw_board(
            size, flipped, shades=spread(edit["after"], 0.0), dots=spread(edit["legal_after"], False), marks=turned
        ),
        draw_board(size, board, shades=[max(0.0, value) for value in edit["saliency"]]),
    )
    square, best = pages.escape(edit["square"]), pages.escape(edit["best"])
    titles = ("before", f"after {square} was turned over", f"discs that {best} rests on")
    head = f"<tr>{''.join(f'<th>{title}</th>' for title in titles)}</tr>"
    moves = pages.escape(" ".join(edit["moves"]))
    return (
        f"<p>Shades are the probabilities of moves, dots the legal ones. In the third a shade is how much less probable"
        f" {best} becomes when that disc is turned over in the hidden states. Moves: {moves}</p>"
        f"<table>{head}<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr></table>"
    )


def draw_board(
    size: int,
    classes: Sequence[int],
    *,
    shades: Sequence[float] | None = None,
    dots: Sequence[bool] | None = None,
    marks: Sequence[bool] | None = None,
) -> str:
    """Draw a board: filled discs are mine, hollow ones yours.

    Args:
        size: Rows.
        classes: 0 mine, 1 yours, 2 empty, row by row. Shape: (size * size,)
        shades: From 0 to 1, the colour of a square. Shape: (size * size,)
        dots: Where a dot stands. Shape: (size * size,)
        marks: Which squares have a border. Shape: (size * size,)
    """
    side = EDGE + size * CELL + 2
    parts = [f'<svg viewBox="0 0 {side} {side}" style="width:{side}px;max-width:100%" role="img" aria-label="board">']
    for i in range(size):
        at = EDGE + i * CELL + CELL // 2
        parts.append(f'<text x="{at}" y="{EDGE - 5}" text-anchor="middle">{COLUMNS[i]}</text>')
        parts.append(f'<text x="{EDGE - 5}" y="{at + 4}" text-anchor="end">{i + 1}</text>')
    for i, disc in enumerate(classes):
        x, y = EDGE + i % size * CELL, EDGE + i // size * CELL
        shade = f";fill:var(--one);fill-opacity:{min(1.0, shades[i]):.2f}" if shades is not None else ";fill:none"
        parts.append(f'<rect x="{x}" y="{y}" width="{CELL}" height="{CELL}" style="stroke:var(--rule){shade}"/>')
        centre = f'cx="{x + CELL // 2}" cy="{y + CELL // 2}"'
        if disc != EMPTY:
            fill = "var(--ink)" if disc == 0 else "var(--page)"
            parts.append(f'<circle {centre} r="{CELL // 2 - 4}" style="fill:{fill};stroke:var(--ink)"/>')
        if dots is not None and dots[i]:
            parts.append(f'<circle {centre} r="3" style="fill:var(--two)"/>')
        if marks is not None and marks[i]:
            parts.append(
                f'<rect x="{x + 2}" y="{y + 2}" width="{CELL - 4}" height="{CELL - 4}" '
                f'style="fill:none;stroke:var(--two);stroke-width:3"/>'
            )
    return "".join([*parts, "</svg>"])
