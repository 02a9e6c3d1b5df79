"""The architecture on one page: what the gateway asks of the outside.

Each port has an implementation in `app_llm` (in process) or an adapter in `app/adapters` (over the network), and one
suite in `tests/contract` that every implementation passes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from contracts.types import (
    ChunkSpan,
    CollectionVersion,
    Encoding,
    Filters,
    Found,
    Frame,
    Pair,
    Passage,
    Prompt,
    Queries,
    Scores,
    SearchMode,
    TopicCount,
)

NO_FILTERS = Filters()
CHUNKS_MAX = 4_096
"""Most chunks in one answer of `VectorStore.neighbours`."""


class Encoder(Protocol):
    """Texts to vectors."""

    async def encode(self, texts: Sequence[str], *, timeout_seconds: float | None = None) -> Encoding:
        """One normalised float32 row per text, in the order given. An empty sequence gives shape (0, dimension).

        Nobody waits for the outcome longer than `timeout_seconds`: work that has not begun by then may be dropped.
        """
        ...


class Reranker(Protocol):
    """Questions with texts to scores, reading both together (a cross-encoder)."""

    async def rerank(self, pairs: Sequence[Pair], *, timeout_seconds: float | None = None) -> Scores:
        """One score per pair, in the order given: 0 to 1, the higher the better the text answers the question. Pairs
        are independent of each other, so that one call can carry those of many questions. No pairs give no scores.

        A pair that is too long is cut at the end of its longer part. Nobody waits for the outcome longer than
        `timeout_seconds`: work that has not begun by then may be dropped.
        """
        ...


class Generator(Protocol):
    """Prompts to tokens."""

    def generate(self, prompts: Sequence[Prompt]) -> AsyncGenerator[Frame, None]:
        """One stream for the whole batch.

        The first frame comes once the prompts are accepted and holds the refusals. After it each prompt ends with
        exactly one delta that has a finish reason, and the stream ends when every prompt has. Closing the generator
        stops the work of every prompt that has not ended.
        """
        ...

    async def abort(self, request_ids: Sequence[str]) -> None:
        """End these prompts with the finish reason "abort" and free their slots. Unknown ids are no error."""
        ...


class VectorStore(Protocol):
    """Questions to passages, partitioned by topic."""

    async def search(
        self,
        queries: Queries,
        topics: Sequence[str],
        limit: int,
        *,
        mode: SearchMode,
        filters: Filters = NO_FILTERS,
        with_vectors: bool = False,
    ) -> Found:
        """For each of `queries` the `limit` best passages, best first, in one round trip. No topics means all of them.

        A store without terms searches by vectors, whatever the mode, and says so. Raises InvalidRequest for filters on
        what it does not keep. Hits have the passages' vectors where they are wanted `with_vectors`. A passage's `score`
        and a hit's `coverage` are by `queries.asked` where it is there; order and a hit's `score` never are.
        """
        ...

    async def neighbours(self, spans: Sequence[ChunkSpan]) -> list[Passage]:
        """The chunks in `spans`, in one round trip, each once, by document and place. Their score is 0: nothing has
        been asked. Spans that are empty, or of documents that are not there, give nothing; there are CHUNKS_MAX
        chunks at most."""
        ...

    async def version(self) -> CollectionVersion | None:
        """Which documents are stored now, as strongly consistent as the store can say. A search may still lag some
        seconds behind it. None: nothing is stored, or by a Pharos that kept no version."""
        ...

    async def topic_names(self) -> list[str]:
        """Every topic, by name; cheap, however many there are."""
        ...

    async def topics(self) -> list[TopicCount]:
        """Every topic with its counts, by name. An empty or missing collection gives an empty list."""
        ...
