"""Dashboard 2: where did my time go. Stages, queues and batches, topics, and single slow requests."""

from __future__ import annotations

import json
from urllib.parse import quote

from grafana_foundation_sdk.builders import dashboard, table
from grafana_foundation_sdk.models import dashboard as model

from contracts import telemetry as t
from monitoring.dashboards import logql
from monitoring.dashboards.boards import HERE, board, gateway, pick, topic
from monitoring.dashboards.limits import ANSWER, FIRST_TOKEN, SATURATION, SOME, STAGE
from monitoring.dashboards.panels import (
    COUNT,
    PER_SECOND,
    REQUESTS_PER_SECOND,
    SECONDS,
    SHARE,
    STAGES,
    Limit,
    Panel,
    ask,
    ask_logs,
    bars,
    heat,
    lines,
    percentiles,
    rows,
)
from monitoring.dashboards.promql import PERCENTILES, buckets, increase, or_zero, percentile, rate, total

PARTS = {"stage": f"!={t.Stage.TOTAL}"}
KINDS = {
    "encode": ("questions to be encoded", "the encoder"),
    "search": ("questions to be looked up", "Milvus"),
    "rerank": ("questions whose passages are to be reranked", "the reranker"),
    "generate": ("prompts to be answered", "a model service"),
}
"""The gateway's batchers: what waits in each, and for whom."""
STAGES_ARE = (
    "queue: waiting for a place in a batch. expand: the model says the question in other words, where that is wanted. "
    "encode: the question becomes a vector. search: Milvus finds passages. rerank: a cross-encoder orders them, where "
    "there is one. arrange: they are chosen. prompt: they are put together. generate: the model answers."
)


def time_spent() -> dashboard.Dashboard:
    """The dashboard."""
    return board(
        "pharos-time",
        "Where did my time go",
        "What questions spend their time on: stage by stage, in the queues, by topic, and request by request.",
        [
            ("Stages of a question", _stages()),
            ("Waiting: queues and batches of the gateways", _batches()),
            ("Topics", _topics()),
            ("Request by request", [_slowest()]),
        ],
        variables=[
            gateway(),
            topic(),
            pick("slower_than", "Slower than (seconds)", ("0", "0.5", "1", "2.5", "5", "10", "30"), "1"),
        ],
    )


def _stages() -> list[Panel]:
    questions = f"max({rate(t.STAGE_SECONDS, 'stage', suffix='_count', **PARTS, **HERE)})"
    return [
        lines(
            "Where a question's time goes",
            f"Seconds in each stage, for the average question. {STAGES_ARE} Averages hide the slow ones: see the "
            "percentiles below.",
            SECONDS,
            [
                ask(
                    f"{rate(t.STAGE_SECONDS, 'stage', suffix='_sum', **PARTS, **HERE)} / scalar({questions})",
                    "{{stage}}",
                )
            ],
            limit=ANSWER,
            span=12,
            stacked=True,
            colours=STAGES,
        ),
        bars(
            "Share of all time, by stage",
            "Of all the time that questions took in the time shown, what went into each stage.",
            SHARE,
            [
                ask(
                    f"{increase(t.STAGE_SECONDS, 'stage', suffix='_sum', **PARTS, **HERE)} / "
                    f"scalar({increase(t.STAGE_SECONDS, suffix='_sum', **PARTS, **HERE)})",
                    "{{stage}}",
                    instant=True,
                )
            ],
            limit=None,
            span=6,
            colours=STAGES,
        ),
        lines(
            "Time to the first token",
            "What a reader waits for. Dashed: the objective. Dots are single requests, and links to their traces.",
            SECONDS,
            percentiles(t.FIRST_TOKEN_SECONDS, where=HERE, exemplars=True),
            limit=FIRST_TOKEN,
            span=6,
        ),
        *(
            lines(
                f"{name} of each stage",
                f"{int(quantile * 100)} of 100 questions were done with the stage sooner. Dashed: where a stage before "
                "the model begins to be felt.",
                SECONDS,
                [
                    ask(percentile(quantile, t.STAGE_SECONDS, "stage", **HERE), "{{stage}}", exemplars=name == "p95"),
                ],
                limit=STAGE,
                colours=STAGES,
            )
            for name, quantile in PERCENTILES.items()
        ),
    ]


def _batches() -> list[Panel]:
    panels: list[Panel] = []
    for kind, (items, backend) in KINDS.items():
        where = {"job": t.APP, "kind": kind, **HERE}
        panels += [
            heat(
                f"Batch sizes: {kind}",
                f"How many {items} went to {backend} in one call. Batches of one: there was no queue. Always the same "
                "high number: the batch is full, and there is one.",
                COUNT,
                buckets(t.BATCH_ITEMS, **where),
                span=6,
            ),
            lines(
                f"Wait before a batch left: {kind}",
                f"How long the oldest of the {items} had waited for the others, and for {backend} to be free.",
                SECONDS,
                percentiles(t.BATCH_WAIT_SECONDS, where=where),
                limit=STAGE,
                span=6,
            ),
            lines(
                f"Queue: {kind}",
                f"How many {items} wait now, as a share of what may wait.",
                SHARE,
                [ask(f"{total(t.QUEUE_ITEMS, **where)} / {total(t.QUEUE_ITEMS_MAX, **where)}", "queue")],
                limit=SATURATION,
                span=6,
                top=1,
            ),
            lines(
                f"Dropped from the queue: {kind}",
                "overloaded, draining: refused at once. deadline: the time was over. cancelled: the caller had left.",
                PER_SECOND,
                [
                    ask(or_zero(rate(t.QUEUE_DROPPED, **where)), "all"),
                    ask(rate(t.QUEUE_DROPPED, "reason", **where), "{{reason}}"),
                ],
                limit=SOME,
                span=6,
            ),
        ]
    return panels


