"""The transport against a server that says, byte by byte, what a test wants: whole, broken, late or never."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from app.adapters.transport import BODY_TIMEOUT, UNREAD_BYTES_MAX, HttptoolsTransport

SHORT = 0.02
"""A timeout that is meant to run out, in seconds."""
ENOUGH = 2.5
"""One that is not meant to, though longer than that is waited afterwards: a machine may stand still for a while."""
LONG = 30.0
"""One that is not."""


class Server:
    """Hands each connection to `talk`, and knows how many there were and are."""

    def __init__(self, talk: Callable[[Connection], Awaitable[None]]) -> None:
        self._talk = talk
        self.connections: list[Connection] = []
        self.asked: asyncio.Queue[Connection] = asyncio.Queue()
        """Each connection, each time that a request has come on it."""
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(reader, writer, self.asked)
        self.connections.append(connection)
        try:
            await self._talk(connection)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has gone
        finally:
            writer.close()
            connection.over.set()


class Connection:
    """One connection, as the server sees it."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: asyncio.Queue[Connection]
    ) -> None:
        self._asked = asked
        self.reader = reader
        self.writer = writer
        self.requests: list[bytes] = []
        self.over = asyncio.Event()

    async def request(self) -> bytes:
        """The next request, with a body as long as it says."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = next(
            (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
        )
        self.requests.append(head + await self.reader.readexactly(length))
        self._asked.put_nowait(self)
        return self.requests[-1]

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def until_client_leaves(self) -> None:
        await self.reader.read()


@asynccontextmanager
async def serving(
    talk: Callable[[Connection], Awaitable[None]], connections: int = 8, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[Server, httpx.AsyncClient]]:
    """A server and a client of it."""
    server = Server(talk)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    port = listening.sockets[0].getsockname()[1]
    server.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    timeout = httpx.Timeout(LONG)
    try:
        async with httpx.AsyncClient(
            base_url=server.url, transport=HttptoolsTransport(connections), timeout=timeout
        ) as client:
            yield server, client
        for connection in server.connections:  # closing the client closes whatever it has open
            await connection.over.wait()
    finally:
        listening.close()


def sized(body: bytes, *headers: bytes) -> bytes:
    head = [b"HTTP/1.1 200 OK", b"content-length: %d" % len(body), *headers]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


async def answer_everything(connection: Connection) -> None:
    while True:
        await connection.request()
        await connection.say(sized(b"hello"))


def quick(seconds: float = SHORT, body_seconds: float | None = None) -> dict[str, object]:
    """A request's options: how long to wait for its head, and for each part of its body."""
    extensions = {} if body_seconds is None else {BODY_TIMEOUT: body_seconds}
    return {"timeout": httpx.Timeout(LONG, read=seconds), "extensions": extensions}


# What is right


async def test_a_request_is_sent_as_it_is_and_its_answer_read() -> None:
    async def talk(connection: Connection) -> None:
        await connection.request()
        await connection.say(b"HTTP/1.1 418 Teapot\r\nX-Two: a\r\nX-Two: b\r\ncontent-length: 5\r\n\r\nhello")

    async with serving(talk) as (server, client):
        response = await client.post("/path?q=1", content=b"body", headers={"x-mine": "1"})
        assert (response.status_code, response.content) == (418, b"hello")
        assert response.headers.get_list("x-two") == ["a", "b"]
        head, body = server.connections[0].requests[0].split(b"\r\n\r\n")
        assert head.split(b"\r\n")[0] == b"POST /path?q=1 HTTP/1.1"
        assert b"x-mine: 1" in head.lower()
        assert body == b"body"


async def test_connections_are_kept_alive_and_used_again() -> None:
    async with serving(answer_everything) as (server, client):
        for _ in range(5):
            assert (await client.get("/")).content == b"hello"
        assert [len(connection.requests) for connection in server.connections] == [5]


async def test_a_server_that_closes_after_each_answer_gets_a_new_connection() -> None:
    async def talk(connection: Connection) -> None:
        await connection.request()
        await connection.say(sized(b"bye", b"connection: close"))

    async with serving(talk) as (server, client):
        for _ in range(3):
            assert (await client.get("/")).content == b"bye"
        assert [len(connection.requests) for connection in server.connections] == [1, 1, 1]


