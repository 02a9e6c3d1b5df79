"""Two gateways behind a real nginx with the files of deploy/nginx: streams stay streams, and one gateway may die."""

from __future__ import annotations

import itertools
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import websockets.sync.client
import websockets.sync.server

from app.main import BODY_BYTES_MAX
from app.settings import Settings
from contracts.problems import problem_body
from contracts.wire import PROBLEM
from tests.integration.conftest import MIN_SCORE
from tests.support import asking, processes
from tests.support.asking import eventually, held
from tests.support.processes import Service
from tests.support.scraping import scrape, scrape_at_rest

QUESTION = {"question": "How much did Norvane Foods agree to pay for Bellmarsh Dairy?"}
TOKEN_SECONDS = 0.1
TOKENS = 2000
"""Of an answer that nobody wants shorter: 200 s, so that whatever ends in the time of a test was ended."""
SLOTS = 4
AT_ONCE_SECONDS = 20.0
"""What nginx says by itself is here by then, on a machine that stalls; it would wait 600 s for a gateway."""


@pytest.fixture(scope="module")
def models(logs: Path) -> Iterator[Service]:
    """An engine that may take 200 s for an answer, and makes four at a time."""
    service = processes.simulated_model_service(
        logs / "nginx-models.log",
        simulated_first_token_seconds=0.2,
        simulated_token_seconds=TOKEN_SECONDS,
        simulated_answer_tokens=TOKENS,
        simulated_sequences=SLOTS,
    )
    yield service.start()
    service.stop()


@pytest.fixture(scope="module")
def gateways(loaded: str, models: Service, milvus_lite: Service, logs: Path) -> Iterator[list[Service]]:
    """They let more prompts onto the engine than that makes at a time, and ping often."""
    services = [
        processes.gateway(
            logs / f"nginx-gateway-{number}.log",
            models.url,
            milvus_lite.url,
            collection=loaded,
            min_score=MIN_SCORE,
            ping_seconds=0.05,
            replica_prompts=2 * SLOTS,
        )
        for number in range(2)
    ]
    yield [service.start() for service in services]
    for service in services:
        service.stop()


