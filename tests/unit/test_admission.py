"""Who is let in: a gate before everything that costs something."""

from __future__ import annotations

import asyncio
import math
import time

import pytest
from pydantic import SecretStr
from starlette.types import Receive, Scope, Send

from app.adapters.memory import MemoryStore
from app.adapters.network import Adapters
from app.admission import Admission, AdmissionLimits
from app.main import create_app
from app.quota import ApiKey, Keyring
from app.replicas import Health, Replicas
from app.serving import Gate
from app.settings import Settings
from app.terms import CacheUse, Terms
from contracts.problems import Responder
from tests.support.asgi import Answer, ask

WORK, FREE, SECRET = "/work", "/free", "/secret"
KEY = "a-secret-key"


class App:
    """Remembers the terms of each request that reaches it; `failure` is what it raises."""

    def __init__(self) -> None:
        self.reached: list[Terms | None] = []
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.failure: Exception | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        self.reached.append(scope.get("state", {}).get("terms"))
        await self.go_on.wait()
        if self.failure is not None:
            raise self.failure
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"served"})


class Admitted:
    """An `App` behind an `Admission`."""

    def __init__(self, limits: AdmissionLimits | None = None, **key: int) -> None:
        self.app = App()
        self.gate = Gate()
        self.admission = Admission(
            self.app,
            gate=self.gate,
            limits=limits or AdmissionLimits(),
            is_work={WORK, SECRET}.__contains__,
            respond=Responder(retry_after_seconds=7),
            keyring=Keyring({"team": ApiKey(key=SecretStr(KEY), **key)}),
            needs_key=SECRET.__eq__,
        )

    async def ask(self, path: str = WORK, **headers: str) -> Answer:
        return await ask(self.admission, "POST", path, {}, **headers)

    async def refused(self, status: int, code: str, path: str = WORK, **headers: str) -> Answer:
        """The refusal of a request that never reaches the application and is not counted."""
        before = (len(self.app.reached), self.gate.inside)
        answer = await self.ask(path, **headers)
        assert (len(self.app.reached), self.gate.inside) == before
        assert (answer.status, answer.json["code"]) == (status, code)
        return answer


async def test_what_is_let_in_is_counted_until_it_has_ended() -> None:
    admitted = Admitted()
    admitted.app.go_on.clear()
    running = [asyncio.ensure_future(admitted.ask()) for _ in range(3)]
    await asyncio.sleep(0)
    assert admitted.gate.inside == 3
    admitted.app.go_on.set()
    assert [answer.body for answer in await asyncio.gather(*running)] == [b"served"] * 3
    assert admitted.gate.inside == 0


async def test_a_request_that_fails_or_is_cancelled_has_ended_too() -> None:
    admitted = Admitted()
    admitted.app.failure = RuntimeError("a bug")
    with pytest.raises(RuntimeError):
        await admitted.ask()
    assert admitted.gate.inside == 0
    admitted.app.go_on.clear()
    leaving = asyncio.ensure_future(admitted.ask())
    await asyncio.sleep(0)
    assert admitted.gate.inside == 1
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    assert admitted.gate.inside == 0


async def test_no_more_than_so_many_at_once_and_then_a_measured_retry_after() -> None:
    admitted = Admitted(AdmissionLimits(requests=2))
    admitted.app.go_on.clear()
    running = [asyncio.ensure_future(admitted.ask()) for _ in range(2)]
    await asyncio.sleep(0)
    began = time.monotonic()
    refusal = await admitted.refused(503, "overloaded")
    assert refusal.headers["retry-after"] == "7"  # nothing has been measured
    admitted.app.go_on.set()
    await asyncio.gather(*running)
    took = time.monotonic() - began
    assert (await admitted.ask()).status == 200
    # Both of them left within so long, which is milliseconds where the machine goes on: that is what is measured now.
    admitted.app.go_on.clear()
    running = [asyncio.ensure_future(admitted.ask()) for _ in range(2)]
    await asyncio.sleep(0)
    assert 1 <= int((await admitted.refused(503, "overloaded")).headers["retry-after"]) <= math.ceil(took)
    admitted.app.go_on.set()
    await asyncio.gather(*running)


