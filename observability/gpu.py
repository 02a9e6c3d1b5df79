"""How busy the GPUs are, from NVML (https://docs.nvidia.com/deploy/nvml-api), through nvidia-ml-py."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from contracts import telemetry
from contracts.telemetry import Metric

log = logging.getLogger(__name__)


def installed_nvml() -> Any | None:
    """The module `pynvml` where nvidia-ml-py is installed, as it is with vLLM for a GPU; None elsewhere."""
    return importlib.import_module("pynvml") if importlib.util.find_spec("pynvml") else None


@contextmanager
def gpu_metrics(registry: CollectorRegistry, nvml: Any | None) -> Iterator[None]:
    """While entered, `registry` has telemetry.GPU for each GPU that `nvml` (`pynvml`, or None) finds, numbered as NVML
    does. Without the library, a driver or a GPU it has none, and the log says so once."""
    if nvml is None:
        log.info("no metrics of GPUs: nvidia-ml-py is not installed")
        yield
        return
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as exc:
        log.info("no metrics of GPUs: %s", exc)
        yield
        return
    collector = GpuCollector(nvml)
    registry.register(collector)
    try:
        yield
    finally:
        registry.unregister(collector)
        collector.close()


class GpuCollector(Collector):
    """Asks NVML at each scrape. What it cannot say, because a card does not know it or the driver has failed, has no
    sample then, and the log says why the first time."""

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml
        self._told: set[str] = set()
        count = self._ask("the number of GPUs", nvml.nvmlDeviceGetCount)
        if count == 0:
            log.info("no metrics of GPUs: NVML finds none")
        self._count: int = count or 0

    def describe(self) -> list[GaugeMetricFamily]:
        """The families without samples, so that registering asks the driver nothing."""
        return [_family(metric) for metric in telemetry.GPU]

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """As the `Collector` protocol says."""
        families = {metric: _family(metric) for metric in telemetry.GPU}
        for gpu in range(self._count):
            for metric, value in self._samples(gpu):
                families[metric].add_metric([str(gpu)], value)
        yield from (family for family in families.values() if family.samples)

    def _samples(self, gpu: int) -> Iterator[tuple[Metric, float]]:
        nvml = self._nvml
        # Asked for anew: after a card has been reset its old handle is of no use.
        handle = self._ask(f"GPU {gpu}", nvml.nvmlDeviceGetHandleByIndex, gpu)
        if handle is None:
            return
        rates = self._ask(f"utilisation of GPU {gpu}", nvml.nvmlDeviceGetUtilizationRates, handle)
        if rates is not None:
            yield telemetry.GPU_UTILISATION, rates.gpu / 100
        memory = self._ask(f"memory of GPU {gpu}", nvml.nvmlDeviceGetMemoryInfo, handle)
        if memory is not None:
            yield telemetry.GPU_MEMORY_USED, float(memory.used)
            yield telemetry.GPU_MEMORY_TOTAL, float(memory.total)
        milliwatts = self._ask(f"power of GPU {gpu}", nvml.nvmlDeviceGetPowerUsage, handle)
        if milliwatts is not None:
            yield telemetry.GPU_POWER, milliwatts / 1000

    def _ask(self, what: str, call: Callable[..., Any], *arguments: object) -> Any | None:
        try:
            return call(*arguments)
        except self._nvml.NVMLError as exc:
            if what not in self._told:
                self._told.add(what)
                log.warning("NVML does not say %s: %s", what, exc)
            return None

    def close(self) -> None:
        """Let go of the driver."""
        self._ask("goodbye", self._nvml.nvmlShutdown)


def _family(metric: Metric) -> GaugeMetricFamily:
    return GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
