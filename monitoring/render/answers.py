"""What Prometheus answers to the queries of a panel."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import httpx

from monitoring.queries import Query

POINTS = 180
"""Across a picture; more could not be told apart."""


@dataclass(frozen=True, slots=True)
class Span:
    """From when until when, in Unix seconds, and how often Prometheus scrapes."""

    start: float
    end: float
    scrape_seconds: float

    @property
    def step(self) -> int:
        """Between two points, in seconds, as Grafana chooses it."""
        return max(math.ceil((self.end - self.start) / POINTS), 1)

    @property
    def rate_interval(self) -> int:
        """Grafana's $__rate_interval, in seconds."""
        return math.ceil(max(self.step + self.scrape_seconds, 4 * self.scrape_seconds))


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a panel: its legend, its labels and its points. A value that there is not is NaN."""

    legend: str
    labels: dict[str, str]
    times: tuple[float, ...]
    values: tuple[float, ...]

    @property
    def last(self) -> float:
        """The newest value that there is."""
        return next((value for value in reversed(self.values) if math.isfinite(value)), math.nan)


class Answers:
    """A Prometheus that is asked over one span of time."""

    def __init__(self, url: str, span: Span) -> None:
        self._http = httpx.Client(base_url=url, timeout=60)
        self.span = span
        # Whole steps, as in Grafana: whole seconds, which Prometheus gives back as they are.
        self._start = span.start // span.step * span.step

    def to(self, query: Query) -> list[Series]:
        """The series of a query that have any value, by their legends. Raises HTTPStatusError for what is refused."""
        span = self.span
        expr = query.filled(
            rate_seconds=span.rate_interval, range_seconds=math.ceil(span.end - span.start), step_seconds=span.step
        )
        if query.kind == "instant":
            answer = self._http.post("/api/v1/query", data={"query": expr, "time": span.end})
        else:
            given = {"query": expr, "start": self._start, "end": span.end, "step": span.step}
            answer = self._http.post("/api/v1/query_range", data=given)
        answer.raise_for_status()
        found = []
        for result in answer.json()["data"]["result"]:
            points = {float(time): float(value) for time, value in result.get("values", [result.get("value")])}
            labels = result["metric"]
            # A point for each step, so that a line breaks where there was nothing.
            times = tuple(points) if query.kind == "instant" else self._times()
            values = tuple(points.get(time, math.nan) for time in times)
            if any(map(math.isfinite, values)):
                found.append(Series(_legend(query.legend, labels), labels, times, values))
        return sorted(found, key=lambda series: _natural(series.legend))

    def _times(self) -> tuple[float, ...]:
        step = self.span.step
        return tuple(self._start + i * step for i in range(int((self.span.end - self._start) // step) + 1))


def _legend(template: str, labels: dict[str, str]) -> str:
    if template in ("", "__auto"):
        return ", ".join(f"{name}={value}" for name, value in labels.items()) or "value"
    return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda found: labels.get(found[1], ""), template).strip()


def _natural(text: str) -> list[tuple[float, str]]:
    """Sorts "p5" before "p50", and "le" as numbers."""
    return [(float(part), "") if part.isdigit() else (math.inf, part) for part in re.split(r"(\d+)", text)]