async def test_a_closed_gate_refuses_work_and_nothing_else() -> None:
    admitted = Admitted()
    admitted.gate.closed = True
    refusal = await admitted.refused(503, "draining")
    assert refusal.headers["retry-after"] == "7"
    assert (await admitted.ask(FREE)).status == 200
    assert admitted.gate.inside == 0


async def test_what_is_no_work_has_no_limits_and_no_terms() -> None:
    admitted = Admitted(AdmissionLimits(requests=1))
    admitted.app.go_on.clear()
    running = [asyncio.ensure_future(admitted.ask(path)) for path in (WORK, FREE, FREE)]
    await asyncio.sleep(0)
    assert admitted.gate.inside == 1
    admitted.app.go_on.set()
    assert [answer.status for answer in await asyncio.gather(*running)] == [200] * 3
    assert [terms is None for terms in admitted.app.reached] == [False, True, True]


@pytest.mark.parametrize("kind", ["lifespan", "websocket"])
async def test_other_than_http_passes_through(kind: str) -> None:
    admitted = Admitted()
    admitted.gate.closed = True
    sent: list[object] = []

    async def receive() -> dict[str, object]:
        return {}

    async def send(message: object) -> None:
        sent.append(message)

    await admitted.admission({"type": kind, "path": SECRET}, receive, send)
    assert admitted.app.reached == [None]
    assert len(sent) == 2


@pytest.mark.parametrize("header", ["0", "-1", "nan", "inf", "-inf", "1e400", "100.1", "soon", "1,5", "0x10", "١s"])
async def test_a_timeout_that_is_no_number_of_seconds_in_range_is_refused(header: str) -> None:
    admitted = Admitted(AdmissionLimits(timeout_seconds=10, timeout_seconds_max=100))
    refusal = await admitted.refused(422, "invalid_request", x_request_timeout=header)
    assert refusal.json["detail"] == "X-Request-Timeout: must be seconds, more than 0 and at most 100."


@pytest.mark.parametrize(
    ("header", "seconds"), [("100", 100.0), ("0.25", 0.25), (" 5 ", 5.0), ("1e1", 10.0), ("1e-9", 1e-9), ("", 10.0)]
)
async def test_a_timeout_becomes_a_deadline(header: str, seconds: float) -> None:
    admitted = Admitted(AdmissionLimits(timeout_seconds=10, timeout_seconds_max=100))
    before = time.monotonic()
    assert (await admitted.ask(x_request_timeout=header)).status == 200
    (terms,) = admitted.app.reached
    assert terms is not None
    assert before <= terms.arrived <= time.monotonic()
    assert terms.deadline == terms.arrived + seconds
    assert terms.seconds_left is not None
    assert terms.seconds_left <= seconds


@pytest.mark.parametrize("headers", [{}, {"x_request_timeout": "inf"}])
async def test_without_any_limit_there_is_no_deadline(headers: dict[str, str]) -> None:
    admitted = Admitted()
    assert (await admitted.ask(**headers)).status == 200
    (terms,) = admitted.app.reached
    assert terms is not None
    assert (terms.deadline, terms.seconds_left) == (None, None)


async def test_a_key_is_asked_for_where_it_is_needed_and_its_quota_travels_along() -> None:
    admitted = Admitted()
    await admitted.refused(401, "unauthorized", SECRET)
    await admitted.refused(401, "unauthorized", SECRET, authorization="Bearer wrong")
    assert (await admitted.ask(SECRET, authorization=f"Bearer {KEY}")).status == 200
    assert (await admitted.ask(WORK)).status == 200
    with_key, without = admitted.app.reached
    assert with_key is not None
    assert with_key.quota is not None
    assert with_key.quota.name == "team"
    assert without is not None
    assert without.quota is None


async def test_the_cheapest_and_most_telling_refusal_comes_first() -> None:
    """Not known, then not sensible, then not now, then not yours any more; a request that is refused is not charged."""
    admitted = Admitted(requests_per_minute=1)
    admitted.gate.closed = True
    key = f"Bearer {KEY}"
    await admitted.refused(401, "unauthorized", SECRET, x_request_timeout="nan")
    await admitted.refused(422, "invalid_request", SECRET, authorization=key, x_request_timeout="nan")
    await admitted.refused(503, "draining", SECRET, authorization=key)
    admitted.gate.closed = False
    assert (await admitted.ask(SECRET, authorization=key)).status == 200
    refusal = await admitted.refused(429, "quota_exceeded", SECRET, authorization=key)
    assert 1 <= int(refusal.headers["retry-after"]) <= 60


