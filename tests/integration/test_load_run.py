"""Load tests: Locust as `make load` runs it, in a process of its own, against a gateway and simulated replicas."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from contracts import telemetry
from contracts.telemetry import Metric
from tests.support import asking, processes, scraping
from tests.support.processes import ROOT, Service
from tests.support.proxy import proxy
from tests.support.stack import Stack, warm
from tests.support.vitals import no_leak, nothing_held

FIRST_TOKEN_SECONDS, TOKEN_SECONDS = 0.2, 0.05
"""What the stack's replicas are told to take."""
TOKENS = 12
Rows = dict[tuple[str, str], dict[str, str]]


@pytest.fixture(scope="module")
def gateway(stack: Stack) -> Iterator[Service]:
    """With the patience that a gateway has by default: the stack's own fails requests when the machine is busy."""
    service = stack.another_gateway("load")
    warm(service.start())
    yield service
    service.stop()


@contextmanager
def load(folder: Path, host: str, *options: str) -> Iterator[subprocess.Popen[str]]:
    """`python -m locust_testing`, which writes its reports below `folder`."""
    folder.mkdir(exist_ok=True)
    arguments = ["--host", host, "--max-tokens", str(TOKENS), "--think-seconds", "0.4", *options]
    process = subprocess.Popen(
        [sys.executable, "-m", "locust_testing", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen[str], seconds: float = 300) -> tuple[int, str]:
    """Its exit code and what it said."""
    said, _ = process.communicate(timeout=seconds)
    return process.returncode, said


def rows(folder: Path) -> Rows:
    """Of the CSV file, by kind and name."""
    (file,) = folder.glob("volumes/load/*/load_stats.csv")
    with file.open(newline="") as lines:
        return {(row["Type"], row["Name"]): row for row in csv.DictReader(lines)}


def report(folder: Path) -> str:
    """The HTML."""
    (file,) = folder.glob("volumes/load/*/report.html")
    return file.read_text()


def total(metrics: str, metric: str, /, **labels: str) -> float:
    """The sum of a metric's samples whose labels include `labels`."""
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in metrics.splitlines()
        if line.startswith((metric + "{", metric + " ")) and all(f'{k}="{v}"' in line for k, v in labels.items())
    )


def mean(metrics: str, histogram: str) -> float:
    return total(metrics, f"{histogram}_sum") / total(metrics, f"{histogram}_count")


@dataclass(frozen=True)
class Took:
    """Seconds, on average: what the engine was told to take, or more where the gateway itself saw that the machine is
    too busy for it."""

    first_token: float
    token: float

    @property
    def answer(self) -> float:
        return self.first_token + (TOKENS - 1) * self.token


def took(grown: Callable[[str], float]) -> Took:
    """By how much the gateway's metrics have grown."""

    def average(metric: Metric) -> float:
        return grown(f"{metric.name}_sum") / grown(f"{metric.name}_count")

    return Took(
        max(FIRST_TOKEN_SECONDS, average(telemetry.FIRST_TOKEN_SECONDS)),
        max(TOKEN_SECONDS, average(telemetry.INTER_TOKEN_SECONDS)),
    )


def scrape(port: int, host: str = "127.0.0.1") -> str:
    """What Prometheus would get now; nothing before it is served."""
    try:
        return httpx.get(f"http://{host}:{port}/metrics", trust_env=False).raise_for_status().text
    except httpx.TransportError:
        return ""


async def test_a_run_measures_what_the_engine_does_and_leaves_nothing_behind(
    stack: Stack, gateway: Service, tmp_path: Path
) -> None:
    port = processes.free_port()
    seen = ""
    before = scraping.scrape(gateway.url)
    async with no_leak(gateway, *stack.replicas):
        with load(tmp_path, gateway.url, "-u", "10", "-t", "20s", "--metrics-port", str(port)) as process:

            def all_of_it_is_served() -> bool:
                nonlocal seen
                seen = scrape(port)
                return (
                    total(seen, "locust_users") == 10
                    and total(seen, "locust_requests_total", result="ok", name="chat_stream") > 1
                    and total(seen, "locust_requests_total", result="ok", name="ask_stream") > 10
                    and total(seen, "locust_disconnects_total") > 4
                )

            served = asking.eventually(all_of_it_is_served, 60)
            code, said = ended(process)
        assert served, seen + said
        await nothing_held(*stack.replicas)
    assert code == 0, said
    assert "all thresholds were kept" in said
    assert {"ask", "ask_stream", "chat_stream", "ask_leaving"} == {
        part.split('"')[1] for line in seen.splitlines() for part in line.split(",") if part.startswith("name=")
    }
    assert total(seen, "locust_requests_total", result="failed") == total(seen, "locust_implausible_total") == 0
    after = scraping.scrape(gateway.url)
    engine = took(lambda name: after.value(name) - before.value(name))
    # Ten users may want more than the eight slots at times, which the median and the mean of the gaps do not show.
    assert TOKEN_SECONDS * 0.5 <= mean(seen, "locust_inter_token_latency_seconds") <= engine.token * 1.5
    as_the_engine_was_told(rows(tmp_path), engine)
    assert "first token" in report(tmp_path)


