"""Load tests: Locust as `make load` runs it, in a process of its own, against a gateway and simulated replicas."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from tests.support import asking, processes
from tests.support.processes import ROOT, Service
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


def ended(process: subprocess.Popen[str], seconds: float = 60) -> tuple[int, str]:
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


def scrape(port: int, host: str = "127.0.0.1") -> str:
    """What Prometheus would get now; nothing before it is served."""
    try:
        return httpx.get(f"http://{host}:{port}/metrics", trust_env=False).raise_for_status().text
    except httpx.TransportError:
        return ""


@contextmanager
def held_back(url: str) -> Iterator[str]:
    """A proxy that hands an answer on when it has all of it; its address."""

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._hand_on(httpx.get(url + self.path, trust_env=False))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {"Content-Type": self.headers["Content-Type"]}
            self._hand_on(httpx.post(url + self.path, content=body, headers=headers, timeout=30, trust_env=False))

        def _hand_on(self, answer: httpx.Response) -> None:
            self.send_response(answer.status_code)
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            # Whoever asked may have left.
            with suppress(OSError):
                self.wfile.write(answer.content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


async def test_a_run_measures_what_the_engine_does_and_leaves_nothing_behind(
    stack: Stack, gateway: Service, tmp_path: Path
) -> None:
    port = processes.free_port()
    seen = ""
    async with no_leak(gateway, *stack.replicas):
        with load(tmp_path, gateway.url, "-u", "10", "-t", "10s", "--metrics-port", str(port)) as process:

            def all_of_it_is_served() -> bool:
                nonlocal seen
                seen = scrape(port)
                return (
                    total(seen, "locust_requests_total", result="ok", name="chat_stream") > 1
                    and total(seen, "locust_time_to_first_token_seconds_count", name="ask_stream") > 10
                    and total(seen, "locust_disconnects_total") > 4
                )

            assert asking.eventually(all_of_it_is_served, 30), seen + process.communicate(timeout=30)[0]
            code, said = ended(process)
        await nothing_held(*stack.replicas)
    assert code == 0, said
    assert "all thresholds were kept" in said
    assert total(seen, "locust_users") == 10
    assert {"ask", "ask_stream", "chat_stream", "ask_leaving"} == {
        part.split('"')[1] for line in seen.splitlines() for part in line.split(",") if part.startswith("name=")
    }
    assert total(seen, "locust_requests_total", result="failed") == total(seen, "locust_implausible_total") == 0
    # Ten users may want more than the eight slots at times, which the median and the mean of the gaps do not show.
    assert mean(seen, "locust_inter_token_latency_seconds") == pytest.approx(TOKEN_SECONDS, rel=0.5)
    as_the_engine_was_told(rows(tmp_path))
    assert "first token" in report(tmp_path)


def as_the_engine_was_told(table: Rows) -> None:
    """Medians of the streamed questions, and that times of tokens are not counted as requests."""
    first, gaps, answers = (table[kind, "ask_stream"] for kind in ("first token", "inter-token", "POST"))
    assert FIRST_TOKEN_SECONDS <= float(first["50%"]) / 1000 <= FIRST_TOKEN_SECONDS * 2.5
    assert float(gaps["50%"]) / 1000 == pytest.approx(TOKEN_SECONDS, rel=0.3)
    whole = FIRST_TOKEN_SECONDS + (TOKENS - 1) * TOKEN_SECONDS
    # Locust keeps two digits.
    assert whole * 0.98 <= float(answers["50%"]) / 1000 <= whole * 2
    # Where the gateway reads late, two tokens come as one.
    most = (TOKENS - 1) * int(answers["Request Count"])
    assert 0.8 * most <= int(gaps["Request Count"]) <= most
    assert int(table["left", "ask_leaving"]["Request Count"]) > 4
    requests = sum(int(row["Request Count"]) for (kind, _), row in table.items() if kind == "POST")
    assert int(table["", "Aggregated"]["Request Count"]) == requests


def test_workers_figures_reach_the_master_and_a_missed_threshold_fails_the_run(
    gateway: Service, tmp_path: Path
) -> None:
    port = processes.free_port()
    options = ["-u", "8", "-t", "7s", "--processes", "2", "--metrics-port", str(port), "--metrics-host", "127.0.0.2"]
    seen = ""
    with load(tmp_path, gateway.url, *options, "--max-p95-first-token-seconds", "0.01") as process:

        def served() -> bool:
            nonlocal seen
            seen = scrape(port, "127.0.0.2")
            return total(seen, "locust_time_to_first_token_seconds_count", name="ask_stream") > 4

        assert asking.eventually(served, 30), seen
        assert total(seen, "locust_users") == 8
        code, said = ended(process)
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
    # Retry-After is at least a second.
    assert 5 <= refused <= 10 * (5 + 1)
    assert int(table["", "Aggregated"]["Failure Count"]) == 0
    assert int(table["", "Aggregated"]["Request Count"]) >= 1


def test_a_stream_that_is_held_back_on_the_way_is_a_failure(gateway: Service, tmp_path: Path) -> None:
    options = ["-t", "6s", "--metrics-port", "0", "--max-tokens", "30", "StreamUser"]
    with held_back(gateway.url) as url, load(tmp_path, url, *options) as process:
        code, said = ended(process)
    assert code == 1, said
    assert "something on the way buffers" in said
    assert "ChatUser" not in said
    assert "answers were implausible; at most 0 may be." in said


def test_an_address_at_which_nothing_listens_is_said_at_once(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{processes.free_port()}"
    with load(tmp_path, url) as process:
        code, said = ended(process, 20)
    assert code == 2
    assert f"nothing to test at {url}" in said
    assert "make run" in said
    assert "Traceback" not in said
    assert not (tmp_path / "volumes").exists()


def test_a_taken_port_of_the_metrics_is_a_warning(gateway: Service, tmp_path: Path) -> None:
    port = gateway.url.rpartition(":")[2]
    with load(tmp_path, gateway.url, "-t", "2s", "-u", "2", "--metrics-port", port) as process:
        code, said = ended(process)
    assert code == 0, said
    assert "no metrics for Prometheus" in said
