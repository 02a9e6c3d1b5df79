"""How both services are run: uvicorn, with an end that loses nothing and a beginning that nobody can hold up.

On SIGTERM (or Ctrl-C) the gate closes: /readyz says so, new work is refused with 503 and `Retry-After` on connections
that keep working, and what runs is finished; then, or after the grace period, uvicorn stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import resource
import signal
import socket
from collections.abc import Callable, Collection, Sequence
from types import FrameType
from typing import Protocol, TypeVar

import uvicorn
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from observability import logs
from observability.redaction import Redactor
from observability.settings import TelemetrySettings

HEADER_SECONDS = 10.0
"""A client that has not sent a whole request head by then is cut off: an idle or deliberately slow one (slow loris)
would hold its connection for ever. (Between two requests uvicorn's keep-alive timeout counts, until the first byte.)"""


OPEN_FILES = 65_536
"""A connection is a file, a streamed answer may be two; 1,024, the usual limit, is fewer than the requests a gateway
serves at once. Where less is allowed, that is taken (Go's runtime raises the limit by itself, too)."""


class Gate:
    """Counts the requests that are running. Closed, it lets none in."""

    def __init__(self) -> None:
        self.closed = False
        self.inside = 0
        self._empty = asyncio.Event()
        self._empty.set()

    def enter(self) -> None:
        """A request begins. Whether it may is for the caller to ask `closed`."""
        self.inside += 1
        self._empty.clear()

    def leave(self) -> None:
        """It has ended, however it did."""
        self.inside -= 1
        if not self.inside:
            self._empty.set()

    async def empty(self) -> None:
        """Returns as soon as nothing is running."""
        await self._empty.wait()


class _Protocol(HttpToolsProtocol):
    """uvicorn's, with a limit on how long the head of a request may take."""

    _head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # These bytes ended uvicorn's keep-alive timeout. Unless a request has begun with them, they are a part of the
        # next head, or of a body that has been refused already.
        if self._head is None and (self.cycle is None or self.cycle.response_complete):
            self._expect_head()

    def _expect_head(self) -> None:
        self._head = self.loop.call_later(HEADER_SECONDS, self.transport.abort)

    def on_headers_complete(self) -> None:
        self._head_came()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_came()
        super().connection_lost(exc)

    def _head_came(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, gate: Gate, grace_seconds: float) -> None:
        super().__init__(config)
        self._gate = gate
        self._grace_seconds = grace_seconds
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal closes the gate; a second one ends at once."""
        if self._gate.closed or not self.started:
            super().handle_exit(sig, frame)
            return
        self._gate.closed = True
        self._loop.call_soon_threadsafe(self._begin_drain, sig)

    def _begin_drain(self, sig: int) -> None:
        self._draining = self._loop.create_task(self._drain(sig))

    async def _drain(self, sig: int) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._grace_seconds):
                await self._gate.empty()
        super().handle_exit(sig, None)


class ServedSettings(Protocol):
    """What both services' settings have."""

    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def log_level(self) -> str: ...
    @property
    def shutdown_grace_seconds(self) -> int: ...


S = TypeVar("S", bound=ServedSettings)


def run(
    service: str,
    settings_of: Callable[[], S],
    create_app: Callable[[S, Gate, TelemetrySettings, CollectorRegistry], FastAPI],
    secrets: Callable[[S], Collection[str]],
    quiet: Sequence[str],
) -> None:
    """A service from its environment to its end. Of the `quiet` loggers only warnings are logged; `secrets` are kept
    out of the logs. Raises SystemExit for settings that cannot work, and when the port cannot be taken."""
    gate = Gate()
    registry = CollectorRegistry()
    try:
        settings = settings_of()
        telemetry = TelemetrySettings()
        app = create_app(settings, gate, telemetry, registry)
    except ValueError as exc:
        raise SystemExit(f"pharos: the settings cannot work: {Redactor(texts=True)(str(exc))}") from None
    with logs.configure(service, telemetry, settings.log_level, secrets(settings), registry, quiet=quiet):
        ended_by = _serve(app, gate, settings)
    for number in ended_by:
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)


def _serve(app: FastAPI, gate: Gate, settings: ServedSettings) -> list[int]:
    """Returns the signal that it has obeyed, if it was one, by which the process is to end."""
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=_Protocol,
        ws="none",
        log_config=None,  # its loggers go where all others go
        log_level=settings.log_level,
        access_log=False,  # /metrics counts requests; a line for each would only slow them down
        timeout_graceful_shutdown=2,  # the gate has waited already; what is left is idle or over its time
    )
    _allow_open_files()
    server = _Server(config, gate, settings.shutdown_grace_seconds)
    ended_by: list[int] = []

    def on_terminated(number: int, _: FrameType | None) -> None:
        if server.started:  # uvicorn has ended, and repeats the signal; the logs are not out yet
            ended_by.append(number)
        else:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    signal.signal(signal.SIGTERM, on_terminated)
    # What has been loaded by now stays. A full collection that looks at it again and again is a pause under load.
    gc.collect()
    gc.freeze()
    with contextlib.suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        raise SystemExit(3)
    return ended_by


def _allow_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
