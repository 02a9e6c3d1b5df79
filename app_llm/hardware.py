"""What this machine is good for: dtype, threads and cache sizes where the settings leave the choice to us."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from app_llm.settings import Settings

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Plan:
    """The choices made. `kv_cache_gib` is meant for the CPU; on a GPU vLLM measures what is free itself."""

    device: str
    dtype: str
    threads: int
    kv_cache_gib: int
    max_sequences: int
    compile: bool
    encoder_device: str
    reranker_device: str


def plan(settings: Settings, *, gpu: bool, cores: int, memory_bytes: int, cpu_flags: frozenset[str]) -> Plan:
    """The settings, with every "auto" and 0 filled in for the machine described by the other arguments.

    On a CPU bfloat16 is taken only where the processor computes in it; emulated it is 3 to 4 times slower than float32.
    """
    device = "cuda" if gpu else "cpu"
    native_bf16 = bool(cpu_flags & {"avx512_bf16", "amx_bf16", "bf16"})
    dtype = settings.dtype
    if dtype == "auto" and not gpu:
        dtype = "bfloat16" if native_bf16 else "float32"
    return Plan(
        device=device,
        dtype=dtype,
        threads=settings.threads or cores,
        kv_cache_gib=math.ceil(settings.kv_cache_gib) or min(16, max(1, round(memory_bytes * 0.1 / GIB))),
        max_sequences=settings.max_sequences or (256 if gpu else 32),
        compile=gpu if settings.compile == "auto" else settings.compile == "yes",
        encoder_device=settings.encoder_device if settings.encoder_device != "auto" else device,
        reranker_device=settings.reranker_device if settings.reranker_device != "auto" else device,
    )


def plan_for_this_machine(settings: Settings) -> Plan:
    """`plan` for the machine we run on. Imports torch, to ask for a GPU."""
    import torch

    return plan(
        settings,
        gpu=torch.cuda.is_available(),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=_memory_bytes(),
        cpu_flags=_cpu_flags(),
    )


def _memory_bytes() -> int:
    """What this process may use: the machine's memory, or its container's limit (cgroup v2)."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total


def _cpu_flags() -> frozenset[str]:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("flags", "Features")):
            return frozenset(line.partition(":")[2].split())
    return frozenset()
