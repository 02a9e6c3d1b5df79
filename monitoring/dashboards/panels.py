"""The kinds of panel that the dashboards are made of, so that they look and read the same.

Every panel has a title, a description, a unit, and the limit beyond which it is no longer well; `limit=None` says that
there is none. Written for Grafana 10.1 (the SDK's version), which later ones read as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    heatmap,
    logs,
    loki,
    prometheus,
    stat,
    table,
    timeseries,
)
from grafana_foundation_sdk.models import common as looks
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.loki import LokiQueryDirection
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from contracts.telemetry import Outcome, Stage
from monitoring.dashboards.promql import PERCENTILES, Named, percentile

Query = prometheus.Dataquery | loki.Dataquery
Panel = timeseries.Panel | stat.Panel | bargauge.Panel | heatmap.Panel | table.Panel | logs.Panel
_Panel = TypeVar("_Panel", timeseries.Panel, stat.Panel, bargauge.Panel, heatmap.Panel, table.Panel, logs.Panel)

PROMETHEUS = model.DataSourceRef("prometheus", "prometheus")
LOKI = model.DataSourceRef("loki", "loki")
"""Types and uids; monitoring/grafana/provisioning/datasources has the same uids."""

SECONDS, MILLISECONDS, BYTES, SHARE = units.Seconds, units.Milliseconds, units.BytesIEC, units.PercentUnit
COUNT, PER_SECOND, REQUESTS_PER_SECOND = units.Short, units.CountsPerSecond, units.RequestsPerSecond
WATTS, CELSIUS, RATIO, TEXT = units.Watt, units.Celsius, units.NoUnit, units.String

GREEN, ORANGE, RED = "green", "orange", "red"
OUTCOMES: dict[str, str] = {
    Outcome.OK: GREEN,
    Outcome.REJECTED: "purple",
    Outcome.CANCELLED: "text",
    Outcome.TIMEOUT: ORANGE,
    Outcome.ERROR: RED,
}
STAGES: dict[str, str] = {
    Stage.QUEUE: ORANGE,
    Stage.EXPAND: RED,
    Stage.ENCODE: "blue",
    Stage.SEARCH: GREEN,
    Stage.PROMPT: "yellow",
    Stage.GENERATE: "purple",
    Stage.TOTAL: "text",
}
"""Grafana's names of colours; "text" is grey."""
LINES_MAX = 1000
"""Log lines that a panel asks for: Loki itself gives no more than 5,000."""


@dataclass(frozen=True, slots=True)
class Limit:
    """Orange from `slow` on and red from `bad` on; with `low_is_bad`, orange below `slow` and red below `bad`."""

    slow: float
    bad: float
    low_is_bad: bool = False

    def config(self) -> dashboard.ThresholdsConfig:
        """As Grafana has it."""
        if self.low_is_bad:
            steps = [(None, RED), (self.bad, ORANGE), (self.slow, GREEN)]
        else:
            steps = [(None, GREEN), (self.slow, ORANGE), (self.bad, RED)]
        return (
            dashboard.ThresholdsConfig()
            .mode(model.ThresholdsMode.ABSOLUTE)
            .steps([model.Threshold(value, colour) for value, colour in steps])
        )


def ask(expr: str, legend: str = "", *, exemplars: bool = False, instant: bool = False) -> prometheus.Dataquery:
    """A query to Prometheus. `exemplars` shows single requests, each a link to its trace."""
    query = prometheus.Dataquery().expr(expr).legend_format(legend or "__auto").datasource(PROMETHEUS)
    query = query.exemplar(exemplars)
    return query.instant() if instant else query.range()


def percentiles(
    metric: Named, legend: str = "", *, where: Mapping[str, str] = MappingProxyType({}), exemplars: bool = False
) -> list[Query]:
    """p50, p95 and p99 of a histogram. Exemplars are asked for once: each of the three would bring the same."""
    return [
        ask(percentile(quantile, metric, **where), f"{legend} {name}".strip(), exemplars=exemplars and name == "p95")
        for name, quantile in PERCENTILES.items()
    ]


def ask_logs(expr: str, legend: str = "", *, lines: int = LINES_MAX) -> loki.Dataquery:
    """A query to Loki: log lines, newest first, or numbers made of them."""
    query = loki.Dataquery().expr(expr).query_type("range").datasource(LOKI).max_lines(lines)
    return query.direction(LokiQueryDirection.BACKWARD).legend_format(legend)


