"""Rules, alerts and routes: Prometheus' and Alertmanager's own tools on them, and that what they name exists."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.errors import PharosError
from app.replicas import State
from contracts import telemetry
from contracts.telemetry import METRICS, Outcome
from launch import debian
from monitoring import thresholds
from tests.support.processes import ROOT, program_of

FOLDER = ROOT / "monitoring" / "prometheus"
ALERTMANAGER = ROOT / "monitoring" / "alertmanager" / "alertmanager.yml"
RULE_FILES = sorted((FOLDER / "rules").glob("*.yml"))
CASES = sorted((FOLDER / "tests").glob("*.yml"))
RULES: list[dict[str, Any]] = [
    rule for file in RULE_FILES for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]
]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
DASHBOARDS = {"pharos-service", "pharos-time", "pharos-models", "pharos-retrieval", "pharos-load"}

SCRAPED = {"job", "instance"}
"""Labels that Prometheus gives to every series."""
FOREIGN = {
    "up": set(),
    "process_start_time_seconds": set(),
    "vllm:kv_cache_usage_perc": {"model_name", "engine"},
    "vllm:num_preemptions_total": {"model_name", "engine"},
}
"""Series that are not ours, with their labels."""


def run(program: debian.Program, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program_of(program), *words], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )


def series(expression: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Name and matchers of every selector in an expression."""
    bare = re.sub(r"\b(?:by|on) \([^)]*\)|\[[^\]]*\]", "", expression)
    selector = r"([a-zA-Z_:][\w:]*)\{([^}]*)\}"
    for name, matchers in re.findall(selector, bare):
        yield name, dict(re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"', matchers))
    # What is left has no strings; a name before a parenthesis is a function.
    for name in re.findall(r"(?<![\w:.])([a-zA-Z_:][\w:]*)(?![\w:])(?!\s*\()", re.sub(selector, "", bare)):
        if name not in ("and", "or", "unless"):
            yield name, {}


def labels_of(name: str) -> set[str]:
    """Labels that a series of this name has. Fails for a name that nothing gives."""
    if name in RECORDED:
        return {"slo"}
    if name in FOREIGN:
        return FOREIGN[name] | SCRAPED
    for metric in METRICS:
        if metric.kind == "histogram" and name in {f"{metric.name}_{part}" for part in ("bucket", "count", "sum")}:
            return {*metric.labels, *({"le"} if name.endswith("_bucket") else set()), *SCRAPED}
        if metric.kind != "histogram" and name == metric.name:
            return {*metric.labels, *SCRAPED}
    raise AssertionError(f"nothing gives {name}")


def problem_codes(error: type[PharosError] = PharosError) -> set[str]:
    return {error.code}.union(*(problem_codes(each) for each in error.__subclasses__()))


def test_the_reader_of_expressions() -> None:
    read = list(
        series('sum by (a) (rate(x:y_total{b=~"c|(d)", e!="f"}[5m])) / on (g) (z > 0) or vector(0) and up == 1')
    )
    assert read == [("x:y_total", {"b": "c|(d)", "e": "f"}), ("z", {}), ("up", {})]


def test_the_configuration_is_valid() -> None:
    done = run(debian.PROMTOOL, "check", "config", FOLDER / "prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(RULE_FILES)} rule files found" in done.stdout


@pytest.mark.parametrize("file", CASES, ids=lambda file: file.stem)
def test_the_cases_hold(file: Path) -> None:
    done = run(debian.PROMTOOL, "test", "rules", file)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ALERTS)
def test_the_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not(name: str) -> None:
    cases = [
        case
        for file in CASES
        for group in yaml.safe_load(file.read_text())["tests"]
        for case in group.get("alert_rule_test", [])
        if case["alertname"] == name
    ]
    assert {bool(case["exp_alerts"]) for case in cases} == {True, False}


def test_every_recording_rule_has_a_case() -> None:
    tests = yaml.safe_load((FOLDER / "tests" / "recording.yml").read_text())["tests"]
    tested = {name for group in tests for case in group["promql_expr_test"] for name, _ in series(case["expr"])}
    assert tested == RECORDED


def test_the_error_ratios_have_the_windows_that_dashboards_rely_on() -> None:
    assert {name for name in RECORDED if "ratio" in name} == {f"pharos:slo_errors:ratio_rate{w}" for w in WINDOWS}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_series_and_labels_exist(rule: dict[str, Any]) -> None:
    found = list(series(rule["expr"]))
    assert found
    known = set().union(*(labels_of(name) for name, _ in found))
    for name, matchers in found:
        assert matchers.keys() <= labels_of(name), name
    grouped = re.findall(r"\b(?:by|on) \(([^)]*)\)", rule["expr"])
    assert {label.strip() for labels in grouped for label in labels.split(",")} <= known
    templated = set(re.findall(r"\$labels\.(\w+)", str(rule.get("annotations"))))
    assert templated <= known


def test_matched_values_exist() -> None:
    values = {
        ("pharos_requests_total", "outcome"): set(Outcome),
        ("pharos_no_first_token_total", "reason"): set(Outcome),
        ("pharos_refused_total", "reason"): problem_codes(),
        ("pharos_replica_state", "state"): set(State),
        ("pharos_dependency_up", "dependency"): {"milvus", "model_service"},
        ("pharos_time_to_first_token_seconds_bucket", "le"): {f"{b:g}" for b in telemetry.FIRST_TOKEN_BUCKETS},
    }
    seen = set()
    for rule in RULES:
        for name, matchers in series(rule["expr"]):
            for label, value in matchers.items():
                if (name, label) in values:
                    seen.add((name, label))
                    assert set(value.split("|")) <= values[name, label], f"{name}: {label}"
    assert seen == values.keys()


@pytest.mark.parametrize("name", [name for name in FOREIGN if name.startswith("vllm:")])
def test_vllm_has_the_metric(name: str) -> None:
    vllm = importlib.util.find_spec("vllm")
    assert vllm is not None
    assert vllm.submodule_search_locations
    loggers = Path(vllm.submodule_search_locations[0]) / "v1" / "metrics" / "loggers.py"
    assert f'name="{name.removesuffix("_total")}"' in loggers.read_text()


def budget(target: float) -> str:
    return f"{1 - target:.6f}".rstrip("0")


@pytest.mark.parametrize(
    ("alert", "says"),
    [
        *(
            (f"{name}BudgetBurn{speed}", f"> {factor:g} * {budget(target)}")
            for name, target in (
                ("Availability", thresholds.AVAILABILITY_TARGET),
                ("FirstToken", thresholds.TTFT_TARGET),
            )
            for speed, factor in (
                ("Fast", thresholds.BURN_RATE_FAST),
                ("Fast", thresholds.BURN_RATE_SLOW),
                ("Slow", thresholds.BURN_RATE_EVEN),
            )
        ),
        ("AvailabilityBudgetBurnFast", f">= {thresholds.BURN_FAILURES_MIN}"),
        ("FirstTokenBudgetBurnFast", f">= {thresholds.BURN_FAILURES_MIN}"),
        ("RequestsSaturated", f"> {thresholds.SATURATION_HIGH:g}"),
        ("QueueSaturated", f"> {thresholds.SATURATION_HIGH:g}"),
        ("EventLoopLag", f"> {thresholds.EVENT_LOOP_LAG_SECONDS:g}"),
        ("KvCacheFull", f"> {thresholds.KV_CACHE_FULL:g}"),
        ("PreemptionStorm", f"> {thresholds.PREEMPTIONS_PER_SECOND:g}"),
        ("PreemptionStorm", f"> {thresholds.PREEMPTIONS_PER_PROMPT:g}"),
        ("IngestStalled", f"> {thresholds.INGEST_STALLED_SECONDS:g}"),
    ],
)
def test_alerts_keep_to_the_thresholds(alert: str, says: str) -> None:
    assert re.search(re.escape(says) + r"(?![\d.])", ALERTS[alert]["expr"])


def test_recording_rules_keep_to_the_thresholds() -> None:
    text = (FOLDER / "rules" / "recording.yml").read_text()
    assert f'{{le="{thresholds.TTFT_SLO_SECONDS:g}"}}' in text
    ours = {
        reasons for rule in RULES for reasons in re.findall(r'pharos_refused_total\{\s*reason=~"([^"]*)"', rule["expr"])
    }
    assert ours == {"|".join(thresholds.OUR_REFUSALS)}
    failed = "|".join(thresholds.FAILED_OUTCOMES)
    assert text.count(f'outcome=~"{failed}"') == 1
    assert text.count(f'outcome=~"ok|{failed}"') == 1


def anchors(document: Path) -> set[str]:
    """The anchors that GitHub gives to a document's headings."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", ALERTS)
def test_the_alert_says_what_a_person_needs(name: str) -> None:
    alert = ALERTS[name]
    assert alert["annotations"].keys() == {"summary", "description", "runbook", "dashboard"}
    assert "for" in alert
    document, _, anchor = alert["annotations"]["runbook"].partition("#")
    assert anchor in anchors(ROOT / document)
    assert alert["annotations"]["dashboard"].removeprefix("/d/") in DASHBOARDS


def section(alert: str) -> str:
    """The text of the section that an alert names as its runbook."""
    anchor = ALERTS[alert]["annotations"]["runbook"].partition("#")[2]
    text = (ROOT / "docs" / "operations.md").read_text()
    (found,) = re.findall(
        rf"^### {anchor.replace('-', ' ')}\n(.*?)(?=^##)", text, re.MULTILINE | re.DOTALL | re.IGNORECASE
    )
    return str(found)


@pytest.mark.parametrize("name", ALERTS)
def test_its_section_begins_with_its_name(name: str) -> None:
    assert f"`{name}`" in section(name).partition(":")[0]


def test_sections_name_panels_that_exist() -> None:
    panels: dict[str, set[str]] = {}
    for file in (ROOT / "monitoring" / "grafana" / "dashboards").glob("*.json"):
        dashboard = json.loads(file.read_text())
        panels[dashboard["title"].removeprefix("Pharos: ")] = {panel["title"] for panel in dashboard["panels"]}
    for alert in ALERTS:
        (line,) = re.findall(r"^- Panel: (.*?)\n(?=- )", section(alert), re.MULTILINE | re.DOTALL)
        pieces = re.split(r"\*([^*]+)\*: ", line.replace("\n  ", " "))[1:]
        assert pieces
        for dashboard, text in zip(pieces[::2], pieces[1::2], strict=True):
            named = set(re.findall(r'"([^"]+)"', text))
            assert named
            assert named <= panels[dashboard], alert


def test_the_routes_are_valid() -> None:
    done = run(debian.AMTOOL, "check-config", ALERTMANAGER)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("severity", sorted({alert["labels"]["severity"] for alert in ALERTS.values()}))
def test_every_severity_has_a_receiver(severity: str) -> None:
    routes = yaml.safe_load(ALERTMANAGER.read_text())["route"]["routes"]
    assert [f'severity="{severity}"'] in [route["matchers"] for route in routes]
    done = run(debian.AMTOOL, "config", "routes", "test", f"--config.file={ALERTMANAGER}", f"severity={severity}")
    assert (done.returncode, done.stdout.strip()) == (0, severity)


def test_inhibitions_name_alerts_that_exist() -> None:
    for rule in yaml.safe_load(ALERTMANAGER.read_text())["inhibit_rules"]:
        for matcher in (*rule["source_matchers"], *rule["target_matchers"]):
            name, value = re.fullmatch(r'(\w+)=~?"(.*)"', matcher).groups()  # type: ignore[union-attr]
            if name == "alertname":
                for pattern in value.split("|"):
                    assert any(re.fullmatch(pattern, alert) for alert in ALERTS), pattern
