"""What a client hears of one streamed answer of POST /ask or /v1/chat/completions, and when."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

from locust_testing.sse import Event

OPENAI_END = "[DONE]"
NOTHING_RELEVANT = "nothing_relevant"
"""Why an answer ended that no model was asked for."""


@dataclass(slots=True)
class Stream:
    """One answer so far. `sent`, `token_times` and `ended` are instants of one monotonic clock, in seconds.

    `names` are the events in their order. A token event is one with text; it may carry several tokens.
    """

    sent: float
    names: list[str] = field(default_factory=list)
    token_times: list[float] = field(default_factory=list)
    done: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    ended: float | None = None

    @property
    def first_token_seconds(self) -> float | None:
        """From sending the request to the first token with text; None before it, and where no model was asked."""
        if not self.token_times or (self.done is not None and self.done.get("finish_reason") == NOTHING_RELEVANT):
            return None
        return self.token_times[0] - self.sent

    @property
    def total_seconds(self) -> float:
        """From sending the request to the end of the answer, or as far as it was heard."""
        return (self.ended if self.ended is not None else self.token_times[-1]) - self.sent

    @property
    def gaps(self) -> list[float]:
        """Seconds between each token event and the next."""
        return [later - earlier for earlier, later in pairwise(self.token_times)]


class Hear(Protocol):
    """Notes one event in a stream. Raises ValueError where its data is not what the API says."""

    def __call__(self, stream: Stream, event: Event, now: float) -> None: ...


def hear_ask(stream: Stream, event: Event, now: float) -> None:
    """An event of POST /ask: meta, sources, token, done, error."""
    stream.names.append(event.name)
    data = json.loads(event.data)
    if event.name == "token" and data.get("text"):
        stream.token_times.append(now)
    elif event.name == "done":
        stream.done = data
    elif event.name == "error":
        stream.error = data


def hear_chat(stream: Stream, event: Event, now: float) -> None:
    """A chunk of OpenAI's chat completions as Pharos writes them, noted as the event of /ask that it stands for."""
    if event.data == OPENAI_END:
        stream.names.append("done")
        return
    data = json.loads(event.data)
    if "error" in data:
        stream.names.append("error")
        stream.error = data["error"]
        return
    for choice in data["choices"]:
        delta = choice["delta"]
        if "role" in delta:
            stream.names += ["meta", "sources"]
        if delta.get("content"):
            stream.names.append("token")
            stream.token_times.append(now)
        if choice.get("finish_reason"):
            stream.done = {"finish_reason": choice["finish_reason"], "timings": data.get("timings")}
    if data.get("usage") and stream.done is not None:
        stream.done["usage"] = data["usage"]
        if data["usage"]["completion_tokens"] == 0:
            # OpenAI's API has no word for it.
            stream.done["finish_reason"] = NOTHING_RELEVANT
