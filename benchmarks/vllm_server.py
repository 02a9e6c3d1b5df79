"""vLLM's own OpenAI-compatible server, with the settings that app_llm gives its engine on this machine."""

from __future__ import annotations

import sys

from app_llm.hardware import plan_for_this_machine
from app_llm.settings import Settings
from benchmarks.services import LOGS
from tests.support.processes import Service, free_port

NAME = "generator"


def vllm_server(settings: Settings) -> Service:
    """Ready when GET /health says 200."""
    plan = plan_for_this_machine(settings)
    port = free_port()
    # By its module: the CPU build's `vllm` command looks for the name of the GPU build.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", settings.model]
    command += ["--served-model-name", NAME, "--dtype", plan.dtype, "--max-num-seqs", str(plan.max_sequences)]
    command += ["--max-model-len", str(settings.context_tokens), "--enable-prefix-caching"]
    command += ["--gpu-memory-utilization", str(settings.gpu_memory_fraction)]
    command += [] if plan.compile else ["--enforce-eager"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--disable-log-stats", "--uvicorn-log-level", "warning"]
    environment = {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "OMP_NUM_THREADS": str(plan.threads),
        "HF_HUB_OFFLINE": "1",
    }
    if plan.device == "cpu":
        environment["VLLM_CPU_KVCACHE_SPACE"] = str(plan.kv_cache_gib)
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / "vllm.log"
    log.unlink(missing_ok=True)
    return Service("vllm", command, f"http://127.0.0.1:{port}", log, environment)