def _topics() -> list[Panel]:
    chosen = {"topic": "=~$topic", "stage": t.Stage.TOTAL, **HERE}
    parts = {"topic": "=~$topic", **PARTS, **HERE}
    questions = f"max({rate(t.TOPIC_STAGE_SECONDS, 'stage', suffix='_count', **parts)})"
    return [
        *(
            lines(
                f"{name} of a whole answer, by topic",
                "Which topic is slow. `all`: questions that named no topic, or several.",
                SECONDS,
                [ask(percentile(quantile, t.TOPIC_STAGE_SECONDS, "topic", **chosen), "{{topic}}")],
                limit=ANSWER,
            )
            for name, quantile in PERCENTILES.items()
        ),
        lines(
            "Questions a second, by topic",
            "What is asked about.",
            REQUESTS_PER_SECOND,
            [ask(rate(t.TOPIC_STAGE_SECONDS, "topic", suffix="_count", **chosen), "{{topic}}")],
            limit=None,
            span=12,
            stacked=True,
        ),
        lines(
            "Where the chosen topics' time goes",
            "As the first panel, for the topics chosen above: seconds in each stage, for the average question.",
            SECONDS,
            [ask(f"{rate(t.TOPIC_STAGE_SECONDS, 'stage', suffix='_sum', **parts)} / scalar({questions})", "{{stage}}")],
            limit=ANSWER,
            span=12,
            stacked=True,
            colours=STAGES,
        ),
    ]


COLUMNS = {
    "Time": "Ended",
    "total_seconds": "Total",
    "first_token_seconds": "First token",
    "queue_seconds": "Queue",
    "expand_seconds": "Expand",
    "encode_seconds": "Encode",
    "search_seconds": "Search",
    "rerank_seconds": "Rerank",
    "arrange_seconds": "Arrange",
    "prompt_seconds": "Prompt",
    "generate_seconds": "Generate",
    "route": "Route",
    "topic": "Topic",
    "outcome": "Outcome",
    "prompt_tokens": "Prompt tokens",
    "completion_tokens": "Answer tokens",
    "request_id": "Request (→ its log)",
    "trace_id": "Trace (→ Tempo)",
}
"""Fields of a request's line that the table shows, and what it calls them."""


def _slowest() -> table.Panel:
    panel = rows(
        "The slowest requests",
        "Requests that took longer than chosen above, the slowest first, of the newest 1,000 such. Click a request "
        "id for what the gateway logged for it, a trace id for its spans and for the lines of every service.",
        SECONDS,
        ask_logs(logql.requests("total_seconds > $slower_than")),
        height=12,
    )
    order = {field: i for i, field in enumerate(COLUMNS)}
    for step, options in (
        ("extractFields", {"source": "Line", "format": "json", "keepTime": True, "replace": True}),
        ("filterFieldsByName", {"include": {"names": list(COLUMNS)}}),
        ("organize", {"excludeByName": {}, "indexByName": order, "renameByName": COLUMNS}),
        ("sortBy", {"fields": {}, "sort": [{"field": COLUMNS["total_seconds"], "desc": True}]}),
    ):
        panel = panel.with_transformation(model.DataTransformerConfig(id_val=step, options=options))
    whole = [model.DynamicConfigValue("unit", COUNT)]
    for column in ("prompt_tokens", "completion_tokens"):
        panel = panel.override_by_name(COLUMNS[column], whole)
    panel = panel.override_by_name(COLUMNS["total_seconds"], _bad_from(ANSWER))
    panel = panel.override_by_name(COLUMNS["first_token_seconds"], _bad_from(FIRST_TOKEN))
    log = {"refId": "A", "expr": logql.of_request("${__value.raw}"), "queryType": "range"}
    lines_of_all = {"refId": "A", "expr": logql.of_trace("${__value.raw}"), "queryType": "range"}
    trace = {"refId": "A", "queryType": "traceql", "query": "${__value.raw}"}
    panel = panel.override_by_name(COLUMNS["request_id"], _links(_link("Its log lines", "loki", log)))
    return panel.override_by_name(
        COLUMNS["trace_id"],
        _links(_link("Its trace", "tempo", trace), _link("Log lines of all services", "loki", lines_of_all)),
    )


def _bad_from(limit: Limit) -> list[model.DynamicConfigValue]:
    """Numbers in the colour of their limit."""
    return [
        model.DynamicConfigValue("thresholds", limit.config().build()),
        model.DynamicConfigValue("custom.cellOptions", {"type": "color-text"}),
    ]


def _links(*links: dict[str, object]) -> list[model.DynamicConfigValue]:
    return [model.DynamicConfigValue("links", list(links))]


def _link(title: str, datasource: str, query: dict[str, str]) -> dict[str, object]:
    """A link to Grafana's Explore, over the time shown. Grafana fills in `${…}`, so those stay as they are."""
    panes = {
        "pane": {
            "datasource": datasource,
            "queries": [{**query, "datasource": {"type": datasource, "uid": datasource}}],
            "range": {"from": "${__from}", "to": "${__to}"},
        }
    }
    url = "/explore?schemaVersion=1&orgId=1&panes=" + quote(json.dumps(panes), safe="${}:,._")
    return {"title": title, "url": url, "targetBlank": True}
