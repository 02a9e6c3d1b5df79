"""`python3 -m launch.preflight`: can this machine run Pharos? One clear line for each reason why not.

Runs before anything is installed, so it needs nothing but the standard library, of any Python 3.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import socket
import sys
from ctypes.util import find_library
from pathlib import Path
from urllib.parse import urlsplit

PYTHONS = ((3, 11), (3, 13))
DISK_GIB = {"cpu": 5, "gpu": 20}
"""The CPU installation was measured: 3.2 GiB, and 0.6 for the models. The GPU's is an estimate from its lock."""
DISK_GIB_INSTALLED = 1
MEMORY_GIB = 5
"""An estimate with room to spare: two copies of a 0.5 GiB model, a KV cache of 1 GiB or more, torch, Milvus Lite."""
GIB = 2**30


def problems(accelerator: str, installed: bool, ports: bool, root: Path, environment: dict[str, str]) -> list[str]:
    """Every reason why `make run` would fail here, each with what to do."""
    found = []
    if sys.platform != "linux" or platform.machine() != "x86_64":
        found.append(
            f"Pharos runs on Linux on x86-64, and this is {sys.platform} on {platform.machine()}: use the containers."
        )
        return found
    if not PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        found.append(
            f"Python {sys.version.split()[0]} is not supported: install 3.11, 3.12 or 3.13 "
            "and say `make PYTHON=python3.11 …`."
        )
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        found.append("Python's venv module is missing: install it (Debian: apt install python3-venv).")
    if accelerator not in DISK_GIB:
        found.append(f"ACCELERATOR={accelerator} is neither cpu nor gpu.")
        return found
    if accelerator == "cpu" and "avx2" not in Path("/proc/cpuinfo").read_text():
        found.append("This processor has no AVX2, which vLLM's CPU build needs.")
    if accelerator == "cpu" and find_library("numa") is None:
        found.append("The library libnuma, which vLLM's CPU build needs, is missing: apt install libnuma1.")
    if accelerator == "gpu" and shutil.which("nvidia-smi") is None:
        found.append("ACCELERATOR=gpu, but there is no NVIDIA driver (nvidia-smi): install it or use the CPU.")
    need = DISK_GIB_INSTALLED if installed else DISK_GIB[accelerator]
    free = shutil.disk_usage(root).free / GIB
    if free < need:
        found.append(f"{free:.1f} GiB of disk are free under {root}; {need} are needed: make room.")
    memory = available_memory_gib()
    if ports and memory < MEMORY_GIB:
        found.append(f"{memory:.1f} GiB of memory are available; {MEMORY_GIB} are needed: close something.")
    if ports:
        try:
            wanted = local_ports(environment)
        except ValueError as exc:
            found.append(f"A port in the environment or in .env is no number: {exc}.")
            wanted = []
        found += [
            f"Port {port} ({name}) is in use: stop what listens there, or set {variable}."
            for name, port, variable in wanted
            if in_use(port)
        ]
    return found


def local_ports(environment: dict[str, str]) -> list[tuple[str, int, str]]:
    """Name, port and variable of everything that `make run` starts. Raises ValueError for what is no port."""
    found = [
        ("the gateway", int(environment.get("PHAROS_PORT", "8000")), "PHAROS_PORT"),
        ("the model service", int(environment.get("PHAROS_LLM_PORT", "8080")), "PHAROS_LLM_PORT and PHAROS_MODEL_URL"),
    ]
    milvus = milvus_lite_port(environment)
    if milvus is not None:
        found.append(("Milvus Lite", milvus, "PHAROS_MILVUS_URI"))
    return found


def milvus_lite_port(environment: dict[str, str]) -> int | None:
    """Where Milvus Lite is to be started; None where another Milvus is to be used: on another machine, or one that
    PHAROS_MILVUS_URI names and that answers here already (Standalone in a container, say)."""
    uri = urlsplit(environment.get("PHAROS_MILVUS_URI", "http://127.0.0.1:19530"))
    port = uri.port or 19530
    if uri.hostname not in ("127.0.0.1", "localhost"):
        return None
    return None if "PHAROS_MILVUS_URI" in environment and in_use(port) else port


def in_use(port: int) -> bool:
    """Whether something answers. (Binding would not tell: gRPC servers share ports with SO_REUSEPORT.)"""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def available_memory_gib() -> float:
    """What the kernel says can be had without swapping."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024 / GIB
    return float("inf")


def environment_with_dotenv(root: Path) -> dict[str, str]:
    """The environment, and below it what `.env` sets."""
    found: dict[str, str] = {}
    dotenv = root / ".env"
    if dotenv.is_file():
        for line in dotenv.read_text().splitlines():
            name, equals, value = line.strip().removeprefix("export ").partition("=")
            value = value.partition(" #")[0].strip().strip("\"'")
            if equals and value and not name.startswith("#"):
                found[name.strip().upper()] = value
    return {**found, **os.environ}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--no-ports", action="store_true", help="only what an installation needs")
    options = parser.parse_args()
    root = Path.cwd()
    installed = any((root / ".venv").glob(f".installed-{options.accelerator}-*"))
    found = problems(options.accelerator, installed, not options.no_ports, root, environment_with_dotenv(root))
    for problem in found:
        print(f"pharos: {problem}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
