"""One panel onto matplotlib's axes: lines, stacks, heatmaps, bars, numbers and tables, as Grafana has them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter
from matplotlib.transforms import Bbox

from monitoring.render.answers import Series
from monitoring.render.units import written

COLOURS = (
    "#3274d9", "#e0752d", "#37872d", "#a352cc", "#c4162a", "#b8870b", "#2b9eb3", "#8f3bb8", "#5e6b7a", "#d683ce",
)  # fmt: skip
NAMED = {"green": "#37872d", "orange": "#e0752d", "red": "#c4162a", "purple": "#8f3bb8", "text": "#9ca3af",
         "blue": "#3274d9", "yellow": "#d9a514"}  # fmt: skip
"""Grafana's names of colours."""
GREY = "#6b7280"
LEGEND_ROWS = 3
LETTER = 0.052
"""Inches, of a legend's letter."""


def draw(axes: Axes, panel: dict[str, Any], answers: Sequence[Series]) -> None:
    """`answers` are of all the panel's queries, in order."""
    axes.set_title(panel["title"], fontsize=8.5, loc="left", fontweight="bold", color="#1f2937", pad=4)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#d1d5db")
    axes.tick_params(labelsize=6.5, colors=GREY, length=2)
    DRAWN[panel["type"]](axes, panel, answers)


def _lines(axes: Axes, panel: dict[str, Any], answers: Sequence[Series]) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    unit = defaults["unit"]
    colours = _colours(panel, answers)
    times = answers[0].times
    if defaults["custom"].get("stacking", {}).get("mode") == "normal":
        axes.stackplot(
            times,
            np.nan_to_num(np.array([series.values for series in answers])),
            colors=colours,
            alpha=0.75,
            linewidth=0,
        )
    else:
        for series, colour in zip(answers, colours, strict=True):
            axes.plot(times, series.values, color=colour, linewidth=1.1)
    values = [value for series in answers for value in series.values if math.isfinite(value)]
    highest = max(values)
    top = defaults.get("max", max(axes.get_ylim()[1], 1.08 * highest) if highest > 0 else 1)
    axes.set_ylim(min(0, *values), top)
    for step in defaults["thresholds"]["steps"][1:]:
        # A limit far above everything would press the lines flat.
        if step["value"] <= 3 * top:
            axes.axhline(step["value"], color=NAMED[step["color"]], linewidth=0.8, linestyle=(0, (4, 3)))
    _time_axis(axes, answers)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: written(value, unit)))
    axes.grid(axis="y", color="#eef0f3", linewidth=0.6)
    axes.set_axisbelow(True)
    _legend(axes, [f"{series.legend}  {written(series.last, unit)}" for series in answers], colours)


def _legend(axes: Axes, entries: Sequence[str], colours: Sequence[str]) -> None:
    """As many entries as there is room for below the axes."""
    figure = axes.get_figure()
    assert figure is not None
    width = axes.get_position().width * figure.get_figwidth()  # type: ignore[union-attr]
    longest = max(map(len, entries))
    columns = max(1, min(len(entries), int(width / (LETTER * (longest + 4)))))
    room = LEGEND_ROWS * columns
    if len(entries) > room:
        entries = [*entries[: room - 1], f"and {len(entries) - room + 1} more"]
        colours = [*colours[: room - 1], "none"]
    handles = [Line2D([], [], color=colour, linewidth=3) for colour in colours]
    axes.legend(
        handles, entries, fontsize=6.2, loc="upper left", bbox_to_anchor=(-0.01, -0.12), ncols=columns, frameon=False,
        labelcolor="#374151", handlelength=0.9, columnspacing=1.2, borderaxespad=0.1, labelspacing=0.25,
    )  # fmt: skip


def _colours(panel: dict[str, Any], answers: Sequence[Series]) -> list[str]:
    """Those that legends have of their own, and else one after the other."""
    fixed = {
        override["matcher"]["options"]: NAMED[value["value"]["fixedColor"]]
        for override in panel["fieldConfig"]["overrides"]
        for value in override["properties"]
        if value["id"] == "color"
    }
    return [fixed.get(series.legend, COLOURS[i % len(COLOURS)]) for i, series in enumerate(answers)]


