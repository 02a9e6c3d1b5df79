"""A dashboard out of rows of panels: ids, variables, marks, and the links from each dashboard to the others."""

from __future__ import annotations

import json
from collections.abc import Sequence

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as model

from contracts.telemetry import APP, APP_LLM, REQUESTS_IN_FLIGHT, TOPIC_STAGE_SECONDS
from monitoring.dashboards.foreign import ALERTS, INSTANCE, JOB, START_TIME
from monitoring.dashboards.panels import PROMETHEUS, Panel
from monitoring.dashboards.promql import Named, any_of, series

TAG = "pharos"
SERVICES = {JOB: any_of((APP, APP_LLM))}
"""The services that stay, other than the ingestion job."""

HERE = {"instance": "=~$gateway"}
"""The gateways that are chosen, see `gateway`."""

Row = tuple[str, Sequence[Panel]]


def board(
    uid: str,
    title: str,
    description: str,
    rows: Sequence[Row],
    *,
    variables: Sequence[dashboard.QueryVariable | dashboard.CustomVariable] = (),
    since: str = "now-1h",
) -> dashboard.Dashboard:
    """A dashboard that refreshes itself every 10 s and marks starts of services and alerts in every panel."""
    made = (
        dashboard.Dashboard(f"Pharos: {title}")
        .uid(uid)
        .description(description)
        .tags([TAG])
        .timezone("browser")
        .time(since, "now")
        .refresh("10s")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .variables(list(variables))
        .link(
            dashboard.DashboardLink("The other dashboards")
            .type(model.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .keep_time(True)
        )
        .annotation(_mark("Alert fires", series(ALERTS, alertstate="firing"), "red"))
        .annotation(_mark("Service started", f"changes({series(START_TIME, **SERVICES)}[$__interval]) > 0", "blue"))
    )
    number = 0
    for heading, panels in rows:
        made = made.with_row(dashboard.Row(heading).id(number := number + 1))
        for panel in panels:
            made = made.with_panel(panel.id(number := number + 1))
    return made


def choice(name: str, label: str, metric: Named, of: str, **where: str) -> dashboard.QueryVariable:
    """A variable: one, several or all values of a label of `metric`. In queries: `label=~"$name"`."""
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(PROMETHEUS)
        .query(f"label_values({series(metric, **where)}, {of})")
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(model.VariableOption(text="All", value="$__all"))
    )


def topic() -> dashboard.QueryVariable:
    """Which topics: `topic=~"$topic"`."""
    questions = TOPIC_STAGE_SECONDS._replace(name=TOPIC_STAGE_SECONDS.name + "_count")
    return choice("topic", "Topic", questions, "topic")


def pick(name: str, label: str, values: Sequence[str], chosen: str) -> dashboard.CustomVariable:
    """A variable: one of `values`."""
    return (
        dashboard.CustomVariable(name)
        .label(label)
        .values(",".join(values))
        .options([model.VariableOption(text=value, value=value, selected=value == chosen) for value in values])
        .current(model.VariableOption(text=chosen, value=chosen))
    )


def gateway() -> dashboard.QueryVariable:
    """Which gateways: HERE."""
    return choice("gateway", "Gateway", REQUESTS_IN_FLIGHT, INSTANCE)


def as_json(made: dashboard.Dashboard) -> str:
    """The file that Grafana reads."""
    return json.dumps(made.build(), cls=JSONEncoder, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _mark(name: str, expr: str, colour: str) -> dashboard.AnnotationQuery:
    return dashboard.AnnotationQuery().name(name).datasource(PROMETHEUS).enable(True).icon_color(colour).expr(expr)
