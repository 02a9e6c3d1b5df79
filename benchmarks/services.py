"""Every process a measure starts: Pharos' own, the floors and the peers. Each listens on a free port of 127.0.0.1."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from benchmarks.peers import environment_of
from tests.support import processes
from tests.support.processes import Service, free_port, listens

LOGS = Path("volumes/bench/logs")
ENCODER = "volumes/models/all-MiniLM-L6-v2"
GENERATOR = "volumes/models/SmolLM2-135M-Instruct"
NO_MILVUS = "http://127.0.0.1:1"
"""Nobody listens on port 1; the gateway starts without Milvus and these measures do not search."""


@contextmanager
def running(service: Service, ready: Callable[[Service], bool] | None = None) -> Iterator[Service]:
    """The service, ready, until the end of the block."""
    try:
        yield service.start(ready or listens, seconds=300)
    finally:
        service.stop()


def pid(service: Service) -> int:
    assert service.process is not None, f"{service.name} is not running"
    return service.process.pid


def _log(name: str) -> Path:
    LOGS.mkdir(parents=True, exist_ok=True)
    path = LOGS / f"{name}.log"
    path.unlink(missing_ok=True)
    return path


def answers_ok(path: str) -> Callable[[Service], bool]:
    """GET `path` says 200."""

    def ready(service: Service) -> bool:
        try:
            # Without `verify` httpx would read every certificate of the machine at each call, which takes a core.
            return httpx.get(service.url + path, timeout=5, trust_env=False, verify=False).status_code == 200
        except httpx.TransportError:
            return False

    return ready


# Pharos


def model_service(name: str = "app_llm", /, **settings: object) -> Service:
    """app_llm; `settings` are PHAROS_LLM_* in lower case. Ready when /readyz says so."""
    return processes.model_service(_log(name), None, **settings)


def simulated_models(name: str = "app_llm", /, **settings: object) -> Service:
    """app_llm with the simulated engine and the hash encoder."""
    return processes.simulated_model_service(_log(name), None, **settings)


def gateway(model_url: str, milvus_uri: str = NO_MILVUS, **settings: object) -> Service:
    """app. Without Milvus it is never "ready", so wait until it `serves_models`."""
    return processes.gateway(_log("app"), model_url, milvus_uri, **settings)


def bare_gateway(model_url: str) -> Service:
    """app without anything that observes it."""
    service = processes.gateway(_log("bare"), model_url, NO_MILVUS)
    service.command = [sys.executable, "-m", "benchmarks.bare_gateway"]
    return service


def loki_sink() -> Service:
    """Where logs may go."""
    return _module("loki", "benchmarks.loki_sink")


def serves_models(front: Service) -> bool:
    """The gateway has found its model service, whatever else it misses."""
    try:
        checks = httpx.get(front.url + "/readyz", timeout=5, trust_env=False, verify=False).json()["checks"]
    except (httpx.TransportError, ValueError):
        return False
    return bool(checks["model_service"])


# Floors


def _module(name: str, module: str, *arguments: str) -> Service:
    port = free_port()
    command = [sys.executable, "-m", module, str(port), *arguments]
    return Service(name, command, f"http://127.0.0.1:{port}", _log(name), {})


def raw_server() -> Service:
    return _module("raw-server", "benchmarks.load.rawserver")


def upstream(first_token_seconds: float, token_seconds: float) -> Service:
    """The simulated OpenAI-compatible server."""
    return _module("upstream", "benchmarks.upstream", str(first_token_seconds), str(token_seconds))


# Peers


def litellm(upstream_url: str) -> Service:
    """LiteLLM's proxy before one upstream, one worker as ours, with what its documentation recommends for speed."""
    port = free_port()
    config = LOGS / "litellm.yaml"
    log = _log("litellm")
    config.write_text(
        "model_list:\n"
        "  - model_name: simulated\n"
        f"    litellm_params: {{model: openai/simulated, api_base: '{upstream_url}/v1', api_key: none}}\n"
        "litellm_settings: {telemetry: false, set_verbose: false, request_timeout: 600}\n"
    )
    command = [str(environment_of("litellm") / "bin" / "litellm"), "--config", str(config), "--host", "127.0.0.1"]
    settings = {"LITELLM_MODE": "PRODUCTION", "LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    # Without a key it has less to do, as our gateway has.
    settings["LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY"] = "true"
    return Service("litellm", [*command, "--port", str(port)], f"http://127.0.0.1:{port}", log, settings)


def vllm_router(upstream_url: str) -> Service:
    """vLLM's router (written in Rust) before one upstream."""
    port = free_port()
    program = environment_of("vllm-router") / "bin" / "vllm-router"
    command = [str(program), "--worker-urls", upstream_url, "--policy", "round_robin", "--log-level", "error"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(free_port())]
    return Service("vllm-router", command, f"http://127.0.0.1:{port}", _log("vllm-router"), {})


def infinity() -> Service:
    """Infinity with the same encoder as ours, its PyTorch engine and batches of 64."""
    port = free_port()
    program = environment_of("infinity") / "bin" / "infinity_emb"
    command = [str(program), "v2", "--model-id", ENCODER, "--served-model-name", Path(ENCODER).name]
    command += ["--engine", "torch", "--device", "cpu", "--batch-size", "64", "--log-level", "warning"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    settings = {"INFINITY_ANONYMOUS_USAGE_STATS": "0", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
    return Service("infinity", command, f"http://127.0.0.1:{port}", _log("infinity"), settings)
