"""Panels of the gateway's caches of question vectors and of answers."""

from __future__ import annotations

from contracts import telemetry as t
from monitoring.dashboards.boards import HERE
from monitoring.dashboards.panels import BYTES, COUNT, PER_SECOND, SHARE, Panel, ask, lines
from monitoring.dashboards.promql import any_of, rate, total

HITS = any_of(("exact", "semantic"))
LOOKED = any_of(("exact", "semantic", "miss"))


def caches() -> list[Panel]:
    """Of the chosen gateways."""
    found = rate(t.CACHE_LOOKUPS, "cache", result=HITS, **HERE)
    return [
        lines(
            "Share that is found",
            "Of the look-ups in each cache, those that found something; nothing while it is off.",
            SHARE,
            [ask(f"{found} / ({rate(t.CACHE_LOOKUPS, 'cache', result=LOOKED, **HERE)} > 0)", "{{cache}}")],
            limit=None,
            span=6,
            top=1,
        ),
        lines(
            "Look-ups for answers",
            "exact: the same words. semantic: words that mean about the same, which is wrong at some rate. skipped: "
            "the request wanted none, or documents are being changed.",
            PER_SECOND,
            [ask(rate(t.CACHE_LOOKUPS, "result", cache="answers", **HERE), "{{result}}")],
            limit=None,
            span=6,
            stacked=True,
        ),
        lines(
            "What leaves the caches",
            "full: there was no room. expired: too old. outdated: the documents changed.",
            PER_SECOND,
            [ask(rate(t.CACHE_EVICTIONS, "cache", "reason", **HERE), "{{cache}}: {{reason}}")],
            limit=None,
            span=4,
            stacked=True,
        ),
        lines(
            "Entries in the caches",
            "Of all gateways; each has its own.",
            COUNT,
            [ask(total(t.CACHE_ENTRIES, "cache", **HERE), "{{cache}}")],
            limit=None,
            span=4,
        ),
        lines(
            "Memory of the caches",
            "About: texts, vectors and passages, and what holds them together.",
            BYTES,
            [ask(total(t.CACHE_BYTES, "cache", **HERE), "{{cache}}")],
            limit=None,
            span=4,
        ),
    ]
