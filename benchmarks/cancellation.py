"""How soon are the engine's slots free when many clients leave at once? On a simulated stack of its own.

    python -m benchmarks.cancellation [--clients 200] [--bursts 5]

All clients read a stream, and all of them leave in one turn of an event loop. Measured at the model service: its
`prompts_held` is asked for over and over from just before the burst. The i-th slot to be free is compared with the i-th
client to leave, so that a figure includes the gateway, the model service, and the time between two answers.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.support import processes
from tests.support.processes import Service

TOKEN_SECONDS = 0.25
"""Between two tokens of a stream: 200 clients read 800 tokens a second, which leaves two cores some air."""
PAUSE_SECONDS = 0.002
"""Between two questions to the model service; without it, answering them would be half of what is measured."""
ANSWER_TOKENS = 400
"""100 s: no stream ends by itself."""


@dataclass
class Watch:
    """Asks a model service for `prompts_held` over and over, in a thread; `seen` are instants and answers."""

    url: str
    seen: list[tuple[float, int]] = field(default_factory=list)
    begun: threading.Event = field(default_factory=threading.Event)
    empty: threading.Event = field(default_factory=threading.Event)
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        connection = http.client.HTTPConnection(self.url.removeprefix("http://"))
        while not self._stop.is_set():
            connection.request("GET", "/readyz")
            held = json.loads(connection.getresponse().read())["prompts_held"]
            self.seen.append((time.monotonic(), held))
            self.begun.set()
            if not held:
                self.empty.set()
            time.sleep(PAUSE_SECONDS)
        connection.close()

    def stop(self) -> None:
        self._stop.set()


async def burst(gateway: str, model_service: str, clients: int) -> list[float]:
    """Seconds until each slot was free, in the order in which they were."""
    streams = await asyncio.gather(*(_streaming(gateway) for _ in range(clients)))
    watch = Watch(model_service)
    thread = threading.Thread(target=watch.run)
    thread.start()
    try:
        assert await asyncio.to_thread(watch.begun.wait, 30)
        assert watch.seen[-1][1] == clients, watch.seen[-1]
        left: list[float] = []
        for writer in streams:
            left.append(time.monotonic())
            writer.transport.abort()
        await asyncio.to_thread(watch.empty.wait, 30)
    finally:
        watch.stop()
        await asyncio.to_thread(thread.join)
    return release_seconds(left, watch.seen)


def release_seconds(left: Sequence[float], seen: Sequence[tuple[float, int]]) -> list[float]:
    """From when clients left and how many slots were seen taken when."""
    free: list[float] = []
    for at, held in seen:
        free += [at] * (len(left) - held - len(free))
    return [was_free - gone for gone, was_free in zip(left, free, strict=True)]


async def _streaming(gateway: str) -> asyncio.StreamWriter:
    """A client that has its first token."""
    host, _, port = gateway.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = json.dumps(
        {
            "model": "simulated",
            "stream": True,
            "messages": [{"role": "user", "content": "Go on."}],
            "max_tokens": ANSWER_TOKENS,
        }
    ).encode()
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: pharos\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    await reader.readuntil(b'"content":"')
    await reader.readuntil(b'"content":"')
    return writer


def stack(folder: Path, clients: int) -> tuple[Service, Service]:
    """A model service with a slot for each client, and its gateway; started. (Chats need no Milvus.)"""
    models = processes.simulated_model_service(
        folder / "models.log",
        simulated_first_token_seconds=0.2,
        simulated_token_seconds=TOKEN_SECONDS,
        simulated_answer_tokens=ANSWER_TOKENS,
        simulated_sequences=clients,
    ).start()
    gateway = processes.gateway(folder / "gateway.log", models.url, "http://127.0.0.1:1")
    return models, gateway.start(processes.answers_healthy)


async def run(clients: int, bursts: int) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        models, gateway = stack(Path(folder), clients)
        try:
            for i in range(bursts):
                seconds = await burst(gateway.url, models.url, clients)
                print(f"burst {i + 1}: {clients} clients; slots free after {summary(seconds)}", flush=True)
        finally:
            gateway.stop()
            models.stop()


def summary(seconds: Sequence[float]) -> str:
    """Median, p99 and the last one."""
    p50, p99, last = np.percentile(seconds, [50, 99, 100]) * 1000
    return f"{p50:.0f} ms (median), {p99:.0f} ms (p99), {last:.0f} ms (all)"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Time from a client's leaving to its slot's being free.")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--bursts", type=int, default=5)
    options = parser.parse_args()
    asyncio.run(run(options.clients, options.bursts))
