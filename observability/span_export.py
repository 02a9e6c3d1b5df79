"""How spans leave: sampling, a bounded queue, and a thread that sends them to an OTLP endpoint.

Imported only where there is an endpoint: the SDK and its HTTP client take a while to load.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    ParentBased,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.trace import Link, SpanKind, TraceState
from opentelemetry.util.types import Attributes

from observability import semconv
from observability.settings import TelemetrySettings

log = logging.getLogger(__name__)

SEND_SECONDS = 5.0
"""For one batch, with the attempts after its first."""
SHUTDOWN_SECONDS = 2.0
"""To send what is left at the end."""
QUEUE_SPANS = 8192
"""Spans that may wait; beyond it the oldest are dropped. About 3 kB each."""
BATCH_SPANS = 512
EVERY_SECONDS = 1.0
QUIET_SECONDS = 60.0
"""Between two lines in the log about an endpoint that takes no spans."""

_EXPORTERS_LOGGERS = (
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.sdk._shared_internal",
)


class Exporting:
    """OpenTelemetry's provider of one service, and its end."""

    def __init__(
        self,
        service: str,
        settings: TelemetrySettings,
        version: str,
        *,
        send_seconds: float = SEND_SECONDS,
        shutdown_seconds: float = SHUTDOWN_SECONDS,
    ) -> None:
        self._shutdown_seconds = shutdown_seconds
        self._loggers = {logging.getLogger(name): NowAndThen(QUIET_SECONDS) for name in _EXPORTERS_LOGGERS}
        for logger, now_and_then in self._loggers.items():
            logger.addFilter(now_and_then)
        self._exporter = OTLPSpanExporter(settings.traces_endpoint, timeout=send_seconds)
        self.provider = TracerProvider(
            ParentBased(RatioOrLinks(settings.traces_ratio)),
            Resource.create(
                {
                    semconv.SERVICE_NAME: service,
                    semconv.SERVICE_NAMESPACE: semconv.PHAROS,
                    semconv.SERVICE_VERSION: version,
                    semconv.DEPLOYMENT_ENVIRONMENT_NAME: settings.environment,
                }
            ),
            shutdown_on_exit=False,  # it would wait for up to 30 s
        )
        self.provider.add_span_processor(
            BatchSpanProcessor(
                self._exporter,
                max_queue_size=QUEUE_SPANS,
                schedule_delay_millis=EVERY_SECONDS * 1000,
                max_export_batch_size=BATCH_SPANS,
            )
        )
        self.tracer = self.provider.get_tracer(semconv.PHAROS, version, semconv.SCHEMA_URL)
        self._closed = False

    def close(self) -> None:
        """As `Tracing.close`."""
        if self._closed:
            return
        self._closed = True
        # A thread that nobody waits for, as the exporter's own: the SDK offers no limit on the whole of it.
        shutdown: Callable[[], None] = self.provider.shutdown
        ending = threading.Thread(target=shutdown, name="span-shutdown", daemon=True)
        ending.start()
        ending.join(self._shutdown_seconds)
        if ending.is_alive():
            log.warning(
                "the last spans are lost: the endpoint of traces has not taken them in %g s", self._shutdown_seconds
            )
            self._exporter.shutdown()  # type: ignore[no-untyped-call]  # ends the wait for its next attempt
            return
        for logger, now_and_then in self._loggers.items():
            logger.removeFilter(now_and_then)


class RatioOrLinks(Sampler):
    """What begins a trace here is kept by the ratio. The span of a batch, which has links in place of a parent, is kept
    when one of the spans it works for is."""

    def __init__(self, ratio: float) -> None:
        self._ratio = TraceIdRatioBased(ratio)

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        sampler: Sampler = self._ratio
        if links:
            sampler = ALWAYS_ON if any(link.context.trace_flags.sampled for link in links) else ALWAYS_OFF
        return sampler.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

    def get_description(self) -> str:
        return f"RatioOrLinks({self._ratio.rate:g})"


class NowAndThen(logging.Filter):
    """Lets one record through every `seconds`, with the number of those it has kept back."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._seconds = seconds
        self._next = -math.inf
        self._kept = 0

    def filter(self, record: logging.LogRecord) -> bool:
        now = self._clock()
        if now < self._next:
            self._kept += 1
            return False
        if self._kept:
            record.msg = f"{record.getMessage()} ({self._kept:,} more of such lines in the time before)"
            record.args = ()
        self._next, self._kept = now + self._seconds, 0
        return True
