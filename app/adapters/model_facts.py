"""What the gateway knows of the served models: their card, and the generator's tokenizer."""

from __future__ import annotations

import asyncio

from tokenizers import Tokenizer

from app.errors import ModelServiceFailed
from app.grounding import GeneratorFacts
from app.replicas import ModelClient, Replicas
from app.replicated import on_any
from contracts.types import ModelCard


class ModelFacts:
    """Fetched from a replica when first needed, rather than read from a shared folder, so that the gateway needs no
    model files; looked at again when a replica has come (back), since it may serve another model."""

    def __init__(self, replicas: Replicas) -> None:
        self._replicas = replicas
        self._facts: GeneratorFacts | None = None
        self._epoch = -1
        self._lock = asyncio.Lock()

    async def get(self) -> GeneratorFacts:
        """Raises PharosError when no replica can say."""
        if self._facts is not None and self._epoch == self._replicas.epoch:
            return self._facts
        async with self._lock:
            epoch = self._replicas.epoch
            if self._facts is None or self._epoch != epoch:
                self._facts = await self._fetch(self._facts)
                self._epoch = epoch
            return self._facts

    async def card(self) -> ModelCard:
        """What is served. Raises as `get`."""
        return (await self.get()).card

    async def encoder(self) -> str:
        """The name of the served encoder. Raises as `get`."""
        return (await self.card()).encoder

    async def reranker(self) -> str:
        """The name of the served reranker, "" for none. Raises as `get`."""
        return (await self.card()).reranker

    async def _fetch(self, known: GeneratorFacts | None) -> GeneratorFacts:
        return await on_any(self._replicas, lambda replica: self._facts_of(replica.client, known))

    async def _facts_of(self, client: ModelClient, known: GeneratorFacts | None) -> GeneratorFacts:
        card = await client.card()
        if known is not None and known.card == card:
            return known
        text = await client.tokenizer()
        try:
            # In a thread: a large vocabulary takes a second.
            tokenizer = await asyncio.to_thread(Tokenizer.from_str, text)
        except Exception as exc:  # tokenizers raises bare Exception for a body that is no tokenizer
            raise ModelServiceFailed("The model service's tokenizer cannot be read.") from exc
        return GeneratorFacts(card, TokenizerRuler(tokenizer))


class TokenizerRuler:
    """`TokenRuler` by the generator's own tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def count(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def cut(self, text: str, tokens: int) -> str:
        offsets = self._tokenizer.encode(text, add_special_tokens=False).offsets
        return text if len(offsets) <= tokens else text[: offsets[tokens - 1][1]] if tokens > 0 else ""
