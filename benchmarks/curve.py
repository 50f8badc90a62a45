"""`python -m benchmarks curve RUN -o FILE.svg`: draw the loss of a run, in training and on held-out text."""

import argparse
import json
from pathlib import Path
from typing import Any

INK, TRAIN, HELD = "#57606a", "#4078c0", "#c0562f"  # readable on a light page and on a dark one
FORGET = 0.9  # of the smoothed curve, at each logged step


def main(arguments: list[str]) -> None:
    """Draw the curve."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks curve", description=__doc__)
    parser.add_argument("run", type=Path, help="a run's folder")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the .svg file to write")
    parser.add_argument("--unit", default="nats a token", help="the unit of the loss (default: nats a token)")
    options = parser.parse_args(arguments)
    lines = (options.run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    draw([json.loads(line) for line in lines], options.output, unit=options.unit)


def draw(records: list[dict[str, Any]], path: Path, *, unit: str) -> None:
    """Draw what metrics.jsonl holds; the same numbers give the same file."""
    import matplotlib
    from matplotlib import pyplot

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "llmkit", "svg.fonttype": "none", "font.size": 10})
    steps = [(r["step"], r["loss"]) for r in records if "loss" in r]
    held = [(r["step"], r["eval_loss"]) for r in records if "eval_loss" in r]
    figure, axes = pyplot.subplots(figsize=(7, 3), layout="constrained")
    axes.plot(*zip(*steps, strict=True), color=TRAIN, alpha=0.3, linewidth=0.8)
    axes.plot([s for s, _ in steps], smooth([loss for _, loss in steps]), color=TRAIN, linewidth=1.6, label="training")
    axes.plot(*zip(*held, strict=True), color=HELD, marker="o", markersize=4, linewidth=1.2, label="held-out text")
    axes.set_xlabel("step", color=INK)
    axes.set_ylabel(f"loss, {unit}", color=INK)
    axes.tick_params(colors=INK)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)
    axes.grid(axis="y", color=INK, alpha=0.2)
    axes.legend(frameon=False, labelcolor=INK)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, transparent=True, metadata={"Date": None})


def smooth(values: list[float]) -> list[float]:
    """Average values over those before them, weighted by how near they are; the first are not drawn to zero."""
    smoothed, total, weight = [], 0.0, 0.0
    for value in values:
        total, weight = FORGET * total + value, FORGET * weight + 1
        smoothed.append(total / weight)
    return smoothed
