"""Two runs beside each other: what their figures gained, and what they were asked otherwise. Pure."""

from __future__ import annotations

from evaluation.runs import Run, title, when
from evaluation.significance import Difference, compare

_IN_TITLE = ("set", "mode", "rerank", "expand", "label")


def gain(before: Run, after: Run, figure: str) -> Difference | None:
    """What `after` has more of a figure; None where no question has it in both."""
    old, new = before.column(figure), after.column(figure)
    return compare(old, new) if old.keys() & new.keys() else None


def differing(before: Run, after: Run) -> str:
    """How `before` was set up where that is not as `after` was, beside what its title says; "" where it was the same.
    A run that does not say has a dash: a running gateway's settings are not known."""
    names = dict.fromkeys([*after.setup, *before.setup])
    said = (
        f"{name} {_shown(before.setup.get(name))}, not {_shown(after.setup.get(name))}"
        for name in names
        if name not in _IN_TITLE and before.setup.get(name) != after.setup.get(name)
    )
    return "; ".join(said)


def line(before: Run, after: Run, figure: str) -> str | None:
    """The gain in words for a terminal; None as in `gain`."""
    gained = gain(before, after, figure)
    if gained is None:
        return None
    other = differing(before, after)
    return f"{figure} {gained} against {title(before)} of {when(before)}{f' ({other})' if other else ''}"


def _shown(value: object) -> str:
    return "–" if value is None or value == "" else str(value)
