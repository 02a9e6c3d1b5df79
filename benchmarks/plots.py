"""Bar charts of the results as PNG files."""

from __future__ import annotations

from pathlib import Path

from benchmarks.report import number
from benchmarks.results import Plot

FOLDER = Path("docs/benchmarks")


def draw(plot: Plot, folder: Path = FOLDER) -> Path:
    """Write `plot` to `folder` and say where."""
    from matplotlib.figure import Figure

    labels = list(dict.fromkeys(label for series in plot.series for label in series.values))
    figure = Figure(figsize=(7, 3.5), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(plot.series)
    for place, series in enumerate(plot.series):
        shown = [(i, series.values[label]) for i, label in enumerate(labels) if label in series.values]
        at = [i + (place - (len(plot.series) - 1) / 2) * width for i, _ in shown]
        bars = axes.bar(at, [value for _, value in shown], width, label=series.name)
        axes.bar_label(bars, [number(value) for _, value in shown], fontsize=7)
    axes.set_xticks(range(len(labels)), labels)
    axes.set_ylabel(plot.unit)
    axes.set_title(plot.title, fontsize=10)
    if plot.logarithmic:
        axes.set_yscale("log")
        axes.set_ylim(bottom=1)
    if len(plot.series) > 1:
        axes.legend(fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{plot.name}.png"
    figure.savefig(path, metadata={"Software": ""})
    return path
