"""Grafana's dashboards as code. `python -m monitoring.dashboards` (or `make dashboards`) writes their JSON files."""

from __future__ import annotations

from pathlib import Path

from monitoring.dashboards.boards import as_json
from monitoring.dashboards.load_test import load_test
from monitoring.dashboards.models import models
from monitoring.dashboards.retrieval import retrieval
from monitoring.dashboards.service import service
from monitoring.dashboards.time_spent import time_spent

FOLDER = Path(__file__).parents[1] / "grafana" / "dashboards"
"""Where Grafana's provisioning finds them."""
BOARDS = {
    "service": service,
    "where-did-my-time-go": time_spent,
    "models-and-gpu": models,
    "retrieval-and-ingestion": retrieval,
    "load-test": load_test,
}
"""File names, without `.json`."""


def files() -> dict[str, str]:
    """Name and text of each file."""
    return {f"{name}.json": as_json(make()) for name, make in BOARDS.items()}