def as_the_engine_was_told(table: Rows, engine: Took) -> None:
    """Medians of the streamed questions, and that times of tokens are not counted as requests."""
    first, gaps, answers = (table[kind, "ask_stream"] for kind in ("first token", "inter-token", "POST"))
    assert FIRST_TOKEN_SECONDS <= float(first["50%"]) / 1000 <= engine.first_token * 2.5
    assert TOKEN_SECONDS * 0.7 <= float(gaps["50%"]) / 1000 <= engine.token * 1.3
    whole = FIRST_TOKEN_SECONDS + (TOKENS - 1) * TOKEN_SECONDS
    # Locust keeps two digits.
    assert whole * 0.98 <= float(answers["50%"]) / 1000 <= engine.answer * 2
    # Where the gateway reads late, two tokens come as one.
    most = (TOKENS - 1) * int(answers["Request Count"])
    assert 0.5 * most <= int(gaps["Request Count"]) <= most
    assert int(table["left", "ask_leaving"]["Request Count"]) > 4
    requests = sum(int(row["Request Count"]) for (kind, _), row in table.items() if kind == "POST")
    assert int(table["", "Aggregated"]["Request Count"]) == requests


def test_workers_figures_reach_the_master_and_a_missed_threshold_fails_the_run(
    gateway: Service, tmp_path: Path
) -> None:
    port = processes.free_port()
    options = ["-u", "8", "-t", "15s", "--processes", "2", "--metrics-port", str(port), "--metrics-host", "127.0.0.2"]
    seen = ""
    with load(tmp_path, gateway.url, *options, "--max-p95-first-token-seconds", "0.01") as process:

        def served() -> bool:
            nonlocal seen
            seen = scrape(port, "127.0.0.2")
            first_tokens = total(seen, "locust_time_to_first_token_seconds_count", name="ask_stream")
            return total(seen, "locust_users") == 8 and first_tokens > 4

        reached = asking.eventually(served, 60)
        code, said = ended(process)
    assert reached, seen + said
    assert code == 1, said
    assert "missed: ask_stream: 95 % of the first tokens came within" in said
    assert "at most 0.01 s is allowed" in said
    assert "of the answers came within" not in said
    assert int(rows(tmp_path)["first token", "ask_stream"]["Request Count"]) > 4


def test_refusals_are_no_failures_and_users_wait_as_told(stack: Stack, tmp_path: Path) -> None:
    key = "a-key-of-the-load-test"
    items = {"encode_batch_items": 1, "search_batch_items": 1, "generate_batch_items": 1}
    few = stack.another_gateway("few", requests_max=1, api_keys=json.dumps({"load": {"key": key}}), **items)
    few.start()
    try:
        options = ["-u", "10", "-t", "5s", "--metrics-port", "0", "--api-key", key]
        with load(tmp_path, few.url, *options, "--max-refused-ratio", "1") as process:
            code, said = ended(process)
    finally:
        few.stop()
    assert code == 0, said
    table = rows(tmp_path)
    refused = sum(int(row["Request Count"]) for (kind, _), row in table.items() if kind == "refused")
    # Retry-After is at least a second, and a busy machine ends the run some seconds late. Else there would be 125.
    assert 5 <= refused <= 10 * (5 + 5)
    assert int(table["", "Aggregated"]["Failure Count"]) == 0
    assert int(table["", "Aggregated"]["Request Count"]) >= 1


def test_a_stream_that_is_held_back_on_the_way_is_a_failure(gateway: Service, tmp_path: Path) -> None:
    options = ["-t", "6s", "--metrics-port", "0", "--max-tokens", "30", "StreamUser"]
    with proxy(gateway.url) as url, load(tmp_path, url, *options) as process:
        code, said = ended(process)
    assert code == 1, said
    assert "something on the way buffers" in said
    assert "ChatUser" not in said
    assert "answers were implausible; at most 0 may be." in said


def test_an_address_at_which_nothing_listens_is_said_at_once(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{processes.free_port()}"
    with load(tmp_path, url) as process:
        code, said = ended(process, 60)
    assert code == 2
    assert f"nothing to test at {url}" in said
    assert "make run" in said
    assert "Traceback" not in said
    assert not (tmp_path / "volumes").exists()


def test_a_taken_port_of_the_metrics_is_a_warning(gateway: Service, tmp_path: Path) -> None:
    port = gateway.url.rpartition(":")[2]
    with load(tmp_path, gateway.url, "-t", "5s", "-u", "2", "--metrics-port", port) as process:
        code, said = ended(process)
    assert code == 0, said
    assert "no metrics for Prometheus" in said
