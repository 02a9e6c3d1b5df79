"""The figures as Prometheus' client library wants them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from locust_testing import figures
from locust_testing.figures import Figures


class FiguresCollector(Collector):
    """The figures as they are when Prometheus asks. `users` gives how many there are."""

    def __init__(self, figures: Figures, users: Callable[[], int]) -> None:
        self._figures = figures
        self._users = users

    def collect(self) -> Iterator[Family]:
        for metric in figures.METRICS:
            if metric.kind == "gauge":
                yield GaugeMetricFamily(metric.name, metric.help, self._users())
            elif metric.kind == "counter":
                counter = CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
                for labels in self._figures.labels(metric):
                    counter.add_metric(labels, self._figures.count(metric, *labels))
                yield counter
            else:
                histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
                bounds = [str(float(bound)) for bound in metric.buckets] + ["+Inf"]
                for labels in self._figures.labels(metric):
                    *counts, total = self._figures.histograms[(metric.name, *labels)]
                    buckets = list(zip(bounds, accumulate(counts), strict=True))
                    histogram.add_metric(labels, buckets, sum_value=total)
                yield histogram
