"""Ask a running gateway, whole or as a stream."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx

KEPT_SECONDS = 3.0
"""How long a client keeps an idle connection. uvicorn closes it after 5 s: one that is used just then is lost."""


def client(url: str) -> httpx.Client:
    """No proxy, and patience for a small machine."""
    limits = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=KEPT_SECONDS)
    return httpx.Client(base_url=url, timeout=120, trust_env=False, limits=limits)


def events(response: httpx.Response) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and data of each server-sent event, as it arrives; comments are left out."""
    name, data = "", ""
    for line in response.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            data = line.removeprefix("data: ")
        elif not line and name:
            yield name, json.loads(data)
            name, data = "", ""


def stream(http: httpx.Client, **body: object) -> list[tuple[str, dict[str, Any]]]:
    """All events of one streamed question."""
    with http.stream("POST", "/ask", json={"stream": True, **body}) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        return list(events(response))


def metric(http: httpx.Client, name: str, **labels: str) -> float:
    """The sum of a metric's samples whose labels include `labels`."""
    total = 0.0
    for line in http.get("/metrics").text.splitlines():
        if line.startswith((name + "{", name + " ")) and all(f'{k}="{v}"' in line for k, v in labels.items()):
            total += float(line.rsplit(" ", 1)[1])
    return total


def held(models: str) -> int:
    """How many prompts the model service at this URL works on."""
    return int(httpx.get(models + "/readyz", timeout=30, trust_env=False).json()["prompts_held"])


@contextmanager
def no_slot_free(models: str, slots: int) -> Iterator[None]:
    """Meanwhile the model service at this URL makes as many answers as it can at a time, so that it has no token for
    any other."""
    prompts = [{"request_id": f"fills-{i}", "prompt": "a prompt", "max_tokens": 100_000} for i in range(slots)]
    with httpx.stream(
        "POST", models + "/generate", json={"prompts": prompts}, timeout=120, trust_env=False
    ) as response:
        next(response.iter_lines())  # all of them have been accepted
        yield


def eventually(condition: Callable[[], bool], seconds: float = 30) -> bool:
    """Whether it becomes true in time, which is plenty: where it would also become true by itself, that must take
    longer."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False
