"""The HTTP API between the model service (`app_llm`) and those who call it: bodies, frames and media types.

Two encodings of the same structures: JSON (newline-delimited for streams) to read by eye, and MessagePack, chosen by
the `Accept` header. Vectors travel in MessagePack as raw little-endian bytes with shape and dtype.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import msgspec
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from contracts.types import Encoding, Frame, Message, Pair, Prompt, PromptProblem, Sampling, Scores

JSON = "application/json"
NDJSON = "application/x-ndjson"
MSGPACK = "application/x-msgpack"
PROBLEM = "application/problem+json"

ENCODE_TEXTS_MAX = 4096
"""Texts in one /encode call; a caller with more sends several calls."""
RERANK_PAIRS_MAX = 4096
"""Pairs in one /rerank call."""
PROMPTS_MAX = 512
"""Prompts in one /generate call."""

_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
"""W3C Trace Context, version 00. Callers of a later version must be able to say this one."""

Text = TypeVar("Text", str, list[str], "str | list[str] | None")


def checked_unicode(value: Text) -> Text:
    """`value`, if it can be encoded. JSON can escape half a character ("\\ud800"), which no tokenizer takes; one such
    text would fail the batch of everybody it travels with. Raises ValueError."""
    try:
        for text in [value] if isinstance(value, str) else value or ():
            text.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half a character (a lone surrogate); send valid Unicode") from None
    return value


class EncodeRequest(BaseModel):
    """Body of POST /encode."""

    model_config = ConfigDict(extra="forbid")
    texts: list[str] = Field(
        max_length=ENCODE_TEXTS_MAX,
        description="The texts to encode, at most 4,096 a call.",
        examples=[["Who won the final in Karachi?", "Oil fell to 41 dollars."]],
    )

    @field_validator("texts")
    @classmethod
    def _are_unicode(cls, texts: list[str]) -> list[str]:
        return checked_unicode(texts)


class RerankRequest(BaseModel):
    """Body of POST /rerank."""

    model_config = ConfigDict(extra="forbid")
    pairs: list[tuple[str, str]] = Field(
        max_length=RERANK_PAIRS_MAX,
        description="Questions, each with a text that may answer it, at most 4,096 a call.",
        examples=[[["Who won the final in Karachi?", "The hosts won the final in Karachi by three wickets."]]],
    )

    @field_validator("pairs")
    @classmethod
    def _are_unicode(cls, pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
        checked_unicode([text for pair in pairs for text in pair])
        return pairs

    def to_pairs(self) -> list[Pair]:
        """The same as the values the rerankers take."""
        return [Pair(question, text) for question, text in self.pairs]


class MessageBody(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(extra="forbid")
    role: Literal["system", "user", "assistant"]
    content: str

    @field_validator("content")
    @classmethod
    def _is_unicode(cls, content: str) -> str:
        return checked_unicode(content)


class PromptBody(BaseModel):
    """One prompt of POST /generate: `messages` (the model's chat template is applied) or a raw `prompt`."""

    model_config = ConfigDict(extra="forbid")
    request_id: str = Field(min_length=1, max_length=128, description="Names the prompt in frames and in /abort.")
    messages: list[MessageBody] | None = Field(default=None, min_length=1)
    prompt: str | None = Field(default=None, min_length=1)
    max_tokens: int = Field(default=256, ge=1, le=1_000_000)
    temperature: float = Field(default=0.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    stop: list[str] = Field(default_factory=list, max_length=8)
    seed: int | None = Field(default=None, ge=0, le=2**63 - 1)
    timeout_seconds: float | None = Field(
        default=None, allow_inf_nan=False, description="End it with a 504 of its own after this long."
    )
    traceparent: str | None = Field(
        default=None, description="W3C Trace Context of the span that asks for it; a malformed one is ignored."
    )

    @field_validator("traceparent", mode="before")
    @classmethod
    def _well_formed_or_none(cls, value: object) -> str | None:
        return value if isinstance(value, str) and _TRACEPARENT.fullmatch(value) else None

    @model_validator(mode="after")
    def _exactly_one_input(self) -> PromptBody:
        if (self.messages is None) == (self.prompt is None):
            raise ValueError("give exactly one of 'messages' and 'prompt'")
        return self

    def to_prompt(self) -> Prompt:
        """The same as the value the generators take."""
        return Prompt(
            request_id=self.request_id,
            messages=tuple(Message(m.role, m.content) for m in self.messages or ()),
            text=self.prompt,
            sampling=Sampling(self.max_tokens, self.temperature, self.top_p, tuple(self.stop), self.seed),
            timeout_seconds=self.timeout_seconds,
            traceparent=self.traceparent,
        )


class GenerateRequest(BaseModel):
    """Body of POST /generate. Each prompt is checked on its own, so that a bad one fails alone."""

    model_config = ConfigDict(extra="forbid")
    prompts: list[dict[str, Any]] = Field(
        min_length=1,
        max_length=PROMPTS_MAX,
        description="Prompts to run together; each as in the PromptBody schema.",
        examples=[
            [
                {
                    "request_id": "q1",
                    "messages": [{"role": "user", "content": "Name the capital of France."}],
                    "max_tokens": 32,
                }
            ]
        ],
    )


class AbortRequest(BaseModel):
    """Body of POST /abort."""

    model_config = ConfigDict(extra="forbid")
    request_ids: list[str] = Field(max_length=4096, examples=[["q1"]])


class RefusedPrompt(msgspec.Struct, frozen=True):
    """One entry of `refused` in the problem body that answers a /generate of which no prompt could run."""

    request_id: str
    problem: PromptProblem


class RefusedBatch(msgspec.Struct, frozen=True):
    """The part of that problem body which a caller needs to tell the prompts apart."""

    refused: tuple[RefusedPrompt, ...]


class _EncodingAsJson(msgspec.Struct):
    dimension: int
    vectors: list[list[float]]
    tokens: tuple[int, ...]
    truncated: tuple[int, ...]


class _EncodingAsMsgpack(msgspec.Struct):
    shape: tuple[int, int]
    dtype: str
    data: bytes
    tokens: tuple[int, ...]
    truncated: tuple[int, ...]


class _ScoresAsJson(msgspec.Struct):
    scores: list[float]
    tokens: tuple[int, ...]
    truncated: tuple[int, ...]


class _ScoresAsMsgpack(msgspec.Struct):
    dtype: str
    data: bytes
    tokens: tuple[int, ...]
    truncated: tuple[int, ...]


def prompt_to_body(prompt: Prompt) -> dict[str, Any]:
    """The entry of `prompts` that says `prompt` (the inverse of `PromptBody.to_prompt`)."""
    sampling = prompt.sampling
    body: dict[str, Any] = {
        "request_id": prompt.request_id,
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "stop": list(sampling.stop),
    }
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    if prompt.timeout_seconds is not None:
        body["timeout_seconds"] = prompt.timeout_seconds
    if prompt.traceparent is not None:
        body["traceparent"] = prompt.traceparent
    if prompt.text is not None:
        body["prompt"] = prompt.text
    else:
        body["messages"] = [{"role": m.role, "content": m.content} for m in prompt.messages]
    return body


def encoding_to_json(encoding: Encoding) -> bytes:
    """Body of an /encode answer as JSON."""
    vectors = encoding.vectors
    return msgspec.json.encode(
        _EncodingAsJson(int(vectors.shape[1]), vectors.tolist(), encoding.tokens, encoding.truncated)
    )


def encoding_to_msgpack(encoding: Encoding) -> bytes:
    """Body of an /encode answer as MessagePack: `data` is C-ordered little-endian float32, `shape` its (n, d)."""
    vectors = np.ascontiguousarray(encoding.vectors, dtype="<f4")
    rows, columns = vectors.shape
    return msgspec.msgpack.encode(
        _EncodingAsMsgpack((rows, columns), "<f4", vectors.tobytes(), encoding.tokens, encoding.truncated)
    )


def encoding_from_msgpack(body: bytes) -> Encoding:
    """The inverse of `encoding_to_msgpack`. Raises `msgspec.ValidationError` or ValueError for anything else."""
    wire = msgspec.msgpack.decode(body, type=_EncodingAsMsgpack)
    if wire.dtype != "<f4":
        raise ValueError(f"expected vectors of dtype '<f4', got {wire.dtype!r}")
    return Encoding(np.frombuffer(wire.data, dtype="<f4").reshape(wire.shape), wire.tokens, wire.truncated)


def scores_to_json(scores: Scores) -> bytes:
    """Body of a /rerank answer as JSON."""
    return msgspec.json.encode(_ScoresAsJson(scores.scores.tolist(), scores.tokens, scores.truncated))


def scores_to_msgpack(scores: Scores) -> bytes:
    """Body of a /rerank answer as MessagePack: `data` is little-endian float32."""
    wire = _ScoresAsMsgpack("<f4", scores.scores.astype("<f4").tobytes(), scores.tokens, scores.truncated)
    return msgspec.msgpack.encode(wire)


def scores_from_msgpack(body: bytes) -> Scores:
    """The inverse of `scores_to_msgpack`. Raises `msgspec.ValidationError` or ValueError for anything else."""
    wire = msgspec.msgpack.decode(body, type=_ScoresAsMsgpack)
    if wire.dtype != "<f4":
        raise ValueError(f"expected scores of dtype '<f4', got {wire.dtype!r}")
    return Scores(np.frombuffer(wire.data, dtype="<f4"), wire.tokens, wire.truncated)


_json_encoder = msgspec.json.Encoder()
_msgpack_encoder = msgspec.msgpack.Encoder()
_frame_decoder = msgspec.json.Decoder(Frame)


def frame_to_ndjson(frame: Frame) -> bytes:
    """One frame as one line."""
    return _json_encoder.encode(frame) + b"\n"


def frame_to_msgpack(frame: Frame) -> bytes:
    """One frame as one MessagePack object; objects follow each other without separators."""
    return _msgpack_encoder.encode(frame)


def frames_from_ndjson(received: bytes) -> tuple[list[Frame], bytes]:
    """The frames of the complete lines, and the rest. Raises `msgspec.DecodeError` or UnicodeDecodeError for anything
    else."""
    # Not `decode_lines`: it passes over empty lines, which no frame is.
    *lines, rest = received.split(b"\n")
    return [_frame_decoder.decode(line) for line in lines], rest


def refused_body(problems: Sequence[tuple[str, PromptProblem]]) -> list[dict[str, Any]]:
    """The `refused` member of a problem body."""
    return [msgspec.to_builtins(RefusedPrompt(request_id, problem)) for request_id, problem in problems]
