"""Whose answer may be whose: everything but its words that shapes the answer to a question."""

from __future__ import annotations

import datetime as dt
import unicodedata
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from app.arranging import utc_today
from app.asking import AskRequest
from app.caching.version import KnownVersions
from app.ranking.options import RankingOptions
from app.terms import UNLIMITED
from contracts.types import ModelCard, SearchMode


@dataclass(frozen=True, slots=True)
class Defaults:
    """What applies to a request that does not say: PHAROS_SEARCH_MODE, PHAROS_RANKING, PHAROS_SELF_QUERY."""

    mode: SearchMode
    ranking: RankingOptions
    self_query: bool


@dataclass(frozen=True, slots=True)
class Scope:
    """Requests of equal scopes differ in their words alone.

    `asked` is the request less its words and what only identifies it, so that a field which requests are given later
    counts without being named here. `day` is there where an answer depends on it.
    """

    user: str | None
    version: str
    card: ModelCard
    asked: AskRequest
    day: dt.date | None


@dataclass(frozen=True, slots=True)
class Place:
    """Where an answer is looked for, and whether one that is made now may be kept there."""

    scope: Scope
    keeps: bool


class Scopes:
    """`card` says what is served now."""

    def __init__(
        self,
        versions: KnownVersions,
        card: Callable[[], Awaitable[ModelCard]],
        defaults: Defaults,
        today: Callable[[], dt.date] = utc_today,
    ) -> None:
        self._versions = versions
        self._card = card
        self._defaults = defaults
        self._today = today

    async def of(self, request: AskRequest) -> Place | None:
        """None where no answer may be kept: it is drawn at random, or the documents have no version now. Raises
        PharosError, as answering the question would."""
        if request.sampling.temperature > 0:
            return None
        version = await self._versions.current()
        if version is None:
            return None
        scope = scope_of(request, self._defaults, version.id, await self._card(), self._today())
        return Place(scope, version.settled)


def scope_of(request: AskRequest, defaults: Defaults, version: str, card: ModelCard, today: dt.date) -> Scope:
    """`today` counts where age or phrases like "last year" do."""
    quota = request.terms.quota
    # Resolved, since an explicit null in `ranking` is equal to no word about it and means something else.
    ranking = defaults.ranking.overridden(request.ranking)
    self_query = defaults.self_query if request.self_query is None else request.self_query
    asked = replace(
        request,
        request_id="",
        question="",
        terms=UNLIMITED,
        topics=tuple(sorted(set(request.topics))),
        mode=request.mode or defaults.mode,
        ranking=ranking,
        self_query=self_query,
    )
    dated = self_query or ranking.half_life_days is not None
    return Scope(None if quota is None else quota.name, version, card, asked, today if dated else None)


def normalised(question: str) -> str:
    """What counts as the same words: composed alike (Unicode NFC), with single spaces. Case and punctuation count,
    since "US" is not "us"."""
    return " ".join(unicodedata.normalize("NFC", question).split())