async def test_chunks_are_read_as_they_come() -> None:
    go_on = asyncio.Event()

    async def talk(connection: Connection) -> None:
        for _ in range(2):
            await connection.request()
            await connection.say(CHUNKED + chunk(b"first"))
            await go_on.wait()
            await connection.say(chunk(b"second") + chunk(b"third") + b"0\r\n\r\n")

    async with serving(talk) as (server, client):
        async with client.stream("GET", "/") as response:
            parts = response.aiter_raw()
            assert await anext(parts) == b"first"
            go_on.set()
            assert b"".join([part async for part in parts]) == b"secondthird"
        assert (await client.get("/")).content == b"firstsecondthird"
        assert len(server.connections) == 1


async def test_a_body_may_last_until_the_connection_closes() -> None:
    async def talk(connection: Connection) -> None:
        await connection.request()
        await connection.say(b"HTTP/1.0 200 OK\r\n\r\nall of ")
        await connection.say(b"it")

    async with serving(talk) as (server, client):
        assert (await client.get("/")).content == b"all of it"
        assert (await client.get("/")).content == b"all of it"
        assert len(server.connections) == 2


async def test_an_answer_without_a_body_keeps_the_connection() -> None:
    async def talk(connection: Connection) -> None:
        while True:
            await connection.request()
            await connection.say(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with serving(talk) as (server, client):
        for _ in range(2):
            assert (await client.post("/abort")).content == b""
        assert len(server.connections) == 1


@pytest.mark.parametrize("pieces", [1, 3, 50])
async def test_it_does_not_matter_how_the_bytes_arrive(pieces: int) -> None:
    whole = CHUNKED + chunk(b"hello") + chunk(b"world") + b"0\r\n\r\n"

    async def talk(connection: Connection) -> None:
        await connection.request()
        size = max(1, len(whole) // pieces)
        for start in range(0, len(whole), size):
            await connection.say(whole[start : start + size])
            await asyncio.sleep(0)
        await connection.until_client_leaves()

    async with serving(talk) as (_, client):
        assert (await client.get("/")).content == b"helloworld"


# What is broken


@pytest.mark.parametrize(
    "garbage",
    [
        b"hello\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: two\r\n\r\nhi",
        CHUNKED + b"zz\r\n",
        b"\0" * 100,
    ],
)
async def test_garbage_is_an_error_and_ends_the_connection(garbage: bytes) -> None:
    async def talk(connection: Connection) -> None:
        await connection.request()
        await connection.say(garbage)
        await connection.until_client_leaves()

    async with serving(talk) as (server, client):
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/")
        await server.connections[0].over.wait()
        assert len(server.connections) == 1


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-le",
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
        CHUNKED + chunk(b"half"),
        CHUNKED + b"5\r\nha",
    ],
)
async def test_a_connection_closed_before_the_end_of_the_answer_is_an_error(said: bytes) -> None:
    async def talk(connection: Connection) -> None:
        await connection.request()
        await connection.say(said)

    async with serving(talk) as (server, client):
        with pytest.raises(httpx.ReadError):
            await client.get("/")
        assert len(server.connections) == 1, "a fresh connection that breaks is not asked again"


async def test_what_came_before_the_break_is_read_first() -> None:
    async def talk(connection: Connection) -> None:
        await connection.request()
        await connection.say(CHUNKED + chunk(b"half"))

    async with serving(talk) as (_, client), client.stream("GET", "/") as response:
        parts = response.aiter_raw()
        assert await anext(parts) == b"half"
        with pytest.raises(httpx.ReadError):
            await anext(parts)


async def test_a_kept_alive_connection_that_was_closed_meanwhile_is_replaced() -> None:
    close = asyncio.Event()

    async def talk(connection: Connection) -> None:
        await connection.request()
        await connection.say(sized(b"hello"))
        await close.wait()

    async with serving(talk) as (server, client):
        assert (await client.get("/")).content == b"hello"
        close.set()
        await server.connections[0].over.wait()
        assert (await client.get("/")).content == b"hello"
        assert len(server.connections) == 2


async def test_a_kept_alive_connection_that_closes_as_it_is_written_to_is_asked_again_elsewhere() -> None:
    async def talk(connection: Connection) -> None:
        await connection.request()
        await connection.say(sized(b"hello"))
        if len(server.connections) <= 2:
            await connection.request()  # and goes away without a word
        else:
            await answer_everything(connection)

    async with serving(talk) as (server, client):
        assert [(await r).content for r in [client.get("/"), client.get("/")]] == [b"hello"] * 2
        assert [len(connection.requests) for connection in server.connections] == [2, 1]


