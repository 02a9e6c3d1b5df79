"""`make monitor`: Prometheus, the node exporter and, where it is installed, Alertmanager beside a running Pharos, on
loopback, until Ctrl-C.

Scrape settings, rules and routes are the shipped ones (monitoring/); only the addresses differ. When one of the
processes ends, for whatever reason, the others are ended too.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx
import yaml
from honcho.manager import Manager

from launch import debian
from launch.preflight import environment_with_dotenv, in_use
from launch.stack import INTERRUPTED

SHIPPED = Path("monitoring/prometheus/prometheus.yml")
ALERTMANAGER_CONFIG = Path("monitoring/alertmanager/alertmanager.yml")
FOLDER = Path("volumes/monitor")
"""The generated configuration, and what Prometheus and Alertmanager store."""
RETENTION = "15d"
READY_SECONDS = 60


class Ports(NamedTuple):
    """On 127.0.0.1. Of `node` and `gpu`: an exporter that is there already is scraped, wherever it came from."""

    prometheus: int = 9090
    alertmanager: int = 9093
    node: int = 9100
    gpu: int = 9400
    locust: int = 9646

    @staticmethod
    def of(environment: Mapping[str, str]) -> Ports:
        """From PHAROS_PROMETHEUS_PORT and PHAROS_ALERTMANAGER_PORT, PHAROS_NODE_EXPORTER_PORT. Raises ValueError."""
        names = {"prometheus": "PROMETHEUS", "alertmanager": "ALERTMANAGER", "node": "NODE_EXPORTER"}
        given = {field: environment.get(f"PHAROS_{name}_PORT") for field, name in names.items()}
        return Ports(**{field: int(port) for field, port in given.items() if port})


def targets(environment: Mapping[str, str], ports: Ports, answers: Callable[[str], bool]) -> dict[str, list[str]]:
    """URLs of what there is to scrape on this machine, by job, as the settings of the services say. Raises ValueError
    for what is no port. `answers` says whether there is a page at a URL, for what is not everywhere. Loki, Tempo and
    Grafana are not looked for: without containers nothing here starts them."""
    host = environment.get("PHAROS_HOST", "127.0.0.1")
    gateway = f"http://{'127.0.0.1' if host in ('0.0.0.0', '::') else host}:{int(environment.get('PHAROS_PORT', 8000))}"
    found = {
        "app": [gateway],
        "app_llm": environment.get("PHAROS_MODEL_URL", "http://127.0.0.1:8080").split(","),
        "setup_milvus": [f"http://127.0.0.1:{int(environment.get('PHAROS_INGEST_METRICS_PORT', 9108))}"],
        "node": [f"http://127.0.0.1:{ports.node}"],
        "locust": [f"http://127.0.0.1:{ports.locust}"],
        "prometheus": [f"http://127.0.0.1:{ports.prometheus}"],
    }
    milvus = urlsplit(environment.get("PHAROS_MILVUS_URI", "http://127.0.0.1:19530")).hostname
    # Milvus Lite, unlike Standalone and clusters, has no metrics.
    if milvus is not None and answers(f"http://{milvus}:9091/metrics"):
        found["milvus"] = [f"http://{milvus}:9091"]
    if answers(f"http://127.0.0.1:{ports.gpu}/metrics"):
        found["gpu"] = [f"http://127.0.0.1:{ports.gpu}"]
    return found


def alertmanager(venv: Path) -> Path | None:
    """The one that is installed. Debian's reads its templates from /usr, so one that is only unpacked does not run."""
    found = debian.find(venv, debian.ALERTMANAGER)
    return found if found is not None and debian.assets(found, venv, "usr") is None else None


