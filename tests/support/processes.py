"""Start, watch and end the real services."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from app.adapters.discovery import Discovery
from app.adapters.model_client import HttpModelClient, Patience
from app.replicas import Health, Replicas
from launch import debian
from observability.settings import TelemetrySettings

ROOT = Path(__file__).parents[2]


PORTS = range(22_000, 31_000)
"""Below those that the kernel gives to connections (on Linux from 32,768 on), and without those of Milvus' parts: else
a connection of anybody could take a service's port before it listens there, or while it is started again."""
_draw = random.SystemRandom()  # not what hypothesis seeds: other processes draw too
_given: set[int] = set()


def free_port() -> int:
    """A port nobody listens on; another one each time."""
    while True:
        port = _draw.choice(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in _given:
                _given.add(port)
                return port


class Service:
    """One process in a group of its own, whose output goes to a file."""

    def __init__(self, name: str, command: list[str], url: str, log: Path, environment: dict[str, str]) -> None:
        self.name = name
        self.url = url
        self.log = log
        self.command = command
        self._environment = {**os.environ, "PYTHONUNBUFFERED": "1", **environment}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, ready: Callable[[Service], bool] | None = None, seconds: float = 180) -> Service:
        """Start it and wait until it is ready; fail with its output when it ends or takes too long."""
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                self.command, cwd=ROOT, env=self._environment, stdout=out, stderr=out, start_new_session=True
            )
        ready = ready or answers_ready
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if ready(self):
                return self
            if self.process.poll() is not None:
                raise AssertionError(f"{self.name} ended with {self.process.returncode}:\n{self.tail()}")
            time.sleep(0.1)
        self.kill()
        raise AssertionError(f"{self.name} was not ready after {seconds} s:\n{self.tail()}")

    def run(self, seconds: float = 300) -> int:
        """Start it and wait for its end; its exit status."""
        self.start(lambda _: True)
        assert self.process is not None
        return self.process.wait(seconds)

    def stop(self) -> None:
        """End it as an operator would, and what it left behind by force."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(15)
        self.kill()

    def kill(self) -> None:
        """SIGKILL to the whole group."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def tail(self) -> str:
        """The end of its output."""
        return self.log.read_text(errors="replace")[-4000:]


def answers_ready(service: Service) -> bool:
    """GET /readyz says 200."""
    return _status(service.url + "/readyz") == 200


def answers_healthy(service: Service) -> bool:
    """GET /healthz says 200."""
    return _status(service.url + "/healthz") == 200


def listens(service: Service) -> bool:
    """Something accepts connections on its port."""
    host, _, port = service.url.removeprefix("http://").partition(":")
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, int(port))) == 0


def _status(url: str) -> int:
    try:
        return httpx.get(url, timeout=5, trust_env=False).status_code
    except httpx.TransportError:
        return 0


def model_service(log: Path, port: int | None = None, **settings: object) -> Service:
    """app_llm; `settings` are PHAROS_LLM_* in lower case, and those of TelemetrySettings PHAROS_*."""
    port = port or free_port()
    shared = TelemetrySettings.model_fields.keys()
    environment = {
        f"{'PHAROS' if name in shared else 'PHAROS_LLM'}_{name.upper()}": str(value) for name, value in settings.items()
    }
    environment["PHAROS_LLM_PORT"] = str(port)
    return Service("app_llm", [sys.executable, "-m", "app_llm"], f"http://127.0.0.1:{port}", log, environment)


def simulated_model_service(log: Path, port: int | None = None, **settings: object) -> Service:
    """app_llm with the simulated engine and the hash encoder."""
    return model_service(log, port, **{"engine": "simulated", "encoder": "hash", **settings})


def replicas(*urls: str, **health: float) -> Replicas:
    """What the gateway knows of these model services; to be entered."""
    settings = {"failures": 3, "probe_seconds": 0.2, "resolve_seconds": 1.0, **health}
    patience = Patience(connect_seconds=1, call_seconds=60, silence_seconds=60, connections=8)
    return Replicas(
        resolve=Discovery(urls),
        connect=lambda address: HttpModelClient(address, patience),
        health=Health(**settings),  # type: ignore[arg-type]
    )


