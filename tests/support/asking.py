"""Ask a running gateway, whole or as a stream."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx


def client(url: str) -> httpx.Client:
    """No proxy, and patience for a small machine."""
    return httpx.Client(base_url=url, timeout=120, trust_env=False)


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
    return int(httpx.get(models + "/readyz", trust_env=False).json()["prompts_held"])


def eventually(condition: Callable[[], bool], seconds: float = 3) -> bool:
    """Whether it becomes true in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False
