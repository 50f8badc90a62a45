"""The one way to a page of HTML: one file that opens offline, light or dark as the reader's system is, down to a phone.

A page holds no script and asks for nothing: its charts are SVG.
"""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

COLOURS = ("one", "two", "three", "four")
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 640, 240, 72, 28, 12  # of a chart, in its own units
POINTS = 400  # columns of a line at most; of the values in a column the least and the greatest are drawn

STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --faint: #59636e; --page: #ffffff; --rule: #d1d9e0; --well: #f6f8fa;
  --one: #0b63b5; --two: #b3480c; --three: #1a7f37; --four: #7d3fb8; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --faint: #9aa4af; --page: #0d1117; --rule: #3d444d;
  --well: #161b22; --one: #58a6ff; --two: #f0883e; --three: #56d364; --four: #c297ff; } }
body { margin: 0 auto; max-width: 60rem; padding: 1rem; font: 1rem/1.5 system-ui, "Noto Sans CJK SC", sans-serif;
  color: var(--ink); background: var(--page); overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; margin: .5rem 0; } h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
figure { margin: 1rem 0; } figcaption { font-weight: 600; } svg { width: 100%; height: auto; display: block; }
svg text { font-size: 12px; fill: var(--faint); } .grid { stroke: var(--rule); stroke-width: 1; }
.line { fill: none; stroke-width: 1.6; } .dots { stroke-width: 5; stroke-linecap: round; fill: none; }
.one { stroke: var(--one); } .two { stroke: var(--two); }
.three { stroke: var(--three); } .four { stroke: var(--four); }
.key { font-weight: 400; margin-left: 1rem; } .key::before { content: "\\25CF\\00A0"; }
.key.one { color: var(--one); } .key.two { color: var(--two); } .key.three { color: var(--three); }
.key.four { color: var(--four); }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem .3rem 0; border-bottom: 1px solid var(--rule);
  min-width: 3.5rem; }
td:first-child { overflow-wrap: break-word; }
th { color: var(--faint); font-weight: 600; }
pre { background: var(--well); padding: .75rem; border-radius: 6px; white-space: pre-wrap; font-size: .85rem; }
@media (max-width: 40rem) { svg text { font-size: 18px; } }
"""


@dataclass(frozen=True)
class Line:
    """Holds a line of a chart: its name, and its points from left to right; few points are drawn as dots too."""

    name: str
    points: Sequence[tuple[float, float]]


def make_page(title: str, *parts: str) -> str:
    """Make a page of parts, which are HTML."""
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<style>{STYLE}</style>\n</head>\n'
        f"<body>\n<h1>{escape(title)}</h1>\n" + "\n".join(parts) + "\n</body>\n</html>\n"
    )


def escape(text: str) -> str:
    """Write a text as HTML."""
    return html.escape(text)


def make_section(heading: str, *parts: str) -> str:
    """Make a section of parts; none where all are empty."""
    found = [part for part in parts if part]
    return "\n".join([f"<h2>{escape(heading)}</h2>", *found]) if found else ""


def make_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Make a table of texts; none without rows."""
    if not rows:
        return ""
    top = f"<tr>{''.join(f'<th>{escape(cell)}</th>' for cell in head)}</tr>\n" if head else ""
    return f"<table>\n{top}" + "\n".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows) + "\n</table>"


def _cell(text: str) -> str:
    return f"<td>{escape(text)}</td>"


def make_listing(text: str) -> str:
    """Show a text as it is, in letters of one width."""
    return f"<pre>{escape(text)}</pre>" if text else ""


def make_chart(title: str, lines: Sequence[Line]) -> str:
    """Draw lines over one another, with a scale on the left and steps below; several are named. None without points."""
    drawn = [line for line in lines if line.points]
    if not drawn:
        return ""
    (left, right), ticks = _span([x for line in drawn for x, _ in line.points]), _list_ticks(drawn)
    low, high = ticks[0], ticks[-1]

    def place(x: float, y: float) -> str:
        across = LEFT + (x - left) / (right - left) * (WIDTH - LEFT - 8)
        return f"{across:.1f},{TOP + (high - y) / (high - low) * (HEIGHT - TOP - BOTTOM):.1f}"

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for tick in ticks:
        x, y = place(left, tick).split(",")
        parts.append(f'<path class="grid" d="M{x} {y}H{WIDTH - 8}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{float(y) + 4:.1f}" text-anchor="end">{_spell(tick, ticks)}</text>')
    for step, anchor in ((left, "start"), (right, "end")):
        across = place(step, low).split(",")[0]
        parts.append(f'<text x="{across}" y="{HEIGHT - 8}" text-anchor="{anchor}">{step:,.0f}</text>')
    for line, colour in zip(drawn, COLOURS * len(drawn), strict=False):
        thinned = thin(line.points)
        way = "M" + "L".join(place(x, y) for x, y in thinned)
        parts.append(f'<path class="line {colour}" d="{way}"/>')
        if len(thinned) <= 40:
            dots = "".join(f"M{place(x, y)}h0" for x, y in thinned)
            parts.append(f'<path class="dots {colour}" d="{dots}"/>')
    named = list(zip(drawn, COLOURS * len(drawn), strict=False)) if len(drawn) > 1 else []
    keys = "".join(f'<span class="key {colour}">{escape(line.name)}</span>' for line, colour in named)
    return f"<figure>\n<figcaption>{escape(title)}{keys}</figcaption>\n{''.join(parts)}</svg>\n</figure>"


def thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Keep of many points the least and the greatest in each of 400 columns: no peak is lost."""
    if len(points) <= 2 * POINTS:
        return list(points)
    kept: list[tuple[float, float]] = []
    for i in range(POINTS):
        column = points[i * len(points) // POINTS : (i + 1) * len(points) // POINTS]
        ends = {min(column, key=lambda point: point[1]), max(column, key=lambda point: point[1])}
        kept += sorted(ends)
    return kept


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    if high - low > 1e-9 * max(abs(low), abs(high)):
        return low, high
    room = max(1.0, 0.1 * abs(low))
    return low - room, high + room


def _list_ticks(lines: Sequence[Line]) -> list[float]:
    """List three to seven round numbers around all values."""
    low, high = _span([y for line in lines for _, y in line.points])
    rough = (high - low) / 4
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [number * step for number in range(first, last + 1)]


def _spell(value: float, ticks: Sequence[float]) -> str:
    step, most = ticks[1] - ticks[0], max(map(abs, ticks))
    if most < 1e-3 or most >= 1e7:
        return f"{value:.1e}" if value else "0"
    return f"{value:,.{max(0, -math.floor(math.log10(step)))}f}"
