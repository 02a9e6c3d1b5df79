"""What a run of the benchmarks leaves behind: one JSON file, from which the table and the plots are made."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from benchmarks.machine import Machine

FILE = Path("docs/benchmarks/results.json")


class Goal(msgspec.Struct, frozen=True):
    """What a row has to reach: its value, or its ratio to the peer, against a bound."""

    of: Literal["value", "ratio"]
    relation: Literal["at least", "at most"]
    bound: float

    def met(self, number: float) -> bool:
        return number >= self.bound if self.relation == "at least" else number <= self.bound


class Row(msgspec.Struct, frozen=True):
    """One line of the table.

    `better` says which way the value should go, and so how `ratio` is taken: how many times as good as the peer, above
    1 is better; None where a difference of two times came out negative. `cpu_seconds` are those of each process tree
    during the measurement. `doubts` say why the figures cannot be believed; a row with doubts meets no goal. `ours` is
    None where nothing was measured; `note` says why.
    """

    what: str
    unit: str
    ours: float | None
    better: Literal["higher", "lower"]
    peer: str = ""
    theirs: float | None = None
    goal: Goal | None = None
    cpu_seconds: dict[str, float] = {}
    doubts: list[str] = []
    note: str = ""

    @property
    def ratio(self) -> float | None:
        if self.ours is None or self.theirs is None or min(self.ours, self.theirs) <= 0:
            return None
        return self.ours / self.theirs if self.better == "higher" else self.theirs / self.ours

    @property
    def met(self) -> bool | None:
        """None when there is no goal or no figure."""
        number = None if self.goal is None else self.ours if self.goal.of == "value" else self.ratio
        if self.goal is None or number is None:
            return None
        return self.goal.met(number) and not self.doubts


class Series(msgspec.Struct, frozen=True):
    """One group of bars of a plot: a value for each label."""

    name: str
    values: dict[str, float]


class Plot(msgspec.Struct, frozen=True):
    """A bar chart; `logarithmic` where the values are orders of magnitude apart."""

    name: str
    title: str
    unit: str
    series: list[Series]
    logarithmic: bool = False


class Measured(msgspec.Struct, frozen=True):
    """What one measure found."""

    rows: list[Row]
    plots: list[Plot] = []


class Entry(msgspec.Struct, frozen=True):
    """A measure's latest outcome, when and where. `quick` ones are too short to be quoted."""

    title: str
    at: str
    machine: Machine
    quick: bool
    seconds: float
    measured: Measured


def load(file: Path = FILE) -> dict[str, Entry]:
    """By name of the measure; empty when there is no file yet."""
    if not file.exists():
        return {}
    return msgspec.json.decode(file.read_bytes(), type=dict[str, Entry])


def save(entries: dict[str, Entry], file: Path = FILE) -> None:
    """Written as a whole and then put in place, so that an interrupted run loses nothing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_suffix(".new")
    fresh.write_bytes(msgspec.json.format(msgspec.json.encode(entries), indent=1) + b"\n")
    fresh.replace(file)
