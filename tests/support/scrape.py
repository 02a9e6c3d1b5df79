"""What a service's /metrics says, parsed by prometheus_client."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import httpx
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families as text_families
from prometheus_client.samples import Sample

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
IGNORED_LABELS = {"le"}


@dataclass(frozen=True, slots=True)
class Scrape:
    """Every sample at one moment."""

    samples: tuple[Sample, ...]

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name whose labels include `labels`."""
        return sum(
            sample.value for sample in self.samples if sample.name == name and labels.items() <= sample.labels.items()
        )

    def labels_of(self, name: str) -> set[frozenset[str]]:
        """The sets of label names that samples of a metric (a histogram by its `_count`) have."""
        return {
            frozenset(sample.labels) - IGNORED_LABELS
            for sample in self.samples
            if sample.name in (name, f"{name}_count", f"{name}_total")
        }

    def values_of(self, label: str) -> set[str]:
        """Every value of a label."""
        return {sample.labels[label] for sample in self.samples if label in sample.labels}

    @property
    def series(self) -> int:
        return len(self.samples)


def scrape(url: str) -> Scrape:
    """Now, in Prometheus' text format."""
    text = httpx.get(url + "/metrics", timeout=30, trust_env=False).raise_for_status().text
    return Scrape(tuple(sample for family in text_families(text) for sample in family.samples))


def scrape_openmetrics(url: str) -> Scrape:
    """Now, as OpenMetrics, which alone has exemplars."""
    answer = httpx.get(url + "/metrics", headers={"Accept": OPENMETRICS}, timeout=30, trust_env=False)
    assert answer.headers["content-type"].startswith("application/openmetrics-text"), answer.headers
    return Scrape(tuple(sample for family in openmetrics_families(answer.text) for sample in family.samples))


def growth(url: str, do: Callable[[], object]) -> Callable[..., float]:
    """By how much a sample grows while `do` runs: `growth(...)(name, **labels)`."""
    before = scrape(url)
    do()
    after = scrape(url)
    return lambda name, **labels: after.value(name, **labels) - before.value(name, **labels)
