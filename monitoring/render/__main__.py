"""`python -m monitoring.render --prometheus URL`: one PNG for each dashboard, from the same files and queries.

Panels lie as in Grafana, less those that have nothing to show; it says which, and what they need.
"""

from __future__ import annotations

import argparse
import io
import math
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from PIL import Image

from monitoring.queries import Query, boards, queries
from monitoring.render.answers import Answers, Series, Span
from monitoring.render.draw import DRAWN, draw

matplotlib.use("agg")

WIDTH, ROW_HEIGHT = 14.0, 0.3
"""Inches: of a picture, and of one of Grafana's rows."""
HEADING = 1.2
"""Height of a section's title, in rows."""
DPI = 110
COLOURS = 128
"""A palette makes the files a third as large, and nothing in them needs more."""

Drawable = tuple[dict[str, Any], Sequence[Series]]
Section = tuple[str, list[Drawable]]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m monitoring.render", description=__doc__)
    parser.add_argument("--prometheus", required=True, help="its address, as http://HOST:9090")
    parser.add_argument("--start", type=_moment, help="Unix seconds or ISO 8601; default: an hour before the end")
    parser.add_argument("--end", type=_moment, default=time.time(), help="default: now")
    parser.add_argument("--scrape-seconds", type=float, default=15, help="longest scrape interval (default: 15)")
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="folder (default: docs/images)")
    options = parser.parse_args()
    start = options.end - 3600 if options.start is None else options.start
    answers = Answers(options.prometheus, Span(start, options.end, options.scrape_seconds))
    options.out.mkdir(parents=True, exist_ok=True)
    for name, board in boards().items():
        sections = drawable(name, board, answers)
        if not sections:
            print(f"{name}: nothing to draw")
            continue
        path = options.out / f"{name}.png"
        path.write_bytes(picture(board, sections, answers.span))
        print(f"{path}: {path.stat().st_size // 1024} KiB, {sum(len(panels) for _, panels in sections)} panels")


def drawable(name: str, board: dict[str, Any], answers: Answers) -> list[Section]:
    """The panels of each section that have anything to show, with what there is."""
    asked: dict[int, list[Query]] = {}
    for query in queries():
        if query.board == name and "id" in query.panel:
            asked.setdefault(query.panel["id"], []).append(query)
    sections: list[Section] = []
    empty: dict[str, list[str]] = {}
    for panel in board["panels"]:
        if panel["type"] == "row":
            sections.append((panel["title"], []))
            continue
        own = asked[panel["id"]]
        found: list[Series] = []
        if panel["type"] in DRAWN and all(query.datasource == "prometheus" for query in own):
            found = [series for query in own for series in answers.to(query)]
        if found:
            sections[-1][1].append((panel, found))
        else:
            needs = ", ".join(sorted(set().union(*(query.needs for query in own))))
            empty.setdefault(f" without {needs}" if needs else "", []).append(panel["title"])
    for why, titles in empty.items():
        print(f"{name}: nothing to show{why}: {', '.join(titles)}")
    return [section for section in sections if section[1]]


def picture(board: dict[str, Any], sections: Sequence[Section], span: Span) -> bytes:
    """A PNG of these sections."""
    rows = 2.0 + sum(HEADING + _height(panels) for _, panels in sections)
    figure = Figure(figsize=(WIDTH, rows * ROW_HEIGHT), dpi=DPI, facecolor="white")
    figure.text(0.012, 1 - 0.9 / rows, board["title"], fontsize=13, fontweight="bold", va="center")
    begin, end = (datetime.fromtimestamp(moment, UTC) for moment in (span.start, span.end))
    taken = f"{begin:%Y-%m-%d %H:%M} – {end:%H:%M} UTC"
    figure.text(0.988, 1 - 0.9 / rows, taken, fontsize=8, color="#6b7280", ha="right", va="center")
    top = 2.0
    for title, panels in sections:
        figure.text(0.012, 1 - (top + HEADING / 2) / rows, title, fontsize=9.5, color="#374151", va="center")
        top += HEADING
        for (panel, found), (x, y, width, height) in zip(panels, _places(panels), strict=True):
            # Around the axes: the title above, numbers to the left, times and legend below.
            small = panel["type"] in ("stat", "table")
            left, right = (0.2, 0.2) if small else (1.15 if panel["type"] == "heatmap" else 0.95, 0.3)
            above, below = 0.9, (0.1 if small else 0.9 if panel["type"] == "heatmap" else 2.3)
            box = (
                (x + left) / 24,
                1 - (top + y + height - below) / rows,
                (width - left - right) / 24,
                (height - above - below) / rows,
            )
            draw(figure.add_axes(box), panel, found)
        top += _height(panels)
    raw = io.BytesIO()
    figure.savefig(raw, format="png")
    small_file = io.BytesIO()
    Image.open(raw).convert("RGB").quantize(COLOURS).save(small_file, format="png", optimize=True)
    return small_file.getvalue()


def _places(panels: Sequence[Drawable]) -> list[tuple[int, int, int, int]]:
    """Column, row, width and height of each panel: from left to right, as Grafana lays them out."""
    places = []
    x = y = tallest = 0
    for panel, _ in panels:
        width, height = panel["gridPos"]["w"], panel["gridPos"]["h"]
        if x + width > 24:
            x, y, tallest = 0, y + tallest, 0
        places.append((x, y, width, height))
        x, tallest = x + width, max(tallest, height)
    return places


def _height(panels: Sequence[Drawable]) -> int:
    return max(y + height for _, y, _, height in _places(panels))


def _moment(text: str) -> float:
    """Unix seconds of either way to say it. Raises ValueError."""
    try:
        moment = float(text)
    except ValueError:
        return datetime.fromisoformat(text).timestamp()
    if not math.isfinite(moment):
        raise ValueError(text)
    return moment


if __name__ == "__main__":
    main()
