"""The benchmarks' load generator: percentiles, schedules, reading streams, and when its figures are doubted."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.load import sse
from benchmarks.load.connection import Exchange
from benchmarks.load.drive import doubts
from benchmarks.load.generator import summary
from benchmarks.load.percentiles import Spread, percentile, spread
from benchmarks.load.schedule import due_times
from benchmarks.load.types import Open


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=200), st.sampled_from([0.0, 0.5, 0.9, 0.95, 0.99, 1.0]))
def test_percentiles_are_numpys(values: list[float], share: float) -> None:
    assert percentile(sorted(values), share) == pytest.approx(float(np.percentile(values, share * 100)))


def test_a_spread_of_nothing_is_zero() -> None:
    assert spread([]) == Spread()


def test_a_spread_counts_and_orders() -> None:
    found = spread([3.0, 1.0, 2.0])
    assert (found.count, found.mean, found.p50, found.max) == (3, 2.0, 2.0, 3.0)


def test_a_fixed_schedule_is_even() -> None:
    assert due_times(Open(4, 1, "fixed")) == [0.0, 0.25, 0.5, 0.75]


def test_poisson_arrivals_have_the_rate_and_the_irregularity_of_a_poisson_process() -> None:
    times = due_times(Open(500, 40))
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert len(times) == pytest.approx(20_000, rel=0.03)
    assert np.std(gaps) == pytest.approx(np.mean(gaps), rel=0.05)
    assert max(times) < 40


def test_a_schedule_can_be_repeated() -> None:
    assert due_times(Open(50, 2, seed=3)) == due_times(Open(50, 2, seed=3))
    assert due_times(Open(50, 2, seed=3)) != due_times(Open(50, 2, seed=4))


def openai_stream(words: list[str], usage: int | None = None, newline: str = "\n") -> bytes:
    """Chunks as OpenAI sends them: a role, words, an end."""
    events = [{"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}]
    events += [{"choices": [{"index": 0, "delta": {"content": word}}]} for word in words]
    events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    if usage is not None:
        events.append({"choices": [], "usage": {"completion_tokens": usage}})  # type: ignore[dict-item]
    lines = [json.dumps(event) for event in events] + ["[DONE]"]
    return "".join(f"data: {line}{newline}{newline}" for line in lines).encode()


@given(st.lists(st.integers(1, 400), max_size=30), st.sampled_from(["\n", "\r\n"]))
def test_a_stream_is_read_the_same_however_it_was_cut(cuts: list[int], newline: str) -> None:
    stream = openai_stream(["one ", "two three ", "four"], newline=newline)
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    parts = [stream[a:b] for a, b in itertools.pairwise(edges)]
    reading = sse.read(parts, [float(i) for i in range(len(parts))])
    assert (reading.text, reading.tokens, reading.ended) == ("one two three four", 4, True)
    assert len(reading.token_times) == 3
    assert reading.token_times == sorted(reading.token_times)


def test_a_chunk_is_timed_by_the_piece_with_its_last_byte() -> None:
    stream = openai_stream(["one"])
    middle = stream.index(b"one")
    reading = sse.read([stream[:middle], stream[middle:]], [1.0, 2.0])
    assert reading.token_times == [2.0]


def test_the_servers_own_count_of_tokens_comes_first() -> None:
    assert sse.read([openai_stream(["one "], usage=7)], [0.0]).tokens == 7


def test_the_events_of_ask_are_read_too() -> None:
    stream = (
        b'event: meta\ndata: {"request_id": "r"}\n\n: ping\n\nevent: sources\ndata: {"sources": [{"text": "no"}]}\n\n'
        b'event: token\ndata: {"text": "On 19"}\n\nevent: token\ndata: {"text": " January"}\n\n'
        b'event: done\ndata: {"finish_reason": "stop", "usage": {"prompt_tokens": 9, "completion_tokens": 5}}\n\n'
    )
    reading = sse.read([stream], [0.5])
    assert reading == sse.Reading(5, "On 19 January", [0.5, 0.5], True)


def test_a_stream_that_was_cut_short_has_not_ended() -> None:
    stream = openai_stream(["one ", "two "]).removesuffix(b"data: [DONE]\n\n")
    assert not sse.read([stream], [0.0]).ended


def exchange(due: float, sent: float, ended: float, status: int, parts: list[bytes] | None = None) -> Exchange:
    made = Exchange(due)
    made.sent, made.ended, made.status = sent, ended, status
    made.parts = parts or []
    made.times = [ended] * len(made.parts)
    return made


def test_latency_counts_from_when_a_request_was_due() -> None:
    outcome = summary([exchange(1.0, 1.4, 2.0, 200), exchange(2.0, 1.9, 2.5, 503)], 0.1, stream=False)
    assert outcome.latency["200"].max == pytest.approx(1.0)
    # Sent a little early, as a timer may: then from when it was sent.
    assert outcome.latency["503"].max == pytest.approx(0.6)
    assert outcome.late.max == pytest.approx(0.4)
    assert (outcome.answered, outcome.failed, outcome.wall_seconds) == (1, 1, pytest.approx(1.1))


def test_a_stream_without_its_end_is_an_error_though_its_tokens_count() -> None:
    cut = openai_stream(["one ", "two "]).removesuffix(b"data: [DONE]\n\n")
    outcome = summary([exchange(0, 0, 1, 200, [cut]), exchange(0, 0, 2, 0)], 0.0, stream=True)
    assert (outcome.answered, outcome.latency["error"].count, outcome.tokens) == (0, 2, 2)


def test_a_generator_that_was_busy_or_late_is_doubted() -> None:
    calm = summary([exchange(0, 0, 10, 200)], 1.0, stream=False)
    busy = summary([exchange(0, 0, 10, 200)], 9.0, stream=False)
    late = summary([exchange(0, 0.02, 10, 200)], 1.0, stream=False)
    assert doubts(calm) == []
    assert doubts(busy) == ["the generator used 90% of a core"]
    assert doubts(late) == ["the generator sent 1 % of the requests more than 20 ms late"]
