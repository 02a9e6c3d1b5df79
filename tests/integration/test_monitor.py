"""`make monitor` beside a running Pharos: real Prometheus, shipped scrape settings and rules."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support import processes
from tests.support.asking import eventually
from tests.support.processes import Service
from tests.support.prometheus import Api


@pytest.fixture(scope="module")
def ports() -> dict[str, int]:
    return {name: processes.free_port() for name in ("prometheus", "alertmanager", "node_exporter")}


def monitor(folder: Path, gateway: Service, models: Service, milvus: Service, ports: dict[str, int]) -> Service:
    environment = {
        "PHAROS_PORT": gateway.url.rpartition(":")[2],
        "PHAROS_MODEL_URL": models.url,
        "PHAROS_MILVUS_URI": milvus.url,
        **{f"PHAROS_{name.upper()}_PORT": str(port) for name, port in ports.items()},
    }
    command = [sys.executable, "-m", "launch.monitor", "--folder", str(folder / "monitor")]
    return Service("monitor", command, f"http://127.0.0.1:{ports['prometheus']}", folder / "monitor.log", environment)


def says_where_to_look(service: Service) -> bool:
    return "alerts        http://" in service.log.read_text()


@pytest.fixture(scope="module")
def running(
    gateway: Service,
    simulated: Service,
    milvus_lite: Service,
    ports: dict[str, int],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Service]:
    service = monitor(tmp_path_factory.mktemp("monitor"), gateway, simulated, milvus_lite, ports)
    yield service.start(says_where_to_look, seconds=180)
    service.stop()


@pytest.fixture(scope="module")
def api(running: Service) -> Iterator[Api]:
    api = Api(running.url)
    api.wait_for_scrapes(0)
    yield api
    api.close()


@pytest.mark.parametrize("job", ["app", "app_llm", "node", "prometheus"])
def test_what_runs_is_scraped(api: Api, job: str) -> None:
    api.wait_until(f'up{{job="{job}"}} == 1')


def test_each_service_gives_its_own_metrics(api: Api, gateway: Service, simulated: Service) -> None:
    for job, service in (("app", gateway), ("app_llm", simulated)):
        (series,) = api.query(f'up{{job="{job}"}}')
        assert series["metric"]["instance"] == service.url.removeprefix("http://")
        assert api.value(f'count({{__name__=~"http_request.*", job="{job}"}})') > 0


def test_every_rule_evaluates(api: Api) -> None:
    api.wait_for_rules()
    assert {rule["name"] for rule in api.rules()} >= {"TargetDown", "pharos:slo_errors:ratio_rate3d"}


def test_nothing_is_wrong_when_nothing_is_wrong(api: Api) -> None:
    """Ingestion and the load test are not there, and that is no alarm."""
    api.wait_for_rules()
    assert {series["metric"]["job"] for series in api.query("up == 0")} == {"setup_milvus", "locust"}
    assert api.query('ALERTS{alertname=~"TargetDown|NoGateway"}') == []


def test_it_says_where_to_look_and_pages_are_there(running: Service) -> None:
    pages = re.findall(r"(?:queries|targets|alerts) +(http://\S+)", running.log.read_text())
    assert len(pages) == 3
    for page in pages:
        answer = httpx.get(page, timeout=60, trust_env=False, follow_redirects=True)
        assert answer.status_code == 200
        assert "Prometheus" in answer.text


def test_a_second_one_is_refused(
    running: Service, gateway: Service, simulated: Service, milvus_lite: Service, ports: dict[str, int], tmp_path: Path
) -> None:
    assert running.process is not None
    second = monitor(tmp_path, gateway, simulated, milvus_lite, ports)
    assert second.run(180) == 1
    assert f"port {ports['prometheus']} (prometheus) is in use" in second.log.read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_they_end_together(
    gateway: Service, simulated: Service, milvus_lite: Service, tmp_path: Path, number: signal.Signals
) -> None:
    """On Ctrl-C (SIGINT to the manager), and when one of them is killed."""
    ports = {name: processes.free_port() for name in ("prometheus", "alertmanager", "node_exporter")}
    service = monitor(tmp_path, gateway, simulated, milvus_lite, ports)
    service.start(says_where_to_look, seconds=180)
    assert service.process is not None
    manager = psutil.Process(service.process.pid)

    def named() -> dict[str, psutil.Process]:
        return {child.name(): child for child in manager.children(recursive=True)}

    # Each begins as a shell.
    assert eventually(lambda: {"prometheus", "prometheus-node"} <= {name[:15] for name in named()}, 60), named()
    children = named()
    os.kill(service.process.pid if number is signal.SIGINT else children["prometheus"].pid, number)
    assert (service.process.wait(120) == 0) == (number is signal.SIGINT)
    assert eventually(lambda: not any(child.is_running() for child in children.values()), 60)
    service.stop()