# Through the whole gateway


async def no_addresses() -> list[None]:
    return []


async def nothing() -> None: ...


async def yes() -> bool:
    return True


def gateway(gate: Gate, **settings: object) -> object:
    replicas = Replicas(no_addresses, lambda _: pytest.fail("there is none"), Health(3, 60, 60))  # type: ignore[arg-type]
    return create_app(Settings(**settings), gate, adapters=Adapters(replicas, MemoryStore(), yes, nothing))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("path", "code"), [("/v1/chat/completions", "draining"), ("/v1/embeddings", "draining"), ("/ask", "draining")]
)
async def test_each_api_is_refused_in_its_own_words(path: str, code: str) -> None:
    gate = Gate()
    gate.closed = True
    answer = await ask(gateway(gate), "POST", path, {})
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.headers["x-request-id"]
    if path.startswith("/v1/"):
        assert answer.json["error"]["type"] == "server_error"
        assert answer.json["error"]["code"] == code
    else:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json["code"] == code


@pytest.mark.parametrize(
    ("headers", "status", "kind", "code"),
    [
        ({}, 401, "invalid_request_error", "invalid_api_key"),
        (
            {"authorization": f"Bearer {KEY}", "x_request_timeout": "-1"},
            400,
            "invalid_request_error",
            "invalid_request",
        ),
    ],
)
async def test_openais_clients_read_refusals_as_openais_own(
    headers: dict[str, str], status: int, kind: str, code: str
) -> None:
    app = gateway(Gate(), api_keys={"team": {"key": KEY, "requests_per_minute": 1}})
    answer = await ask(app, "POST", "/v1/chat/completions", {}, **headers)
    assert (answer.status, answer.json["error"]["type"], answer.json["error"]["code"]) == (status, kind, code)


async def test_a_used_up_key_is_openais_rate_limit() -> None:
    app = gateway(Gate(), api_keys={"team": {"key": KEY, "requests_per_minute": 1}})
    key = f"Bearer {KEY}"
    assert (await ask(app, "POST", "/v1/chat/completions", {}, authorization=key)).status == 400  # let in, and invalid
    answer = await ask(app, "POST", "/v1/chat/completions", {}, authorization=key)
    assert (answer.status, answer.json["error"]["code"]) == (429, "rate_limit_exceeded")
    assert int(answer.headers["retry-after"]) <= 60


async def test_models_and_topics_need_a_key_and_are_no_work() -> None:
    gate = Gate()
    app = gateway(gate, api_keys={"team": {"key": KEY}})
    assert (await ask(app, "GET", "/topics")).status == 401
    assert (await ask(app, "GET", "/v1/models")).status == 401
    gate.closed = True
    assert (await ask(app, "GET", "/topics", authorization=f"Bearer {KEY}")).status == 200
    assert (await ask(app, "GET", "/healthz")).status == 200
    readiness = await ask(app, "GET", "/readyz")
    assert (readiness.status, readiness.json["status"]) == (503, "draining")


def test_terms_without_a_deadline_leave_as_long_as_it_takes() -> None:
    assert Terms().seconds_left is None
    assert Terms(deadline=math.inf).seconds_left == math.inf


@pytest.mark.parametrize(
    ("header", "use"),
    [
        (None, CacheUse(reads=True, stores=True)),
        ("no-cache", CacheUse(reads=False, stores=True)),
        ("no-store", CacheUse(reads=False, stores=False)),
        ("max-age=0 ,  No-Cache", CacheUse(reads=False, stores=True)),
        ("no-cache, no-store", CacheUse(reads=False, stores=False)),
        ("max-age=60, no-transform, ,", CacheUse(reads=True, stores=True)),
    ],
)
async def test_cache_control_says_what_caches_may_do(header: str | None, use: CacheUse) -> None:
    admitted = Admitted()
    await admitted.ask(**({} if header is None else {"cache_control": header}))
    (terms,) = admitted.app.reached
    assert terms is not None
    assert terms.cache == use
