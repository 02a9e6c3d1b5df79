"""Pauses for garbage collection."""

from __future__ import annotations

import gc
import time
from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from math import inf

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from contracts import telemetry

GENERATIONS = 3
_BOUNDS = (*telemetry.PAUSE_BUCKETS, inf)
_LE = tuple(str(floatToGoString(bound)) for bound in _BOUNDS)  # type: ignore[no-untyped-call]


class GcPauses(Collector):
    """telemetry.GC_PAUSE, counted by a callback in `gc.callbacks` between `start` and `stop`.

    Not a `Histogram`: its buckets have locks, and a collection may interrupt the very thread that holds one. The
    counts here need none, since the interpreter never runs two collections, nor their callbacks, at the same time.
    """

    def __init__(self) -> None:
        self._counts = [[0] * len(_BOUNDS) for _ in range(GENERATIONS)]
        self._seconds = [0.0] * GENERATIONS
        self._began: float | None = None

    def start(self) -> None:
        """Count from now on."""
        gc.callbacks.append(self._note)

    def stop(self) -> None:
        """Count no more."""
        gc.callbacks.remove(self._note)

    def _note(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._began = time.perf_counter()
        elif self._began is not None:  # None: a collection was running as we began
            pause = time.perf_counter() - self._began
            self._began = None
            generation = info["generation"]
            self._counts[generation][bisect_left(_BOUNDS, pause)] += 1
            self._seconds[generation] += pause

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """As the `Collector` protocol says."""
        metric = telemetry.GC_PAUSE
        family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        for generation, counts in enumerate(self._counts):
            buckets = list(zip(_LE, map(float, accumulate(counts)), strict=True))
            family.add_metric([str(generation)], buckets, self._seconds[generation])
        yield family
