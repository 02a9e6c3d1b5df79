"""Dashboards: the files are what the code makes, every panel can be read by a stranger, and no query names a series or
a label that nobody serves."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from contracts.telemetry import LOG_METADATA, METRICS, STAGE_SECONDS, Stage
from locust_testing import figures
from monitoring import queries as asked
from monitoring import thresholds
from monitoring.dashboards import BOARDS, FOLDER, files, promql
from monitoring.dashboards.foreign import ALERTS, FOREIGN, INSTANCE, JOB, SLO_ERRORS, UP, Series
from monitoring.dashboards.time_spent import COLUMNS
from tests.support import exporter, logql
from tests.support.processes import ROOT
from tests.support.promql import Selector, names

KNOWN: dict[str, promql.Named] = {metric.name: metric for metric in (*METRICS, *FOREIGN)}
SUFFIXES = ("_bucket", "_sum", "_count")
PROVISIONING = ROOT / "monitoring" / "grafana" / "provisioning"
ALL_PANELS = [
    pytest.param(panel, id=f"{board}: {panel['title']}")
    for board, content in asked.boards().items()
    for panel in asked.panels(content)
]
PROMETHEUS_QUERIES = [
    pytest.param(query, id=f"{query.board}: {query.title} {n}")
    for n, query in enumerate(asked.queries())
    if query.datasource == "prometheus"
]
LOKI_QUERIES = [query for query in asked.queries() if query.datasource == "loki"]


def metric_of(selector: Selector) -> tuple[promql.Named, str]:
    """The metric of a series, and which part of a histogram it is."""
    for suffix in SUFFIXES:
        found = KNOWN.get(selector.name.removesuffix(suffix))
        if selector.name.endswith(suffix) and found is not None and found.kind == "histogram":
            return found, suffix
    found = KNOWN.get(selector.name)
    assert found is not None, f"nobody serves {selector.name}"
    assert found.kind != "histogram", f"{selector.name} is a histogram: it has only {SUFFIXES}"
    return found, ""


def expression(query: asked.Query) -> str:
    """The PromQL of a query: a variable's asks for the label of some series."""
    if query.kind != "variable":
        return query.filled()
    values = asked.LABEL_VALUES.fullmatch(query.filled())
    assert values is not None
    return f"count by ({values['label']}) ({values['series']})"


class TestFiles:
    def test_are_what_the_code_makes(self) -> None:
        shipped = {path.name: path.read_text() for path in FOLDER.glob("*")}
        assert shipped == files(), "run `make dashboards`"

    def test_grafana_finds_them_and_opens_on_the_first(self) -> None:
        assert next(iter(BOARDS)) == "service"
        (provider,) = yaml.safe_load((PROVISIONING / "dashboards" / "pharos.yaml").read_text())["providers"]
        assert provider["options"]["path"] == "/etc/grafana/dashboards"

    def test_have_ids_of_their_own(self) -> None:
        boards = asked.boards().values()
        assert len({board["uid"] for board in boards}) == len(BOARDS)
        assert len({board["title"] for board in boards}) == len(BOARDS)
        for board in boards:
            ids = [panel["id"] for panel in board["panels"]]
            assert len(set(ids)) == len(ids)
            titles = [panel["title"] for panel in asked.panels(board)]
            assert len(set(titles)) == len(titles)

    def test_panels_lie_beside_and_not_on_each_other(self) -> None:
        for board in asked.boards().values():
            taken: set[tuple[int, int]] = set()
            for panel in board["panels"]:
                at = panel["gridPos"]
                cells = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
                assert at["x"] + at["w"] <= 24, panel["title"]
                assert not cells & taken, panel["title"]
                taken |= cells


