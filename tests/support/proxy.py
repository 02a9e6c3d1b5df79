"""A proxy that hands a whole answer on, in threads of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

PASSED_ON = ("Accept", "Content-Type")


@contextmanager
def proxy(url: str, before_post: Callable[[], object] = lambda: None) -> Iterator[str]:
    """Its address. It hands an answer on when it has all of it, and a POST once `before_post` has returned; where the
    service at `url` is away, it hangs up."""

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._hand_on(None)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            before_post()
            self._hand_on(body)

        def _hand_on(self, body: bytes | None) -> None:
            headers = {name: self.headers[name] for name in PASSED_ON if name in self.headers}
            try:
                answer = httpx.request(
                    self.command, url + self.path, content=body, headers=headers, timeout=60, trust_env=False
                )
            except httpx.TransportError:
                self.close_connection = True
                return
            with suppress(OSError):  # whoever asked may have left
                self.send_response(answer.status_code)
                self.send_header("Content-Type", answer.headers.get("Content-Type", ""))
                self.send_header("Content-Length", str(len(answer.content)))
                self.end_headers()
                self.wfile.write(answer.content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
