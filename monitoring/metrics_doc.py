"""`python -m monitoring.metrics_doc`: the tables of docs/metrics.md, from contracts/telemetry.py."""

from __future__ import annotations

from pathlib import Path

from contracts.telemetry import APP, APP_LLM, METRICS, SETUP, Metric

PATH = Path("docs/metrics.md")
BEGIN = "<!-- tables: begin (python -m monitoring.metrics_doc) -->\n"
END = "<!-- tables: end -->\n"
SERVICES = {APP: "Gateway (app)", APP_LLM: "Model service (app_llm)", SETUP: "Ingestion (setup_milvus)"}


def renewed(page: str) -> str:
    """The page with new tables between the markers. Raises ValueError where it has none."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    if not after:
        raise ValueError(f"{PATH} has lost its markers {BEGIN.strip()} and {END.strip()}")
    return before + BEGIN + tables() + "\n" + END + after


def tables() -> str:
    """One table for each service."""
    parts: list[str] = []
    for service, title in SERVICES.items():
        parts.append(f"\n## {title}\n\n| name | type | labels | what |\n|---|---|---|---|\n")
        parts += [_row(metric) for metric in METRICS if service in metric.services]
    return "".join(parts)


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    what = metric.help
    if metric.buckets:
        what += f" Buckets from {metric.buckets[0]:g} to {metric.buckets[-1]:g}."
    return f"| `{metric.name}` | {metric.kind} | {labels} | {what} |\n"


if __name__ == "__main__":
    PATH.write_text(renewed(PATH.read_text(encoding="utf-8")), encoding="utf-8")