@pytest.mark.parametrize("panel", ALL_PANELS)
class TestPanels:
    def test_says_what_it_shows(self, panel: dict[str, Any]) -> None:
        assert 4 <= len(panel["title"]) <= 60
        assert panel["description"].endswith((".", '"')), panel["description"]
        assert len(panel["description"]) > 15

    def test_has_a_unit(self, panel: dict[str, Any]) -> None:
        assert panel["fieldConfig"]["defaults"]["unit"]

    def test_has_limits_where_there_can_be_one(self, panel: dict[str, Any]) -> None:
        defaults = panel["fieldConfig"]["defaults"]
        steps = defaults["thresholds"]["steps"]
        assert steps[0]["value"] is None
        values = [step["value"] for step in steps[1:]]
        assert values == sorted(values)
        timed = defaults["unit"] in ("s", "ms") and panel["type"] in ("timeseries", "stat", "bargauge")
        if timed:
            assert values, "how long is too long?"
        if values and panel["type"] == "timeseries":
            assert defaults["custom"]["thresholdsStyle"]["mode"] == "dashed"

    def test_asks_one_of_the_provisioned_datasources(self, panel: dict[str, Any]) -> None:
        provisioned = yaml.safe_load((PROVISIONING / "datasources" / "pharos.yaml").read_text())["datasources"]
        pairs = {(source["type"], source["uid"]) for source in provisioned}
        for target in panel["targets"]:
            assert (target["datasource"]["type"], target["datasource"]["uid"]) in pairs
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


@pytest.mark.parametrize("query", PROMETHEUS_QUERIES)
class TestPromQL:
    def test_names_only_what_is_served(self, query: asked.Query) -> None:
        used = names(expression(query))
        assert used.selectors
        given: set[str] = set()
        for selector in used.selectors:
            metric, suffix = metric_of(selector)
            labels = {*metric.labels, JOB, INSTANCE} | ({"le"} if suffix == "_bucket" else set())
            assert set(selector.labels) <= labels, selector
            given |= labels
        assert set(used.grouped) <= given
        for label in re.findall(r"\{\{(\w+)\}\}", query.legend):
            assert label in used.grouped, f"the legend's {label} is summed away"

    def test_counters_are_seen_as_rates(self, query: asked.Query) -> None:
        for selector in names(expression(query)).selectors:
            metric, suffix = metric_of(selector)
            if query.kind == "variable" or metric.name.startswith("pharos_ingest_"):
                continue  # what a job has done in all is the question
            growing = metric.kind == "counter" or suffix != ""
            assert growing == (selector.within in ("rate", "increase")), selector

    def test_percentiles_are_of_summed_buckets(self, query: asked.Query) -> None:
        if "histogram_quantile" in query.expr:
            assert re.search(r"histogram_quantile\([\d.]+, sum by \(le[,)]", query.expr)
        assert "avg by (le" not in query.expr