@pytest.fixture(scope="module")
def nginx(gateways: list[Service], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = processes.nginx(tmp_path_factory.mktemp("nginx") / "deploy", *(gateway.url for gateway in gateways))
    yield service.start(processes.listens)
    service.stop()


@pytest.fixture
def http(nginx: Service) -> Iterator[httpx.Client]:
    with asking.client(nginx.url) as client:
        yield client


@contextmanager
def in_front_of(folder: Path, *upstreams: str) -> Iterator[Service]:
    """An nginx of the test's own."""
    service = processes.nginx(folder / "deploy", *upstreams).start(processes.listens)
    try:
        yield service
    finally:
        service.stop()


@dataclass
class Upstream:
    """What stands in for a gateway where a test looks at nginx' requests: it notes them, and drops those to /drop."""

    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    """Method, path and headers (lower case) of each."""
    peers: set[int] = field(default_factory=set)
    """The ports of the connections they came on."""
    url: str = ""


@contextmanager
def upstream() -> Iterator[Upstream]:
    noted = Upstream()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            noted.requests.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
            noted.peers.add(self.client_address[1])
            if self.path == "/drop":
                self.close_connection = True
                return
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        do_GET = do_POST = answer

        def log_message(self, *_: object) -> None:
            """Nothing; the test says what it needs."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        noted.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield noted
        finally:
            server.shutdown()
            thread.join()


def asked(gateway: Service) -> float:
    """How many questions a gateway has answered. A stream is counted a little after its client has its end."""
    return scrape(gateway.url).value("http_requests_total", handler="/ask")


def asked_at_rest(gateway: Service) -> float:
    """The same when every stream has been counted."""
    return scrape_at_rest(gateway.url).value("http_requests_total", handler="/ask")


def assert_problem(response: httpx.Response, status: int, code: str, retryable: bool) -> None:
    """A problem body exactly as the gateway makes them, with Retry-After where trying again may help."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == PROBLEM
    problem = response.json()
    request_id = response.headers["x-request-id"]
    assert problem == problem_body(request_id, status, code, problem["title"], problem["detail"])
    assert problem["retryable"] is retryable
    assert response.headers.get("retry-after") == (str(Settings().retry_after_seconds) if retryable else None)


def test_tokens_arrive_one_at_a_time_while_others_are_still_made(http: httpx.Client, models: Service) -> None:
    body = {**QUESTION, "max_tokens": 60, "stream": True}  # 6 s, so that a stall is not all of it
    arrivals: list[float] = []
    held_at_first = 0
    with http.stream("POST", "/ask", json=body, headers={"accept-encoding": "gzip"}) as response:
        assert response.headers["content-type"] == "text/event-stream"
        assert "content-encoding" not in response.headers
        for chunk in response.iter_raw():
            if b"event: token" in chunk:
                if not arrivals:
                    held_at_first = held(models.url)
                arrivals.append(time.monotonic())
        assert b"event: done" in chunk
    assert held_at_first == 1  # the engine was still at work
    assert len(arrivals) > 10
    assert arrivals[-1] - arrivals[0] > 10 * TOKEN_SECONDS


def test_pings_pass_at_once(http: httpx.Client, models: Service) -> None:
    with ExitStack() as filled:
        filled.enter_context(asking.no_slot_free(models.url, SLOTS))
        with http.stream("POST", "/ask", json={**QUESTION, "max_tokens": 3, "stream": True}) as response:
            lines = response.iter_lines()
            silent = list(itertools.takewhile(lambda line: line != ": ping", lines))
            filled.close()  # now there is a place for it
            rest = list(lines)
    assert "event: token" not in silent
    assert "event: token" in rest


def test_plain_json_is_compressed_for_those_who_take_it(http: httpx.Client) -> None:
    packed = http.get("/openapi.json", headers={"accept-encoding": "gzip"})
    plain = http.get("/openapi.json", headers={"accept-encoding": "identity"})
    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert packed.json() == plain.json()


def test_both_gateways_get_questions(http: httpx.Client, gateways: list[Service]) -> None:
    before = [asked_at_rest(gateway) for gateway in gateways]
    for _ in range(6):
        assert http.post("/ask", json={**QUESTION, "max_tokens": 1}).status_code == 200
    after = [asked(gateway) for gateway in gateways]
    assert sum(after) - sum(before) == 6
    assert all(now > then for now, then in zip(after, before, strict=True))


def test_the_less_busy_gateway_is_asked(nginx: Service, gateways: list[Service]) -> None:
    for gateway in gateways:
        asked_at_rest(gateway)
    body = {**QUESTION, "max_tokens": TOKENS, "stream": True}
    with asking.client(nginx.url) as busy, busy.stream("POST", "/ask", json=body) as response:
        chunks = response.iter_raw()
        next(chunks)
        before = [asked(gateway) for gateway in gateways]
        with asking.client(nginx.url) as http:
            for _ in range(4):
                assert http.post("/ask", json={**QUESTION, "max_tokens": 1}).status_code == 200
        more = [asked(gateway) - then for gateway, then in zip(gateways, before, strict=True)]
    assert sorted(more) == [0, 4]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("leave_after_seconds", [0.0, 1.0])
def test_a_client_that_leaves_frees_the_engine(
    nginx: Service, models: Service, stream: bool, leave_after_seconds: float
) -> None:
    assert eventually(lambda: held(models.url) == 0)
    host, _, port = nginx.url.removeprefix("http://").partition(":")
    body = json.dumps({**QUESTION, "max_tokens": TOKENS, "stream": stream}).encode()
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            b"POST /ask HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
            + f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        assert eventually(lambda: held(models.url) == 1)
        time.sleep(leave_after_seconds)
    assert eventually(lambda: held(models.url) == 0)


def test_one_gateway_may_be_killed_and_come_back(http: httpx.Client, gateways: list[Service]) -> None:
    gateways[0].kill()
    for stream in [False, True] * 6:
        response = http.post("/ask", json={**QUESTION, "max_tokens": 1, "stream": stream})
        assert response.status_code == 200
    gateways[0].start()

    def answers_again() -> bool:
        assert http.post("/ask", json={**QUESTION, "max_tokens": 1}).status_code == 200
        return asked(gateways[0]) > 0

    assert eventually(answers_again, seconds=60)


def test_both_gateways_down_is_a_problem_that_says_when_to_try_again(
    http: httpx.Client, gateways: list[Service]
) -> None:
    for gateway in gateways:
        gateway.kill()
    for headers in ({}, {"accept": "text/event-stream"}, {"x-request-id": "order-66"}):
        started = time.monotonic()
        response = http.post("/ask", json=QUESTION, headers=headers)
        assert time.monotonic() - started < AT_ONCE_SECONDS
        assert_problem(response, 502, "gateway_down", retryable=True)
        assert headers.get("x-request-id", response.headers["x-request-id"]) == response.headers["x-request-id"]
    assert_problem(http.get("/topics"), 502, "gateway_down", retryable=True)
    assert http.get("/nginx/healthz").text == "ok\n"
    for gateway in gateways:
        gateway.start()
    assert eventually(lambda: http.get("/readyz").status_code == 200, seconds=60)


def test_a_gateway_killed_mid_stream_ends_the_stream_visibly(
    http: httpx.Client, gateways: list[Service], models: Service
) -> None:
    before = [asked_at_rest(gateway) for gateway in gateways]
    with http.stream("POST", "/ask", json={**QUESTION, "max_tokens": TOKENS, "stream": True}) as response:
        events = asking.events(response)
        assert [next(events)[0] for _ in range(3)] == ["meta", "sources", "token"]
        # The other one answers this, so the one that does not is the one to kill.
        assert http.post("/ask", json={**QUESTION, "max_tokens": 1}).status_code == 200
        streaming = [gateway for gateway, then in zip(gateways, before, strict=True) if asked(gateway) == then]
        assert len(streaming) == 1
        streaming[0].kill()
        with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
            list(events)
    assert eventually(lambda: held(models.url) == 0)
    streaming[0].start()


def test_a_post_that_may_have_begun_is_not_sent_again(tmp_path: Path) -> None:
    with ExitStack() as stack:
        upstreams = [stack.enter_context(upstream()) for _ in range(2)]
        nginx = stack.enter_context(in_front_of(tmp_path, *(each.url for each in upstreams)))
        http = stack.enter_context(asking.client(nginx.url))
        assert_problem(http.post("/drop", json=QUESTION), 502, "gateway_down", retryable=True)
        assert sum(len(each.requests) for each in upstreams) == 1
        # A GET may be. (The upstream that dropped the POST is left out for 2 s first.)
        for each in upstreams:
            each.requests.clear()
        assert eventually(lambda: http.get("/").status_code == 200 and all(each.requests for each in upstreams), 60)
        for each in upstreams:
            each.requests.clear()
        assert_problem(http.get("/drop"), 502, "gateway_down", retryable=True)
        assert [[method for method, _, _ in each.requests] for each in upstreams] == [["GET"], ["GET"]]


def test_a_post_goes_to_the_next_gateway_when_the_first_cannot_be_reached(tmp_path: Path) -> None:
    with ExitStack() as stack:
        alive = stack.enter_context(upstream())
        dead = f"http://127.0.0.1:{processes.free_port()}"
        nginx = stack.enter_context(in_front_of(tmp_path, dead, alive.url))
        http = stack.enter_context(asking.client(nginx.url))
        answers = [http.post("/ask", json=QUESTION).status_code for _ in range(8)]
        assert (answers, len(alive.requests)) == ([200] * 8, 8)


def test_a_gateways_own_refusal_passes_as_it_is(loaded: str, milvus_lite: Service, tmp_path: Path) -> None:
    gateway = processes.gateway(
        tmp_path / "gateway.log",
        f"http://127.0.0.1:{processes.free_port()}",
        milvus_lite.url,
        collection=loaded,
        retry_after_seconds=7,
    )
    with ExitStack() as stack:
        stack.callback(gateway.stop)
        gateway.start(processes.answers_healthy)
        nginx = stack.enter_context(in_front_of(tmp_path, gateway.url))
        http = stack.enter_context(asking.client(nginx.url))
        refusal = http.post("/ask", json=QUESTION)
        assert (refusal.status_code, refusal.headers["retry-after"]) == (503, "7")
        assert refusal.json()["code"] == "model_service_down"


def test_connections_to_the_gateways_are_kept(tmp_path: Path) -> None:
    with upstream() as gateway, in_front_of(tmp_path, gateway.url) as nginx, asking.client(nginx.url) as http:
        for _ in range(10):
            assert http.post("/ask", json=QUESTION).text == "ok"
        assert len(gateway.requests) == 10
        assert len(gateway.peers) == 1


def test_gateways_learn_who_asks(tmp_path: Path) -> None:
    with upstream() as gateway, in_front_of(tmp_path, gateway.url) as nginx, asking.client(nginx.url) as http:
        http.get("/a", headers={"host": "pharos.example.org:8000", "upgrade": "h2c", "connection": "upgrade"})
        http.get("/b", headers={"x-forwarded-for": "203.0.113.9", "x-forwarded-proto": "https"})
    (_, _, first), (_, _, second) = gateway.requests
    assert (first["host"], first["x-forwarded-host"]) == ("pharos.example.org:8000",) * 2
    assert (first["x-real-ip"], first["x-forwarded-for"], first["x-forwarded-proto"]) == ("127.0.0.1",) * 2 + ("http",)
    assert not {"upgrade", "connection"} & first.keys()
    assert (second["x-forwarded-for"], second["x-forwarded-proto"]) == ("203.0.113.9, 127.0.0.1", "https")


def test_request_ids_pass_and_are_logged(http: httpx.Client, nginx: Service) -> None:
    sane = http.get("/topics", headers={"x-request-id": "order-67"}).headers["x-request-id"]
    insane = http.get("/topics", headers={"x-request-id": 'a "b" c'}).headers["x-request-id"]
    none = http.get("/topics").headers["x-request-id"]
    assert sane == "order-67"
    assert len(insane) == len(none) == 32

    def logged() -> set[str]:
        lines = [line for line in nginx.log.read_text().splitlines() if line.startswith("{") and line.endswith("}")]
        return {json.loads(line)["request_id"] for line in lines}

    assert eventually(lambda: {sane, insane, none} <= logged())


def test_a_body_is_refused_where_the_gateway_would_refuse_it(http: httpx.Client) -> None:
    def body(size: int) -> bytes:
        return b'{"question": "' + b"x" * (size - 16) + b'"}'

    json_type = {"content-type": "application/json"}
    largest = http.post("/ask", content=body(BODY_BYTES_MAX), headers=json_type)
    assert (largest.status_code, largest.json()["code"]) == (422, "invalid_request")
    too_large = body(BODY_BYTES_MAX + 1)
    assert_problem(http.post("/ask", content=too_large), 413, "request_entity_too_large", retryable=False)
    chunks = iter([too_large[:500_000], too_large[500_000:]])
    assert_problem(http.post("/ask", content=chunks), 413, "request_entity_too_large", retryable=False)


def test_websockets_pass(tmp_path: Path) -> None:
    def echo(connection: websockets.sync.server.ServerConnection) -> None:
        for message in connection:
            connection.send(message)

    with websockets.sync.server.serve(echo, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with in_front_of(tmp_path, f"http://127.0.0.1:{server.socket.getsockname()[1]}") as nginx:
                url = nginx.url.replace("http://", "ws://") + "/rooms"
                with websockets.sync.client.connect(url, proxy=None) as client:
                    for message in ("one", b"\x00two"):
                        client.send(message)
                        assert client.recv(timeout=60) == message
        finally:
            server.shutdown()
            thread.join()
