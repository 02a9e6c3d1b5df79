"""Events of a chat as OpenAI's completion object, or as its chunks."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from typing import Literal
from uuid import uuid4

import msgspec
from msgspec import UNSET, UnsetType

from app.asking import CacheHit, Done, Sources, Text
from app.chatting import ChatEvent
from app.errors import ModelServiceFailed, PharosError
from app.routes.answers import gathered, shown
from app.routes.openai.errors import error_object
from contracts.types import Passage, Timings, Usage

FinishReason = Literal["stop", "length"]


class ChatUsage(msgspec.Struct, frozen=True):
    """Tokens read and made, by the LLM's tokenizer."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class AssistantMessage(msgspec.Struct, frozen=True):
    """The continuation."""

    content: str
    role: Literal["assistant"] = "assistant"
    refusal: None = None


class Choice(msgspec.Struct, frozen=True):
    """The one choice there is."""

    message: AssistantMessage
    finish_reason: FinishReason
    index: int = 0
    logprobs: None = None


class Completion(msgspec.Struct, frozen=True):
    """OpenAI's answer. `sources` (from the documents; source i is cited as [i + 1]), `timings` and `cached` (of an
    earlier answer that is given again: exact or semantic) are extensions."""

    id: str
    created: int
    model: str
    choices: tuple[Choice]
    usage: ChatUsage
    timings: Timings
    sources: tuple[Passage, ...] | UnsetType = UNSET
    cached: CacheHit | UnsetType = UNSET
    object: Literal["chat.completion"] = "chat.completion"


class ChunkDelta(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a chunk adds."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET


class ChunkChoice(msgspec.Struct, frozen=True):
    """The one choice there is, in a chunk."""

    delta: ChunkDelta
    finish_reason: FinishReason | None = None
    index: int = 0
    logprobs: None = None


class Chunk(msgspec.Struct, frozen=True):
    """One event of a streamed answer. `sources` and `cached` come with the first one, `timings` with the finish
    reason."""

    id: str
    created: int
    model: str
    choices: tuple[ChunkChoice, ...]
    usage: ChatUsage | UnsetType | None = UNSET
    sources: tuple[Passage, ...] | UnsetType = UNSET
    timings: Timings | UnsetType = UNSET
    cached: CacheHit | UnsetType = UNSET
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"


_json = msgspec.json.Encoder()
_MARK = "\0"


async def whole(model: str, events: AsyncGenerator[ChatEvent, None]) -> Completion:
    """The completion that `events` make, all of which are taken."""
    answer = await gathered(events)
    done = answer.done
    choice = Choice(AssistantMessage(answer.text), _finish_reason(done))
    sources = UNSET if answer.sources is None else answer.sources
    cached = answer.cached or UNSET
    return Completion(_new_id(), int(time.time()), model, (choice,), _usage(done.usage), done.timings, sources, cached)


class ChunkWriter:
    """Writes the events of one streamed answer as server-sent events.

    All chunks of a stream but for their text are the same, so what stands around the text is made once.
    """

    def __init__(self, model: str, *, include_usage: bool) -> None:
        self._include_usage = include_usage
        self._base = Chunk(_new_id(), int(time.time()), model, (), None if include_usage else UNSET)
        around = self._event(ChunkChoice(ChunkDelta(content=_MARK)))
        self._before, self._after = around.split(_json.encode(_MARK))

    def write(self, event: ChatEvent) -> bytes:
        """One event as bytes."""
        if isinstance(event, Text):
            return self._before + _json.encode(event.text) + self._after
        if isinstance(event, Done):
            return self._end(event)
        first = ChunkChoice(ChunkDelta("assistant", ""))
        if isinstance(event, Sources):
            return self._event(first, sources=shown(event.passages), cached=event.cached or UNSET)
        return self._event(first)

    def write_error(self, error: PharosError) -> bytes:
        """The event that ends a stream which cannot go on; no [DONE] follows it."""
        return _data(error_object(error.body("")))

    def _end(self, done: Done) -> bytes:
        written = self._event(ChunkChoice(ChunkDelta(), _finish_reason(done)), timings=done.timings)
        if self._include_usage:
            written += _data(msgspec.structs.replace(self._base, usage=_usage(done.usage)))
        return written + b"data: [DONE]\n\n"

    def _event(
        self,
        choice: ChunkChoice,
        sources: tuple[Passage, ...] | UnsetType = UNSET,
        timings: Timings | UnsetType = UNSET,
        cached: CacheHit | UnsetType = UNSET,
    ) -> bytes:
        event = msgspec.structs.replace(self._base, choices=(choice,), sources=sources, timings=timings, cached=cached)
        return _data(event)


def _data(value: object) -> bytes:
    return b"data: " + _json.encode(value) + b"\n\n"


def _new_id() -> str:
    return f"chatcmpl-{uuid4().hex}"


def _usage(usage: Usage) -> ChatUsage:
    return ChatUsage(usage.prompt_tokens, usage.completion_tokens, usage.prompt_tokens + usage.completion_tokens)


def _finish_reason(done: Done) -> FinishReason:
    if done.finish_reason == "abort":
        raise ModelServiceFailed("The model service stopped before the answer was complete; try again.")
    return "length" if done.finish_reason == "length" else "stop"
