"""Dashboard 4: retrieval and ingestion: what Milvus holds, how fast and how well it finds, how loading gets on."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from contracts import telemetry as t
from monitoring import thresholds as at
from monitoring.dashboards import foreign as f
from monitoring.dashboards.boards import HERE, board, gateway, topic
from monitoring.dashboards.caches import caches
from monitoring.dashboards.limits import SOME, STAGE
from monitoring.dashboards.panels import (
    BYTES,
    COUNT,
    MILLISECONDS,
    PER_SECOND,
    RATIO,
    REQUESTS_PER_SECOND,
    SECONDS,
    SHARE,
    Limit,
    Panel,
    ask,
    heat,
    lines,
    number,
    percentiles,
)
from monitoring.dashboards.promql import PERCENTILES, buckets, or_zero, percentile, rate, series, total

MILVUS = {"job": "milvus"}
MILVUS_STAGE = Limit(1000 * at.STAGE_SECONDS_SLOW, 1000 * at.STAGE_SECONDS_BAD)
"""Milvus measures in milliseconds."""


def retrieval() -> dashboard.Dashboard:
    """The dashboard."""
    return board(
        "pharos-retrieval",
        "Retrieval and ingestion",
        "How fast passages are found, how well they fit, how loading documents gets on, and Milvus.",
        [
            ("How fast are passages found?", _speed()),
            ("How well do they fit?", _fit()),
            ("What is answered from the caches?", caches()),
            ("Loading documents", _ingestion()),
            ("Milvus", _milvus()),
        ],
        variables=[
            gateway(),
            topic(),
        ],
    )


def _speed() -> list[Panel]:
    by_topic = {"topic": "=~$topic", "stage": t.Stage.SEARCH, **HERE}
    return [
        lines(
            "Time of a search",
            "One call to Milvus, as the gateway sees it.",
            SECONDS,
            percentiles(t.STAGE_SECONDS, where={"stage": t.Stage.SEARCH, **HERE}, exemplars=True),
            limit=STAGE,
            span=12,
        ),
        lines(
            "Time to encode a question",
            "One call to the model service's encoder, as the gateway sees it.",
            SECONDS,
            percentiles(t.STAGE_SECONDS, where={"stage": t.Stage.ENCODE, **HERE}, exemplars=True),
            limit=STAGE,
            span=12,
        ),
        lines(
            "Time to rerank a question's passages",
            "One call to the model service's reranker, as the gateway sees it; nothing where there is none.",
            SECONDS,
            percentiles(t.STAGE_SECONDS, where={"stage": t.Stage.RERANK, **HERE}, exemplars=True),
            limit=STAGE,
            span=12,
        ),
        lines(
            "Questions that were not reranked since that failed",
            "They keep the order of the search, by why. Lasting ones mean that the reranker is away or too slow.",
            PER_SECOND,
            [ask(rate(t.RERANK_SKIPPED, "reason", **HERE), "{{reason}}")],
            limit=SOME,
            span=12,
        ),
        lines(
            "Time to say a question in more ways",
            "The LLM's phrasings or passages for a question; nothing where that is not wanted.",
            SECONDS,
            percentiles(t.STAGE_SECONDS, where={"stage": t.Stage.EXPAND, **HERE}, exemplars=True),
            limit=STAGE,
            span=12,
        ),
        lines(
            "Questions searched as they are since that failed",
            "By why. Lasting ones mean that the LLM is too slow for it, or too small (nothing_usable).",
            PER_SECOND,
            [ask(rate(t.EXPAND_SKIPPED, "reason", **HERE), "{{reason}}")],
            limit=SOME,
            span=12,
        ),
        *(
            lines(
                f"{name} of a search, by topic",
                "Large topics take longer to search. `all`: questions that named no topic, or several.",
                SECONDS,
                [ask(percentile(quantile, t.TOPIC_STAGE_SECONDS, "topic", **by_topic), "{{topic}}")],
                limit=STAGE,
            )
            for name, quantile in PERCENTILES.items()
        ),
    ]


def _fit() -> list[Panel]:
    questions = rate(t.BEST_SCORE, suffix="_count", **HERE)
    missed = or_zero(rate(t.NOT_IN_DOCUMENTS, **HERE))
    return [
        lines(
            "Questions that the documents answer",
            "Share of questions for which at least one passage was similar enough (PHAROS_MIN_SCORE). The others are "
            'told "Not in the documents."',
            SHARE,
            [ask(f"1 - {missed} / {questions}", "found")],
            limit=Limit(1 - at.NOT_IN_DOCUMENTS_HIGH / 2, 1 - at.NOT_IN_DOCUMENTS_HIGH, low_is_bad=True),
            span=6,
            top=1,
        ),
        lines(
            "Searches, and those that found nothing",
            "Questions a second, and how many of them ended with nothing relevant.",
            REQUESTS_PER_SECOND,
            [ask(questions, "searches"), ask(missed, "nothing relevant")],
            limit=None,
            span=6,
        ),
        lines(
            "Similarity of the best passage",
            "Of a question and the passage that fits it best: 1 is the same text. p5: five of a hundred questions "
            "had no better one than this.",
            RATIO,
            [
                ask(percentile(quantile, t.BEST_SCORE, **HERE), name)
                for name, quantile in (("p5", 0.05), ("p50", 0.5), ("p95", 0.95))
            ],
            limit=None,
            span=6,
            top=1,
        ),
        heat(
            "How similarities are spread",
            "How many questions had a best passage of each similarity. Two separate bands are questions that the "
            "documents answer and questions that they do not: PHAROS_MIN_SCORE belongs between them.",
            RATIO,
            buckets(t.BEST_SCORE, **HERE),
            span=6,
        ),
    ]


def _ingestion() -> list[Panel]:
    running = f"(max({series(t.INGEST_RUNNING)}) == 1)"
    return [
        number(
            "Loading now",
            "1 while the ingestion job runs. It serves its metrics only then.",
            COUNT,
            ask(or_zero(f"max({series(t.INGEST_RUNNING)})")),
            limit=None,
            decimals=0,
        ),
        number(
            "Rows of the data set",
            "How many there are to read.",
            COUNT,
            ask(f"max({series(t.INGEST_ROWS)})"),
            limit=None,
            decimals=0,
        ),
        number(
            "Rows read",
            "Share of the data set that was read.",
            SHARE,
            ask(f"{total(t.INGEST_ROWS_READ)} / {total(t.INGEST_ROWS)}"),
            limit=None,
        ),
        number(
            "Documents stored",
            "Documents all of whose passages Milvus has.",
            COUNT,
            ask(total(t.INGEST_DOCUMENTS)),
            limit=None,
            decimals=0,
        ),
        number(
            "Passages not yet stored",
            "Read, and on their way through the encoder into Milvus.",
            COUNT,
            ask(total(t.INGEST_LAG)),
            limit=None,
            decimals=0,
        ),
        number(
            "Since the last passage",
            "Time since anything was stored, while the job runs. Much of it means that it is stuck: see its log.",
            SECONDS,
            ask(f"time() - max({series(t.INGEST_PROGRESS_TIME)}) and {running}"),
            limit=Limit(at.INGEST_STALLED_SECONDS / 5, at.INGEST_STALLED_SECONDS),
            decimals=0,
        ),
        lines(
            "Passages loaded a second",
            "stored: new ones. present: already there from an earlier run.",
            PER_SECOND,
            [ask(rate(t.INGEST_PASSAGES, "result"), "{{result}}")],
            limit=None,
            stacked=True,
        ),
        lines(
            "Rows and documents a second",
            "Rows read from the data set, and documents all of whose passages are stored.",
            PER_SECOND,
            [ask(rate(t.INGEST_ROWS_READ), "rows"), ask(rate(t.INGEST_DOCUMENTS), "documents")],
            limit=None,
        ),
        lines(
            "Passages on their way",
            "Read and not yet stored. It stays level while the encoder keeps up.",
            COUNT,
            [ask(total(t.INGEST_LAG), "passages")],
            limit=None,
        ),
    ]


def _milvus() -> list[Panel]:
    searches = {"query_type": "search", **MILVUS}
    return [
        lines(
            "Time of a search inside Milvus",
            "As Milvus measures it. Much less than what the gateway sees: the time goes into the way there.",
            MILLISECONDS,
            percentiles(f.MILVUS_LATENCY, where=searches),
            limit=MILVUS_STAGE,
        ),
        lines(
            "Wait inside Milvus",
            "How long searches wait in the query node before they are run.",
            MILLISECONDS,
            percentiles(f.MILVUS_QUEUE, where=searches),
            limit=MILVUS_STAGE,
        ),
        lines(
            "Calls to Milvus, by what they do",
            "Search: questions. Upsert: passages being stored. Query: counts and checks.",
            REQUESTS_PER_SECOND,
            [ask(rate(f.MILVUS_REQUESTS, "function_name", status="total", **MILVUS), "{{function_name}}")],
            limit=None,
            stacked=True,
        ),
        lines(
            "Calls that Milvus failed",
            "Calls that ended without success, or were turned away.",
            REQUESTS_PER_SECOND,
            [ask(or_zero(rate(f.MILVUS_REQUESTS, status="=~fail|abandon|rejected", **MILVUS)), "failed")],
            limit=SOME,
        ),
        lines(
            "Rows that Milvus holds",
            "All collections together, by the state of the segment: Growing ones are new, Flushed ones are on disk. "
            "Rows that were replaced count until Milvus has cleaned up.",
            COUNT,
            [ask(total(f.MILVUS_ROWS, "segment_state", **MILVUS), "{{segment_state}}")],
            limit=None,
            stacked=True,
        ),
        lines(
            "Milvus: memory",
            "Memory of the process; the index of every loaded collection is in it.",
            BYTES,
            [ask(total(f.RESIDENT_BYTES, "instance", **MILVUS), "memory of {{instance}}")],
            limit=None,
            span=4,
        ),
        lines(
            "Milvus: processor use",
            "Processors' worth of work.",
            SHARE,
            [ask(rate(f.CPU_SECONDS, "instance", **MILVUS), "{{instance}}")],
            limit=None,
            span=4,
        ),
    ]
