"""Numbers as Grafana writes them, for the units that the dashboards use."""

from __future__ import annotations

import math

STEPS: dict[str, tuple[tuple[float, str], ...]] = {
    "s": ((1e-6, "µs"), (1e-3, "ms"), (1, "s"), (60, "min"), (3600, "h"), (86400, "d")),
    "ms": ((1e-3, "µs"), (1, "ms"), (1e3, "s"), (6e4, "min")),
    "bytes": ((1, "B"), (2**10, "KiB"), (2**20, "MiB"), (2**30, "GiB"), (2**40, "TiB")),
    "short": ((1, ""), (1e3, "K"), (1e6, "M"), (1e9, "B")),
    "reqps": ((1, "req/s"), (1e3, "K req/s")),
    "cps": ((1, "/s"), (1e3, "K/s"), (1e6, "M/s")),
    "watt": ((1, "W"), (1e3, "kW")),
    "celsius": ((1, "°C"),),
    "none": ((1, ""),),
    "string": ((1, ""),),
}
"""Unit → factors and what is written for them, smallest first. Below the first factor it is kept."""


def written(value: float, unit: str) -> str:
    """A value in three digits and its unit. Raises KeyError for a unit that no dashboard uses."""
    if math.isnan(value):
        return "–"
    if unit == "percentunit":
        return f"{_digits(100 * value)} %"
    steps = STEPS[unit]
    if value == 0:
        factor, name = next((step for step in steps if step[0] == 1), steps[0])
    else:
        factor, name = next((step for step in reversed(steps) if abs(value) >= step[0]), steps[0])
    return f"{_digits(value / factor)} {name}".rstrip()


def _digits(value: float) -> str:
    if abs(value) >= 100 or value == round(value):
        return f"{value:.0f}"
    return f"{value:.3g}"
