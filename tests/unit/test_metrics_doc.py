"""docs/metrics.md says what contracts/telemetry.py does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from contracts.telemetry import METRICS
from monitoring import metrics_doc

PAGE = Path(__file__).parents[2] / metrics_doc.PATH


def test_the_tables_are_fresh() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert metrics_doc.renewed(page) == page, "run: python -m monitoring.metrics_doc"


def test_every_metric_has_a_row_in_each_of_its_services_tables() -> None:
    rows = re.findall(r"^\| `(pharos_\w+)` \| (\w+) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(rows) == sorted((metric.name, metric.kind) for metric in METRICS for _ in metric.services)


def test_names_are_as_prometheus_wants_them() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert (metric.kind == "counter") == metric.name.endswith("_total"), metric.name
        assert (metric.kind == "histogram") == bool(metric.buckets), metric.name
        assert list(metric.buckets) == sorted(set(metric.buckets)), metric.name
        assert metric.services, metric.name


def test_a_page_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="markers"):
        metrics_doc.renewed("# Metrics\n")
