"""The caches that the settings ask for, around what they save work for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from app.asking import AskUseCase
from app.caching.answers import Answers
from app.caching.asker import CachingAsker
from app.caching.bounded import Bounds
from app.caching.scope import Defaults, Scopes
from app.caching.vectors import CachingEncoder
from app.caching.version import KnownVersions
from app.retrieval import QuestionEncoder
from app.settings import Settings
from app.telemetry.caches import CacheMetrics
from app.telemetry.wrappers import HitsNoted
from contracts.ports import VectorStore
from contracts.types import ModelCard


class Caches:
    """`card` says what is served now."""

    def __init__(self, settings: Settings, metrics: CacheMetrics, card: Callable[[], Awaitable[ModelCard]]) -> None:
        self._settings = settings
        self._metrics = metrics
        self._card = card

    def of_vectors(self, encoder: QuestionEncoder) -> QuestionEncoder:
        """`encoder` itself where no vectors are to be kept."""
        if not self._settings.cache_vectors:
            return encoder

        async def name() -> str:
            return (await self._card()).encoder

        bounds = self._bounds(self._settings.cache_vectors)
        caching = CachingEncoder(encoder, name, bounds, self._metrics.watch("vectors"))
        self._metrics.shows("vectors", caching.kept)
        return caching

    def of_answers(self, asker: AskUseCase, encoder: QuestionEncoder, store: VectorStore) -> AskUseCase:
        """`asker` itself where no answers are to be kept. `encoder` is what the questions are compared by, `store` says
        which documents there are."""
        settings = self._settings
        if not settings.cache_answers:
            return asker
        watch = self._metrics.watch("answers")
        answers = Answers(self._bounds(settings.cache_answers), watch)
        self._metrics.shows("answers", answers.kept)
        versions = KnownVersions(
            store.version,
            ttl_seconds=settings.cache_version_seconds,
            settle_seconds=settings.cache_settle_seconds,
            changed=lambda: answers.clear("outdated"),
        )
        scopes = Scopes(versions, self._card, Defaults(settings.search_mode, settings.ranking, settings.self_query))
        similarity = settings.cache_similarity
        return HitsNoted(CachingAsker(asker, answers, scopes, encoder, similarity=similarity, watch=watch))

    def _bounds(self, entries: int) -> Bounds:
        return Bounds(entries, self._settings.cache_bytes, self._settings.cache_seconds)
