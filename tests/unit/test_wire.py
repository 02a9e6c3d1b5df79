"""What travels between two processes arrives as it was sent, also for a reader that is not ours."""

from __future__ import annotations

import io
import json
from typing import Any

import msgpack
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pydantic import ValidationError

from contracts import wire
from contracts.filters import topic_filter
from contracts.types import Delta, Encoding, Frame, Message, Prompt, PromptProblem, Sampling, Usage

COUNTS = st.integers(0, 2**31)
VECTORS = arrays.arrays(
    np.float32,
    st.tuples(st.integers(0, 6), st.integers(1, 12)),
    elements=st.floats(-1, 1, width=32),
)


@st.composite
def encodings(draw: st.DrawFn) -> Encoding:
    vectors = draw(VECTORS)
    rows = len(vectors)
    tokens = draw(st.lists(COUNTS, min_size=rows, max_size=rows))
    truncated = draw(st.sets(st.integers(0, rows - 1))) if rows else set()
    return Encoding(vectors, tuple(tokens), tuple(sorted(truncated)))


DELTAS = st.builds(
    Delta,
    request_id=st.text(min_size=1),
    text=st.text(),
    tokens=COUNTS,
    finish_reason=st.sampled_from([None, "stop", "length", "abort", "error"]),
    usage=st.none() | st.builds(Usage, COUNTS, COUNTS),
    error=st.none() | st.builds(PromptProblem, st.integers(400, 599), st.text(), st.text()),
)
FRAMES = st.builds(Frame, st.lists(DELTAS, max_size=5).map(tuple))
SAMPLINGS = st.builds(
    Sampling,
    max_tokens=st.integers(1, 1_000_000),
    temperature=st.floats(0, 2),
    top_p=st.floats(0, 1, exclude_min=True),
    stop=st.lists(st.text(), max_size=8).map(tuple),
    seed=st.none() | st.integers(0, 2**63 - 1),
)
MESSAGES = st.lists(
    st.builds(Message, st.sampled_from(["system", "user", "assistant"]), st.text()), min_size=1, max_size=4
)
TRACEPARENTS = st.none() | st.from_regex(r"00-[1-9a-f][0-9a-f]{31}-[0-9a-f]{15}[1-9a-f]-0[0-3]", fullmatch=True)
PROMPTS = st.builds(
    Prompt,
    request_id=st.text(min_size=1, max_size=128),
    messages=MESSAGES.map(tuple),
    sampling=SAMPLINGS,
    traceparent=TRACEPARENTS,
) | st.builds(
    Prompt,
    request_id=st.text(min_size=1, max_size=128),
    text=st.text(min_size=1),
    sampling=SAMPLINGS,
    traceparent=TRACEPARENTS,
)


@settings(deadline=None)
@given(encodings())
def test_an_encoding_survives_messagepack(encoding: Encoding) -> None:
    back = wire.encoding_from_msgpack(wire.encoding_to_msgpack(encoding))
    assert back.vectors.dtype == np.float32
    assert back.vectors.shape == encoding.vectors.shape
    assert back.vectors.tobytes() == encoding.vectors.tobytes()
    assert (back.tokens, back.truncated) == (encoding.tokens, encoding.truncated)


@settings(deadline=None)
@given(encodings())
def test_another_library_reads_an_encoding(encoding: Encoding) -> None:
    body = msgpack.unpackb(wire.encoding_to_msgpack(encoding))
    vectors = np.frombuffer(body["data"], dtype=body["dtype"]).reshape(body["shape"])
    np.testing.assert_array_equal(vectors, encoding.vectors)
    assert (body["tokens"], body["truncated"]) == (list(encoding.tokens), list(encoding.truncated))


def test_another_library_writes_an_encoding() -> None:
    data = np.array([[1, 2], [3, 4]], dtype="<f4").tobytes()
    body = {"shape": [2, 2], "dtype": "<f4", "data": data, "tokens": [5, 6], "truncated": [1]}
    encoding = wire.encoding_from_msgpack(msgpack.packb(body))
    assert encoding.vectors.tolist() == [[1, 2], [3, 4]]
    assert (encoding.tokens, encoding.truncated) == ((5, 6), (1,))


