"""What a service's /metrics says: parsed, compared with before, and held against contracts/telemetry.py."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import httpx
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from contracts import telemetry
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


OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@dataclass(frozen=True, slots=True)
class Scrape:
    """Every sample at one moment."""

    samples: tuple[Sample, ...]

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name whose labels include `labels`."""
        return sum(
            sample.value for sample in self.samples if sample.name == name and labels.items() <= sample.labels.items()
        )

    def values_of(self, label: str) -> set[str]:
        """Every value of a label."""
        return {sample.labels[label] for sample in self.samples if label in sample.labels}

    @property
    def series(self) -> int:
        return len(self.samples)


def scrape(url: str) -> Scrape:
    """Now, in Prometheus' text format."""
    text = httpx.get(url + "/metrics", timeout=30, trust_env=False).raise_for_status().text
    return Scrape(tuple(sample for family in text_string_to_metric_families(text) for sample in family.samples))


def scrape_openmetrics(url: str) -> Scrape:
    """Now, as OpenMetrics, which alone has exemplars."""
    answer = httpx.get(url + "/metrics", headers={"Accept": OPENMETRICS}, timeout=30, trust_env=False)
    assert answer.headers["content-type"].startswith("application/openmetrics-text"), answer.headers
    return Scrape(tuple(sample for family in openmetrics_families(answer.text) for sample in family.samples))


def scrape_at_rest(url: str, seconds: float = 30) -> Scrape:
    """As soon as the gateway at `url` serves no request. A client has the end of a stream some turns of the gateway's
    loop before that is counted; the request's record is made in the turn in which it is no longer in flight, so that
    the next scrape sees it."""
    deadline = time.monotonic() + seconds
    while in_flight := scrape(url).value(telemetry.REQUESTS_IN_FLIGHT.name):
        assert time.monotonic() < deadline, f"{in_flight:g} requests are still in flight"
        time.sleep(0.02)
    return scrape(url)


def growth(url: str, do: Callable[[], object]) -> Callable[..., float]:
    """By how much a sample grows while `do` runs, to the end of all it asks: `growth(...)(name, **labels)`."""
    before = scrape_at_rest(url)
    do()
    after = scrape_at_rest(url)
    return lambda name, **labels: after.value(name, **labels) - before.value(name, **labels)