def gateway(log: Path, model_url: str, milvus_uri: str, **settings: object) -> Service:
    """app; `settings` are PHAROS_* in lower case."""
    port = free_port()
    environment = {f"PHAROS_{name.upper()}": str(value) for name, value in settings.items()}
    environment |= {"PHAROS_PORT": str(port), "PHAROS_MODEL_URL": model_url, "PHAROS_MILVUS_URI": milvus_uri}
    return Service("app", [sys.executable, "-m", "app"], f"http://127.0.0.1:{port}", log, environment)


def milvus_lite(folder: Path, log: Path, port: int | None = None) -> Service:
    """Milvus Lite as a server."""
    port = port or free_port()
    command = [sys.executable, "-m", "milvus_lite", "server", "--host", "127.0.0.1", "--port", str(port)]
    return Service("milvus-lite", [*command, "--data-dir", str(folder)], f"http://127.0.0.1:{port}", log, {})


def ingestion(log: Path, model_url: str, milvus_uri: str, *arguments: str, **settings: object) -> Service:
    """setup_milvus, to be started by hand. Without `ingest_metrics_port` it serves no metrics, since jobs of several
    tests may run at the same time."""
    settings = {"ingest_metrics_port": 0, **settings}
    environment = {f"PHAROS_{name.upper()}": str(value) for name, value in settings.items()}
    environment |= {"PHAROS_MODEL_URL": model_url, "PHAROS_MILVUS_URI": milvus_uri}
    return Service("setup_milvus", [sys.executable, "-m", "setup_milvus", *arguments], "", log, environment)


def milvus_standalone(folder: Path, log: Path, port: int | None = None) -> Service:
    """Milvus Standalone 2.3.5, from its wheel."""
    port = port or free_port()
    program = "import sys; from milvus import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "--data", str(folder), "--proxy-port", str(port)]
    return Service("milvus-standalone", command, f"http://127.0.0.1:{port}", log, {})


def serves_milvus(service: Service) -> bool:
    """Milvus answers a query, which it does some seconds after it listens."""
    from pymilvus import MilvusClient, MilvusException

    if not listens(service):
        return False
    try:
        client = MilvusClient(service.url, timeout=2)
        client.list_collections()
        client.close()
    except MilvusException:
        return False
    return True


def program_of(program: debian.Program) -> Path:
    """Where it is; the test that needs it fails where it is not."""
    found = debian.find(ROOT / ".venv", program)
    assert found is not None, debian.missing(program)
    return found


def nginx(folder: Path, *gateways: str) -> Service:
    """nginx in front of `gateways` (URLs), with the files of deploy/nginx: all that differs is the port, where it
    writes, and that the gateways have addresses, since Debian's nginx does not know `resolve`."""
    program = program_of(debian.NGINX)
    port = free_port()
    folder.mkdir(parents=True)
    for file in (ROOT / "deploy" / "nginx").glob("*.conf"):
        (folder / file.name).write_text(file.read_text())

    def replace(file: str, old: str, new: Callable[[re.Match[str]], str]) -> None:
        text, count = re.subn(old, new, (folder / file).read_text(), flags=re.MULTILINE)
        assert count, f"{file} has no {old}"
        (folder / file).write_text(text)

    replace("nginx.conf", r"/tmp/", lambda _: f"{folder}/")
    replace("gateway.conf", r"listen 8000;", lambda _: f"listen 127.0.0.1:{port};")
    replace("upstream.conf", r"^resolver .*", lambda _: "")
    addresses = [url.removeprefix("http://") for url in gateways]
    replace(
        "upstream.conf",
        r"server app:8000 resolve(.*;)",
        lambda found: "\n".join(f"server {address}{found[1]}" for address in addresses),
    )
    # Started by root it would give up its rights, and with them the way to its files in the test's folder.
    user = ["-g", "user root;"] if os.geteuid() == 0 else []
    command = [str(program), "-e", "stderr", "-c", str(folder / "nginx.conf"), *user]
    return Service("nginx", command, f"http://127.0.0.1:{port}", folder / "nginx.log", {})