async def test_a_kept_alive_connection_that_breaks_after_it_began_to_answer_is_not_asked_again() -> None:
    async def talk(connection: Connection) -> None:
        await connection.request()
        await connection.say(sized(b"hello"))
        await connection.request()
        await connection.say(b"HTTP/1.1 200 O")

    async with serving(talk) as (server, client):
        await client.get("/")
        with pytest.raises(httpx.ReadError):
            await client.get("/")
        assert len(server.connections) == 1


async def test_bytes_that_nobody_asked_for_are_not_the_next_answer() -> None:
    said = asyncio.Event()

    async def talk(connection: Connection) -> None:
        await connection.request()
        await connection.say(sized(b"hello"))
        if len(server.connections) == 1:
            await said.wait()
            await connection.say(sized(b"somebody else's"))
        await connection.until_client_leaves()

    async with serving(talk) as (server, client):
        assert (await client.get("/")).content == b"hello"
        said.set()
        await server.connections[0].over.wait()
        assert (await client.get("/")).content == b"hello"


async def test_nobody_listening_is_a_connect_error() -> None:
    with socket.socket() as taken:  # so that nobody else can listen there
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        async with httpx.AsyncClient(transport=HttptoolsTransport(1)) as client:
            for _ in range(3):  # the permit comes back each time
                with pytest.raises(httpx.ConnectError):
                    await client.get(url)


# What is late


async def silent(connection: Connection) -> None:
    await connection.request()
    await connection.until_client_leaves()


async def test_silence_before_the_answer_is_a_read_timeout() -> None:
    async with serving(silent, connections=1) as (server, client):
        for _ in range(3):
            with pytest.raises(httpx.ReadTimeout):
                await client.get("/", **quick())  # type: ignore[arg-type]
            connection = await server.asked.get()  # which may be after the client has given up
            await connection.over.wait()


@pytest.mark.parametrize(("head", "body"), [(SHORT, None), (LONG, SHORT)])
async def test_silence_within_the_body_is_a_read_timeout(head: float, body: float | None) -> None:
    async def talk(connection: Connection) -> None:
        await connection.request()
        await connection.say(CHUNKED + chunk(b"half"))
        await connection.until_client_leaves()

    async with serving(talk) as (server, client):
        with pytest.raises(httpx.ReadTimeout):
            await client.get("/", **quick(head, body))  # type: ignore[arg-type]
        connection = await server.asked.get()
        await connection.over.wait()


async def test_a_body_may_be_silent_for_longer_than_its_head() -> None:
    async def talk(connection: Connection) -> None:
        await connection.request()
        await connection.say(CHUNKED + chunk(b"a"))
        await asyncio.sleep(1.2 * ENOUGH)
        await connection.say(chunk(b"b") + b"0\r\n\r\n")
        await connection.until_client_leaves()

    async with serving(talk) as (_, client):
        assert (await client.get("/", **quick(ENOUGH, LONG))).content == b"ab"  # type: ignore[arg-type]


async def test_only_silence_counts_not_the_length_of_the_answer() -> None:
    async def talk(connection: Connection) -> None:
        await connection.request()
        await connection.say(CHUNKED)
        for _ in range(10):
            await asyncio.sleep(0.13 * ENOUGH)
            await connection.say(chunk(b"a"))
        await connection.say(b"0\r\n\r\n")
        await connection.until_client_leaves()

    async with serving(talk) as (_, client):
        assert (await client.get("/", **quick(ENOUGH))).content == b"a" * 10  # type: ignore[arg-type]


async def test_a_timeout_of_one_answer_does_not_end_the_next_one() -> None:
    async def talk(connection: Connection) -> None:
        await connection.request()
        await connection.say(sized(b"quick"))
        await connection.request()
        await asyncio.sleep(1.2 * ENOUGH)
        await connection.say(sized(b"slow"))
        await connection.until_client_leaves()

    async with serving(talk) as (server, client):
        assert (await client.get("/", **quick(ENOUGH))).content == b"quick"  # type: ignore[arg-type]
        assert (await client.get("/", **quick(LONG))).content == b"slow"  # type: ignore[arg-type]
        assert len(server.connections) == 1


