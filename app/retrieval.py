"""Question to passages: encode, search, keep what is relevant. Both calls are batched across requests.

What is relevant is decided here and explained in docs/decisions/0010-hybrid-search.md.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from opentelemetry.trace import SpanContext

from app.batching import Batcher, BatchLimits, Served
from app.errors import WrongEncoder
from app.expansion import Expansion, queries_of, together
from app.fusing import by_reciprocal_rank
from app.quota import Quota
from app.ranking.options import RankingOptions
from app.watching import UNWATCHED, BatchWatch
from contracts.ports import NO_FILTERS, VectorStore
from contracts.types import Encoding, ExpandMode, Filters, Found, Hit, Passage, PromptOrder, Queries, SearchMode
from observability.trace_context import current_context, on_behalf_of

FUSED_HITS = 20
"""How many hits of each phrasing are fused, at least: a passage that is well placed in all of them is first in none."""


@dataclass(frozen=True, slots=True)
class Retrieved:
    """Hits best first, the highest similarity among them before the relevance cut, and the seconds of each step.
    `searched` are all that the search found, relevant or not, in its order, which nothing after it changes. `mode` is
    how they were really searched. `degraded`: a step was left out because it failed, so that the same question may find
    better passages in a moment."""

    hits: tuple[Hit, ...]
    searched: tuple[Hit, ...]
    best_score: float | None
    queue_seconds: float
    encode_seconds: float
    search_seconds: float
    mode: SearchMode
    rerank_seconds: float | None = None
    prompt_order: PromptOrder = "best_last"
    expand_seconds: float | None = None
    arrange_seconds: float | None = None
    degraded: bool = False

    @property
    def passages(self) -> tuple[Passage, ...]:
        """Of the hits."""
        return tuple(hit.passage for hit in self.hits)


@dataclass(frozen=True, slots=True)
class Question:
    """What is looked for, where (no topics: everywhere), how (None: as configured) and how much of it.

    `deadline` is a `time.monotonic()` instant. `expand` is whether the LLM is to find more ways to say it, at the
    expense of `quota`, and `expansion` what it has found (app/expanding.py).
    """

    text: str
    topics: tuple[str, ...]
    limit: int
    deadline: float | None = None
    mode: SearchMode | None = None
    filters: Filters = NO_FILTERS
    rerank: bool | None = None
    ranking: RankingOptions | None = None
    self_query: bool | None = None
    with_vectors: bool = False
    expand: ExpandMode | None = None
    quota: Quota | None = None
    expansion: Expansion | None = None


@dataclass(frozen=True, slots=True)
class Ranking:
    """The hits of one search, best first, and the seconds it waited and took. Where it was fused from several, `fused`
    are the hits of each: of the question itself, then of each other phrasing."""

    mode: SearchMode
    hits: tuple[Hit, ...]
    queue_seconds: float
    search_seconds: float
    fused: tuple[tuple[Hit, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Explained:
    """A search. `reranked` is there where the hits were reranked (app/reranking.py), which `ranking` then is the input
    of. `arranged` is what is handed over after all (app/arranging.py), None where nothing arranges; `expansion` is what
    the question was searched with besides (app/expanding.py)."""

    ranking: Ranking
    queue_seconds: float
    encode_seconds: float
    reranked: Ranking | None = None
    arranged: tuple[Hit, ...] | None = None
    arrange_seconds: float | None = None
    expansion: Expansion | None = None
    expand_seconds: float | None = None


class _Group(NamedTuple):
    """Queries of one group may travel together."""

    topics: tuple[str, ...]
    mode: SearchMode
    filters: Filters
    limit: int
    """What a hybrid search finds depends on how deep it looks: nobody's must depend on who searches beside."""


@dataclass(frozen=True, slots=True)
class _Query:
    """One question, in however many ways it is searched."""

    queries: Queries
    group: _Group
    with_vectors: bool = False
    caller: SpanContext | None = field(default_factory=current_context)


class QuestionEncoder(Protocol):
    """What makes vectors of questions: `app.merging.MergingEncoder`, or a wrapper around it."""

    async def served(self, texts: Sequence[str], *, deadline: float | None = None) -> Served[Encoding]:
        """The vectors, and where their time went; `deadline` is a `time.monotonic()` instant. Raises PharosError."""
        ...


class RetrieveUseCase(Protocol):
    """What finds passages: `Retriever`, or a wrapper around it."""

    async def retrieve(self, question: Question) -> Retrieved: ...

    async def explain(self, question: Question) -> Explained: ...


