"""Dashboard 5: a load test: what Locust's users see, beside what the server says of itself."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from contracts import telemetry as t
from monitoring.dashboards import foreign as f
from monitoring.dashboards.boards import SERVICES, board
from monitoring.dashboards.limits import ANSWER, FIRST_TOKEN, INTER_TOKEN, SATURATION, SOME
from monitoring.dashboards.panels import (
    COUNT,
    OUTCOMES,
    PER_SECOND,
    REQUESTS_PER_SECOND,
    SECONDS,
    SHARE,
    Limit,
    Panel,
    ask,
    lines,
    number,
    percentiles,
)
from monitoring.dashboards.promql import PERCENTILES, or_zero, percentile, rate, total

FAILED = {"result": "=~failed|refused"}


def load_test() -> dashboard.Dashboard:
    """The dashboard."""
    return board(
        "pharos-load",
        "Load test",
        "While `make load` runs: its users, its rate and its times, each beside the server's own. Where the two "
        "differ, the time is lost on the way, or the load generator itself is full.",
        [
            ("Load", _load()),
            ("Times, seen from both sides", _times()),
            ("What it does to the server", _server()),
        ],
        since="now-15m",
    )


def _load() -> list[Panel]:
    share = f"{or_zero(rate(f.LOCUST_REQUESTS, **FAILED))} / {rate(f.LOCUST_REQUESTS)}"
    return [
        number("Users now", "Simulated users now.", COUNT, ask(total(f.LOCUST_USERS)), limit=None, decimals=0),
        number(
            "Requests a second",
            "As Locust counts them.",
            REQUESTS_PER_SECOND,
            ask(rate(f.LOCUST_REQUESTS)),
            limit=None,
        ),
        number(
            "Failed",
            "Share of Locust's requests that failed: an error, a refusal, or an answer that did not make sense.",
            SHARE,
            ask(share),
            limit=Limit(0.001, 0.01),
            decimals=2,
        ),
        *(
            number(
                f"First token, {name}",
                f"As Locust's users see it: {int(quantile * 100)} of 100 came sooner.",
                SECONDS,
                ask(percentile(quantile, f.LOCUST_FIRST_TOKEN)),
                limit=FIRST_TOKEN,
                decimals=2,
            )
            for name, quantile in PERCENTILES.items()
        ),
        lines(
            "Users",
            "The shape of the load: steady, steps, a spike, or a soak.",
            COUNT,
            [ask(total(f.LOCUST_USERS), "users")],
            limit=None,
        ),
        lines(
            "Requests a second, by task",
            "What Locust's users do, by the name of the task.",
            REQUESTS_PER_SECOND,
            [ask(rate(f.LOCUST_REQUESTS, "name"), "{{name}}")],
            limit=None,
            stacked=True,
        ),
        lines(
            "Requests a second, seen from both sides",
            "Locust's count and the gateways' own. They differ by callers that left, and by others than Locust.",
            REQUESTS_PER_SECOND,
            [ask(rate(f.LOCUST_REQUESTS), "Locust"), ask(rate(t.REQUESTS), "gateways")],
            limit=None,
        ),
        lines(
            "Requests by result",
            "What became of Locust's requests. refused: told to come back later. left: broken off on purpose.",
            REQUESTS_PER_SECOND,
            [ask(rate(f.LOCUST_REQUESTS, "result"), "{{result}}")],
            limit=None,
            span=12,
            stacked=True,
        ),
        lines(
            "Callers that leave early",
            "Streams that Locust broke off on purpose, and requests that the gateways saw cancelled: each must free "
            "its place in the engine.",
            PER_SECOND,
            [
                ask(or_zero(rate(f.LOCUST_DISCONNECTS)), "Locust left"),
                ask(or_zero(rate(t.REQUESTS, outcome=t.Outcome.CANCELLED)), "gateways: cancelled"),
            ],
            limit=None,
            span=12,
        ),
    ]


def _times() -> list[Panel]:
    return [
        lines(
            title,
            description,
            SECONDS,
            [*percentiles(theirs, "Locust"), *percentiles(ours, "gateways", where=where, exemplars=True)],
            limit=limit,
        )
        for title, description, theirs, ours, where, limit in (
            (
                "Time to the first token",
                "Until the first token's event has arrived, and until the gateway had it.",
                f.LOCUST_FIRST_TOKEN,
                t.FIRST_TOKEN_SECONDS,
                {},
                FIRST_TOKEN,
            ),
            (
                "Pause between two tokens",
                "Between two events of one stream, and between two tokens at the gateway.",
                f.LOCUST_INTER_TOKEN,
                t.INTER_TOKEN_SECONDS,
                {},
                INTER_TOKEN,
            ),
            (
                "Time of a whole answer",
                "Until the last byte has arrived, and until the gateway was done.",
                f.LOCUST_SECONDS,
                t.STAGE_SECONDS,
                {"stage": t.Stage.TOTAL},
                ANSWER,
            ),
        )
    ]


def _server() -> list[Panel]:
    return [
        lines(
            "How requests ended, at the gateways",
            "rejected: there was no room, or the request was wrong. timeout and error must be none.",
            REQUESTS_PER_SECOND,
            [ask(rate(t.REQUESTS, "outcome"), "{{outcome}}")],
            limit=None,
            stacked=True,
            colours=OUTCOMES,
        ),
        lines(
            "Refused, by reason",
            "Under more load than it can serve, Pharos refuses at once rather than let everybody wait.",
            REQUESTS_PER_SECOND,
            [ask(rate(t.REFUSED, "reason"), "{{reason}}")],
            limit=SOME,
        ),
        lines(
            "Places and queues taken",
            "Shares of what may be: requests served at once, and items waiting of each kind.",
            SHARE,
            [
                ask(f"{total(t.REQUESTS_IN_FLIGHT)} / {total(t.REQUESTS_MAX)}", "requests"),
                ask(
                    f"{total(t.QUEUE_ITEMS, 'kind', job=t.APP)} / {total(t.QUEUE_ITEMS_MAX, 'kind', job=t.APP)}",
                    "waiting: {{kind}}",
                ),
            ],
            limit=SATURATION,
            top=1,
        ),
        lines(
            "Prompts in the model services",
            "held: accepted and not ended. at once: what the engines run at the same time; the rest waits.",
            COUNT,
            [ask(total(t.PROMPTS_HELD), "held"), ask(total(t.PROMPTS_AT_ONCE), "at once")],
            limit=None,
        ),
        lines(
            "Tokens a second",
            "Tokens that the gateways received: more users must bring more of them, until the engine is full.",
            PER_SECOND,
            [ask(rate(t.GENERATION_TOKENS), "tokens")],
            limit=None,
        ),
        lines(
            "Processor use of each service",
            "Processors' worth of work. A gateway near 100 % is full: the engine may still have room.",
            SHARE,
            [ask(rate(f.CPU_SECONDS, "job", "instance", **SERVICES), "{{job}} {{instance}}")],
            limit=SATURATION,
        ),
    ]
