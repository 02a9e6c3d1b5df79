"""What HTTP, the gateway and the model service add to encoding one sentence when nobody else is there."""

from __future__ import annotations

import statistics

from benchmarks.encoding import embeddings_load, encoders, sentences_of, wrong_vector
from benchmarks.options import Options
from benchmarks.results import Goal, Measured, Row
from benchmarks.trial import Trials, attempt

ADDED = Goal("value", "at most", 3.0)


def run(options: Options) -> Measured:
    rounds, most = (2, 60) if options.quick else (5, 300)
    sentences = sentences_of(options.dataset, most)
    with encoders() as services:
        ours_load = embeddings_load(services.gateway.url + "/v1/embeddings", sentences, 1)
        infinity_load = embeddings_load(services.infinity.url + "/embeddings", sentences, 1)
        attempt(ours_load)
        attempt(infinity_load)
        raw: list[float] = []
        vector: list[float] = []
        ours, infinity = [], []
        for _ in range(rounds):
            encoded = services.raw.encode(sentences, 1)
            vector = encoded.vector
            raw.append(statistics.median(encoded.calls))
            ours.append(attempt(ours_load, services.gateway, services.models))
            infinity.append(attempt(infinity_load, services.infinity))
    us, them = Trials(ours), Trials(infinity)
    alone = statistics.median(raw)
    added = us.median(lambda outcome: outcome.latency["200"].p50) - alone
    infinity_added = them.median(lambda outcome: outcome.latency["200"].p50) - alone
    row = Row(
        "added to the median of a raw call",
        "ms",
        added * 1000,
        "lower",
        "Infinity",
        infinity_added * 1000,
        ADDED,
        {**us.cpu_seconds, "infinity": them.cpu_seconds["infinity"]},
        us.doubts() + them.doubts("Infinity") + wrong_vector(ours[0].outcome, vector),
        f"The raw call's median: {alone * 1000:.2f} ms; {len(sentences)} distinct sentences, {rounds} rounds in turns.",
    )
    return Measured([row])
