"""What a scrape says, held against contracts/telemetry.py."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.parser import text_string_to_metric_families

from contracts.telemetry import Metric

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(text: str) -> Samples:
    """Every sample of a scrape in the text format, by name and labels. Fails when one is there twice."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, f"twice: {key}"
            found[key] = sample.value
    return found


def value(scraped: Samples, metric: Metric, **labels: str) -> float:
    """The one sample of a counter or gauge with just these labels."""
    return scraped[(metric.name, frozenset(labels.items()))]


def faults(text: str, metrics: Iterable[Metric]) -> list[str]:
    """Which of `metrics` are not there, are of another kind, or have other labels, help or buckets."""
    families = {family.name: family for family in text_string_to_metric_families(text)}
    found = []
    for metric in metrics:
        family = families.get(metric.name.removesuffix("_total") if metric.kind == "counter" else metric.name)
        if family is None or not family.samples:
            found.append(f"{metric.name} is not there")
            continue
        if (family.type, family.documentation) != (metric.kind, metric.help):
            found.append(f"{metric.name}: {family.type}, {family.documentation!r}")
        labels = {frozenset(sample.labels) - {"le"} for sample in family.samples}
        if labels != {frozenset(metric.labels)}:
            found.append(f"{metric.name} has the labels {sorted(map(sorted, labels))}, not {sorted(metric.labels)}")
        bounds = {float(sample.labels["le"]) for sample in family.samples if "le" in sample.labels}
        if metric.kind == "histogram" and bounds != {*metric.buckets, float("inf")}:
            found.append(f"{metric.name} has the buckets {sorted(bounds)}")
    return found