@settings(deadline=None)
@given(encodings())
def test_an_encoding_survives_json(encoding: Encoding) -> None:
    body = json.loads(wire.encoding_to_json(encoding))
    assert body["dimension"] == encoding.vectors.shape[1]
    vectors = np.array(body["vectors"], dtype=np.float32).reshape(encoding.vectors.shape)
    np.testing.assert_array_equal(vectors, encoding.vectors)
    assert (body["tokens"], body["truncated"]) == (list(encoding.tokens), list(encoding.truncated))


@pytest.mark.parametrize(
    "vectors",
    [
        np.arange(6, dtype=np.float32).reshape(3, 2).T,
        np.arange(12, dtype=np.float32).reshape(2, 6)[:, ::2],
        np.arange(6, dtype=">f4").reshape(2, 3),
        np.arange(6, dtype=np.float64).reshape(2, 3),
    ],
    ids=["transposed", "strided", "big-endian", "float64"],
)
def test_vectors_in_any_memory_layout_arrive_the_same(vectors: Any) -> None:
    back = wire.encoding_from_msgpack(wire.encoding_to_msgpack(Encoding(vectors, (1, 1))))
    assert back.vectors.tolist() == vectors.tolist()


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "<f8"},
        {"dtype": ">f4"},
        {"shape": [2, 3]},
        {"data": b"123"},
        {"data": "text"},
        {"shape": [4]},
        {"tokens": "5"},
    ],
    ids=str,
)
def test_an_encoding_that_does_not_add_up_is_refused(change: dict[str, object]) -> None:
    body = {"shape": [1, 2], "dtype": "<f4", "data": b"\0" * 8, "tokens": [5], "truncated": []}
    assert wire.encoding_from_msgpack(msgpack.packb(body)).vectors.shape == (1, 2)
    with pytest.raises(ValueError):  # noqa: PT011  msgspec's own errors are ValueErrors
        wire.encoding_from_msgpack(msgpack.packb({**body, **change}))


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x01", b'{"vectors": []}'])
def test_a_body_that_is_no_encoding_is_refused(body: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        wire.encoding_from_msgpack(body)


@settings(deadline=None)
@given(st.lists(FRAMES, max_size=4))
def test_frames_survive_as_lines(frames: list[Frame]) -> None:
    stream = b"".join(map(wire.frame_to_ndjson, frames))
    lines = stream.split(b"\n")
    assert lines.pop() == b""
    assert [wire.frames_from_ndjson(line + b"\n") for line in lines] == [([frame], b"") for frame in frames]
    assert wire.frames_from_ndjson(stream + b'{"del') == (frames, b'{"del')


@settings(deadline=None)
@given(st.lists(FRAMES, max_size=4))
def test_another_library_reads_frames_from_a_stream(frames: list[Frame]) -> None:
    stream = b"".join(map(wire.frame_to_msgpack, frames))
    found = list(msgpack.Unpacker(io.BytesIO(stream)))
    assert [msgspec.convert(frame, Frame) for frame in found] == frames


@settings(deadline=None)
@given(FRAMES)
def test_lines_and_messagepack_say_the_same(frame: Frame) -> None:
    assert json.loads(wire.frame_to_ndjson(frame)) == msgpack.unpackb(wire.frame_to_msgpack(frame))


def test_a_delta_says_only_what_is_new() -> None:
    assert wire.frame_to_ndjson(Frame((Delta("q1", "Hi", 1),))) == (
        b'{"deltas":[{"request_id":"q1","text":"Hi","tokens":1}]}\n'
    )


@pytest.mark.parametrize("line", ["", "{", "[]", '{"deltas": [{"text": "no id"}]}'])
def test_a_line_that_is_no_frame_is_refused(line: str) -> None:
    with pytest.raises(msgspec.DecodeError):
        wire.frames_from_ndjson(line.encode() + b"\n")


@settings(deadline=None)
@given(st.lists(DELTAS, min_size=1, max_size=5))
def test_merged_deltas_lose_nothing(deltas: list[Delta]) -> None:
    merged = deltas[0]
    for later in deltas[1:]:
        merged = merged.then(later)
    assert merged.text == "".join(delta.text for delta in deltas)
    assert merged.tokens == sum(delta.tokens for delta in deltas)
    last = deltas[-1]
    assert (merged.finish_reason, merged.usage, merged.error) == (last.finish_reason, last.usage, last.error)


@pytest.mark.parametrize(
    "malformed",
    [
        "",
        "nonsense",
        f"00-{'0' * 32}-{'1' * 16}-01",
        f"00-{'1' * 32}-{'0' * 16}-01",
        f"00-{'A' * 32}-{'1' * 16}-01",
        f"00-{'1' * 32}-{'1' * 16}-01\n",
        7,
        ["00"],
    ],
)
def test_a_malformed_traceparent_is_ignored(malformed: object) -> None:
    body = {"request_id": "q1", "prompt": "Name the capital of France.", "traceparent": malformed}
    assert wire.PromptBody.model_validate(body).to_prompt() == Prompt("q1", text="Name the capital of France.")


@settings(deadline=None)
@given(PROMPTS)
def test_a_prompt_survives_its_body(prompt: Prompt) -> None:
    body = msgspec.json.encode({"prompts": [wire.prompt_to_body(prompt)]})
    (received,) = wire.GenerateRequest.model_validate_json(body).prompts
    assert wire.PromptBody.model_validate(received).to_prompt() == prompt


@settings(deadline=None)
@given(PROMPTS)
def test_a_prompt_survives_messagepack_and_json_as_a_value(prompt: Prompt) -> None:
    assert msgspec.json.decode(msgspec.json.encode(prompt), type=Prompt) == prompt
    assert msgspec.convert(msgpack.unpackb(msgspec.msgpack.encode(prompt)), Prompt) == prompt


def test_a_body_that_says_little_takes_the_values_defaults() -> None:
    body = {"request_id": "q1", "prompt": "Name the capital of France."}
    assert wire.PromptBody.model_validate(body).to_prompt() == Prompt("q1", text="Name the capital of France.")


@pytest.mark.parametrize(
    "change",
    [
        {"messages": [{"role": "user", "content": "too"}]},
        {"prompt": None},
        {"prompt": ""},
        {"prompt": None, "messages": []},
        {"prompt": None, "messages": [{"role": "tool", "content": "x"}]},
        {"request_id": ""},
        {"request_id": "x" * 129},
        {"max_tokens": 0},
        {"temperature": 2.1},
        {"top_p": 0},
        {"stop": ["x"] * 9},
        {"seed": -1},
        {"seed": 2**63},
        {"max_token": 5},
    ],
    ids=lambda change: json.dumps(change)[:40],
)
def test_a_prompt_out_of_bounds_is_refused(change: dict[str, object]) -> None:
    body = {"request_id": "q1", "prompt": "Name the capital of France."}
    with pytest.raises(ValidationError):
        wire.PromptBody.model_validate({**body, **change})


def test_a_call_takes_so_many_texts_and_prompts_and_no_more() -> None:
    texts = [""] * wire.ENCODE_TEXTS_MAX
    prompts: list[dict[str, Any]] = [{}] * wire.PROMPTS_MAX
    assert len(wire.EncodeRequest(texts=texts).texts) == wire.ENCODE_TEXTS_MAX
    assert len(wire.GenerateRequest(prompts=prompts).prompts) == wire.PROMPTS_MAX
    with pytest.raises(ValidationError):
        wire.EncodeRequest(texts=[*texts, ""])
    with pytest.raises(ValidationError):
        wire.GenerateRequest(prompts=[*prompts, {}])


def test_refusals_can_be_told_apart_by_the_caller() -> None:
    problem = PromptProblem(413, "prompt_too_long", "Shorten it.")
    body = {"type": "x", "status": 413, "refused": wire.refused_body([("q1", problem), ("q2", problem)])}
    read = msgspec.json.decode(json.dumps(body), type=wire.RefusedBatch)
    assert [(refused.request_id, refused.problem) for refused in read.refused] == [("q1", problem), ("q2", problem)]


@settings(deadline=None)
@given(st.text())
def test_no_topic_breaks_out_of_its_quotes(topic: str) -> None:
    name, operator, quoted = topic_filter([topic]).split(" ", 2)
    assert (name, operator, json.loads(quoted)) == ("topic", "==", topic)


@settings(deadline=None)
@given(st.lists(st.text(), min_size=2, max_size=5))
def test_no_list_of_topics_breaks_out_of_its_quotes(topics: list[str]) -> None:
    name, operator, quoted = topic_filter(topics).split(" ", 2)
    assert (name, operator, json.loads(quoted)) == ("topic", "in", sorted(topics))


def test_no_topics_means_all_of_them() -> None:
    assert topic_filter([]) == ""


def test_a_topic_that_tries_to_break_out_stays_inside() -> None:
    assert topic_filter(['x" or topic != "']) == r'topic == "x\" or topic != \""'
