"""Could the generator have measured more? It drives a server that does nothing, in the same shape of load."""

from __future__ import annotations

import msgspec

from benchmarks.load.drive import doubts, drive
from benchmarks.load.types import Closed, Load, Open, Outcome
from benchmarks.services import raw_server, running

MULTIPLE = 2.0
"""How many times the measured rate the generator has to reach against the raw server."""
_SECONDS = 2.0


def headroom(load: Load, measured: Outcome) -> list[str]:
    """Run after a measurement. Empty when the generator reaches MULTIPLE times its rate; else what is wrong."""
    with running(raw_server()) as server:
        if load.stream:
            return _streams(server.url, load, measured)
        return _requests(server.url, load, measured)


def _requests(url: str, load: Load, measured: Outcome) -> list[str]:
    rate = measured.requests / measured.wall_seconds
    if isinstance(load.arrivals, Open):
        faster = Open(load.arrivals.per_second * MULTIPLE, seconds=_SECONDS)
        return doubts(drive(msgspec.structs.replace(load, url=f"{url}/json", arrivals=faster)))
    closed = Closed(load.arrivals.at_once, seconds=_SECONDS)
    reached = drive(msgspec.structs.replace(load, url=f"{url}/json", arrivals=closed)).per_second
    if reached < MULTIPLE * rate:
        return [f"the generator reaches {reached:,.0f} requests/s at most, {reached / rate:.1f} times what it measured"]
    return []


def _streams(url: str, load: Load, measured: Outcome) -> list[str]:
    streams = load.arrivals.at_once if isinstance(load.arrivals, Closed) else 64
    wanted = MULTIPLE * measured.chunks / measured.wall_seconds
    apart = streams / wanted
    path = f"{url}/sse?tokens={max(8, round(_SECONDS / apart))}&seconds={apart:.6f}"
    reached = drive(msgspec.structs.replace(load, url=path, arrivals=Closed(streams, requests=streams)))
    found = doubts(reached)
    if reached.tokens_per_second < 0.9 * wanted:
        found.append(f"the generator takes {reached.tokens_per_second:,.0f} chunks/s at most")
    return found
