"""Rows of dashboard 1: what goes wrong, and what it may come from."""

from __future__ import annotations

from grafana_foundation_sdk.builders import table
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from contracts import telemetry as t
from monitoring.dashboards import foreign, logql
from monitoring.dashboards.boards import HERE
from monitoring.dashboards.limits import SOME
from monitoring.dashboards.panels import (
    COUNT,
    PER_SECOND,
    REQUESTS_PER_SECOND,
    SHARE,
    TEXT,
    Limit,
    Panel,
    ask,
    ask_logs,
    lines,
    log_lines,
    rows,
)
from monitoring.dashboards.promql import or_zero, rate, series

ALWAYS_THERE = f"!~{t.SETUP}|locust"


def failures() -> list[Panel]:
    """Whom it refuses, and what fails, with the logs beside it."""
    return [
        lines(
            "Refused, by reason",
            "The reason is the `code` of the error that the caller got; docs/operations.md says what to do about each.",
            REQUESTS_PER_SECOND,
            [ask(rate(t.REFUSED, "reason", **HERE), "{{reason}}")],
            limit=SOME,
        ),
        lines(
            "Questions that never got a first token",
            "By how they ended. nothing_relevant is no failure: the documents had nothing to say.",
            REQUESTS_PER_SECOND,
            [ask(rate(t.NO_FIRST_TOKEN, "reason", **HERE), "{{reason}}")],
            limit=None,
        ),
        lines(
            "Dropped from the queues",
            "Work that was thrown away before it was begun, because its caller had left, its time was over, or there "
            "was no room.",
            PER_SECOND,
            [ask(rate(t.QUEUE_DROPPED, "kind", "reason"), "{{kind}} {{reason}}")],
            limit=SOME,
        ),
        log_lines(
            "Log: requests that failed",
            "One line for each request that was refused, timed out or failed. Open it for its stages and a link to its "
            "trace.",
            ask_logs(logql.requests("outcome=~`rejected|timeout|error`")),
        ),
        log_lines(
            "Log: warnings and errors of all services",
            "What the services themselves complain about.",
            ask_logs(logql.complaints()),
        ),
        lines(
            "Log lines of failed requests a minute",
            "The same requests counted from their log lines, so that a peak above leads to its lines.",
            COUNT,
            [ask_logs(logql.count_requests("outcome!=`ok`", "outcome", "1m"), "{{outcome}}")],
            limit=None,
            span=24,
        ),
    ]


def surroundings() -> list[Panel]:
    """What Pharos runs on and beside."""
    return [
        lines(
            "Parts that answer",
            "1: the gateways' last check of it went well. milvus and model_service must both be 1.",
            COUNT,
            [ask(f"min by (dependency) ({series(t.DEPENDENCY_UP)})", "{{dependency}}")],
            limit=Limit(1, 1, low_is_bad=True),
            top=1,
        ),
        lines(
            "Addresses that Prometheus reaches",
            "Share of each job's addresses that served their metrics. Below 100 % these dashboards do not show all. "
            "Ingestion and load tests, which come and go, are left out.",
            SHARE,
            [ask(f"avg by (job) ({series(foreign.UP, job=ALWAYS_THERE)})", "{{job}}")],
            limit=Limit(1, 0.5, low_is_bad=True),
            top=1,
        ),
        lines(
            "Log records lost",
            "Records that Loki never got, by reason. They are dropped so that requests need not wait for Loki.",
            PER_SECOND,
            [
                ask(or_zero(rate(t.LOKI_DROPPED)), "all"),
                ask(rate(t.LOKI_DROPPED, "job", "reason"), "{{job}} {{reason}}"),
            ],
            limit=SOME,
        ),
        _versions(),
    ]


def _versions() -> table.Panel:
    query = ask(f"count by (service, version, python) ({series(t.BUILD_INFO)})", instant=True)
    panel = rows(
        "Versions that run",
        "How many processes there are of each service and version: two versions at once are a rollout, or a "
        "forgotten one.",
        TEXT,
        query.format(PromQueryFormat.TABLE),
        height=6,
    )
    return panel.with_transformation(
        model.DataTransformerConfig(
            id_val="organize",
            options={
                "excludeByName": {"Time": True},
                "indexByName": {"service": 0, "version": 1, "python": 2, "Value": 3},
                "renameByName": {"service": "Service", "version": "Version", "python": "Python", "Value": "Processes"},
            },
        )
    )
