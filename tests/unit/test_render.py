"""Pictures of the dashboards: numbers as Grafana writes them, and panels where Grafana has them."""

from __future__ import annotations

import math

import pytest
from matplotlib.figure import Figure

from monitoring.queries import boards, panels
from monitoring.render.__main__ import _places
from monitoring.render.answers import Series, Span
from monitoring.render.draw import DRAWN, draw
from monitoring.render.units import written


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0, "s", "0 s"),
        (0.0123, "s", "12.3 ms"),
        (90.0, "s", "1.5 min"),
        (1500.0, "ms", "1.5 s"),
        (0.995, "percentunit", "99.5 %"),
        (1.5 * 2**30, "bytes", "1.5 GiB"),
        (12_345.0, "short", "12.3 K"),
        (0.25, "reqps", "0.25 req/s"),
        (math.nan, "s", "–"),
        (-2.0, "percentunit", "-200 %"),
    ],
)
def test_numbers(value: float, unit: str, text: str) -> None:
    assert written(value, unit) == text


def test_every_unit_of_the_dashboards_can_be_written() -> None:
    for board in boards().values():
        for panel in panels(board):
            assert written(1, panel["fieldConfig"]["defaults"]["unit"])


def test_a_whole_section_lies_as_in_grafana() -> None:
    for board in boards().values():
        sections: list[list[dict[str, object]]] = []
        for panel in board["panels"]:
            if panel["type"] == "row":
                sections.append([])
            else:
                sections[-1].append(panel)
        for section in sections:
            top = min(panel["gridPos"]["y"] for panel in section)  # type: ignore[index]
            expected = [
                (at["x"], at["y"] - top, at["w"], at["h"])  # type: ignore[index]
                for at in (panel["gridPos"] for panel in section)
            ]
            assert _places([(panel, []) for panel in section]) == expected


def test_steps_and_rates_are_grafanas() -> None:
    assert Span(0, 180, 5).step == 1
    assert Span(0, 180, 5).rate_interval == 20
    assert Span(0, 180 * 60, 5).rate_interval == 65


def test_every_kind_of_panel_is_drawn_with_one_point_or_none_that_is_a_number() -> None:
    """As after a start: one point, and NaN where a percentile has nothing to be of."""
    for board in boards().values():
        for panel in panels(board):
            if panel["type"] in DRAWN:
                values = (math.nan, 2.0)
                draw(Figure().add_subplot(), panel, [Series("a", {"le": "1"}, (1.0, 2.0), values)])


def test_buckets_of_a_heatmap_are_what_lies_between_two() -> None:
    (panel,) = [p for p in panels(boards()["where-did-my-time-go"]) if p["title"] == "Batch sizes: encode"]
    axes = Figure().add_subplot()
    counts = {"1": (2.0, 0.0), "2": (2.0, 3.0), "4": (5.0, 3.0), "+Inf": (5.0, 3.0)}
    draw(axes, panel, [Series(le, {"le": le}, (10.0, 20.0), values) for le, values in counts.items()])
    cells = [None if math.isnan(cell) else cell for cell in axes.collections[0].get_array().filled(math.nan).ravel()]
    assert cells == [2, None, None, 3, 3, None]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["≤ 1", "≤ 2", "≤ 4"]