def _heat(axes: Axes, panel: dict[str, Any], answers: Sequence[Series]) -> None:
    unit = panel["options"]["yAxis"]["unit"]
    buckets = sorted(answers, key=lambda series: float(series.labels["le"]))
    bounds = [float(series.labels["le"]) for series in buckets]
    # Buckets hold all below their bound: the difference to the one before is what lies between the two.
    counts = np.nan_to_num(np.array([series.values for series in buckets]))
    counts[1:] -= counts[:-1].copy()
    counts = np.clip(counts, 0, None)
    used = [i for i in range(len(bounds)) if counts[i].any()] or [0]
    first, last = used[0], used[-1] + 1
    counts, bounds = counts[first:last], bounds[first:last]
    axes.pcolormesh(
        _edges(buckets[0].times),
        np.arange(len(bounds) + 1),
        np.where(counts > 0, counts, np.nan),
        cmap="Oranges",
        vmin=0,
    )
    names = ["more" if math.isinf(bound) else f"≤ {written(bound, unit)}" for bound in bounds]
    axes.set_yticks(np.arange(len(bounds)) + 0.5, names)
    _time_axis(axes, answers)


def _bars(axes: Axes, panel: dict[str, Any], answers: Sequence[Series]) -> None:
    unit = panel["fieldConfig"]["defaults"]["unit"]
    values = [series.last for series in answers]
    axes.barh(range(len(values)), values, color=_colours(panel, answers), height=0.6)
    axes.set_yticks(range(len(values)), [series.legend for series in answers])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.2 * max(*values, 1e-9))
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)
    for i, value in enumerate(values):
        axes.text(value, i, f" {written(value, unit)}", va="center", fontsize=7, color="#1f2937")


def _number(axes: Axes, panel: dict[str, Any], answers: Sequence[Series]) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    (series,) = answers
    steps = defaults["thresholds"]["steps"]
    reached = [step for step in steps if step["value"] is None or series.last >= step["value"]]
    colour = NAMED[reached[-1]["color"]] if len(steps) > 1 else "#1f2937"
    axes.set_axis_off()
    axes.text(0.5, 0.42, written(series.last, defaults["unit"]), fontsize=17, fontweight="bold", color=colour,
              ha="center", va="center", transform=axes.transAxes)  # fmt: skip


def _table(axes: Axes, _: dict[str, Any], answers: Sequence[Series]) -> None:
    axes.set_axis_off()
    columns = [*answers[0].labels, "how many"]
    cells = [[*series.labels.values(), f"{series.last:.0f}"] for series in answers]
    height = min(1, 0.2 * (1 + len(cells)))
    made = axes.table(
        cells, colLabels=columns, bbox=Bbox.from_bounds(0, 1 - height, 0.5, height), cellLoc="left", edges="horizontal"
    )
    made.auto_set_font_size(False)
    made.set_fontsize(7)


DRAWN: dict[str, Callable[[Axes, dict[str, Any], Sequence[Series]], None]] = {
    "timeseries": _lines,
    "heatmap": _heat,
    "bargauge": _bars,
    "stat": _number,
    "table": _table,
}
"""By Grafana's type of panel; log lines are not drawn."""


def _edges(times: Sequence[float]) -> list[float]:
    step = min(b - a for a, b in pairwise(times))
    return [time - step for time in (*times, times[-1] + step)]


def _time_axis(axes: Axes, answers: Sequence[Series]) -> None:
    times = answers[0].times
    start, end = times[0], times[-1]
    marks = [start + i * (end - start) / 4 for i in range(4)]
    pattern = "%H:%M:%S" if end - start < 600 else "%H:%M" if end - start < 86400 else "%d %b"
    axes.set_xlim(start, end)
    axes.set_xticks(marks, [f"{datetime.fromtimestamp(mark, UTC):{pattern}}" for mark in marks])