def answers(url: str) -> bool:
    """Whether a page is there."""
    try:
        return httpx.get(url, timeout=2, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def local(shipped: Mapping[str, Any], urls: Mapping[str, list[str]], rules: Path) -> dict[str, Any]:
    """Prometheus' configuration with these addresses in place of the shipped ones. Jobs without any are left out."""
    jobs = []
    for job in shipped["scrape_configs"]:
        if job["job_name"] in urls:
            kept = {key: value for key, value in job.items() if not key.endswith("_configs")}
            jobs.append({**kept, "static_configs": [_static(url.strip()) for url in urls[job["job_name"]]]})
    alertmanagers = [{"static_configs": [_static(url)]} for url in urls.get("alertmanager", [])]
    return {
        **shipped,
        "rule_files": [str(rules / Path(pattern)) for pattern in shipped["rule_files"]],
        "alerting": {"alertmanagers": alertmanagers},
        "scrape_configs": jobs,
    }


def _static(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    secure = {"labels": {"__scheme__": "https"}} if parts.scheme == "https" else {}
    default = 443 if secure else 80
    return {"targets": [parts.netloc if parts.port else f"{parts.netloc}:{default}"], **secure}


def commands(ports: Ports, config: Path, folder: Path, venv: Path = debian.VENV) -> dict[str, list[str]]:
    """Name and command line of every process. Raises ProgramMissing."""
    prometheus = debian.ensure(venv, debian.PROMETHEUS)
    found = {
        "prometheus": [
            str(prometheus),
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'prometheus'}",
            f"--storage.tsdb.retention.time={RETENTION}",
            "--enable-feature=exemplar-storage",
            f"--web.listen-address=127.0.0.1:{ports.prometheus}",
            "--log.level=warn",
        ]
    }
    pages = debian.assets(prometheus, venv, "usr/share/prometheus/web")
    if pages is not None:
        found["prometheus"].append(f"--web.local-assets={pages}")
    routes = alertmanager(venv)
    if routes is not None:
        found["alertmanager"] = [
            str(routes),
            f"--config.file={ALERTMANAGER_CONFIG}",
            f"--storage.path={folder / 'alertmanager'}",
            f"--web.listen-address=127.0.0.1:{ports.alertmanager}",
            "--cluster.listen-address=",  # alone
            "--log.level=warn",
        ]
    if not in_use(ports.node):
        node = debian.ensure(venv, debian.NODE_EXPORTER)
        # Debian's asks systemd, and reads a folder that an installation makes; its makers' does neither.
        quiet = ["--no-collector.systemd", "--collector.textfile.directory=", "--log.level=error"]
        found["node"] = [str(node), f"--web.listen-address=127.0.0.1:{ports.node}", *quiet]
    return found


def say_when_ready(ports: Ports, urls: Mapping[str, list[str]]) -> None:
    """Print where to look as soon as Prometheus answers."""
    url = f"http://127.0.0.1:{ports.prometheus}"
    deadline = time.monotonic() + READY_SECONDS
    while not answers(f"{url}/-/ready"):
        if time.monotonic() > deadline:
            return
        time.sleep(0.2)
    # Debian's build has the pages of older versions, under another path.
    pages = f"{url}/classic" if answers(f"{url}/classic/targets") else url
    scraped = "\n".join(f"  {job:<14}{', '.join(addresses)}" for job, addresses in urls.items())
    print(
        f"""
Prometheus scrapes (setup_milvus and locust only while they run)

{scraped}

  queries       {pages}/graph
  targets       {pages}/targets
  alerts        {pages}/alerts

What the alerts mean and what to do: docs/operations.md. Ctrl-C stops everything.""",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the configuration and all data go")
    folder = parser.parse_args().folder
    environment = environment_with_dotenv(Path.cwd())
    try:
        ports = Ports.of(environment)
        urls = targets(environment, ports, answers)
    except ValueError as exc:
        return _refuse(f"a port in the environment or in .env is no number: {exc}.")
    if alertmanager(debian.VENV) is not None:
        urls["alertmanager"] = [f"http://127.0.0.1:{ports.alertmanager}"]
    for job in ("prometheus", "alertmanager"):
        if job in urls and in_use(getattr(ports, job)):
            name = f"PHAROS_{job.upper()}_PORT"
            return _refuse(f"port {getattr(ports, job)} ({job}) is in use: stop what listens there, or set {name}.")
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "prometheus.yml"
    shipped = yaml.safe_load(SHIPPED.read_text())
    config.write_text(yaml.safe_dump(local(shipped, urls, SHIPPED.parent.absolute()), sort_keys=False))
    try:
        processes = commands(ports, config, folder)
    except debian.ProgramMissing as exc:
        return _refuse(str(exc))
    manager = Manager()
    for name, words in processes.items():
        manager.add_process(name, f"exec {shlex.join(words)}", env=dict(os.environ))
    threading.Thread(target=say_when_ready, args=(ports, urls), daemon=True).start()
    manager.loop()
    return 0 if manager.returncode == INTERRUPTED else int(manager.returncode or 0)


def _refuse(reason: str) -> int:
    print(f"pharos: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
