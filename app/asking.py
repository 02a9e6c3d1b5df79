"""The use case: one question in, a stream of events out."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol
from uuid import uuid4

import msgspec

from app.errors import PromptTooLong
from app.generation import GenerationPool
from app.prompting import NOT_IN_DOCUMENTS, TokenRuler, grounded_prompt
from app.retrieval import Retrieved, Retriever
from app.terms import Terms
from app.topics import TopicDirectory
from contracts.types import ModelCard, Passage, Prompt, Sampling, Timings, Usage

TOP_K = 5
"""Passages to look at when a request does not say."""


@dataclass(frozen=True, slots=True)
class AskRequest:
    """A question that has been validated."""

    request_id: str
    question: str
    topics: tuple[str, ...]
    top_k: int
    sampling: Sampling
    terms: Terms = field(default_factory=Terms)


@dataclass(frozen=True, slots=True)
class Sources:
    """The passages the answer is made from; passage i is cited as [i + 1]. Always the first event."""

    passages: tuple[Passage, ...]


class Text(msgspec.Struct, frozen=True, gc=False):
    """The next piece of the answer. Made once per token: a Struct costs a fifth of a frozen dataclass."""

    text: str


@dataclass(frozen=True, slots=True)
class Done:
    """The last event. `finish_reason` is the engine's, or "nothing_relevant" when the LLM was not called."""

    finish_reason: str
    usage: Usage
    timings: Timings


AskEvent = Sources | Text | Done


class AskUseCase(Protocol):
    """What answers from the documents: `Asker`, or a wrapper around it."""

    def ask(self, request: AskRequest) -> AsyncGenerator[AskEvent, None]: ...


@dataclass(frozen=True, slots=True)
class GeneratorFacts:
    """What the gateway knows of the model service's generator."""

    card: ModelCard
    ruler: TokenRuler


class Asker:
    """Answers questions from the documents. One instance serves every request.

    `prompt_tokens` bounds a prompt below the model's context window: on a slow machine reading costs more than writing.
    """

    def __init__(
        self,
        retriever: Retriever,
        generation: GenerationPool,
        topics: TopicDirectory,
        generator_facts: Callable[[], Awaitable[GeneratorFacts]],
        *,
        prompt_tokens: int,
    ) -> None:
        self._retriever = retriever
        self._generation = generation
        self._topics = topics
        self._generator_facts = generator_facts
        self._prompt_tokens = prompt_tokens

    async def ask(self, request: AskRequest) -> AsyncGenerator[AskEvent, None]:
        """`Sources`, then `Text`…, then `Done`. Nothing is yielded before the engine has accepted the prompt, so an
        error before it is a plain exception. Closing the generator, at any point, stops the work.

        Raises PharosError.
        """
        if request.topics:
            await self._topics.require(request.topics)
        terms = request.terms
        retrieved = await self._retriever.retrieve(request.question, request.topics, request.top_k, terms.deadline)
        if not retrieved.passages:
            yield Sources(())
            yield Text(f"{NOT_IN_DOCUMENTS.capitalize()}.")
            yield Done("nothing_relevant", Usage(0, 0), _timings(request, retrieved))
            return
        prompt, passages = await self._prompt(request, retrieved)
        handed_over = time.monotonic()
        opened = await self._generation.open(prompt, terms)
        stream = opened.value
        first_token: float | None = None
        try:
            yield Sources(passages)
            while True:
                delta = await stream.read()
                now = time.monotonic()
                if first_token is None and delta.tokens:
                    first_token = now - request.terms.arrived
                if delta.text:
                    yield Text(delta.text)
                if delta.finish_reason is not None:
                    usage = delta.usage or Usage(0, 0)
                    timings = _timings(
                        request,
                        retrieved,
                        opened.queued_seconds,
                        first_token,
                        now - handed_over - opened.queued_seconds,
                    )
                    yield Done(delta.finish_reason, usage, timings)
                    return
        finally:
            self._generation.leave(stream)

    async def _prompt(self, request: AskRequest, retrieved: Retrieved) -> tuple[Prompt, tuple[Passage, ...]]:
        facts = await self._generator_facts()
        budget = min(self._prompt_tokens, facts.card.context_window - request.sampling.max_tokens)
        grounded = grounded_prompt(request.question, retrieved.passages, budget, facts.ruler)
        if not grounded.passages:
            raise PromptTooLong(
                f"The question leaves no room for a passage in a prompt of {budget:,} tokens; "
                "shorten it or ask for fewer max_tokens."
            )
        # An id of our own: two requests may carry the same X-Request-Id, and the engine tells prompts apart by it.
        return Prompt(uuid4().hex, grounded.messages, sampling=request.sampling), grounded.passages


def _timings(
    request: AskRequest,
    retrieved: Retrieved,
    queue_seconds: float = 0.0,
    first_token_seconds: float | None = None,
    generate_seconds: float | None = None,
) -> Timings:
    return Timings(
        queue=retrieved.queue_seconds + queue_seconds,
        encode=retrieved.encode_seconds,
        search=retrieved.search_seconds,
        time_to_first_token=first_token_seconds,
        generate=generate_seconds,
        total=time.monotonic() - request.terms.arrived,
    )
