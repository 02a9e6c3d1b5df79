"""Questions said in more ways by the LLM before they are searched: multi-query and HyDE (app/expansion.py).

What reads the question afterwards (reranker, thresholds, answerability, the prompt) still reads the question alone.
docs/retrieval.md says what it costs and gains.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol
from uuid import uuid4

from app.errors import (
    DeadlineExceeded,
    InvalidRequest,
    ModelServiceDown,
    ModelServiceFailed,
    Overloaded,
    PharosError,
    QuotaExceeded,
)
from app.expansion import Expansion, passage_of, passage_prompt, phrasings_of, phrasings_prompt
from app.generation import GenerationPool
from app.retrieval import Explained, Question, Retrieved, RetrieveUseCase
from app.surviving import Survival
from app.terms import Terms
from contracts.types import ExpandMode, Message, Prompt, Sampling, SearchMode

log = logging.getLogger(__name__)

BEARABLE: tuple[type[PharosError], ...] = (
    DeadlineExceeded, InvalidRequest, ModelServiceDown, ModelServiceFailed, Overloaded, QuotaExceeded,
)  # fmt: skip
"""What a question survives that did not insist: it is searched as it is. Its own deadline it does not survive."""

NOTHING_USABLE = "nothing_usable"
"""Why a question was not expanded although the LLM has answered."""

PASSAGE_TEMPERATURE = 0.7
"""Of several passages of one question, which are to differ; the paper's."""


@dataclass(frozen=True, slots=True)
class Expanded:
    """What the LLM has added, and the seconds its prompts waited and took."""

    expansion: Expansion
    queue_seconds: float
    expand_seconds: float


class ExpandUseCase(Protocol):
    """What asks the LLM: `Expander`, or a wrapper around it."""

    async def expand(self, question: Question) -> Expanded | None: ...


@dataclass(frozen=True, slots=True)
class ExpandLimits:
    """How many phrasings (multi-query) or passages (HyDE) of a question, how many tokens are made in each prompt, and
    how long a question waits for them that does not insist."""

    phrasings: int = 3
    passages: int = 1
    tokens: int = 96
    seconds: float = 10.0


class Expander:
    """`mode` is that of a question that does not say; one that says insists. `search_mode` is that of its search.
    `skipped` is told why each question was searched as it is, although it was to be expanded."""

    def __init__(
        self,
        generation: GenerationPool,
        *,
        mode: ExpandMode = "off",
        search_mode: SearchMode = "hybrid",
        limits: ExpandLimits = ExpandLimits(),
        skipped: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._generation = generation
        self._mode: ExpandMode = mode
        self._search_mode: SearchMode = search_mode
        self._limits = limits
        self._skipped = skipped
        self._survival = Survival(log, "questions are searched as they are, since expanding them fails", skipped)

    async def expand(self, question: Question) -> Expanded | None:
        """None where it is not wanted. Cancelling it stops the work. Raises PharosError."""
        mode = question.expand or self._mode
        must = question.expand is not None
        if mode == "hyde" and (question.mode or self._search_mode) == "sparse":
            if must:
                raise InvalidRequest("expand: hyde changes the vector, and mode sparse searches by words alone.")
            mode = "off"
        if mode == "off":
            return None
        began = time.monotonic()
        deadline = math.inf if question.deadline is None else question.deadline
        until = deadline if must else min(deadline, began + self._limits.seconds)
        terms = Terms(began, None if math.isinf(until) else until, question.quota)
        try:
            if mode == "multi_query":
                texts, queued = await self._phrasings(question.text, terms)
            else:
                texts, queued = await self._passages(question.text, terms)
        except BEARABLE as failure:
            self._survival.survived(failure, must=must, deadline=deadline)
            return Expanded(Expansion(mode, (), failure.code), 0.0, time.monotonic() - began)
        self._survival.went_well()
        skipped = None if texts else NOTHING_USABLE
        if skipped:
            self._skipped(skipped)
        return Expanded(Expansion(mode, texts, skipped), queued, time.monotonic() - began - queued)

    async def _phrasings(self, question: str, terms: Terms) -> tuple[tuple[str, ...], float]:
        count = self._limits.phrasings

        def usable(said: str, *, unfinished: bool) -> tuple[str, ...]:
            return phrasings_of(said, question, count, unfinished=unfinished)

        messages = phrasings_prompt(question, count)
        # A small model goes on and on: what comes after the lines that are wanted is not waited for.
        said, cut, queued = await self._said(
            messages, terms, Sampling(self._limits.tokens), lambda so_far: len(usable(so_far, unfinished=True)) == count
        )
        return usable(said, unfinished=cut) or usable(said, unfinished=False), queued

    async def _passages(self, question: str, terms: Terms) -> tuple[tuple[str, ...], float]:
        count, tokens = self._limits.passages, self._limits.tokens
        samplings = [Sampling(tokens)]
        if count > 1:
            samplings = [Sampling(tokens, PASSAGE_TEMPERATURE, seed=seed) for seed in range(count)]
        messages = passage_prompt(question)
        try:
            async with asyncio.TaskGroup() as tasks:
                saying = [tasks.create_task(self._said(messages, terms, sampling)) for sampling in samplings]
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        said = [task.result() for task in saying]
        texts = tuple(dict.fromkeys(filter(None, (passage_of(text) for text, _, _ in said))))
        return texts, max(queued for _, _, queued in said)

    async def _said(
        self,
        messages: tuple[Message, ...],
        terms: Terms,
        sampling: Sampling,
        enough: Callable[[str], bool] = lambda _: False,
    ) -> tuple[str, bool, float]:
        """The LLM's words, whether they were cut at their length, and the seconds the prompt waited."""
        opened = await self._generation.open(Prompt(uuid4().hex, messages, sampling=sampling), terms)
        stream = opened.value
        said = ""
        try:
            while True:
                delta = await stream.read()
                said += delta.text
                if delta.finish_reason is not None:
                    return said, delta.finish_reason != "stop", opened.queued_seconds
                if "\n" in delta.text and enough(said):
                    return said, True, opened.queued_seconds
        finally:
            self._generation.leave(stream)


class ExpandingRetriever:
    """Around `retriever`: its questions come with what `expander` has added."""

    def __init__(self, retriever: RetrieveUseCase, expander: ExpandUseCase) -> None:
        self._retriever = retriever
        self._expander = expander

    async def retrieve(self, question: Question) -> Retrieved:
        """As `Retriever.retrieve`."""
        expanded = await self._expander.expand(question)
        if expanded is None:
            return await self._retriever.retrieve(question)
        found = await self._retriever.retrieve(replace(question, expansion=expanded.expansion))
        return replace(
            found,
            degraded=found.degraded or expanded.expansion.skipped not in (None, NOTHING_USABLE),
            queue_seconds=found.queue_seconds + expanded.queue_seconds,
            expand_seconds=expanded.expand_seconds,
        )

    async def explain(self, question: Question) -> Explained:
        """As `Retriever.explain`."""
        expanded = await self._expander.expand(question)
        if expanded is None:
            return await self._retriever.explain(question)
        found = await self._retriever.explain(replace(question, expansion=expanded.expansion))
        return replace(
            found,
            queue_seconds=found.queue_seconds + expanded.queue_seconds,
            expand_seconds=expanded.expand_seconds,
        )
