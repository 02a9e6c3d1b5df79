"""What every way to answer has in common: the events of an answer gathered into one, and its sources as people see
them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import msgspec

from app.asking import CacheHit, Done, Sources, Text
from app.chatting import ChatEvent
from contracts.types import Passage, SearchMode


@dataclass(frozen=True, slots=True)
class Gathered:
    """A whole answer. `sources` and `mode` are None where the LLM answered alone, and not from the documents."""

    text: str
    sources: tuple[Passage, ...] | None
    done: Done
    mode: SearchMode | None
    cached: CacheHit | None = None


async def gathered(events: AsyncGenerator[ChatEvent, None]) -> Gathered:
    """The answer that `events` make, all of which are taken."""
    sources: tuple[Passage, ...] | None = None
    mode: SearchMode | None = None
    pieces: list[str] = []
    done: Done | None = None
    cached: CacheHit | None = None
    async with aclosing(events):
        async for event in events:
            match event:
                case Text():
                    pieces.append(event.text)
                case Sources():
                    sources, mode, cached = shown(event.passages), event.mode, event.cached
                case Done():
                    done = event
    assert done is not None, "the stream of events ended without Done"
    return Gathered("".join(pieces), sources, done, mode, cached)


def shown(passages: Sequence[Passage]) -> tuple[Passage, ...]:
    """Passages as they are shown: with a score that people can read."""
    return tuple(msgspec.structs.replace(passage, score=round(passage.score, 4)) for passage in passages)
