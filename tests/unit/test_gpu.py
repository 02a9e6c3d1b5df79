"""Metrics of GPUs, over a library shaped like `pynvml`, which a test holds to the real one."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from contracts import telemetry
from observability import gpu
from observability.gpu import gpu_metrics, installed_nvml

GIB = 2**30


@dataclass
class Rates:
    gpu: int
    memory: int


@dataclass
class Memory:
    total: int
    free: int
    used: int


class Error(Exception):
    """As pynvml.NVMLError."""


@dataclass
class Nvml:
    """A driver with some cards; every call whose name is in `broken` fails."""

    cards: int = 2
    broken: set[str] = field(default_factory=set)
    users: int = 0
    NVMLError = Error

    def _call(self, name: str) -> None:
        if name in self.broken:
            raise Error(f"{name}: Driver/library version mismatch")

    def nvmlInit(self) -> None:
        self._call("nvmlInit")
        self.users += 1

    def nvmlShutdown(self) -> None:
        self._call("nvmlShutdown")
        self.users -= 1

    def nvmlDeviceGetCount(self) -> int:
        self._call("nvmlDeviceGetCount")
        return self.cards

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        self._call("nvmlDeviceGetHandleByIndex")
        return index

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Rates:
        self._call("nvmlDeviceGetUtilizationRates")
        return Rates(gpu=25 * (handle + 1), memory=1)

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Memory:
        self._call("nvmlDeviceGetMemoryInfo")
        return Memory(80 * GIB, (80 - handle) * GIB, handle * GIB)

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        self._call("nvmlDeviceGetPowerUsage")
        return 300_500 + handle


EVERYTHING = {
    ("pharos_gpu_utilization_ratio", "0"): 0.25,
    ("pharos_gpu_utilization_ratio", "1"): 0.5,
    ("pharos_gpu_memory_used_bytes", "0"): 0,
    ("pharos_gpu_memory_used_bytes", "1"): GIB,
    ("pharos_gpu_memory_total_bytes", "0"): 80 * GIB,
    ("pharos_gpu_memory_total_bytes", "1"): 80 * GIB,
    ("pharos_gpu_power_watts", "0"): 300.5,
    ("pharos_gpu_power_watts", "1"): 300.501,
}


def samples(registry: CollectorRegistry) -> dict[tuple[str, str], float]:
    return {(s.name, s.labels["gpu"]): s.value for family in registry.collect() for s in family.samples}


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.INFO, gpu.log.name):
        yield caplog


def test_each_card_has_its_figures_in_base_units() -> None:
    registry, nvml = CollectorRegistry(), Nvml()
    with gpu_metrics(registry, nvml):
        assert samples(registry) == EVERYTHING
        assert nvml.users == 1
    assert nvml.users == 0
    assert samples(registry) == {}


def test_it_serves_just_what_the_contract_says() -> None:
    registry = CollectorRegistry()
    with gpu_metrics(registry, Nvml()):
        families = {family.name: family for family in registry.collect()}
    assert families.keys() == {metric.name for metric in telemetry.GPU}
    for metric in telemetry.GPU:
        assert (families[metric.name].type, families[metric.name].documentation) == (metric.kind, metric.help)
        assert {tuple(sample.labels) for sample in families[metric.name].samples} == {metric.labels}


def test_without_the_library_there_is_nothing_and_it_is_said_once(said: pytest.LogCaptureFixture) -> None:
    registry = CollectorRegistry()
    with gpu_metrics(registry, None):
        generate_latest(registry)
        assert generate_latest(registry) == b""
    assert said.record_tuples == [
        (gpu.log.name, logging.INFO, "no metrics of GPUs: nvidia-ml-py is not installed"),
    ]


def test_without_a_driver_there_is_nothing_and_it_is_said_once(said: pytest.LogCaptureFixture) -> None:
    registry = CollectorRegistry()
    with gpu_metrics(registry, Nvml(broken={"nvmlInit"})):
        generate_latest(registry)
        assert generate_latest(registry) == b""
    assert [record.levelno for record in said.records] == [logging.INFO]


def test_without_a_card_there_is_nothing_and_it_is_said_once(said: pytest.LogCaptureFixture) -> None:
    registry = CollectorRegistry()
    with gpu_metrics(registry, Nvml(cards=0)):
        generate_latest(registry)
        assert generate_latest(registry) == b""
    assert [record.levelno for record in said.records] == [logging.INFO]


def test_what_a_card_does_not_know_is_left_out_and_said_once(said: pytest.LogCaptureFixture) -> None:
    registry, nvml = CollectorRegistry(), Nvml(cards=1)
    nvml.broken = {"nvmlDeviceGetPowerUsage"}
    with gpu_metrics(registry, nvml):
        for _ in range(3):
            there = samples(registry)
    assert there.keys() == {key for key in EVERYTHING if key[1] == "0" and key[0] != telemetry.GPU_POWER.name}
    assert [record.getMessage().split(":")[0] for record in said.records] == ["NVML does not say power of GPU 0"]


def test_a_driver_that_fails_later_breaks_no_scrape_and_may_come_back(said: pytest.LogCaptureFixture) -> None:
    registry, nvml = CollectorRegistry(), Nvml()
    with gpu_metrics(registry, nvml):
        assert samples(registry) == EVERYTHING
        nvml.broken = {name for name, _ in inspect.getmembers(Nvml, inspect.isfunction) if name.startswith("nvml")}
        assert generate_latest(registry) == b""
        assert generate_latest(registry) == b""
        assert len(said.records) == 2, "once for each card"
        nvml.broken = set()
        assert samples(registry) == EVERYTHING
        nvml.broken = {"nvmlShutdown"}
    assert samples(registry) == {}


VENDORED = next(iter(importlib.util.find_spec("vllm").submodule_search_locations or []), "")  # type: ignore[union-attr]
"""vLLM carries a copy of nvidia-ml-py's module, which can be read without a GPU and without vLLM."""


def test_the_real_library_has_what_is_used_of_it() -> None:
    source = (Path(VENDORED) / "third_party" / "pynvml.py").read_text()
    defined = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    used = {node.attr for node in ast.walk(ast.parse(inspect.getsource(gpu))) if isinstance(node, ast.Attribute)}
    wanted = {name for name in used if name.lower().startswith("nvml")}
    assert len(wanted) == 8
    assert wanted <= defined.keys()
    for structure, fields in (("c_nvmlUtilization_t", ("gpu",)), ("c_nvmlMemory_t", ("used", "total"))):
        members = ast.unparse(defined[structure])
        assert all(f"('{name}'," in members for name in fields)


def test_the_real_library_without_a_driver_gives_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = installed_nvml()
    if nvml is None:
        spec = importlib.util.spec_from_file_location("pynvml", Path(VENDORED) / "third_party" / "pynvml.py")
        assert spec is not None
        assert spec.loader is not None
        nvml = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "pynvml", nvml)  # it looks itself up there
        spec.loader.exec_module(nvml)
    registry = CollectorRegistry()
    with gpu_metrics(registry, nvml):
        there = samples(registry)
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        assert there == {}
    else:  # on a machine with a GPU
        assert {gpu for _, gpu in there} == {str(gpu) for gpu in range(nvml.nvmlDeviceGetCount())}
        nvml.nvmlShutdown()
