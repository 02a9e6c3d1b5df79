"""The use case with a memory: an answer that was given before is given again, where it may be."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from app.asking import NOTHING_RELEVANT, AskEvent, AskRequest, AskUseCase, CacheHit, Done, Sources, Text
from app.caching.answers import Answer, Answers
from app.caching.scope import Scope, Scopes
from app.caching.watching import UNWATCHED, CacheWatch
from app.retrieval import QuestionEncoder
from contracts.types import Timings, Usage

COMPLETE = frozenset({"stop", "length", NOTHING_RELEVANT})
"""The finish reasons of an answer that came to its end."""


_Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Looked:
    """What was found, and what it took; `encode_seconds` is None where no vector was needed."""

    hit: CacheHit | None = None
    answer: Answer | None = None
    vector: _Vector | None = None
    queue_seconds: float = 0.0
    encode_seconds: float | None = None

    def added_to(self, done: Done) -> Done:
        """`done` with the time of the look-up, which the answer's own steps know nothing of."""
        if self.encode_seconds is None:
            return done
        timings = done.timings
        encode = self.encode_seconds + (timings.encode or 0.0)
        timings = msgspec.structs.replace(timings, queue=timings.queue + self.queue_seconds, encode=encode)
        return replace(done, timings=timings)


_NOTHING = _Looked()


class CachingAsker:
    """Around `asker`. With `similarity` above 0 a question gets the answer of another one whose vector has at least
    that cosine with its own.

    The same question that arrives while its first answer is being made is answered on its own; the later of the two
    answers is kept.
    """

    def __init__(
        self,
        asker: AskUseCase,
        answers: Answers,
        scopes: Scopes,
        encoder: QuestionEncoder,
        *,
        similarity: float = 0.0,
        watch: CacheWatch = UNWATCHED,
    ) -> None:
        self._asker = asker
        self._answers = answers
        self._scopes = scopes
        self._encoder = encoder
        self._similarity = similarity
        self._watch = watch

    async def ask(self, request: AskRequest) -> AsyncGenerator[AskEvent, None]:
        """As `Asker.ask`. An answer that is given again is one `Text`; its usage is none, and its timings are those of
        finding it."""
        use = request.terms.cache
        place = await self._scopes.of(request) if use.reads or use.stores else None
        looked = _NOTHING if place is None else await self._look_up(place.scope, request)
        self._watch.looked_up("skipped" if place is None or not use.reads else looked.hit or "miss")
        if looked.answer is not None:
            yield Sources(looked.answer.passages, looked.answer.mode, looked.hit)
            yield Text(looked.answer.text)
            total = time.monotonic() - request.terms.arrived
            timings = Timings(looked.queue_seconds, looked.encode_seconds, None, None, None, None, total)
            yield Done(looked.answer.finish_reason, Usage(0, 0), timings)
            return
        sources: Sources | None = None
        pieces: list[str] = []
        async with aclosing(self._asker.ask(request)) as events:
            async for event in events:
                if isinstance(event, Text):
                    pieces.append(event.text)
                elif isinstance(event, Sources):
                    sources = event
                else:
                    if place is not None and place.keeps and use.stores and sources is not None:
                        self._keep(place.scope, request, sources, "".join(pieces), event, looked.vector)
                    event = looked.added_to(event)
                yield event

    async def _look_up(self, scope: Scope, request: AskRequest) -> _Looked:
        """Also makes the vector that the request's own answer would be kept with."""
        reads = request.terms.cache.reads
        if reads and (answer := self._answers.same(scope, request.question)) is not None:
            return _Looked("exact", answer)
        if self._similarity <= 0:
            return _NOTHING
        encoded = await self._encoder.served([request.question], deadline=request.terms.deadline)
        vector = encoded.value.vectors[0]
        answer = self._answers.near(scope, request.question, vector, self._similarity) if reads else None
        hit: CacheHit | None = None if answer is None else "semantic"
        return _Looked(hit, answer, vector, encoded.queued_seconds, encoded.served_seconds)

    def _keep(
        self, scope: Scope, request: AskRequest, sources: Sources, text: str, done: Done, vector: _Vector | None
    ) -> None:
        if done.finish_reason in COMPLETE and not sources.degraded:
            answer = Answer(text, sources.passages, sources.mode, done.finish_reason)
            self._answers.keep(scope, request.question, answer, vector)
