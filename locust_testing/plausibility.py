"""Can this be true? What a client measured, held against what the server says of the same answer.

Each says what is wrong in short sentences without figures in front, so that Locust counts equal ones together; an
empty list is a plausible answer. Clocks of two machines are never compared, only durations: the server counts from the
arrival of a request, so each of its durations is shorter than the client's, which begins earlier and ends later.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from locust_testing.stream import NOTHING_RELEVANT, Stream

TOLERANCE_SECONDS = 0.02
"""What the ticks of two clocks, and the rounding of a figure in JSON, may make a difference of."""
TEXTLESS_TOKENS = 8
"""So many tokens without any text are implausible; a few may be parts of one character, or the end's own token."""
BUFFERED_SECONDS = 1.0
"""Below this the server's stream is too short to say whether something on the way held it back, or the client had no
CPU for a moment."""


def of_stream(stream: Stream, max_tokens: int) -> list[str]:
    """Of a streamed answer that came to its end; `max_tokens` is what was asked for."""
    wrong = [*_order(stream.names), *_times(stream)]
    if stream.done is not None:
        wrong += [*_usage(stream.done, len(stream.token_times), max_tokens), *_against_server(stream, stream.done)]
    return wrong


def _times(stream: Stream) -> list[str]:
    wrong = []
    times = [stream.sent, *stream.token_times, *([] if stream.ended is None else [stream.ended])]
    if any(later < earlier for earlier, later in pairwise(times)):
        wrong.append("time ran backwards: a token came before the one in front of it")
    first = stream.first_token_seconds
    if first is not None:
        if first > stream.total_seconds:
            wrong.append("the first token came after the end")
        streamed = stream.token_times[-1] - stream.token_times[0]
        if abs(sum(stream.gaps) - streamed) > 1e-6 * (1 + len(stream.gaps)):
            wrong.append("the gaps between tokens do not add up to the time from the first token to the last")
    return wrong


def of_answer(answer: Mapping[str, Any], total_seconds: float, max_tokens: int) -> list[str]:
    """Of the JSON answer of POST /ask."""
    return [
        *([] if answer.get("answer") else ["an answer without text"]),
        *_usage(answer, 1 if answer.get("answer") else 0, max_tokens),
        *_timings(answer, None, total_seconds),
    ]


def _order(names: list[str]) -> list[str]:
    """`meta`, `sources`, `token`…, and exactly one of `done` and `error`, last."""
    wrong = []
    ends = sum(name in ("done", "error") for name in names)
    if ends != 1:
        wrong.append(f"{ends} events done or error instead of one")
    elif names[-1] not in ("done", "error"):
        wrong.append("something came after done or error")
    if names[:2] != ["meta", "sources"] and names[:1] + names[-1:] != ["meta", "error"]:
        wrong.append("the stream does not begin with meta and sources")
    if any(name != "token" for name in names[2:-1]):
        wrong.append("between sources and the end there is something else than tokens")
    return wrong


def _usage(done: Mapping[str, Any], pieces: int, max_tokens: int) -> list[str]:
    usage = done.get("usage")
    if usage is None:
        return ["the answer does not say its usage"]
    tokens = int(usage["completion_tokens"])
    if done.get("finish_reason") == NOTHING_RELEVANT:
        return [] if tokens == 0 else ["tokens were used for an answer that no model gave"]
    wrong = []
    if tokens < pieces:
        wrong.append("usage counts fewer tokens than came")
    if tokens > max_tokens:
        wrong.append("usage counts more tokens than were asked for")
    if not pieces and tokens > TEXTLESS_TOKENS:
        wrong.append("usage counts tokens, and none came")
    return wrong


def _against_server(stream: Stream, done: Mapping[str, Any]) -> list[str]:
    wrong = _timings(done, stream.first_token_seconds, stream.total_seconds)
    timings = done.get("timings") or {}
    server_first = timings.get("time_to_first_token")
    if server_first is not None and len(stream.token_times) > 1:
        made_in = timings["total"] - server_first
        came_in = stream.token_times[-1] - stream.token_times[0]
        if made_in > BUFFERED_SECONDS and came_in < made_in / 2:
            wrong.append("the tokens came in far less time than they were made in: something on the way buffers")
    return wrong


def _timings(done: Mapping[str, Any], first_token_seconds: float | None, total_seconds: float) -> list[str]:
    timings = done.get("timings")
    if timings is None:
        return ["the answer does not say its timings"]
    wrong = []
    server_first, server_total = timings["time_to_first_token"], timings["total"]
    if server_total > total_seconds + TOLERANCE_SECONDS:
        wrong.append("the server says it took longer than the client waited")
    if server_first is not None:
        if server_first > server_total + TOLERANCE_SECONDS:
            wrong.append("the server's first token came after its end")
        if first_token_seconds is not None and server_first > first_token_seconds + TOLERANCE_SECONDS:
            wrong.append("the client had the first token before the server")
    return wrong