async def test_who_waits_too_long_for_a_connection_is_told_so() -> None:
    timeout = httpx.Timeout(LONG, pool=SHORT)
    async with serving(silent, connections=1) as (server, client):
        running = asyncio.ensure_future(client.get("/"))
        await server.asked.get()
        with pytest.raises(httpx.PoolTimeout):
            await client.get("/", timeout=timeout)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        with pytest.raises(httpx.ReadTimeout):  # there is a connection for it now
            await client.get("/", **quick())  # type: ignore[arg-type]


# Leaving


async def test_cancelling_before_the_answer_closes_the_connection_and_frees_its_place() -> None:
    async with serving(silent, connections=1) as (server, client):
        for _ in range(3):
            running = asyncio.ensure_future(client.get("/"))
            connection = await server.asked.get()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await connection.over.wait()


async def test_leaving_within_the_body_closes_the_connection_and_frees_its_place() -> None:
    async def talk(connection: Connection) -> None:
        await connection.request()
        await connection.say(CHUNKED + chunk(b"token"))
        await connection.until_client_leaves()

    async with serving(talk, connections=1) as (server, client):
        for attempt in range(3):
            async with client.stream("GET", "/") as response:
                assert await anext(response.aiter_raw()) == b"token"
            await server.connections[attempt].over.wait()


async def test_waiting_for_a_connection_can_be_cancelled() -> None:
    async with serving(silent, connections=1) as (server, client):
        first = asyncio.ensure_future(client.get("/"))
        await server.asked.get()
        second = asyncio.ensure_future(client.get("/"))
        await asyncio.sleep(0)
        second.cancel()
        first.cancel()
        outcomes = await asyncio.gather(first, second, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * 2
        with pytest.raises(httpx.ReadTimeout):
            await client.get("/", **quick())  # type: ignore[arg-type]


async def test_closing_ends_what_runs_and_what_is_kept_alive() -> None:
    async def talk(connection: Connection) -> None:
        if (await connection.request()).startswith(b"GET /kept"):
            await connection.say(sized(b"hello"))
        await connection.until_client_leaves()

    async with serving(talk) as (server, client):
        running = [asyncio.ensure_future(client.get("/running")) for _ in range(3)]
        assert (await client.get("/kept")).content == b"hello"
        connections = [await server.asked.get() for _ in range(4)]
        await client.aclose()
        outcomes = await asyncio.gather(*running, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [httpx.ReadError] * 3
        for connection in connections:
            await connection.over.wait()


# A slow reader


async def test_a_slow_reader_slows_the_server_down() -> None:
    total = 40 * UNREAD_BYTES_MAX
    sent = 0
    all_sent = asyncio.Event()

    async def talk(connection: Connection) -> None:
        nonlocal sent
        await connection.request()
        await connection.say(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % total)
        while sent < total:
            await connection.say(b"x" * 65_536)
            sent += 65_536
        all_sent.set()
        await connection.until_client_leaves()

    async with serving(talk) as (_, client), client.stream("GET", "/") as response:
        before = -1
        while sent != before:  # until the server can send no more
            before = sent
            for _ in range(20):
                await asyncio.sleep(0.001)
        assert sent < total
        read = 0
        async for part in response.aiter_raw():
            read += len(part)
        await all_sent.wait()  # the last of it may be read before the server knows that it is sent
        assert (read, sent) == (total, total)


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Of `models.test`, signed by itself: certificate and key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "models.test")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("models.test"), x509.IPAddress(ipaddress.ip_address("127.0.0.2"))]
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    (folder / "cert.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture
def tls(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


async def test_tls_is_verified_against_the_name_the_address_was_found_under(
    tls: ssl.SSLContext, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    async with serving(answer_everything, tls=tls) as (server, client):
        for _ in range(2):
            response = await client.get("/", extensions={"sni_hostname": "models.test"})
            assert response.content == b"hello"
        assert len(server.connections) == 1
    async with serving(answer_everything, tls=tls) as (_, client):
        with pytest.raises(httpx.ConnectError, match=r"127\.0\.0\.1"):  # the certificate is not for this address
            await client.get("/")
        with pytest.raises(httpx.ConnectError, match=r"other\.test"):
            await client.get("/", extensions={"sni_hostname": "other.test"})


async def test_a_certificate_nobody_vouches_for_is_refused(tls: ssl.SSLContext) -> None:
    async with serving(answer_everything, tls=tls) as (_, client):
        with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
            await client.get("/", extensions={"sni_hostname": "models.test"})
