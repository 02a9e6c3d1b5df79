"""Which models can be named, and what each name means: the LLM itself, the documents, the encoder."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from app.errors import UnknownModel, UnknownTopic
from app.grounding import GeneratorFacts
from app.topics import TopicDirectory
from contracts.types import ModelCard

DOCUMENTS = "documents"
"""Answers from the documents of all topics."""
TOPIC_PREFIX = "topic:"
"""`topic:NAME` answers from the documents of one topic."""


class ServedModels:
    """The names, from what the model service and the store say at the time. Its methods raise PharosError."""

    def __init__(self, generator_facts: Callable[[], Awaitable[GeneratorFacts]], topics: TopicDirectory) -> None:
        self._facts = generator_facts
        self._topics = topics

    async def all(self) -> list[str]:
        """Every name: the LLM, the encoder, all documents, then each topic."""
        card = await self._card()
        return [card.generator, card.encoder, *await self._grounded()]

    async def require(self, model: str) -> None:
        """Raise UnknownModel unless `model` is one of them."""
        card = await self._card()
        if model not in (card.generator, card.encoder):
            await self.topics_of(model)

    async def topics_of(self, model: str) -> tuple[str, ...] | None:
        """Where a chat with `model` takes its answers from: these topics, or all when there are none of them; None when
        `model` is the LLM itself. Raises UnknownModel."""
        card = await self._card()
        if model == card.generator:
            return None
        if model == DOCUMENTS:
            return ()
        if model.startswith(TOPIC_PREFIX):
            topic = model.removeprefix(TOPIC_PREFIX)
            try:
                await self._topics.require([topic])
            except UnknownTopic as exc:
                raise UnknownModel(f"The model {model!r} does not exist. {exc.detail}", param="model") from None
            return (topic,)
        if model == card.encoder:
            raise UnknownModel(f"The model {model!r} makes embeddings, not chats.", param="model")
        names = ", ".join([card.generator, *await self._grounded()])
        raise UnknownModel(f"The model {model!r} does not exist. Models to chat with: {names}.", param="model")

    async def encoder(self, model: str) -> ModelCard:
        """The card, if `model` is the encoder. Raises UnknownModel."""
        card = await self._card()
        if model != card.encoder:
            raise UnknownModel(f"The model {model!r} makes no embeddings; {card.encoder!r} does.", param="model")
        return card

    async def _card(self) -> ModelCard:
        return (await self._facts()).card

    async def _grounded(self) -> list[str]:
        return [DOCUMENTS, *(TOPIC_PREFIX + name for name in await self._topics.names())]
