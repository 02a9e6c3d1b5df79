"""Sentences a second when 64 callers each send one sentence a request: does batching give back what one model could do?

The floor is `SentenceTransformer.encode` on the same sentences, 64 a call, without HTTP.
"""

from __future__ import annotations

import statistics

from benchmarks.cpu import metered
from benchmarks.encoding import embeddings_load, encoders, sentences_of, wrong_vector
from benchmarks.options import Options
from benchmarks.results import Goal, Measured, Plot, Row, Series
from benchmarks.trial import Trials, attempt

AT_ONCE = 64
OF_RAW = Goal("ratio", "at least", 0.85)
OF_INFINITY = Goal("ratio", "at least", 2.0)


def run(options: Options) -> Measured:
    rounds, most = (2, 256) if options.quick else (5, 2048)
    sentences = sentences_of(options.dataset, most)
    few = sentences[: max(64, len(sentences) // 4)]
    with encoders() as services:
        ours_load = embeddings_load(services.gateway.url + "/v1/embeddings", sentences, AT_ONCE)
        infinity_load = embeddings_load(services.infinity.url + "/embeddings", sentences, AT_ONCE)
        attempt(ours_load)
        attempt(infinity_load)
        raw: list[float] = []
        raw_single: list[float] = []
        vector: list[float] = []
        ours, infinity = [], []
        with metered({"raw": services.raw.pid}) as raw_cpu:
            for _ in range(rounds):
                encoded = services.raw.encode(sentences, AT_ONCE)
                vector = encoded.vector
                raw.append(len(sentences) / sum(encoded.calls))
                ours.append(attempt(ours_load, services.gateway, services.models))
                infinity.append(attempt(infinity_load, services.infinity))
                raw_single.append(len(few) / sum(services.raw.encode(few, 1).calls))
    us, them = Trials(ours), Trials(infinity)
    rate = us.median(lambda outcome: outcome.per_second)
    their_rate = them.median(lambda outcome: outcome.per_second)
    batched, single = statistics.median(raw), statistics.median(raw_single)
    doubts = us.doubts() + wrong_vector(ours[0].outcome, vector)
    note = f"{len(sentences):,} distinct sentences, {rounds} rounds in turns, the median of them."
    unit = "sentences/s"
    rows = [
        Row(
            "POST /v1/embeddings against `encode` of 64",
            unit,
            rate,
            "higher",
            "raw, 64 a call",
            batched,
            OF_RAW,
            {**us.cpu_seconds, "raw (with single)": round(raw_cpu["raw"], 2)},
            doubts,
            note,
        ),
        Row(
            "the same against Infinity",
            unit,
            rate,
            "higher",
            "Infinity",
            their_rate,
            OF_INFINITY,
            {f"Infinity's {name}" if name == "generator" else name: s for name, s in them.cpu_seconds.items()},
            doubts + them.doubts("Infinity") + wrong_vector(infinity[0].outcome, vector),
        ),
        Row("the same against `encode`, one by one", unit, rate, "higher", "raw, single", single, doubts=doubts),
    ]
    bars = {"raw, 64 a call": batched, "Pharos": rate, "Infinity": their_rate, "raw, single": single}
    return Measured(rows, [Plot("encode", "Encoding, 64 callers, a sentence each", unit, [Series("rate", bars)])])
