"""Every query of the dashboards, read from their JSON files as Grafana reads them, with its variables filled in."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

FOLDER = Path(__file__).parent / "grafana" / "dashboards"

Kind = Literal["range", "instant", "logs", "variable", "annotation"]

NEEDS: tuple[tuple[str, str], ...] = (
    (r"\bvllm:", "vllm"),
    (r'\bmilvus_|job="milvus"', "milvus"),
    (r"\bnode_", "node"),
    (r"\bpharos_gpu_", "gpu"),
    (r"\bDCGM_", "dcgm"),
    (r"\blocust_", "locust"),
    (r"\bpharos_ingest_", "ingestion"),
    (r"rerank", "reranker"),
    (r"\bpharos_cache_lookups_total\{.* > 0\)", "caches"),
    (r"expand", "expansion"),
    (r"\bpharos:", "rules"),
    (r"^sum by .*\(rate\(pharos_(refused|queue_dropped)_total", "refusals"),
    (r"^sum by \(reason\) \(rate\(pharos_queue_dropped_total", "drops"),
    (r"^sum by .*\(rate\(pharos_no_first_token_total", "failures"),
    (r"^sum by .*\(rate\(pharos_loki_records_dropped_total", "drops"),
    (r"^ALERTS\b", "alerts"),
    (r"^changes\(", "restarts"),
)
"""What a query finds nothing without, by a pattern in it: a part that is not everywhere, or something that went wrong.

vllm: the engine `vllm`, not `simulated`. milvus: Milvus Standalone, not Lite. node, dcgm: their exporters. gpu: an
NVIDIA GPU. locust: a load test that runs. ingestion: a job that runs. reranker: a model service with one. caches: a
gateway with one that is on. expansion: questions that the LLM says in more ways. rules: recording rules. refusals,
failures: requests that were refused, or had no first token. drops: log records that Loki never got. alerts: one that
fires. restarts: a service that started within the time shown. Log queries need loki.
"""


@dataclass(frozen=True, slots=True)
class Query:
    """One query. `expr` has Grafana's variables in it; `filled` has none. `panel` is its panel as in the JSON file;
    for a variable's or an annotation's query an empty one with its title."""

    board: str
    panel: dict[str, Any]
    expr: str
    kind: Kind
    datasource: str
    legend: str
    variables: dict[str, str]

    @property
    def title(self) -> str:
        """The panel's."""
        return str(self.panel["title"])

    @property
    def needs(self) -> frozenset[str]:
        """What it finds nothing without, other than a gateway and a model service under load."""
        found = {need for pattern, need in NEEDS if re.search(pattern, self.expr)}
        return frozenset(found | ({"loki"} if self.datasource == "loki" else set()))

    def filled(self, *, rate_seconds: int = 60, range_seconds: int = 3600, step_seconds: int = 15) -> str:
        """The query that Grafana would send, with the dashboard's variables as they are when it opens."""
        own = {
            "__rate_interval": f"{rate_seconds}s",
            "__interval": f"{step_seconds}s",
            "__range": f"{range_seconds}s",
        }
        expr = self.expr
        # Longest names first: $__range is the beginning of another name.
        for name, value in sorted((self.variables | own).items(), key=lambda pair: -len(pair[0])):
            expr = re.sub(rf"\$(?:{name}\b|\{{{name}\}})", lambda _, value=value: value, expr)  # type: ignore[misc]
        assert "$" not in expr, f"{self.board}, {self.title}: {expr} names a variable that there is not"
        return expr


def boards() -> dict[str, dict[str, Any]]:
    """File name (without .json) and content of each dashboard."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}


def panels(board: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The panels of a dashboard, in order, without the headings of its rows."""
    for panel in board["panels"]:
        if panel["type"] == "row":
            yield from panel["panels"]
        else:
            yield panel


def variables(board: dict[str, Any]) -> dict[str, str]:
    """Name and value of each variable, as the dashboard opens."""
    found = {}
    for variable in board["templating"]["list"]:
        value = variable["current"]["value"]
        found[variable["name"]] = variable["allValue"] if value == "$__all" else value
    return found


def queries() -> Iterator[Query]:
    """All of them: of panels, of variables, and of annotations."""
    for name, board in boards().items():
        values = variables(board)
        for panel in panels(board):
            for target in panel["targets"]:
                datasource = target["datasource"]["uid"]
                kind: Kind = "instant" if target.get("instant") else "range"
                if datasource == "loki" and panel["type"] in ("logs", "table"):
                    kind = "logs"
                legend = target.get("legendFormat", "")
                yield Query(name, panel, target["expr"], kind, datasource, legend, values)
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                title = {"title": f"variable {variable['name']}"}
                yield Query(name, title, variable["query"], "variable", variable["datasource"]["uid"], "", values)
        for mark in board["annotations"]["list"]:
            title = {"title": f"annotation {mark['name']}"}
            yield Query(name, title, mark["expr"], "annotation", mark["datasource"]["uid"], "", values)


LABEL_VALUES = re.compile(r"label_values\((?P<series>.+), (?P<label>\w+)\)")
"""A variable's query, which is Grafana's own and no PromQL: the values of a label of some series."""
