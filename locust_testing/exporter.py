"""Locust's own figures for Prometheus: GET /metrics of the process that the users are started from.

Imports gevent's server, and is for Locust's process only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from itertools import accumulate

from gevent.pywsgi import WSGIServer
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from locust_testing import figures
from locust_testing.figures import Figures

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
PORT = 9646


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


def serve(collector: Collector, port: int, host: str = HOST) -> WSGIServer | None:
    """Serve it until the process ends. None, and a warning, where the port is taken: no reason not to test."""
    registry = CollectorRegistry()
    registry.register(collector)
    server = WSGIServer((host, port), make_wsgi_app(registry), log=None)
    try:
        server.start()
    except OSError as exc:
        log.warning("no metrics for Prometheus: http://%s:%d/metrics cannot be served (%s)", host, port, exc.strerror)
        return None
    log.info("metrics for Prometheus: http://%s:%d/metrics", host, server.server_port)
    return server
