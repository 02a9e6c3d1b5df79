"""Wrappers around the steps of answering a question that note in the request's record what only they know."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from app.asking import NOTHING_RELEVANT, AskEvent, AskRequest, AskUseCase, Text
from app.grounding import GroundUseCase
from app.retrieval import Retrieved, RetrieveUseCase
from app.telemetry.record import RequestRecord, current_record
from contracts.telemetry import Stage
from contracts.types import Passage, Prompt, Sampling


class InstrumentedRetriever:
    """Notes how good the best passage was, and how many are relevant."""

    def __init__(self, retriever: RetrieveUseCase) -> None:
        self._retriever = retriever

    async def retrieve(
        self, question: str, topics: Sequence[str], limit: int, deadline: float | None = None
    ) -> Retrieved:
        """As `Retriever.retrieve`."""
        retrieved = await self._retriever.retrieve(question, topics, limit, deadline)
        record = current_record.get()
        if record is not None:
            record.best_score = retrieved.best_score
            record.passages = len(retrieved.passages)
            if not retrieved.passages:
                record.finish_reason = NOTHING_RELEVANT
        return retrieved


class InstrumentedGrounding:
    """Notes how long making the prompt took."""

    def __init__(self, grounding: GroundUseCase) -> None:
        self._grounding = grounding

    async def ground(
        self, question: str, passages: Sequence[Passage], sampling: Sampling
    ) -> tuple[Prompt, tuple[Passage, ...]]:
        """As `Grounding.ground`."""
        record = current_record.get()
        began = time.monotonic()
        try:
            return await self._grounding.ground(question, passages, sampling)
        finally:
            if record is not None:
                record.note(Stage.PROMPT, began)


class InstrumentedAsker:
    """Notes what was asked about, and with `texts` also the question and its answer."""

    def __init__(self, asker: AskUseCase, *, texts: bool) -> None:
        self._asker = asker
        self._texts = texts

    def ask(self, request: AskRequest) -> AsyncGenerator[AskEvent, None]:
        """As `Asker.ask`."""
        record = current_record.get()
        events = self._asker.ask(request)
        if record is None:
            return events
        record.topics = request.topics
        # Without the texts the events pass untouched: a generator around them would cost a microsecond a token.
        return self._with_texts(request, record, events) if self._texts else events

    async def _with_texts(
        self, request: AskRequest, record: RequestRecord, events: AsyncGenerator[AskEvent, None]
    ) -> AsyncGenerator[AskEvent, None]:
        record.question = request.question
        pieces: list[str] = []
        try:
            async with aclosing(events):
                async for event in events:
                    if isinstance(event, Text):
                        pieces.append(event.text)
                    yield event
        finally:
            record.answer = "".join(pieces)
