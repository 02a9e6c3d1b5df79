"""What is measured, one file each. A measure starts what it needs, alternates between ours and the others, and stops
everything again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.measures import (
    added_latency,
    answers,
    encode_latency,
    encode_throughput,
    encoder_backends,
    gpu,
    hybrid,
    overload,
    relay,
    replicas,
    searches,
    telemetry,
)
from benchmarks.options import Options
from benchmarks.results import Measured


@dataclass(frozen=True, slots=True)
class Measure:
    """A title for the page and what to run."""

    title: str
    run: Callable[[Options], Measured]


MEASURES = {
    "encode": Measure("Encoding, 64 at once", encode_throughput.run),
    "encode-one": Measure("Encoding, one at a time", encode_latency.run),
    "encoder_backends": Measure("Backends of the encoder and the reranker", encoder_backends.run),
    "relay": Measure("Relaying streamed tokens", relay.run),
    "latency": Measure("Latency that the gateway adds", added_latency.run),
    "answers": Measure("Answers by vLLM", answers.run),
    "searches": Measure("Searches, 64 at once", searches.run),
    "hybrid": Measure("Hybrid search, 64 at once", hybrid.run),
    "telemetry": Measure("What being observed costs", telemetry.run),
    "overload": Measure("Overload at three times the capacity", overload.run),
    "replicas": Measure("Four replicas", replicas.run),
    "gpu": Measure("On a GPU", gpu.run),
}
"""By the names that `python -m benchmarks` takes, in the order they run and are shown."""
