"""The configuration that `make monitor` makes of the shipped one."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

from launch import debian, monitor
from launch.monitor import Ports, commands, local, targets
from tests.support.processes import ROOT, free_port, program_of

SHIPPED: dict[str, Any] = yaml.safe_load((ROOT / "monitoring" / "prometheus" / "prometheus.yml").read_text())
PORTS = Ports()


def made(environment: dict[str, str], ports: Ports = PORTS, there: str = "", **more: list[str]) -> dict[str, Any]:
    """`there` is the only page that answers."""
    urls = {**targets(environment, ports, lambda url: url == there), **more}
    return local(SHIPPED, urls, ROOT / "monitoring" / "prometheus")


def addresses(config: dict[str, Any]) -> dict[str, list[str]]:
    return {
        job["job_name"]: [address for group in job["static_configs"] for address in group["targets"]]
        for job in config["scrape_configs"]
    }


def test_without_settings_it_finds_what_make_run_starts() -> None:
    assert addresses(made({})) == {
        "app": ["127.0.0.1:8000"],
        "app_llm": ["127.0.0.1:8080"],
        "setup_milvus": ["127.0.0.1:9108"],
        "node": ["127.0.0.1:9100"],
        "locust": ["127.0.0.1:9646"],
        "prometheus": ["127.0.0.1:9090"],
    }


def test_it_goes_by_the_settings() -> None:
    environment = {
        "PHAROS_HOST": "0.0.0.0",
        "PHAROS_PORT": "8001",
        "PHAROS_MODEL_URL": "http://10.0.0.11:8080, https://models.example.com",
        "PHAROS_INGEST_METRICS_PORT": "9208",
        "PHAROS_PROMETHEUS_PORT": "9190",
        "PHAROS_NODE_EXPORTER_PORT": "9200",
    }
    found = made(environment, Ports.of(environment))
    assert addresses(found) == {
        "app": ["127.0.0.1:8001"],
        "app_llm": ["10.0.0.11:8080", "models.example.com:443"],
        "setup_milvus": ["127.0.0.1:9208"],
        "node": ["127.0.0.1:9200"],
        "locust": ["127.0.0.1:9646"],
        "prometheus": ["127.0.0.1:9190"],
    }
    (models,) = [job for job in found["scrape_configs"] if job["job_name"] == "app_llm"]
    assert [group.get("labels") for group in models["static_configs"]] == [None, {"__scheme__": "https"}]


@pytest.mark.parametrize("name", ["PHAROS_PORT", "PHAROS_PROMETHEUS_PORT"])
def test_what_is_no_port_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="eight"):
        made({name: "eight"}, Ports.of({name: "eight"}))


def test_only_the_addresses_differ() -> None:
    found = made({}, alertmanager=["http://127.0.0.1:9093"])
    shipped = {job["job_name"]: job for job in SHIPPED["scrape_configs"]}
    for job in found["scrape_configs"]:
        mine = {key: value for key, value in job.items() if key != "static_configs"}
        theirs = shipped[job["job_name"]]
        assert mine == {key: value for key, value in theirs.items() if not key.endswith("_configs")}
    assert found["global"] == SHIPPED["global"]
    assert found["alerting"] == {"alertmanagers": [{"static_configs": [{"targets": ["127.0.0.1:9093"]}]}]}


def test_every_job_that_is_not_only_for_containers_is_taken() -> None:
    found = addresses(made({}, alertmanager=["http://a:1"], milvus=["http://m:9091"], gpu=["http://g:9400"]))
    shipped = {job["job_name"] for job in SHIPPED["scrape_configs"]}
    assert shipped - found.keys() == {"loki", "tempo", "grafana"}


def test_without_alertmanager_none_is_told() -> None:
    assert made({})["alerting"] == {"alertmanagers": []}


def test_prometheus_takes_it(tmp_path: Path) -> None:
    config = tmp_path / "prometheus.yml"
    config.write_text(yaml.safe_dump(made({}, alertmanager=["http://127.0.0.1:9093"])))
    checked = subprocess.run(
        [program_of(debian.PROMTOOL), "check", "config", config], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "2 rule files found" in checked.stdout


class _Metrics(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/metrics" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def exporter() -> Iterator[int]:
    """The port of something that has a /metrics page."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Metrics) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_an_exporter_that_is_there_is_scraped(exporter: int) -> None:
    assert monitor.answers(f"http://127.0.0.1:{exporter}/metrics")
    assert not monitor.answers(f"http://127.0.0.1:{exporter}/elsewhere")
    gpu, milvus = "http://127.0.0.1:9400/metrics", "http://10.0.0.9:9091/metrics"
    assert addresses(made({}, there=gpu))["gpu"] == ["127.0.0.1:9400"]
    found = addresses(made({"PHAROS_MILVUS_URI": "http://10.0.0.9:19530"}, there=milvus))
    assert (found["milvus"], "gpu" in found) == (["10.0.0.9:9091"], False)


def test_a_node_exporter_that_is_there_is_not_started_again(exporter: int, tmp_path: Path) -> None:
    venv = ROOT / ".venv"
    assert "node" in commands(Ports(node=free_port()), tmp_path / "c.yml", tmp_path, venv)
    assert "node" not in commands(Ports(node=exporter), tmp_path / "c.yml", tmp_path, venv)


def test_everything_listens_on_loopback(tmp_path: Path) -> None:
    for name, words in commands(Ports(node=free_port()), tmp_path / "c.yml", tmp_path, ROOT / ".venv").items():
        (listens,) = [word for word in words if word.startswith("--web.listen-address=")]
        assert listens.startswith("--web.listen-address=127.0.0.1:"), name


def test_alertmanager_runs_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked = tmp_path / "venv" / debian.FOLDER / "usr" / "bin"
    installed = tmp_path / "bin"
    for folder in (unpacked, installed):
        folder.mkdir(parents=True)
        (folder / "prometheus-alertmanager").touch(mode=0o755)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(debian, "ROOTS_PATH", "/nowhere")
    assert monitor.alertmanager(tmp_path / "venv") is None
    monkeypatch.setenv("PATH", str(installed))
    assert monitor.alertmanager(tmp_path / "venv") == installed / "prometheus-alertmanager"


def test_it_keeps_as_long_and_the_same_as_in_compose(tmp_path: Path) -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["prometheus"]["command"]
    ours = commands(Ports(node=free_port()), tmp_path / "c.yml", tmp_path, ROOT / ".venv")["prometheus"]
    kept = re.compile(r"--(enable-feature|storage\.tsdb\.retention\.time)=")
    assert {word for word in ours if kept.match(word)} == {word for word in compose if kept.match(word)}
