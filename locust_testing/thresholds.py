"""What a load test must keep to, and what it did not keep to, in a sentence each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The most that is allowed; the fields are options, with dashes (`--max-failed-ratio`). Seconds and shares.

    The times are for the default model on two cores; hold a GPU to less.
    """

    max_failed_ratio: float = 0.01
    """Of the requests that were neither refused nor left."""
    max_refused_ratio: float = 0.5
    """Of all requests that no user left. A spike is meant to be refused in part; a test that is mostly refused says
    nothing of the answers."""
    max_implausible: float = 0
    max_p95_first_token_seconds: float = 10
    max_p95_total_seconds: float = 60


ABOUT = {
    "max_failed_ratio": "share of requests that may fail",
    "max_refused_ratio": "share of requests that may be refused (503 or 429 with Retry-After)",
    "max_implausible": "answers that may be implausible",
    "max_p95_first_token_seconds": "most seconds to the first token, 95th percentile of each kind of request",
    "max_p95_total_seconds": "most seconds of a whole answer, 95th percentile of each kind of request",
}


@dataclass(frozen=True, slots=True)
class Observed:
    """One kind of request in a run: counts, and percentiles in seconds (None: there was none to measure)."""

    name: str
    ok: int = 0
    failed: int = 0
    refused: int = 0
    implausible: int = 0
    p95_first_token_seconds: float | None = None
    p95_total_seconds: float | None = None


def misses(limits: Thresholds, observed: Sequence[Observed]) -> list[str]:
    """A sentence for each threshold that was missed, for each kind of request where there is one for each; empty when
    all were kept. A run without one complete answer keeps none."""
    ok = sum(kind.ok for kind in observed)
    failed = sum(kind.failed for kind in observed)
    refused = sum(kind.refused for kind in observed)
    implausible = sum(kind.implausible for kind in observed)
    missed = []
    if not ok:
        missed.append("Not one request was answered.")
    if failed and failed > limits.max_failed_ratio * (ok + failed):
        missed.append(
            f"{failed:,} of {ok + failed:,} requests failed ({failed / (ok + failed):.2%}); "
            f"at most {limits.max_failed_ratio:.2%} may."
        )
    if refused and refused > limits.max_refused_ratio * (ok + failed + refused):
        missed.append(
            f"{refused:,} of {ok + failed + refused:,} requests were refused "
            f"({refused / (ok + failed + refused):.2%}); at most {limits.max_refused_ratio:.2%} may be."
        )
    if implausible > limits.max_implausible:
        missed.append(f"{implausible:,} answers were implausible; at most {limits.max_implausible:g} may be.")
    for kind in observed:
        for what, seconds, most in (
            ("first tokens", kind.p95_first_token_seconds, limits.max_p95_first_token_seconds),
            ("answers", kind.p95_total_seconds, limits.max_p95_total_seconds),
        ):
            if seconds is not None and seconds > most:
                missed.append(
                    f"{kind.name}: 95 % of the {what} came within {seconds:g} s; at most {most:g} s is allowed."
                )
    return missed
