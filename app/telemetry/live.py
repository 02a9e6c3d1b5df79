"""What is read when it is scraped: queues, requests in flight, model services. Nothing here can be left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from app.replicas import Replicas, State
from contracts import telemetry


class Queue(Protocol):
    """What a batcher shows of its queue."""

    @property
    def queued(self) -> int: ...
    @property
    def queue_items(self) -> int: ...


class LiveGauges(Collector):
    """The gateway as it is at this moment. `requests_inside` counts requests being served, `requests_max` is their
    limit, `queues` are by kind."""

    def __init__(
        self,
        requests_inside: Callable[[], int],
        requests_max: int,
        queues: Mapping[str, Queue],
        replicas: Replicas,
    ) -> None:
        self._requests_inside = requests_inside
        self._requests_max = requests_max
        self._queues = queues
        self._replicas = replicas

    def collect(self) -> Iterable[Metric]:
        """Read by the registry at each scrape, in another thread than the event loop's: hence the copies."""
        yield gauge(telemetry.REQUESTS_IN_FLIGHT, [((), self._requests_inside())])
        yield gauge(telemetry.REQUESTS_MAX, [((), self._requests_max)])
        yield gauge(telemetry.QUEUE_ITEMS, [((kind,), queue.queued) for kind, queue in self._queues.items()])
        yield gauge(telemetry.QUEUE_ITEMS_MAX, [((kind,), queue.queue_items) for kind, queue in self._queues.items()])
        replicas = [(replica.address.url, replica) for replica in list(self._replicas.all)]
        yield gauge(
            telemetry.REPLICA_STATE,
            [((url, state.value), replica.state is state) for url, replica in replicas for state in State],
        )
        yield gauge(telemetry.REPLICA_TOKENS, [((url,), replica.tokens) for url, replica in replicas])
        yield gauge(telemetry.REPLICA_PROMPTS, [((url,), replica.prompts) for url, replica in replicas])


def gauge(metric: telemetry.Metric, samples: Iterable[tuple[tuple[str, ...], float]]) -> GaugeMetricFamily:
    """A gauge with these samples, as of now."""
    family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
    for labels, value in samples:
        family.add_metric(labels, float(value))
    return family
