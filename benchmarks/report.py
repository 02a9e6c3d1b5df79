"""The generated section of docs/benchmarks.md, from the results alone."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from pathlib import Path

from benchmarks.results import Entry, Goal, Row

PAGE = Path("docs/benchmarks.md")
BEGIN = "<!-- made by `make bench`; do not edit by hand -->"
END = "<!-- end of what `make bench` made -->"
HEADER = "| measure | ours | peer or floor | ratio | goal | | CPU seconds |\n|---|---|---|---|---|---|---|\n"
EXPLANATION = (
    "`ratio` is how many times as good as the peer (above 1: better), taken in the same run. `CPU seconds` are those\n"
    "of each process with its children while it was measured; `generator` is what sends the requests. A row that the\n"
    "generator cannot vouch for says *invalid*.\n"
)


def rendered(entries: Mapping[str, Entry]) -> str:
    """The section, with its markers."""
    parts = [BEGIN, "", "## Side by side", "", EXPLANATION]
    for place, group in groupby(entries.values(), key=lambda entry: (str(entry.machine), entry.at[:10])):
        found = list(group)
        versions = ", ".join(f"{name} {number}" for name, number in found[0].machine.packages.items())
        parts += [f"Measured on {place[0]}, {place[1]} ({versions}).", ""]
        for entry in found:
            quick = " (quick run: not to be quoted)" if entry.quick else ""
            parts += [f"### {entry.title}{quick}", "", HEADER + "".join(map(_line, entry.measured.rows))]
            notes = dict.fromkeys(row.note for row in entry.measured.rows if row.note and row.ours is not None)
            parts += [f"{note}\n" for note in notes]
            parts += [f"![{plot.title}](benchmarks/{plot.name}.png)\n" for plot in entry.measured.plots]
    return "\n".join([*parts, END])


def replaced(page: str, section: str) -> str:
    """`page` with `section` between the markers, or after everything else when it has none yet.

    Raises ValueError when only one of the two markers is there.
    """
    if (BEGIN in page) != (END in page):
        raise ValueError(f"one of the two markers is missing: {BEGIN!r} and {END!r}")
    if BEGIN not in page:
        return f"{page.rstrip()}\n\n{section}\n"
    before, _, rest = page.partition(BEGIN)
    return before + section + rest.partition(END)[2]


def plain(row: Row) -> str:
    """A row for the terminal."""
    return " | ".join(cell for cell in _cells(row) if cell)


def _line(row: Row) -> str:
    return f"| {' | '.join(_cells(row))} |\n"


def _cells(row: Row) -> list[str]:
    theirs = f"{row.peer}: {number(row.theirs)}" if row.theirs is not None else row.peer
    cpu = ", ".join(f"{name} {number(seconds)}" for name, seconds in row.cpu_seconds.items())
    ours = f"{number(row.ours)} {row.unit}" if row.ours is not None else row.note
    ratio = number(row.ratio) if row.ratio is not None else ""
    return [row.what, ours, theirs, ratio, _goal(row.goal, row.unit), _verdict(row), cpu]


def _verdict(row: Row) -> str:
    if row.doubts:
        return f"*invalid*: {'; '.join(row.doubts)}"
    return {None: "", True: "met", False: "**missed**"}[row.met]


def _goal(goal: Goal | None, unit: str) -> str:
    if goal is None:
        return ""
    sign = "≥" if goal.relation == "at least" else "≤"
    return f"{sign} {number(goal.bound)} {unit}" if goal.of == "value" else f"{sign} {number(goal.bound)}x"


def number(value: float | None) -> str:
    """Three figures that matter, whole thousands with commas."""
    if value is None:
        return ""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"
