"""A process's vital signs, in a registry of the test's own and in prometheus_client's default one."""

from __future__ import annotations

import asyncio
import gc
import platform
import time
import tomllib
from pathlib import Path

import pytest
from prometheus_client import REGISTRY, CollectorRegistry

from contracts import telemetry
from observability.build import VERSION
from observability.garbage import GcPauses
from observability.vitals import LAG_SECONDS, Lag, process_vitals, vitals

ROOT = Path(__file__).parents[2]
USUAL = {"process_resident_memory_bytes", "process_cpu_seconds", "python_info", "python_gc_collections"}
"""Of prometheus_client's own collectors, one or two series each."""


def names(registry: CollectorRegistry) -> list[str]:
    return [family.name for family in registry.collect()]


def value(registry: CollectorRegistry, name: str, **labels: str) -> float:
    found = registry.get_sample_value(name, labels)
    assert found is not None, name
    return found


async def test_everything_is_there_while_entered_and_nothing_after() -> None:
    registry = CollectorRegistry()
    callbacks = list(gc.callbacks)
    with vitals(registry, telemetry.APP):
        there = set(names(registry))
        assert len(gc.callbacks) == len(callbacks) + 1
    assert there >= USUAL
    ours = (telemetry.BUILD_INFO, telemetry.ASYNCIO_TASKS, telemetry.EVENT_LOOP_LAG, telemetry.GC_PAUSE)
    assert there >= {metric.name for metric in ours}
    assert names(registry) == []
    assert gc.callbacks == callbacks


async def test_nothing_is_left_when_what_is_watched_fails() -> None:
    registry = CollectorRegistry()
    callbacks = list(gc.callbacks)
    with pytest.raises(ZeroDivisionError), vitals(registry, telemetry.APP):
        raise ZeroDivisionError
    assert names(registry) == []
    assert gc.callbacks == callbacks


async def test_it_can_be_entered_again() -> None:
    registry = CollectorRegistry()
    for _ in range(2):
        with vitals(registry, telemetry.APP):
            assert names(registry).count(telemetry.ASYNCIO_TASKS.name) == 1


@pytest.mark.parametrize("inside_another", [False, True])
async def test_what_the_default_registry_has_is_not_there_twice(inside_another: bool) -> None:
    registry = REGISTRY
    if inside_another:  # as in app_llm
        registry = CollectorRegistry()
        registry.register(REGISTRY)
    with vitals(registry, telemetry.APP_LLM):
        there = names(registry)
    assert set(there) >= USUAL
    assert len(there) == len(set(there))
    assert set(names(registry)) >= USUAL, "they are not ours to take out"


async def test_the_build_says_what_runs() -> None:
    registry = CollectorRegistry()
    with vitals(registry, telemetry.APP_LLM):
        labels = {"service": "app_llm", "version": VERSION, "python": platform.python_version()}
        assert value(registry, telemetry.BUILD_INFO.name, **labels) == 1


def test_the_version_is_everywhere_the_same() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == VERSION
    assert f"PHAROS_TAG:-{VERSION}}}" in (ROOT / "docker-compose.yml").read_text()


async def test_tasks_are_counted_while_they_run() -> None:
    registry = CollectorRegistry()
    with vitals(registry, telemetry.APP):
        before = value(registry, telemetry.ASYNCIO_TASKS.name)
        end = asyncio.Event()
        tasks = [asyncio.create_task(end.wait()) for _ in range(7)]
        # From another thread, as in a scrape.
        assert await asyncio.to_thread(value, registry, telemetry.ASYNCIO_TASKS.name) == before + 7
        end.set()
        await asyncio.gather(*tasks)
        assert value(registry, telemetry.ASYNCIO_TASKS.name) == before


async def test_a_loop_that_is_held_up_is_late() -> None:
    registry = CollectorRegistry()
    count, total = f"{telemetry.EVENT_LOOP_LAG.name}_count", f"{telemetry.EVENT_LOOP_LAG.name}_sum"
    with vitals(registry, telemetry.APP):
        await asyncio.sleep(0)
        held_up = LAG_SECONDS + 0.3
        time.sleep(held_up)  # noqa: ASYNC251  # the fault that is to be seen
        while not value(registry, count):  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert value(registry, count) == 1, "a pause is one late timer, however many would have fitted into it"
        assert value(registry, total) >= held_up - LAG_SECONDS - 0.001


async def test_the_timer_is_set_again_until_it_is_stopped() -> None:
    registry = CollectorRegistry()
    count = f"{telemetry.EVENT_LOOP_LAG.name}_count"
    lag = Lag(asyncio.get_running_loop(), telemetry.EVENT_LOOP_LAG.histogram(registry))
    while value(registry, count) < 2:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    lag.stop()
    noted = value(registry, count)
    await asyncio.sleep(LAG_SECONDS + 0.1)
    assert value(registry, count) == noted


def test_pauses_for_garbage_collection_are_counted_by_generation() -> None:
    registry = CollectorRegistry()
    name = telemetry.GC_PAUSE.name
    with process_vitals(registry, telemetry.SETUP):
        gc.disable()  # so that nothing is collected but what is asked for
        try:
            before = [value(registry, f"{name}_count", generation=str(g)) for g in range(3)]
            for generation, times in enumerate((3, 2, 1)):
                for _ in range(times):
                    gc.collect(generation)
            after = [value(registry, f"{name}_count", generation=str(g)) for g in range(3)]
        finally:
            gc.enable()
        assert [now - was for now, was in zip(after, before, strict=True)] == [3, 2, 1]
        assert value(registry, f"{name}_sum", generation="2") > 0
        buckets = [str(float(b)) for b in telemetry.GC_PAUSE.buckets]
        counts = [value(registry, f"{name}_bucket", generation="2", le=le) for le in [*buckets, "+Inf"]]
        assert counts == sorted(counts)
        assert counts[-1] == value(registry, f"{name}_count", generation="2")


class Slow:
    """Garbage whose collection takes a while."""

    def __init__(self) -> None:
        self.me = self

    def __del__(self) -> None:
        time.sleep(0.03)


def test_a_pause_is_as_long_as_it_was() -> None:
    pauses = GcPauses()
    gc.disable()
    try:
        pauses.start()
        Slow()
        gc.collect(2)
        pauses.stop()
        Slow()
        gc.collect(2)  # not counted any more
    finally:
        gc.enable()
    (family,) = pauses.collect()
    samples = {(s.name, s.labels.get("le")): s.value for s in family.samples if s.labels["generation"] == "2"}
    assert samples[(f"{telemetry.GC_PAUSE.name}_count", None)] == 1
    assert samples[(f"{telemetry.GC_PAUSE.name}_sum", None)] >= 0.03
    assert samples[(f"{telemetry.GC_PAUSE.name}_bucket", "0.02")] == 0
