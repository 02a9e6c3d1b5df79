"""Who is let in: pure ASGI middleware in front of everything that costs something to parse, let alone to do.

A refusal takes no route, no body and no validation, so that refusing stays cheap when there is most to refuse.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.drain import DrainRate
from app.errors import Draining, InvalidRequest, Overloaded, PharosError
from app.quota import Keyring, Quota
from app.serving import Gate
from app.terms import CacheUse, Terms
from contracts.problems import ProblemError
from contracts.telemetry import REQUEST_TIMEOUT_HEADER

_TIMEOUT_HEADER = REQUEST_TIMEOUT_HEADER.lower().encode()


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """`timeout_seconds` is the deadline of a request that names none; `timeout_seconds_max` the longest it may name."""

    requests: float = math.inf
    timeout_seconds: float = math.inf
    timeout_seconds_max: float = math.inf


@dataclass(slots=True)
class Admission:
    """Guards the paths for which `is_work` holds. Every request let in is counted in `gate` until it has ended.

    A key is asked for on `needs_key` paths, where the keyring has any.
    """

    app: ASGIApp
    gate: Gate
    limits: AdmissionLimits
    is_work: Callable[[str], bool]
    respond: Callable[[Request, ProblemError], Response]
    keyring: Keyring = field(default_factory=lambda: Keyring({}))
    needs_key: Callable[[str], bool] = lambda _: False
    _drain: DrainRate = field(default_factory=DrainRate)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"]
        work = self.is_work(path)
        try:
            quota = self._quota(scope) if self.needs_key(path) else None
            if work:
                # Whose request it is also counts when it is refused.
                scope.setdefault("state", {})["terms"] = self._terms(scope, quota)
                self._admit(quota)
        except PharosError as error:
            await self.respond(Request(scope), error)(scope, receive, send)
            return
        if not work:
            await self.app(scope, receive, send)
            return
        self.gate.enter()
        try:
            await self.app(scope, receive, send)
        finally:
            self.gate.leave()
            # While the gate is full: the rate at which those inside get done.
            self._drain.left(1, time.monotonic())
            if self.gate.inside < max(1, self.limits.requests - 1):
                self._drain.idle()

    def _admit(self, quota: Quota | None) -> None:
        if self.gate.closed:
            raise Draining("This service is shutting down; try again.")
        if self.gate.inside >= self.limits.requests:
            self._drain.blocked(time.monotonic())
            raise Overloaded(
                f"{self.gate.inside:,} requests are being served already; try again in a moment.",
                retry_after_seconds=self._drain.seconds_for(self.gate.inside),
            )
        if quota is not None:
            quota.use_request()

    def _quota(self, scope: Scope) -> Quota | None:
        return self.keyring.quota_of(_header(scope, b"authorization"))

    def _terms(self, scope: Scope, quota: Quota | None) -> Terms:
        arrived = time.monotonic()
        seconds = self.limits.timeout_seconds
        given = _header(scope, _TIMEOUT_HEADER)
        if given:
            try:
                seconds = float(given)
            except ValueError:
                seconds = math.nan
            if not 0 < seconds <= self.limits.timeout_seconds_max:
                raise InvalidRequest(
                    f"{REQUEST_TIMEOUT_HEADER}: must be seconds, more than 0 and at most "
                    f"{self.limits.timeout_seconds_max:g}."
                )
        deadline = arrived + seconds if math.isfinite(seconds) else None
        return Terms(arrived, deadline, quota, _cache_use(scope))


def _cache_use(scope: Scope) -> CacheUse:
    """What the request's Cache-Control says, where it says what we know (RFC 9111, 5.2.1): no-cache, an answer that is
    made now; no-store, one that is not kept either. RFC 9111 would let a cache answer no-store with what it has; who
    sends it wants no cache at all."""
    given = b",".join(value for name, value in scope["headers"] if name == b"cache-control").lower()
    directives = {directive.strip() for directive in given.split(b",")}
    no_store = b"no-store" in directives
    return CacheUse(reads=not no_store and b"no-cache" not in directives, stores=not no_store)


def _header(scope: Scope, wanted: bytes) -> bytes:
    return next((value for name, value in scope["headers"] if name == wanted), b"")
