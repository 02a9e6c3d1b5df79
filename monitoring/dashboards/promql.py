"""PromQL for one metric at a time: sums over all instances, rates over Grafana's `$__rate_interval`.

A label that the metric does not have is refused as the query is written (ValueError).
"""

from __future__ import annotations

import re
from typing import Protocol

from monitoring.dashboards.foreign import INSTANCE, JOB

PERCENTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
"""Legend → quantile."""
OPERATOR = re.compile(r"^(=~|!=|!~)")


class Named(Protocol):
    """`Metric` or `Series`."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def labels(self) -> tuple[str, ...]: ...


def series(metric: Named, suffix: str = "", **where: str) -> str:
    """`name{label="value"}`. A value may begin with another operator: `=~`, `!=` or `!~`."""
    _check(metric, (*where,), ("le",) if suffix == "_bucket" else ())
    matchers = [f'{label}{_operator(value)}"{OPERATOR.sub("", value)}"' for label, value in where.items()]
    return metric.name + suffix + ("{" + ",".join(matchers) + "}" if matchers else "")


def total(metric: Named, *by: str, **where: str) -> str:
    """A gauge summed over whatever `by` does not name."""
    return _sum(metric, by, series(metric, **where))


def rate(metric: Named, *by: str, suffix: str = "", **where: str) -> str:
    """How much a counter grows in a second, summed over whatever `by` does not name."""
    return _sum(metric, by, f"rate({series(metric, suffix, **where)}[$__rate_interval])")


def increase(metric: Named, *by: str, suffix: str = "", **where: str) -> str:
    """How much a counter grew in the time that the dashboard shows."""
    return _sum(metric, by, f"increase({series(metric, suffix, **where)}[$__range])")


def buckets(metric: Named, **where: str) -> str:
    """A histogram as a heatmap wants it: how many observations each bucket got between two points."""
    return f"sum by (le) (increase({series(metric, '_bucket', **where)}[$__rate_interval]))"


def percentile(quantile: float, metric: Named, *by: str, **where: str) -> str:
    """Of a histogram, over all instances: buckets can be summed, percentiles cannot."""
    if metric.kind != "histogram":
        raise ValueError(f"{metric.name} is no histogram")
    _check(metric, by)
    kept = ", ".join(("le", *by))
    rates = f"rate({series(metric, '_bucket', **where)}[$__rate_interval])"
    return f"histogram_quantile({quantile}, sum by ({kept}) ({rates}))"


def or_zero(expr: str) -> str:
    """0 where there is no such series yet: counters with labels begin to exist with their first event."""
    return f"({expr} or vector(0))"


def any_of(values: tuple[str, ...]) -> str:
    """A matcher for one of these."""
    return "=~" + "|".join(values)


def _sum(metric: Named, by: tuple[str, ...], expr: str) -> str:
    _check(metric, by)
    return f"sum by ({', '.join(by)}) ({expr})" if by else f"sum({expr})"


def _operator(value: str) -> str:
    found = OPERATOR.match(value)
    return found[0] if found else "="


def _check(metric: Named, labels: tuple[str, ...], also: tuple[str, ...] = ()) -> None:
    for label in labels:
        if label not in (*metric.labels, JOB, INSTANCE, *also):
            raise ValueError(f"{metric.name} has no label {label}")
