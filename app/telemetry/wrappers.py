"""Wrappers around the steps of answering a question that note in the request's record what only they know."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from app.asking import NOTHING_RELEVANT, AskEvent, AskRequest, AskUseCase, Done, Sources, Text
from app.expanding import Expanded, ExpandUseCase
from app.grounding import GroundUseCase
from app.retrieval import Explained, Question, Retrieved, RetrieveUseCase
from app.telemetry.record import current_record
from contracts.telemetry import Stage
from contracts.types import Passage, Prompt, PromptOrder, Sampling


class InstrumentedRetriever:
    """Notes which topics were searched (they exist, or it would not have come to that), how good the best passage was,
    and how many are relevant."""

    def __init__(self, retriever: RetrieveUseCase) -> None:
        self._retriever = retriever

    async def retrieve(self, question: Question) -> Retrieved:
        """As `Retriever.retrieve`."""
        record = current_record.get()
        if record is not None:
            record.topics = question.topics
        retrieved = await self._retriever.retrieve(question)
        if record is not None:
            record.best_score = retrieved.best_score
            record.passages = len(retrieved.passages)
            if not retrieved.passages:
                record.finish_reason = NOTHING_RELEVANT
        return retrieved

    async def explain(self, question: Question) -> Explained:
        """As `Retriever.explain`. Not noted: best score and passages, which are counted of questions to be answered."""
        record = current_record.get()
        if record is not None:
            record.topics = question.topics
        return await self._retriever.explain(question)


class InstrumentedExpander:
    """Notes how long the LLM took to find more ways to say a question and, `with_texts`, what it found."""

    def __init__(self, expander: ExpandUseCase, *, with_texts: bool) -> None:
        self._expander = expander
        self._with_texts = with_texts

    async def expand(self, question: Question) -> Expanded | None:
        """As `Expander.expand`."""
        record = current_record.get()
        if record is None:
            return await self._expander.expand(question)
        began = time.monotonic()
        queued = 0.0
        wanted = True
        # Its prompts are no answer: their first token, usage and finish reason are not the request's.
        aside = current_record.set(None)
        try:
            expanded = await self._expander.expand(question)
            if expanded is None:
                wanted = False
                return None
            queued = expanded.queue_seconds
            if self._with_texts:
                record.expansion = expanded.expansion.texts
            return expanded
        finally:
            current_record.reset(aside)
            if wanted:
                record.note(Stage.QUEUE, began, began + queued)
                record.note(Stage.EXPAND, began + queued)


def note_arranging(began: float, ended: float) -> None:
    """Notes how long the steps of app/ranking took; `time.monotonic()` instants."""
    record = current_record.get()
    if record is not None:
        record.note(Stage.ARRANGE, began, ended)


class InstrumentedGrounding:
    """Notes how long making the prompt took."""

    def __init__(self, grounding: GroundUseCase) -> None:
        self._grounding = grounding

    async def ground(
        self, question: str, passages: Sequence[Passage], sampling: Sampling, order: PromptOrder = "best_last"
    ) -> tuple[Prompt, tuple[Passage, ...]]:
        """As `Grounding.ground`."""
        record = current_record.get()
        began = time.monotonic()
        try:
            return await self._grounding.ground(question, passages, sampling, order)
        finally:
            if record is not None:
                record.note(Stage.PROMPT, began)


class HitsNoted:
    """Around an asker with a cache: notes what is known of an answer that is given again, which came through none of
    the steps that note it otherwise."""

    def __init__(self, asker: AskUseCase) -> None:
        self._asker = asker

    async def ask(self, request: AskRequest) -> AsyncGenerator[AskEvent, None]:
        """As `Asker.ask`."""
        record = current_record.get()
        async with aclosing(self._asker.ask(request)) as events:
            async for event in events:
                if record is not None:
                    if isinstance(event, Sources) and event.cached is not None:
                        record.cached = event.cached
                        record.topics = request.topics  # they exist: an answer was found in them
                        record.passages = len(event.passages)
                    elif isinstance(event, Done) and record.cached is not None:
                        record.finish_reason = event.finish_reason
                yield event


class TextsNoted:
    """Around an asker, where questions and answers may be logged: notes both."""

    def __init__(self, asker: AskUseCase) -> None:
        self._asker = asker

    async def ask(self, request: AskRequest) -> AsyncGenerator[AskEvent, None]:
        """As `Asker.ask`."""
        record = current_record.get()
        pieces: list[str] = []
        if record is not None:
            record.question = request.question
        try:
            async with aclosing(self._asker.ask(request)) as events:
                async for event in events:
                    if isinstance(event, Text):
                        pieces.append(event.text)
                    yield event
        finally:
            if record is not None:
                record.answer = "".join(pieces)
