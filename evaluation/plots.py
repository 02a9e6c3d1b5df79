"""The plots of a report, as PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence

from matplotlib.figure import Figure

from evaluation.ranking import Figures
from evaluation.runs import Run, title


def bars(runs: Sequence[Run], names: Sequence[str]) -> bytes:
    """The means of these figures (0 to 1) in each run, side by side."""
    figure = Figure(figsize=(8, 3.2), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(runs)
    for place, run in enumerate(runs):
        means: Figures = run.means
        at = [i + (place - (len(runs) - 1) / 2) * width for i in range(len(names))]
        drawn = axes.bar(at, [means.get(name, 0) for name in names], width, label=title(run))
        axes.bar_label(drawn, fmt="%.2f", fontsize=7)
    axes.set_xticks(range(len(names)), list(names), fontsize=8)
    axes.set_ylim(0, 1.08)
    axes.legend(fontsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    return _png(figure)


def gains(values: Sequence[float], figure_name: str) -> bytes:
    """What each question gained, sorted: how many won, how many lost, and how much."""
    figure = Figure(figsize=(8, 2.6), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    ordered = sorted(values, reverse=True)
    axes.fill_between(range(len(ordered)), ordered, step="mid", alpha=0.7)
    axes.axhline(0, color="black", linewidth=0.6)
    won, lost = sum(value > 0 for value in values), sum(value < 0 for value in values)
    axes.set_title(f"{won} questions better, {lost} worse, {len(values) - won - lost} the same", fontsize=9)
    axes.set_xlabel("questions, by gain", fontsize=8)
    axes.set_ylabel(figure_name, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return _png(figure)


def spread(values: Sequence[float], figure_name: str) -> bytes:
    """How the questions' values are spread."""
    figure = Figure(figsize=(8, 2.2), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    axes.hist(values, bins=[i / 20 for i in range(21)])
    axes.set_xlabel(figure_name, fontsize=8)
    axes.set_ylabel("questions", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return _png(figure)


def refusals(false_refusals: Sequence[float], right_refusals: Sequence[float]) -> bytes:
    """What a threshold costs (share of answerable questions refused) and gains (share of unanswerable refused)."""
    figure = Figure(figsize=(4.5, 4), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(false_refusals, right_refusals)
    axes.plot([0, 1], [0, 1], linewidth=0.6, color="gray")
    axes.set_xlabel("answerable questions refused", fontsize=8)
    axes.set_ylabel("unanswerable questions refused", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return _png(figure)


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": ""})
    return out.getvalue()
