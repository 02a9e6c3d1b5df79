"""Dashboard 1: is Pharos well, and if not, where to look."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from contracts import telemetry as t
from monitoring import thresholds as at
from monitoring.dashboards import foreign
from monitoring.dashboards.boards import HERE, SERVICES, board, gateway
from monitoring.dashboards.failures import failures, surroundings
from monitoring.dashboards.limits import ANSWER, BURN, FIRST_TOKEN, INTER_TOKEN, LAG, SATURATION, SOME
from monitoring.dashboards.panels import (
    COUNT,
    GREEN,
    ORANGE,
    OUTCOMES,
    RATIO,
    RED,
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
from monitoring.dashboards.promql import any_of, increase, or_zero, percentile, rate, series, total

STATUSES = {"2xx": GREEN, "4xx": ORANGE, "5xx": RED}


def service() -> dashboard.Dashboard:
    """The dashboard."""
    return board(
        "pharos-service",
        "Service",
        "Is it healthy, is it fast enough, is it full, whom does it refuse, and what changed. Grafana opens on it.",
        [
            ("Is it healthy?", _health()),
            ("Traffic: what is asked, and how it ends", _traffic()),
            ("How fast is it?", _latency()),
            ("Objectives: how fast the error budget is used up", _objectives()),
            ("How full is it?", _saturation()),
            ("Whom does it refuse, and what fails?", failures()),
            ("What runs here, and what does it need?", surroundings()),
        ],
        variables=[gateway()],
    )


def _failed_share() -> str:
    """As the recording rules have it: who left, or was refused for a fault of their own, counts on neither side."""
    failed = or_zero(increase(t.REQUESTS, outcome=any_of(at.FAILED_OUTCOMES)))
    refused = or_zero(increase(t.REFUSED, reason=any_of(at.OUR_REFUSALS)))
    served = or_zero(increase(t.REQUESTS, outcome=t.Outcome.OK))
    return f"({failed} + {refused}) / ({served} + {failed} + {refused})"


def _in_time_share() -> str:
    """An answer that failed before its first token had none in time."""
    in_time = increase(t.FIRST_TOKEN_SECONDS, suffix="_bucket", le=f"{at.TTFT_SLO_SECONDS}")
    came = increase(t.FIRST_TOKEN_SECONDS, suffix="_count")
    never = or_zero(increase(t.NO_FIRST_TOKEN, reason=any_of(at.FAILED_OUTCOMES)))
    return f"{in_time} / ({came} + {never})"


def _health() -> list[Panel]:
    budget = 1 - at.AVAILABILITY_TARGET
    return [
        number(
            "Requests served",
            f"Share of the requests in the time shown that did not fail by our fault: no error, no timeout, not "
            f"refused for want of room. The objective is {at.AVAILABILITY_TARGET:.1%}.",
            SHARE,
            ask(f"1 - {_failed_share()}", instant=True),
            limit=Limit(at.AVAILABILITY_TARGET + budget / 2, at.AVAILABILITY_TARGET, low_is_bad=True),
            decimals=2,
        ),
        number(
            "Error budget left",
            f"Of the {budget:.1%} of requests that may fail, how much the time shown has left. Below zero the "
            "objective is missed.",
            SHARE,
            ask(f"1 - {_failed_share()} / {budget:.3g}", instant=True),
            limit=Limit(0.5, 0, low_is_bad=True),
            decimals=0,
        ),
        number(
            "First tokens in time",
            f"Share of answers whose first token came within {at.TTFT_SLO_SECONDS} s of the question. The objective is "
            f"{at.TTFT_TARGET:.0%}, on a GPU.",
            SHARE,
            ask(_in_time_share(), instant=True),
            limit=Limit(at.TTFT_TARGET + (1 - at.TTFT_TARGET) / 2, at.TTFT_TARGET, low_is_bad=True),
        ),
        number(
            "Requests a second",
            "Requests that ended, of every kind and outcome.",
            REQUESTS_PER_SECOND,
            ask(rate(t.REQUESTS, **HERE)),
            limit=None,
        ),
        number(
            "Model services ready",
            "Model services that the gateways may send work to. With none, every question is refused.",
            COUNT,
            ask(f"sum(max by (replica) ({series(t.REPLICA_STATE, state='ready')}))"),
            limit=Limit(1, 1, low_is_bad=True),
            decimals=0,
        ),
        number(
            "Alerts firing",
            "Alerts that fire now; each names the section of docs/operations.md that says what to do.",
            COUNT,
            ask(or_zero(f"count({series(foreign.ALERTS, alertstate='firing')})")),
            limit=SOME,
            decimals=0,
        ),
    ]


def _traffic() -> list[Panel]:
    return [
        lines(
            "Requests a second, by route",
            "Requests that ended, by what was asked for.",
            REQUESTS_PER_SECOND,
            [ask(rate(t.REQUESTS, "route", **HERE), "{{route}}")],
            limit=None,
            stacked=True,
        ),
        lines(
            "How requests ended",
            "ok: answered. rejected: refused, for the caller's fault or for want of room. cancelled: the caller left. "
            "timeout: its time ran out. error: a part failed.",
            REQUESTS_PER_SECOND,
            [ask(rate(t.REQUESTS, "outcome", **HERE), "{{outcome}}")],
            limit=None,
            stacked=True,
            colours=OUTCOMES,
        ),
        lines(
            "HTTP answers, by status",
            "What the HTTP server counts, all paths together: 5xx is our fault, 4xx the caller's.",
            REQUESTS_PER_SECOND,
            [ask(rate(foreign.HTTP_REQUESTS, "status", job=t.APP, **HERE), "{{status}}")],
            limit=None,
            stacked=True,
            colours=STATUSES,
        ),
    ]


def _latency() -> list[Panel]:
    return [
        lines(
            "Time to the first token",
            "From a question's arrival until the first word of its answer is there. Dashed: the objective. Dots are "
            "single requests, and links to their traces.",
            SECONDS,
            percentiles(t.FIRST_TOKEN_SECONDS, where=HERE, exemplars=True),
            limit=FIRST_TOKEN,
            span=6,
        ),
        lines(
            "Time of a whole answer",
            "From a question's arrival to the last word of its answer. Long answers take long: see the first token "
            "too.",
            SECONDS,
            percentiles(t.STAGE_SECONDS, where={"stage": t.Stage.TOTAL, **HERE}, exemplars=True),
            limit=ANSWER,
            span=6,
        ),
        lines(
            "Pause between two tokens",
            "How smoothly answers flow. Above a quarter of a second they come more slowly than people read.",
            SECONDS,
            percentiles(t.INTER_TOKEN_SECONDS, where=HERE, exemplars=True),
            limit=INTER_TOKEN,
            span=6,
        ),
        lines(
            "Time of any HTTP request",
            "As the HTTP server measures it, whatever was asked for, other than /metrics and the health pages.",
            SECONDS,
            percentiles(foreign.HTTP_SECONDS, where={"job": t.APP, **HERE}),
            limit=ANSWER,
            span=6,
        ),
    ]


def _objectives() -> list[Panel]:
    return [
        lines(
            title,
            f"How many times faster than evenly the error budget of {what} is used up, over windows of five minutes to "
            f"three days. Above {at.BURN_RATE_FAST:g} over an hour, or {at.BURN_RATE_SLOW:g} over six, an alert fires.",
            RATIO,
            [
                ask(f"max({series(errors, slo=slo)}) / {1 - target:.3g}", f"over {window}")
                for window, errors in foreign.SLO_ERRORS.items()
            ],
            limit=BURN,
            span=12,
        )
        for title, what, slo, target in (
            ("Failed requests: burn rate", "failed requests", "availability", at.AVAILABILITY_TARGET),
            ("Late first tokens: burn rate", "late first tokens", "ttft", at.TTFT_TARGET),
        )
    ]


def _saturation() -> list[Panel]:
    idle = f"avg(rate({series(foreign.NODE_CPU, mode='idle')}[$__rate_interval]))"
    memory_left = f"{total(foreign.NODE_MEMORY_AVAILABLE)} / {total(foreign.NODE_MEMORY_TOTAL)}"
    disk_left = (
        f"min({series(foreign.NODE_DISK_AVAILABLE, fstype='!~tmpfs|ramfs|overlay')} / "
        f"{series(foreign.NODE_DISK_SIZE, fstype='!~tmpfs|ramfs|overlay')})"
    )
    return [
        lines(
            "Places taken in each gateway",
            "Requests being served, as a share of PHAROS_REQUESTS_MAX. At 100 % further ones are refused.",
            SHARE,
            [
                ask(
                    f"{total(t.REQUESTS_IN_FLIGHT, 'instance', **HERE)} / {total(t.REQUESTS_MAX, 'instance', **HERE)}",
                    "{{instance}}",
                )
            ],
            limit=SATURATION,
            top=1,
        ),
        lines(
            "Queues filled",
            "Items that wait to be encoded, searched or answered, as a share of what may wait (PHAROS_QUEUE_ITEMS). "
            "At 100 % further ones are refused.",
            SHARE,
            [
                ask(
                    f"{total(t.QUEUE_ITEMS, 'job', 'kind')} / {total(t.QUEUE_ITEMS_MAX, 'job', 'kind')}",
                    "{{job}} {{kind}}",
                )
            ],
            limit=SATURATION,
            top=1,
        ),
        lines(
            "Work outstanding at each model service",
            "Tokens that the gateways still wait for there. One far above the others is slow, or gets no answers out.",
            COUNT,
            [ask(total(t.REPLICA_TOKENS, "replica"), "{{replica}}")],
            limit=None,
        ),
        lines(
            "Processor use of each service",
            "Processors' worth of work. A gateway is one Python process: near 100 % it is full, and needs a second "
            "one.",
            SHARE,
            [ask(rate(foreign.CPU_SECONDS, "job", "instance", **SERVICES), "{{job}} {{instance}}")],
            limit=SATURATION,
        ),
        lines(
            "Event loop lag",
            "How late each service gets to work that is due, p99. While it lags it answers nobody, health checks "
            "included: something blocks the loop, or the processor is full.",
            SECONDS,
            [ask(percentile(0.99, t.EVENT_LOOP_LAG, "job", "instance"), "{{job}} {{instance}} p99")],
            limit=LAG,
        ),
        lines(
            "The machine: processors, memory, disk",
            "Shares in use. Disk is the fullest one.",
            SHARE,
            [
                ask(f"1 - {idle}", "processors"),
                ask(f"1 - {memory_left}", "memory"),
                ask(f"1 - {disk_left}", "disk"),
            ],
            limit=SATURATION,
            top=1,
        ),
    ]
