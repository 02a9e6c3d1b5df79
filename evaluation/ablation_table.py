"""What each switch gained and cost, as a table in Markdown. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evaluation.runs import Run
from evaluation.significance import compare

_SECONDS = "seconds"


def waited(at_once: int) -> str:
    """The figure of a question's wait while so many were asked at a time."""
    return f"{_SECONDS}, {at_once} at once"


def rendered(off: Run, switched: Sequence[Run]) -> str:
    """A row for each run: the mean of each figure with what it gained over `off` and the p of the paired test, and the
    median and 90th percentile over questions of the milliseconds that it added."""
    times = [name for name in off.means if name.startswith(_SECONDS)]
    names = [name for name in off.means if name not in times]
    heads = ["switch", *names, *(name.replace(_SECONDS, "added ms") for name in times)]
    rows = [["off", *(_mean(off, name) for name in names), *(_spent(off, name) for name in times)]]
    for on in switched:
        gains = [_gain(off, on, name) for name in names]
        rows.append([on.setup["switch"], *gains, *(_added(off, on, name) for name in times)])
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _mean(run: Run, name: str) -> str:
    return _number(run.means[name], name)


def _number(value: float, name: str, sign: str = "") -> str:
    return f"{value:{sign}.0f}" if name == "prompt_tokens" else f"{value:{sign}.3f}"


def _gain(off: Run, on: Run, name: str) -> str:
    before, after = off.column(name), on.column(name)
    if not before.keys() & after.keys():
        return "–"
    if before == after:
        return "same"
    gain = compare(before, after)
    told = f"{_number(on.means[name], name)} ({_number(gain.mean, name, '+')}, p {_p(gain.p)})"
    return f"**{told}**" if gain.significant else told


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def _spent(off: Run, name: str) -> str:
    median, late = 1000 * np.quantile(list(off.column(name).values()), (0.5, 0.9))
    return f"of {median:.0f}, {late:.0f}"


def _added(off: Run, on: Run, name: str) -> str:
    before, after = off.column(name), on.column(name)
    median, late = 1000 * np.quantile([after[id] - before[id] for id in before.keys() & after.keys()], (0.5, 0.9))
    return f"{median:+.1f}, {late:+.1f}"
