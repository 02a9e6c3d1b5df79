"""The use case behind chat completions: a conversation in, a stream of events out."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from uuid import uuid4

from app.asking import TOP_K, AskEvent, AskRequest, AskUseCase, Done, Text
from app.errors import InvalidRequest
from app.generation import GenerationPool
from app.served_models import ServedModels
from app.terms import Terms
from contracts.types import Message, Prompt, Sampling, Timings, Usage


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A conversation that has been validated."""

    request_id: str
    model: str
    messages: tuple[Message, ...]
    sampling: Sampling
    terms: Terms = field(default_factory=Terms)


@dataclass(frozen=True, slots=True)
class Accepted:
    """The LLM has taken the conversation. The first event of one that is not answered from the documents."""


ChatEvent = AskEvent | Accepted


class Chat:
    """Continues conversations, with the LLM alone or from the documents. One instance serves every request."""

    def __init__(
        self, models: ServedModels, asker: AskUseCase, generation: GenerationPool, *, question_chars_max: int
    ) -> None:
        self._models = models
        self._asker = asker
        self._generation = generation
        self._question_chars_max = question_chars_max

    async def complete(self, request: ChatRequest) -> AsyncGenerator[ChatEvent, None]:
        """The events of the answer: `Sources` (from the documents) or `Accepted` (the LLM alone), then `Text`…, then
        `Done`. As with `Asker.ask`, an error before the first event is a plain exception, and closing the generator
        stops the work.

        Raises UnknownModel; the generator raises PharosError.
        """
        topics = await self._models.topics_of(request.model)
        if topics is None:
            return self._alone(request)
        question = self._question(request.messages)
        asked = AskRequest(request.request_id, question, topics, TOP_K, request.sampling, request.terms)
        return self._asker.ask(asked)

    def _question(self, messages: tuple[Message, ...]) -> str:
        """What to look up: the user's last message. The others are not used: a passage found for an old question would
        be shown as a source of the new answer."""
        at, question = next(
            ((i, m.content.strip()) for i, m in reversed(list(enumerate(messages))) if m.role == "user"), (0, "")
        )
        if not question:
            raise InvalidRequest(
                "messages: answers from the documents need a question; send a message with the role 'user' last.",
                param="messages",
            )
        if len(question) > self._question_chars_max:
            raise InvalidRequest(
                f"messages[{at}].content: the question has {len(question):,} characters; "
                f"at most {self._question_chars_max:,} are allowed.",
                param=f"messages[{at}].content",
            )
        return question

    async def _alone(self, request: ChatRequest) -> AsyncGenerator[ChatEvent, None]:
        # An id of our own: the engine tells prompts apart by it, and callers may use theirs twice.
        prompt = Prompt(uuid4().hex, request.messages, sampling=request.sampling)
        opened = await self._generation.open(prompt, request.terms)
        stream = opened.value
        accepted = time.monotonic()
        try:
            yield Accepted()
            while True:
                delta = await stream.read()
                if delta.text:
                    yield Text(delta.text)
                if delta.finish_reason is not None:
                    now = time.monotonic()
                    timings = Timings(
                        queue=opened.queued_seconds,
                        encode=None,
                        search=None,
                        prompt=None,
                        time_to_first_token=stream.first_token_after(request.terms.arrived),
                        generate=now - accepted + opened.served_seconds,
                        total=now - request.terms.arrived,
                    )
                    yield Done(delta.finish_reason, delta.usage or Usage(0, 0), timings)
                    return
        finally:
            self._generation.leave(stream)