class TestQueries:
    def test_a_wrong_name_is_refused(self) -> None:
        with pytest.raises(AssertionError, match="nobody serves"):
            metric_of(names("rate(pharos_request_total[1m])").selectors[0])
        with pytest.raises(AssertionError, match="histogram"):
            metric_of(names(f"rate({STAGE_SECONDS.name}[1m])").selectors[0])

    def test_a_wrong_label_is_refused_as_it_is_written(self) -> None:
        with pytest.raises(ValueError, match="no label topic"):
            promql.rate(STAGE_SECONDS, "topic", suffix="_count")
        with pytest.raises(ValueError, match="no label kind"):
            promql.series(STAGE_SECONDS, kind="x")
        with pytest.raises(ValueError, match="no histogram"):
            promql.percentile(0.5, Series("x", "gauge"))

    def test_names_are_read_out_of_an_expression(self) -> None:
        used = names('sum by (a, b) (rate(x_total{c="1",d=~"(x)"}[5m])) / on (a) group_left max(y) or vector(0)')
        assert [(s.name, s.within, s.labels) for s in used.selectors] == [
            ("x_total", "rate", ["c", "d"]),
            ("y", "max", []),
        ]
        assert used.grouped == ["a", "b", "a"]
        for wrong in ("sum(rate(x[5m])", "x{a='1'", "sum(x))", "x $ y"):
            with pytest.raises(ValueError, match=r"."):
                names(wrong)

    def test_variables_are_filled_in_and_missing_ones_told(self) -> None:
        query = asked.Query(
            "b", {"title": "t"}, 'x{a="$a"}[$__range] $__rate_interval', "range", "prometheus", "", {"a": "1"}
        )
        assert query.filled(rate_seconds=60, range_seconds=90) == 'x{a="1"}[90s] 60s'
        other = asked.Query("b", {"title": "t"}, 'x{a="$b"}', "range", "prometheus", "", {"a": "1"})
        with pytest.raises(AssertionError, match="there is not"):
            other.filled()

    def test_percentiles_are_three_and_no_average_is_alone(self) -> None:
        """Each histogram of durations that is shown as a mean is shown as p50, p95 and p99 on the same dashboard."""
        for board in asked.boards():
            texts = [query.expr for query in asked.queries() if query.board == board]
            for metric in KNOWN.values():
                if any(f"{metric.name}_sum" in text for text in texts):
                    for quantile in promql.PERCENTILES.values():
                        shown = [t for t in texts if f"histogram_quantile({quantile}," in t and metric.name in t]
                        assert shown, f"{board}: {metric.name} has no percentile {quantile}"

    def test_every_metric_of_ours_is_on_some_dashboard(self) -> None:
        """Other than those that say the same as another, or that an alert looks at."""
        shown = " ".join(query.expr for query in asked.queries())
        missing = {metric.name for metric in METRICS if metric.name not in shown}
        assert missing == {
            "pharos_replica_outstanding_prompts",  # outstanding tokens say it more exactly
            "pharos_asyncio_tasks",  # for tests and for people who look for a leak
            "pharos_loki_records_sent_total",
            "pharos_loki_records_queued",
        }

    def test_every_series_of_others_that_is_named_is_used(self) -> None:
        shown = " ".join(query.expr for query in asked.queries())
        assert [series.name for series in FOREIGN if series.name not in shown] == []

    def test_what_covers_all_the_time_shown_is_asked_once(self) -> None:
        """At each point of a month it would be a month's increase."""
        for query in asked.queries():
            assert ("$__range" in query.expr) == (query.kind == "instant" and "build_info" not in query.expr), (
                query.title
            )

    def test_series_of_others_are_as_they_were_served(self) -> None:
        """But for those of programs that run neither here nor anywhere we could look: DCGM's."""
        served: dict[str, set[str]] = {}
        for line in "".join(exporter.scrape(path.stem) for path in exporter.SCRAPES.glob("*.prom")).splitlines():
            sample = exporter.SAMPLE.fullmatch(line)
            if sample is not None:
                served.setdefault(sample["name"], set()).update(re.findall(r'(\w+)="', sample["labels"]))
        for metric in figures.METRICS:
            suffix, more = ("_bucket", {"le"}) if metric.kind == "histogram" else ("", set())
            served[metric.name + suffix] = {*metric.labels, *more}
        own = (UP, ALERTS, *SLO_ERRORS.values())
        for series in FOREIGN:
            if series not in own and not series.name.startswith("DCGM_"):
                suffix, more = ("_bucket", {"le"}) if series.kind == "histogram" else ("", set())
                assert served[series.name + suffix] == {*series.labels, *more}, series

    def test_burn_rates_are_recorded(self) -> None:
        groups = yaml.safe_load((ROOT / "monitoring" / "prometheus" / "rules" / "recording.yml").read_text())["groups"]
        recorded = {rule["record"] for group in groups for rule in group["rules"]}
        assert {series.name for series in SLO_ERRORS.values()} <= recorded

    def test_what_queries_need_is_needed(self) -> None:
        needed = frozenset().union(*(query.needs for query in asked.queries()))
        assert needed == {need for _, need in asked.NEEDS} | {"loki"}

    def test_the_objectives_windows_are_shown(self) -> None:
        for series in SLO_ERRORS.values():
            assert any(series.name in query.expr and 'slo="ttft"' in query.expr for query in asked.queries())

    def test_latencies_have_exemplars_once(self) -> None:
        for board in asked.boards().values():
            for panel in asked.panels(board):
                asking = [target for target in panel["targets"] if target.get("exemplar")]
                assert len(asking) <= 1
                if panel["title"] == "Time to the first token":
                    assert asking

    def test_stages_are_stacked_without_their_total(self) -> None:
        for board in asked.boards().values():
            for panel in asked.panels(board):
                mode = panel["fieldConfig"]["defaults"].get("custom", {}).get("stacking", {}).get("mode")
                for target in panel["targets"] if mode == "normal" else []:
                    if "_stage_duration_seconds_sum" in target["expr"]:
                        assert f'stage!="{Stage.TOTAL}"' in target["expr"]


