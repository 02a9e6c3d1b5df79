"""Metrics of the ingestion job, and where they can be read while it runs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, start_http_server

from contracts import telemetry
from observability.vitals import process_vitals
from setup_milvus.ingest import Step

log = logging.getLogger(__name__)


class Metrics:
    """The job's series; `on_read` and `on_step` are hooks of `Ingestion`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._running = telemetry.INGEST_RUNNING.gauge(registry)
        self._rows = telemetry.INGEST_ROWS.gauge(registry)
        self._rows_read = telemetry.INGEST_ROWS_READ.counter(registry)
        self._documents = telemetry.INGEST_DOCUMENTS.counter(registry)
        passages = telemetry.INGEST_PASSAGES.counter(registry)
        self._stored, self._present = passages.labels("stored"), passages.labels("present")
        self._lag = telemetry.INGEST_LAG.gauge(registry)
        self._progress = telemetry.INGEST_PROGRESS_TIME.gauge(registry)

    @contextmanager
    def running(self, rows: int) -> Iterator[None]:
        """While a data set of so many rows is loaded. However that ends, nothing is under way any more."""
        self._rows.set(rows)
        self._progress.set_to_current_time()
        self._running.set(1)
        try:
            yield
        finally:
            self._running.set(0)
            self._lag.set(0)

    def on_read(self, rows: int, passages: int) -> None:
        """So many more have been read."""
        self._rows_read.inc(rows)
        self._lag.inc(passages)

    def on_step(self, step: Step) -> None:
        """A batch is done. One of a dry run has stored nothing, so it is progress and no more."""
        if step.stored or step.present:
            self._documents.inc(step.documents)
            self._stored.inc(step.stored)
            self._present.inc(step.present)
        self._lag.dec(step.passages)
        self._progress.set_to_current_time()


@contextmanager
def served(registry: CollectorRegistry, host: str, port: int) -> Iterator[None]:
    """While entered, GET /metrics of this address answers with `registry` and the process's vital signs, from a thread.
    Port 0: nowhere. An address that cannot be taken is a warning: the job is worth more than its metrics."""
    with process_vitals(registry, telemetry.SETUP):
        if not port:
            yield
            return
        try:
            server, thread = start_http_server(port, host, registry)
        except OSError as exc:
            log.warning("no metrics of this job: %s:%d cannot be taken (%s)", host, port, exc)
            yield
            return
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
