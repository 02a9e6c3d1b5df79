"""What the generator is asked to do, and what it reports. Times are in seconds."""

from __future__ import annotations

from typing import Literal

import msgspec

from benchmarks.load.percentiles import Spread


class Closed(msgspec.Struct, frozen=True, tag="closed"):
    """`at_once` connections; each sends its next request when it has the answer to the last.

    No request starts after `seconds`, or after `requests` have started.
    """

    at_once: int
    seconds: float | None = None
    requests: int | None = None


class Open(msgspec.Struct, frozen=True, tag="open"):
    """Requests start `per_second` for `seconds`, whether or not earlier ones are answered.

    Poisson arrivals are what many independent users make (Schroeder et al., "Open Versus Closed", NSDI 2006).
    """

    per_second: float
    seconds: float
    spacing: Literal["fixed", "poisson"] = "poisson"
    seed: int = 1


class Load(msgspec.Struct, frozen=True):
    """Requests to one address. The bodies are taken in turn, from the first again after the last."""

    url: str
    bodies: list[str]
    arrivals: Closed | Open
    stream: bool = False
    timeout_seconds: float = 120.0


class Outcome(msgspec.Struct, frozen=True):
    """What came back.

    `wall_seconds` is from the first request to the last answer. `latency` is by status ("200", "503", "error") and,
    with open arrivals, counts from the instant a request was due, so that a generator or server that falls behind
    cannot hide it (Tene, "How NOT to Measure Latency": coordinated omission). Of streams: `first_token` likewise,
    `gap` between two chunks with text, `tokens` as the server counts them (else the words of the text), `chunks` the
    events with text. `late` is by how much requests left after they were due.
    """

    wall_seconds: float
    requests: int
    latency: dict[str, Spread]
    first_token: Spread
    gap: Spread
    tokens: int
    chunks: int
    late: Spread
    cpu_seconds: float
    first_body: str

    @property
    def answered(self) -> int:
        """Requests answered with 200 (a stream: to its end)."""
        return self.latency["200"].count if "200" in self.latency else 0

    @property
    def per_second(self) -> float:
        """Good answers a second."""
        return self.answered / self.wall_seconds

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.wall_seconds

    @property
    def failed(self) -> int:
        """Requests that ended otherwise than with 200."""
        return self.requests - self.answered
