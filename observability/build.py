"""What runs here: the version, in one place, and as a metric."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry

from contracts import telemetry

VERSION = "0.1.0"
"""Of every service; a test holds pyproject.toml to it, which the images do not carry."""


@contextmanager
def build_info(registry: CollectorRegistry, service: str) -> Iterator[None]:
    """While entered, `registry` says which `service` of which version runs, and on which Python."""
    info = telemetry.BUILD_INFO.gauge(registry)
    info.labels(service, VERSION, platform.python_version()).set(1)
    try:
        yield
    finally:
        registry.unregister(info)
