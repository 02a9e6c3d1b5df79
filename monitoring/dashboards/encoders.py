"""Panels of the small models beside the LLM: the encoder and the reranker."""

from __future__ import annotations

from collections.abc import Mapping

from contracts import telemetry as t
from monitoring.dashboards.limits import STAGE
from monitoring.dashboards.panels import COUNT, PER_SECOND, SECONDS, Panel, ask, heat, lines, percentiles
from monitoring.dashboards.promql import buckets, rate


def encoder(where: Mapping[str, str]) -> list[Panel]:
    """Of the model services `where` says."""
    return [
        lines(
            "Texts encoded a second",
            "Questions and, while documents are loaded, passages.",
            PER_SECOND,
            [ask(rate(t.ENCODED_TEXTS, "instance", **where), "{{instance}}")],
            limit=None,
            span=6,
            stacked=True,
        ),
        lines(
            "Tokens encoded a second",
            "What the encoder's work is made of: long texts cost more than short ones.",
            PER_SECOND,
            [ask(rate(t.ENCODED_TOKENS, "instance", **where), "{{instance}}")],
            limit=None,
            span=6,
            stacked=True,
        ),
        lines(
            "Time of one pass of the encoder",
            "One batch of texts through the encoder.",
            SECONDS,
            percentiles(t.ENCODE_SECONDS, where=where),
            limit=STAGE,
            span=6,
        ),
        heat(
            "Texts in one pass of the encoder",
            "Sizes of the batches that the model service makes of what all gateways send. Larger ones are better use "
            "of a GPU.",
            COUNT,
            buckets(t.BATCH_ITEMS, job=t.APP_LLM, **where),
            span=6,
        ),
    ]


def reranker(where: Mapping[str, str]) -> list[Panel]:
    """The same."""
    return [
        lines(
            "Pairs scored a second",
            "Each is a question and a passage; by default a question comes with 50.",
            PER_SECOND,
            [ask(rate(t.RERANKED_PAIRS, "instance", **where), "{{instance}}")],
            limit=None,
            stacked=True,
        ),
        lines(
            "Tokens scored a second",
            "What the reranker's work is made of.",
            PER_SECOND,
            [ask(rate(t.RERANKED_TOKENS, "instance", **where), "{{instance}}")],
            limit=None,
            stacked=True,
        ),
        lines(
            "Time of one pass of the reranker",
            "One batch of pairs through the reranker.",
            SECONDS,
            percentiles(t.RERANK_SECONDS, where=where),
            limit=STAGE,
        ),
    ]
