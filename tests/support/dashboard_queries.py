"""What a real Prometheus says to the dashboards' queries."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

from monitoring.queries import LABEL_VALUES, Query, queries
from tests.support.prometheus import Api

LEGEND_LABEL = re.compile(r"\{\{\s*(\w+)\s*\}\}")


def answered_by_prometheus(have: Iterable[str]) -> list[Query]:
    """The queries to Prometheus that need nothing but what there is (names in monitoring.queries.NEEDS)."""
    return [query for query in queries() if query.datasource == "prometheus" and query.needs <= set(have)]


def unanswered(prometheus: Api, have: Iterable[str], start: float, end: float, *, rate_seconds: int = 60) -> list[str]:
    """What is wrong with the answers to those queries, between two Unix times: no data, or legends without a label.
    Prometheus itself refuses what is no PromQL: that fails at once."""
    wrong = []
    for query in answered_by_prometheus(have):
        problem = _problem(prometheus, query, start, end, rate_seconds)
        if problem:
            wrong.append(f"{query.board}, {query.title}: {problem}: {query.expr}")
    return wrong


def _problem(prometheus: Api, query: Query, start: float, end: float, rate_seconds: int) -> str:
    step = max((end - start) / 60, 1)
    expr = query.filled(rate_seconds=rate_seconds, range_seconds=math.ceil(end - start), step_seconds=math.ceil(step))
    labels = LEGEND_LABEL.findall(query.legend)
    found: list[dict[str, Any]]
    if query.kind == "variable":
        values = LABEL_VALUES.fullmatch(expr)
        assert values is not None, f"{expr} is not label_values(…, …)"
        labels = [values["label"]]
        found = prometheus.query(f"count by ({values['label']}) ({values['series']})", end)
    elif query.kind == "instant":
        found = prometheus.query(expr, end)
    else:
        found = prometheus.query_range(expr, start, end, step)
    numbers = [value for series in found for _, value in series.get("values", [series.get("value")])]
    if not any(math.isfinite(float(number)) for number in numbers):
        return "no data"
    without = [label for label in labels for series in found if label not in series["metric"]]
    return f"series without {without[0]}" if without else ""
