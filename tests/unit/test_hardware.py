"""What the model service chooses for a machine where the settings leave it the choice."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app_llm.hardware import GIB, Plan, plan
from app_llm.settings import Settings

AMX = frozenset({"avx2", "avx512f", "avx512_bf16", "amx_bf16"})
OLD = frozenset({"avx2", "fma"})


def plan_for(settings: Settings, *, gpu: bool = False, cpu_flags: frozenset[str] = OLD, memory_gib: float = 64) -> Plan:
    return plan(settings, gpu=gpu, cores=8, memory_bytes=int(memory_gib * GIB), cpu_flags=cpu_flags)


def test_an_old_cpu_gets_float32() -> None:
    assert plan_for(Settings()) == Plan(
        device="cpu",
        dtype="float32",
        threads=8,
        kv_cache_gib=6,
        max_sequences=32,
        compile=False,
        encoder_device="cpu",
        reranker_device="cpu",
    )


def test_a_cpu_that_computes_in_bfloat16_gets_it_and_nothing_else_changes() -> None:
    assert plan_for(Settings(), cpu_flags=AMX) == replace(plan_for(Settings()), dtype="bfloat16")


@pytest.mark.parametrize(
    ("flag", "dtype"),
    [
        ("avx512_bf16", "bfloat16"),
        ("amx_bf16", "bfloat16"),
        ("bf16", "bfloat16"),
        ("avx512f", "float32"),
        ("amx_int8", "float32"),
    ],
)
def test_only_native_bfloat16_counts(flag: str, dtype: str) -> None:
    assert plan_for(Settings(), cpu_flags=OLD | {flag}).dtype == dtype


def test_a_gpu_leaves_the_dtype_to_vllm_and_compiles() -> None:
    chosen = plan_for(Settings(), gpu=True)
    assert (chosen.device, chosen.encoder_device) == ("cuda", "cuda")
    assert (chosen.dtype, chosen.max_sequences, chosen.compile) == ("auto", 256, True)


@pytest.mark.parametrize(("memory_gib", "kv_cache_gib"), [(0.5, 1), (8, 1), (40, 4), (160, 16), (1024, 16)])
def test_the_cache_is_a_tenth_of_the_memory_within_bounds(memory_gib: float, kv_cache_gib: int) -> None:
    assert plan_for(Settings(), memory_gib=memory_gib).kv_cache_gib == kv_cache_gib


@pytest.mark.parametrize("gpu", [False, True])
def test_what_is_set_is_kept(gpu: bool) -> None:
    settings = Settings(
        dtype="float16",
        threads=3,
        kv_cache_gib=24,
        max_sequences=7,
        compile="yes",
        encoder_device="cuda:1",
        reranker_device="cuda:2",
    )
    assert plan_for(settings, gpu=gpu, cpu_flags=AMX) == Plan(
        device="cuda" if gpu else "cpu",
        dtype="float16",
        threads=3,
        kv_cache_gib=24,
        max_sequences=7,
        compile=True,
        encoder_device="cuda:1",
        reranker_device="cuda:2",
    )


def test_compiling_can_be_refused_on_a_gpu() -> None:
    assert plan_for(Settings(compile="no"), gpu=True).compile is False


def test_the_encoder_can_stay_on_the_cpu_beside_a_gpu() -> None:
    chosen = plan_for(Settings(encoder_device="cpu"), gpu=True)
    assert (chosen.device, chosen.encoder_device) == ("cuda", "cpu")
