"""Event loops: what talks to sockets is tested on both kinds. And time, which no test may depend on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import hypothesis
import pytest
import uvloop

from tests.unit.timers import Timers

# A machine that stands still for a moment makes no example wrong: by default one that takes 200 ms is.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")

ON_BOTH = {"test_transport", "test_vitals", "test_exposition"}
"""uvicorn takes uvloop, whose transports, timers and clock are not asyncio's."""


def pytest_asyncio_loop_factories(
    config: pytest.Config,  # noqa: ARG001
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    return loops | ({"uvloop": uvloop.new_event_loop} if item.path.stem in ON_BOTH else {})


@pytest.fixture
async def timers(monkeypatch: pytest.MonkeyPatch) -> Timers:
    """Those of the loop of this test (asyncio's: uvloop keeps its own)."""
    loop = asyncio.get_running_loop()
    timers = Timers(loop.time())
    monkeypatch.setattr(loop, "time", timers)
    return timers
