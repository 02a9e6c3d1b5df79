"""Load tests' parser of server-sent events, and what a stream of events is noted as."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.routes import sse as server
from locust_testing.sse import Event, Parser
from locust_testing.stream import NOTHING_RELEVANT, Stream, hear_ask, hear_chat
from tests.support.processes import ROOT

lines = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=8)
events = st.lists(
    st.tuples(st.sampled_from(["", "token", "done"]), st.lists(lines, min_size=1, max_size=3)), max_size=5
)


def pieces_of(stream: bytes, cuts: Sequence[int]) -> list[bytes]:
    at = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return [stream[start:end] for start, end in pairwise(at)]


def parsed(pieces: Sequence[bytes]) -> list[Event]:
    parser = Parser()
    return [event for piece in pieces for event in parser.feed(piece)]


@given(events, st.sampled_from(["\n", "\r\n", "\r"]), st.booleans(), st.lists(st.integers(0), max_size=12))
def test_events_survive_any_cuts_and_any_ends_of_lines(
    given_events: list[tuple[str, list[str]]], end: str, bom: bool, cuts: list[int]
) -> None:
    text = "\ufeff" if bom else ""
    for name, data in given_events:
        text += f": a comment{end}" + (f"event: {name}{end}" if name else "")
        text += "".join(f"data: {line}{end}" for line in data) + end
    want = [Event(name or "message", "\n".join(data)) for name, data in given_events]
    stream = text.encode()
    assert parsed([stream]) == want
    assert parsed(pieces_of(stream, cuts)) == want
    assert parsed([bytes([byte]) for byte in stream]) == want


def test_an_event_comes_with_the_piece_that_ends_it_and_half_a_one_never() -> None:
    parser = Parser()
    assert parser.feed(b"event: token\ndata: {}") == []
    assert parser.feed(b"\n") == []
    assert parser.feed(b"\n") == [Event("token", "{}")]
    assert parser.feed(b"data: lost\n") == []


def test_an_event_without_data_is_none_and_leaves_no_name_behind() -> None:
    assert parsed([b"event: token\n\ndata: x\n\n"]) == [Event("message", "x")]


def test_the_gateways_events_are_read_back() -> None:
    stream = server.event("meta", {"request_id": "a"}) + b": ping\n\n" + server.event("token", {"text": "ä\n"})
    assert [event.name for event in parsed([stream])] == ["meta", "token"]


def heard(stream: bytes, hear: object = hear_ask) -> Stream:
    noted = Stream(sent=1.0)
    for i, event in enumerate(parsed([stream])):
        hear(noted, event, 2.0 + i)  # type: ignore[operator]
    noted.ended = 9.0
    return noted


def test_only_events_with_text_are_tokens_and_the_first_of_them_is_the_first_token() -> None:
    stream = heard(
        server.event("meta", {})
        + server.event("sources", {"sources": []})
        + server.event("token", {"text": ""})
        + server.event("token", {"text": "a"})
        + server.event("token", {"text": "b"})
        + server.event("done", {"finish_reason": "stop"})
    )
    assert stream.first_token_seconds == 4.0
    assert stream.gaps == [1.0]
    assert stream.total_seconds == 8.0


def test_an_answer_that_no_model_gave_has_no_first_token() -> None:
    done = server.event("done", {"finish_reason": NOTHING_RELEVANT})
    assert heard(server.event("token", {"text": "No."}) + done).first_token_seconds is None


def test_chunks_of_openais_api_are_noted_as_events_of_ask() -> None:
    stream = heard(
        b'data: {"choices": [{"delta": {"role": "assistant", "content": ""}}]}\n\n'
        b'data: {"choices": [{"delta": {"content": "a"}, "finish_reason": null}], "usage": null}\n\n'
        b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}], "timings": {"total": 1}}\n\n'
        b'data: {"choices": [], "usage": {"completion_tokens": 1}}\n\n'
        b"data: [DONE]\n\n",
        hear_chat,
    )
    assert stream.names == ["meta", "sources", "token", "done"]
    assert stream.done == {"finish_reason": "stop", "timings": {"total": 1}, "usage": {"completion_tokens": 1}}
    assert stream.token_times == [3.0]


PURE = ("collector", "figures", "plausibility", "problem", "questions", "shapes", "sse", "stream", "thresholds")


@pytest.mark.parametrize("module", [*PURE, "__main__"])
def test_a_module_that_tests_import_does_not_import_gevent(module: str) -> None:
    program = f"import locust_testing.{module}, sys; sys.exit('gevent' in sys.modules or 'locust' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0
