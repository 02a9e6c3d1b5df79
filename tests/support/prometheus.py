"""A real Prometheus over given targets and rules, and what it answers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import yaml

from launch import debian
from tests.support.processes import ROOT, Service, free_port, program_of

RULES = ROOT / "monitoring" / "prometheus" / "rules"
"""What is shipped."""


class Api:
    """What a running Prometheus answers."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=30, trust_env=False)

    def ready(self) -> bool:
        """It answers queries."""
        try:
            return self._http.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _get(self, path: str, **parameters: str | float) -> Any:
        """The `data` of an answer of /api/v1. Fails with Prometheus' own words."""
        answer = self._http.get(f"/api/v1/{path}", params=parameters)
        assert answer.status_code == 200, f"{path} {parameters}: {answer.text}"
        return answer.json()["data"]

    def query(self, expression: str, at: float | None = None) -> list[dict[str, Any]]:
        """An instant query's series, each `{"metric": labels, "value": [time, text]}`. `at` in Unix seconds."""
        given = {"time": at} if at is not None else {}
        return list(self._get("query", query=expression, **given)["result"])

    def value(self, expression: str) -> float:
        """The value of a query that has one series."""
        found = self.query(expression)
        assert len(found) == 1, f"{expression}: {found}"
        return float(found[0]["value"][1])

    def query_range(self, expression: str, start: float, end: float, step_seconds: float) -> list[dict[str, Any]]:
        """A range query's series, each `{"metric": labels, "values": [[time, text], …]}`. Times in Unix seconds."""
        return list(self._get("query_range", query=expression, start=start, end=end, step=step_seconds)["result"])

    def exemplars(self, expression: str, start: float, end: float) -> list[dict[str, Any]]:
        """Exemplars of the series that an expression selects. Times in Unix seconds."""
        return list(self._get("query_exemplars", query=expression, start=start, end=end))

    def targets(self) -> list[dict[str, Any]]:
        """All that it scrapes, with `labels`, `health` and `lastError`."""
        return list(self._get("targets", state="active")["activeTargets"])

    def rules(self) -> list[dict[str, Any]]:
        """All rules, with `health` and `lastError`."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def wait_until(self, expression: str, seconds: float = 120) -> list[dict[str, Any]]:
        """Wait until an expression has series; these. Fails with the targets when it takes too long."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = self.query(expression)
            if found:
                return found
            time.sleep(0.2)
        targets = [(each["labels"], each["health"], each["lastError"]) for each in self.targets()]
        raise AssertionError(f"{expression}: no series after {seconds} s; targets: {targets}")

    def wait_for_scrapes(self, count: int = 2, seconds: float = 180) -> None:
        """Wait until every target that has a fixed address has been scraped, and `count` times more from now on, so
        that `rate()` has a value. Prometheus takes up its targets some 5 s after its start."""
        last: dict[tuple[str, str], str] = {}
        seen = dict.fromkeys(self._fixed_targets(), -1)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for each in self.targets():
                key = (each["scrapePool"], each["discoveredLabels"]["__address__"])
                # A target that is not scraped yet has the year 1.
                if key in seen and each["lastScrape"] > "0002" and last.get(key) != each["lastScrape"]:
                    seen[key], last[key] = seen[key] + 1, each["lastScrape"]
            if all(number >= count for number in seen.values()):
                return
            time.sleep(0.1)
        raise AssertionError(f"scrapes after {seconds} s: {seen}")

    def _fixed_targets(self) -> list[tuple[str, str]]:
        return [
            (job["job_name"], address)
            for job in yaml.safe_load(self._get("status/config")["yaml"])["scrape_configs"]
            for group in job.get("static_configs", [])
            for address in group["targets"]
        ]

    def wait_for_rules(self, seconds: float = 240) -> None:
        """Wait until every rule has been evaluated. Fails for one that cannot be."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            rules = self.rules()
            failed = [(rule["name"], rule["lastError"]) for rule in rules if rule["health"] == "err"]
            assert not failed, failed
            if rules and all(rule["health"] == "ok" for rule in rules):
                return
            time.sleep(0.2)
        raise AssertionError(f"rules not evaluated: {[r['name'] for r in self.rules() if r['health'] != 'ok']}")


class Prometheus(Api):
    """A Prometheus of the test's own; to be entered. Its figures are gone when its folder is."""

    def __init__(self, config: Path, folder: Path, port: int | None = None) -> None:
        """`config` is a file of Prometheus' own format; data and log go to `folder`."""
        port = port or free_port()
        super().__init__(f"http://127.0.0.1:{port}")
        folder.mkdir(parents=True, exist_ok=True)
        command = [
            str(program_of(debian.PROMETHEUS)),
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--enable-feature=exemplar-storage",
        ]
        self.service = Service("prometheus", command, f"http://127.0.0.1:{port}", folder / "prometheus.log", {})

    def __enter__(self) -> Prometheus:
        self.service.start(lambda _: self.ready(), seconds=180)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self.service.stop()


def prometheus(
    folder: Path, targets: Mapping[str, Sequence[str]], rules: Sequence[Path] = (), interval_seconds: float = 0.5
) -> Prometheus:
    """A Prometheus for a test: `targets` are URLs of /metrics pages, or of services that have one, by job. Intervals
    are short; `rules` are rule files, evaluated as often as their groups say, or else every `interval_seconds`."""
    interval = f"{round(interval_seconds * 1000)}ms"
    jobs = []
    for job, urls in targets.items():
        paths = {urlsplit(url).path or "/metrics" for url in urls}
        assert len(paths) == 1, f"{job}: one path, not {paths}"
        addresses = [urlsplit(url).netloc for url in urls]
        jobs.append({"job_name": job, "metrics_path": paths.pop(), "static_configs": [{"targets": addresses}]})
    config = {
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
        "rule_files": [str(path) for path in rules],
        "scrape_configs": jobs,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    return Prometheus(folder / "prometheus.yml", folder)