class TestLogs:
    @pytest.mark.parametrize("query", LOKI_QUERIES, ids=lambda query: query.title)
    def test_queries_are_logql_over_what_is_sent(self, query: asked.Query) -> None:
        logql.check(query.filled())

    def test_links_of_the_slowest_requests(self) -> None:
        (panel,) = [
            panel
            for board in asked.boards().values()
            for panel in asked.panels(board)
            if panel["title"] == "The slowest requests"
        ]
        links: dict[str, list[str]] = {}
        for override in panel["fieldConfig"]["overrides"]:
            for found in override["properties"]:
                if found["id"] == "links":
                    links[override["matcher"]["options"]] = [link["url"] for link in found["value"]]
        assert set(links) == {COLUMNS["request_id"], COLUMNS["trace_id"]}
        assert set(LOG_METADATA) < set(COLUMNS)
        (of_request,), (of_trace, of_all_services) = links[COLUMNS["request_id"]], links[COLUMNS["trace_id"]]
        for link, datasource in ((of_request, "loki"), (of_trace, "tempo"), (of_all_services, "loki")):
            pane = pane_of(link, "0af7651916cd43dd8448eb211c80319c")
            assert pane["datasource"] == datasource
            assert pane["range"] == {"from": "1", "to": "2"}
            (query,) = pane["queries"]
            assert query["datasource"]["uid"] == datasource
            if datasource == "loki":
                logql.check(query["expr"])
                assert "0af7651916cd43dd8448eb211c80319c" in query["expr"]
            else:
                assert query["query"] == "0af7651916cd43dd8448eb211c80319c"

    def test_the_way_from_a_trace_to_its_logs_and_back(self) -> None:
        sources = yaml.safe_load((PROVISIONING / "datasources" / "pharos.yaml").read_text())["datasources"]
        by_uid = {source["uid"]: source["jsonData"] for source in sources}
        logql.check(by_uid["tempo"]["tracesToLogsV2"]["query"].replace("$${__span.traceId}", "0af7"))
        (derived,) = by_uid["loki"]["derivedFields"]
        trace = "0af7651916cd43dd8448eb211c80319c"
        for line in (json.dumps({"trace_id": trace}), json.dumps({"trace_id": trace}, separators=(",", ":"))):
            found = re.search(derived["matcherRegex"], line)
            assert found is not None
            assert found[1] == trace
        (destination,) = by_uid["prometheus"]["exemplarTraceIdDestinations"]
        assert destination == {"name": "trace_id", "datasourceUid": "tempo"}


def pane_of(url: str, value: str) -> dict[str, Any]:
    """The pane of a link to Explore, after Grafana has filled in its variables and the browser has read the URL."""
    for name, text in (("__value.raw", value), ("__from", "1"), ("__to", "2")):
        url = url.replace(f"${{{name}}}", text)
    (panes,) = parse_qs(urlsplit(url).query)["panes"]
    pane: dict[str, Any] = json.loads(panes)["pane"]
    return pane


def test_the_objective_for_first_tokens_is_a_bucket() -> None:
    assert f'le="{thresholds.TTFT_SLO_SECONDS}"' in next(
        query.expr for query in asked.queries() if query.title == "First tokens in time"
    )
