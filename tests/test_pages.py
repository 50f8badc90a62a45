"""Pages are whole, ask for nothing, and draw what they are given."""

import re
import xml.etree.ElementTree as ElementTree

import pytest

from llmkit import pages
from llmkit.pages import Line


def parse(fragment):
    """Read a fragment as XML, which finds what is not closed or not escaped."""
    return ElementTree.fromstring(f"<div>{fragment}</div>")


def place(path):
    return [tuple(map(float, pair)) for pair in re.findall(r"(-?[\d.]+),(-?[\d.]+)", path)]


def test_page_escapes_what_it_is_given_and_asks_for_nothing():
    odd = "<b>&\"'</b> 今天"
    parts = [pages.make_section(odd, pages.make_table((odd,), [(odd,)]), pages.make_listing(odd))]
    parts.append(pages.make_chart(odd, [Line(odd, [(1, 2.0), (2, 3.0)]), Line(odd, [(1, 1.0)])]))
    for part in parts:
        assert odd in "".join(parse(part).itertext())
    page = pages.make_page(odd, *parts)
    assert "<b>" not in page
    assert page.startswith("<!doctype html>")
    assert "default-src 'none'" in page
    assert not re.search(r"src=|href=|url\(|<script|@import", page)


def test_what_is_empty_is_left_out():
    assert pages.make_table(("a",), []) == pages.make_listing("") == pages.make_section("a", "", "") == ""
    assert pages.make_chart("a", []) == pages.make_chart("a", [Line("b", [])]) == ""


def test_line_goes_through_its_points_from_left_to_right_and_greater_is_higher():
    points = [(10.0, 1.0), (20.0, 4.0), (40.0, 2.0)]
    path = parse(pages.make_chart("a", [Line("b", points)])).find(".//path[@class='line one']").get("d")
    drawn = place(path)
    xs, ys = [x for x, _ in drawn], [y for _, y in drawn]
    assert (xs[1] - xs[0]) / (xs[2] - xs[0]) == pytest.approx(1 / 3, abs=0.01)
    assert ys[1] < ys[2] < ys[0]
    assert (ys[0] - ys[2]) / (ys[0] - ys[1]) == pytest.approx(1 / 3, abs=0.01)


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0, 10], ["0", "5", "10"]),
        ([1.02, 1.09], ["1.02", "1.04", "1.06", "1.08", "1.10"]),
        ([0, 3e-4], ["0", "1.0e-04", "2.0e-04", "3.0e-04"]),
        ([7.0, 7.0], ["6.0", "6.5", "7.0", "7.5", "8.0"]),
        ([-4000, 9000], ["-5,000", "0", "5,000", "10,000"]),
        ([1e304, 1e304], ["9.0e+303", "1.0e+304", "1.1e+304"]),
        ([0, 4e7], ["0", "1.0e+07", "2.0e+07", "3.0e+07", "4.0e+07"]),
        ([1e-5, 1e-5 + 1e-9], ["1.0e-05", "1.0e-05", "1.0e-05"]),
    ],
    ids=str,
)
def test_scale_has_round_numbers_around_all_values(values, ticks):
    chart = parse(pages.make_chart("a", [Line("b", list(enumerate(values)))]))
    assert [text.text for text in chart.iter("text")][: len(ticks)] == ticks
    for _, y in place(chart.find(".//path[@class='line one']").get("d")):
        assert pages.TOP <= y <= pages.HEIGHT - pages.BOTTOM


def test_several_lines_are_named_and_one_is_not():
    one, two = Line("first", [(1, 1.0)]), Line("second", [(1, 2.0)])
    assert "first" not in pages.make_chart("a", [one])
    keys = {key.text: key.get("class") for key in parse(pages.make_chart("a", [one, two])).iter("span")}
    assert keys == {"first": "key one", "second": "key two"}


def test_long_line_is_thinned_without_losing_a_peak():
    points = [(float(i), float(i % 7)) for i in range(100_000)]
    points[54_321] = (54_321.0, 99.0)
    kept = pages.thin(points)
    assert len(kept) <= 2 * pages.POINTS
    assert kept == sorted(kept)
    assert (54_321.0, 99.0) in kept
    assert pages.thin(points[:800]) == points[:800]
