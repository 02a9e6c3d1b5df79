"""HTTP for Locust's users: one connection each, and the pieces of a stream as they arrive.

Locust's own FastHttpUser gathers 1 KiB before it hands anything on, which makes a first token look seconds late; below
it, geventhttpclient's `readline` gives each line with the piece that ends it. requests has no such delay, but costs a
third more CPU per event.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import gevent
from geventhttpclient import HTTPClient
from geventhttpclient.response import HTTPParseError, HTTPSocketPoolResponse

from locust_testing.problem import problem
from locust_testing.sse import Parser
from locust_testing.stream import Hear, Stream

EVENT_STREAM = "text/event-stream"
CONNECT_SECONDS = 10.0
LINE_BYTES = 65536
"""Read at once, at most."""


class Unanswered(Exception):
    """No whole answer: no connection, silence, or an end in the middle. Says which."""


class Client:
    """One user's connection to `host`, made when needed and kept as long as both ends like to.

    `silence_seconds` is the longest wait for the next piece of an answer. Methods raise Unanswered and HttpProblem.
    """

    def __init__(self, host: str, silence_seconds: float, api_key: str = "") -> None:
        self._host = host
        self._silence_seconds = silence_seconds
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._prefix = urlsplit(host).path.rstrip("/")
        self._http: HTTPClient | None = None

    def get(self, path: str) -> Any:
        """The JSON at `path`."""
        with self.request("GET", path) as response:
            return json.loads(_whole(response))

    def post(self, path: str, body: dict[str, object]) -> tuple[Any, int]:
        """The JSON that answers `body`, and its size in bytes."""
        with self.request("POST", path, body) as response:
            content = _whole(response)
            return json.loads(content), len(content)

    def request(self, method: str, path: str, body: dict[str, object] | None = None) -> HTTPSocketPoolResponse:
        """The response as soon as its head is there; release it (`with`) to go away from what is left of it."""
        if self._http is None:
            self._http = HTTPClient.from_url(
                self._host,
                headers=self._headers,
                connection_timeout=CONNECT_SECONDS,
                network_timeout=self._silence_seconds,
                block_size=LINE_BYTES,
            )
        content = b"" if body is None else json.dumps(body).encode()
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            response = self._http.request(method, self._prefix + path, content, headers)
            if response.status_code != 200:
                with response:
                    raise problem(response.status_code, response.read(), response.get("retry-after"))
        except (OSError, HTTPParseError) as exc:
            self.close()
            raise Unanswered(_says(exc)) from exc
        except gevent.Timeout:
            self.close()
            raise
        return response

    def close(self) -> None:
        """Hang up."""
        if self._http is not None:
            self._http.close()
            self._http = None


def listen(response: HTTPSocketPoolResponse, stream: Stream, hear: Hear) -> Iterator[int]:
    """Hear `response` into `stream`, event by event; gives the bytes of each. At its end `stream.ended` is set.

    Raises Unanswered when it breaks off, and ValueError for what is no event of this API.
    """
    parser = Parser()
    heard = 0
    try:
        while line := response.readline(b"\n"):
            now = time.perf_counter()
            heard += len(line)
            for event in parser.feed(line):
                hear(stream, event, now)
                yield heard
                heard = 0
    except (OSError, HTTPParseError) as exc:
        raise Unanswered(_says(exc)) from exc
    stream.ended = time.perf_counter()


def _whole(response: HTTPSocketPoolResponse) -> bytes:
    try:
        return response.read()
    except (OSError, HTTPParseError) as exc:
        raise Unanswered(_says(exc)) from exc


def _says(exc: Exception) -> str:
    if isinstance(exc, TimeoutError):
        return "no piece of the answer came for too long"
    return (exc.strerror if isinstance(exc, OSError) else None) or str(exc) or type(exc).__name__