class Retriever:
    """Searches that arrive together travel together: queries of the same topics, mode, filters and limit are one
    call.

    A passage is relevant if its cosine similarity is at least `min_score`, or, where terms were searched, if it has at
    least the share `min_coverage` of the question's terms. `mode` is that of questions that do not say. `served` names
    the encoder, which must be the one that encoded the documents: vectors of two say nothing of each other.
    """

    def __init__(
        self,
        encoder: QuestionEncoder,
        store: VectorStore,
        *,
        search_limits: BatchLimits,
        min_score: float,
        min_coverage: float = 1.0,
        mode: SearchMode = "hybrid",
        served: Callable[[], Awaitable[str]] | None = None,
        watch: BatchWatch = UNWATCHED,
    ) -> None:
        self._encoder = encoder
        self._store = store
        self._min_score = min_score
        self._min_coverage = min_coverage
        self._mode: SearchMode = mode
        self._served = served
        self.searching: Batcher[_Query, Found] = Batcher(
            self._search,
            search_limits,
            cost=lambda query: len(query.queries.texts),
            group=lambda query: query.group,
            watch=watch,
        )

    async def retrieve(self, question: Question) -> Retrieved:
        """The best passages for `question` that are relevant. Raises PharosError."""
        encoded = await self._encoded(question)
        ranking = await self._rank(question, encoded.value, question.mode or self._mode)
        # Cut to the limit last: what a useless phrasing has found must not take the place of what is relevant.
        relevant = (hit for hit in ranking.hits if self._is_relevant(hit))
        return Retrieved(
            hits=tuple(islice(relevant, question.limit)),
            searched=ranking.hits,
            best_score=max((hit.passage.score for hit in ranking.hits), default=None),
            queue_seconds=encoded.queued_seconds + ranking.queue_seconds,
            encode_seconds=encoded.served_seconds,
            search_seconds=ranking.search_seconds,
            mode=ranking.mode,
        )

    async def explain(self, question: Question) -> Explained:
        """All hits for `question`, relevant or not. Raises PharosError."""
        encoded = await self._encoded(question)
        ranking = await self._rank(question, encoded.value, question.mode or self._mode)
        return Explained(
            replace(ranking, hits=ranking.hits[: question.limit]),
            encoded.queued_seconds + ranking.queue_seconds,
            encoded.served_seconds,
            expansion=question.expansion,
        )

    def _is_relevant(self, hit: Hit) -> bool:
        return hit.passage.score >= self._min_score or (hit.coverage or 0.0) >= self._min_coverage

    async def _encoded(self, question: Question) -> Served[Queries]:
        expansion = question.expansion
        texts = [question.text, *(expansion.texts if expansion is not None else ())]
        encoded = await self._encoder.served(texts, deadline=question.deadline)
        queries = queries_of(question.text, expansion, encoded.value.vectors)
        return Served(queries, encoded.queued_seconds, encoded.served_seconds)

    async def _rank(self, question: Question, queries: Queries, mode: SearchMode) -> Ranking:
        several = len(queries.texts) > 1
        limit = max(question.limit, FUSED_HITS) if several else question.limit
        # Sorted, so that the same set of topics is the same group however it was written.
        group = _Group(tuple(sorted(set(question.topics))), mode, question.filters, limit)
        query = _Query(queries, group, question.with_vectors)
        found = await self.searching.submit(query, deadline=question.deadline)
        parts = tuple(map(tuple, found.value.hits))
        hits = tuple(by_reciprocal_rank(parts)) if several else parts[0]
        return Ranking(found.value.mode, hits, found.queued_seconds, found.served_seconds, parts if several else ())

    async def _search(self, queries: Sequence[_Query]) -> Sequence[Found]:
        group = queries[0].group
        with on_behalf_of([query.caller for query in queries]):
            found = await self._store.search(
                together([query.queries for query in queries]),
                group.topics,
                group.limit,
                mode=group.mode,
                filters=group.filters,
                with_vectors=any(query.with_vectors for query in queries),
            )
        if found.encoder and self._served is not None and (served := await self._served()) != found.encoder:
            raise WrongEncoder(
                f"The documents were encoded by {found.encoder}, and {served} is served: serve that one, or ingest the "
                "documents again, with --recreate."
            )
        rows = iter(found.hits)
        return [Found(found.mode, list(islice(rows, len(query.queries.texts)))) for query in queries]

    async def __aenter__(self) -> Self:
        await self.searching.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.searching.__aexit__(kind, exc, trace)