def lines(
    title: str,
    description: str,
    unit: str,
    queries: Sequence[Query],
    *,
    limit: Limit | None,
    span: int = 8,
    stacked: bool = False,
    top: float | None = None,
    colours: Mapping[str, str] = MappingProxyType({}),
) -> timeseries.Panel:
    """Lines over time, with the limit dashed across; `stacked` where they are parts of one whole. `colours` are those
    of legends that mean good or bad."""
    panel = _panel(timeseries.Panel(), title, description, unit, queries, limit, span, height=8)
    panel = panel.min(0).line_width(2 if not stacked else 1).fill_opacity(60 if stacked else 5)
    panel = panel.show_points(looks.VisibilityMode.NEVER).span_nulls(False)
    panel = panel.legend(
        common.VizLegendOptions()
        .show_legend(True)
        .placement(looks.LegendPlacement.BOTTOM)
        .display_mode(looks.LegendDisplayMode.TABLE)
        .calcs(["lastNotNull", "max"])
    )
    panel = panel.tooltip(common.VizTooltipOptions().mode(looks.TooltipDisplayMode.MULTI))
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(looks.StackingMode.NORMAL).group("A"))
    if limit is not None:
        panel = panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(looks.GraphTresholdsStyleMode.DASHED))
    if top is not None:
        panel = panel.max(top)
    for legend, colour in colours.items():
        panel = panel.override_by_name(legend, [_fixed(colour)])
    return panel


def number(
    title: str, description: str, unit: str, query: Query, *, limit: Limit | None, span: int = 4, decimals: int = 1
) -> stat.Panel:
    """One number: the newest, in the colour of its limit."""
    panel = _panel(stat.Panel(), title, description, unit, [query], limit, span, height=4)
    panel = panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"])).decimals(decimals)
    mode = looks.BigValueColorMode.NONE if limit is None else looks.BigValueColorMode.BACKGROUND
    return panel.color_mode(mode).graph_mode(looks.BigValueGraphMode.AREA).no_value("none yet")


def bars(
    title: str,
    description: str,
    unit: str,
    queries: Sequence[Query],
    *,
    limit: Limit | None,
    span: int = 8,
    colours: Mapping[str, str] = MappingProxyType({}),
) -> bargauge.Panel:
    """One bar for each series, over the whole of the time shown."""
    panel = _panel(bargauge.Panel(), title, description, unit, queries, limit, span, height=8)
    panel = panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"])).min(0)
    for legend, colour in colours.items():
        panel = panel.override_by_name(legend, [_fixed(colour)])
    return panel.orientation(looks.VizOrientation.HORIZONTAL).display_mode(looks.BarGaugeDisplayMode.GRADIENT)


def heat(title: str, description: str, unit: str, expr: str, *, span: int = 8) -> heatmap.Panel:
    """How often each bucket of a histogram was hit, over time. There is no limit to be seen in one."""
    query = prometheus.Dataquery().expr(expr).legend_format("{{le}}").datasource(PROMETHEUS).range()
    query = query.exemplar(False).format(PromQueryFormat.HEATMAP)
    panel = _panel(heatmap.Panel(), title, description, COUNT, [query], None, span, height=8)
    panel = panel.color(heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges").steps(64))
    return panel.y_axis(heatmap.YAxisConfig().unit(unit)).cell_gap(1).show_tooltip().show_legend()


def log_lines(title: str, description: str, query: loki.Dataquery, *, span: int = 12) -> logs.Panel:
    """Log lines, newest first; each opens to its fields and the link to its trace."""
    panel = _panel(logs.Panel(), title, description, TEXT, [query], None, span, height=10)
    panel = panel.show_time(True).wrap_log_message(False).prettify_log_message(False).enable_log_details(True)
    return panel.sort_order(looks.LogsSortOrder.DESCENDING).dedup_strategy(looks.LogsDedupStrategy.NONE)


def rows(title: str, description: str, unit: str, query: Query, *, span: int = 24, height: int = 10) -> table.Panel:
    """A table; its columns are made by transformations and overrides."""
    panel = _panel(table.Panel(), title, description, unit, [query], None, span, height=height)
    return panel.show_header(True).cell_height(looks.TableCellHeight.SM)


def _fixed(colour: str) -> model.DynamicConfigValue:
    return model.DynamicConfigValue("color", {"mode": "fixed", "fixedColor": colour})


def _panel(
    panel: _Panel,
    title: str,
    description: str,
    unit: str,
    queries: Sequence[Query],
    limit: Limit | None,
    span: int,
    height: int,
) -> _Panel:
    panel = panel.title(title).description(description).unit(unit).span(span).height(height)
    for name, query in zip("ABCDEFGHIJKLMNOP", queries, strict=False):
        panel = panel.with_target(query.ref_id(name))
    panel = panel.datasource(LOKI if isinstance(queries[0], loki.Dataquery) else PROMETHEUS)
    if limit is None:
        # Without this Grafana would draw its own default, red from 80 on.
        none = dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE)
        return panel.thresholds(none.steps([model.Threshold(None, GREEN)]))
    return panel.thresholds(limit.config())
