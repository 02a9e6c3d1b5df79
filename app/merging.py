"""An `Encoder` or `Reranker` around another one, that merges small calls into one batch and cuts big ones into slices.

The gateway merges what many requests want into one call over the network; the model service merges the calls of many
gateways into one forward pass. Like batching.py, this module is shared by both.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from opentelemetry.trace import SpanContext

from app.batching import Batcher, BatchLimits, Served
from app.watching import UNWATCHED, BatchWatch
from contracts.ports import Encoder, Reranker
from contracts.types import Encoding, Pair, Scores
from observability.trace_context import current_context, on_behalf_of

In = TypeVar("In", str, Pair)
Out = TypeVar("Out", Encoding, Scores)
Rows = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Call(Generic[In]):
    texts: Sequence[In]
    deadline: float | None
    caller: SpanContext | None = field(default_factory=current_context)


class _Merging(ABC, Generic[In, Out]):
    """A call of more than `slice_texts` texts is sorted by length and goes slice by slice, the next one only when the
    last is back. So a question waits for a slice of each big call that is running, not for its hundreds of passages.

    `limits` count calls; their cost is texts. `batcher` is the context to enter and leave.
    """

    def __init__(
        self,
        *,
        slice_texts: int,
        limits: BatchLimits,
        backends: Callable[[], int] = lambda: 1,
        watch: BatchWatch = UNWATCHED,
    ) -> None:
        self._slice_texts = slice_texts
        self.batcher: Batcher[_Call[In], Out] = Batcher(
            self._serve, limits, cost=lambda call: len(call.texts), backends=backends, watch=watch
        )

    async def served(self, texts: Sequence[In], *, deadline: float | None = None) -> Served[Out]:
        """What the port's method gives, with where its time went; `deadline` is a `time.monotonic()` instant. Raises
        what `Batcher.submit` raises."""
        if len(texts) <= self._slice_texts:
            return await self.batcher.submit(_Call(texts, deadline), deadline=deadline)
        # Texts of like length share a slice, so that a forward pass pads little.
        order = sorted(range(len(texts)), key=lambda i: self._length(texts[i]))
        rows: list[Rows] = [np.empty(0, np.float32)] * len(texts)
        tokens = [0] * len(texts)
        truncated: list[int] = []
        queued = served = 0.0
        for start in range(0, len(order), self._slice_texts):
            indices = order[start : start + self._slice_texts]
            part = await self.batcher.submit(_Call([texts[i] for i in indices], deadline), deadline=deadline)
            queued += part.queued_seconds
            served += part.served_seconds
            for index, row, count in zip(indices, self._rows(part.value), part.value.tokens, strict=True):
                rows[index] = row
                tokens[index] = count
            truncated += [indices[i] for i in part.value.truncated]
        return Served(self._made(np.stack(rows), tuple(tokens), tuple(sorted(truncated))), queued, served)

    async def _serve(self, calls: Sequence[_Call[In]]) -> Sequence[Out]:
        # The batch is wanted until the last of its callers gives up.
        deadlines = [math.inf if call.deadline is None else call.deadline for call in calls]
        left = max(deadlines) - time.monotonic()
        with on_behalf_of([call.caller for call in calls]):
            merged = await self._run(
                [text for call in calls for text in call.texts], None if math.isinf(left) else left
            )
        rows = self._rows(merged)
        parts: list[Out] = []
        start = 0
        for call in calls:
            end = start + len(call.texts)
            truncated = tuple(i - start for i in merged.truncated if start <= i < end)
            parts.append(self._made(rows[start:end], merged.tokens[start:end], truncated))
            start = end
        return parts

    @abstractmethod
    async def _run(self, texts: Sequence[In], timeout_seconds: float | None) -> Out: ...

    @abstractmethod
    def _length(self, text: In) -> int: ...

    @abstractmethod
    def _rows(self, outcome: Out) -> Rows: ...

    @abstractmethod
    def _made(self, rows: Rows, tokens: tuple[int, ...], truncated: tuple[int, ...]) -> Out: ...


class MergingEncoder(_Merging[str, Encoding]):
    """The `Encoder`; see the module. A call of more than `slice_texts` texts is cut, `limits` count calls."""

    def __init__(
        self,
        encoder: Encoder,
        *,
        slice_texts: int,
        limits: BatchLimits,
        backends: Callable[[], int] = lambda: 1,
        watch: BatchWatch = UNWATCHED,
    ) -> None:
        self._encoder = encoder
        super().__init__(slice_texts=slice_texts, limits=limits, backends=backends, watch=watch)

    async def encode(self, texts: Sequence[str], *, timeout_seconds: float | None = None) -> Encoding:
        """As the port says. Raises what `Batcher.submit` raises."""
        return (await self.served(texts, deadline=_instant(timeout_seconds))).value

    async def _run(self, texts: Sequence[str], timeout_seconds: float | None) -> Encoding:
        return await self._encoder.encode(texts, timeout_seconds=timeout_seconds)

    def _length(self, text: str) -> int:
        return len(text)

    def _rows(self, outcome: Encoding) -> Rows:
        return outcome.vectors

    def _made(self, rows: Rows, tokens: tuple[int, ...], truncated: tuple[int, ...]) -> Encoding:
        return Encoding(rows, tokens, truncated)


class MergingReranker(_Merging[Pair, Scores]):
    """The `Reranker`; see the module. A call of more than `slice_pairs` pairs is cut, `limits` count calls."""

    def __init__(
        self,
        reranker: Reranker,
        *,
        slice_pairs: int,
        limits: BatchLimits,
        backends: Callable[[], int] = lambda: 1,
        watch: BatchWatch = UNWATCHED,
    ) -> None:
        self._reranker = reranker
        super().__init__(slice_texts=slice_pairs, limits=limits, backends=backends, watch=watch)

    async def rerank(self, pairs: Sequence[Pair], *, timeout_seconds: float | None = None) -> Scores:
        """As the port says. Raises what `Batcher.submit` raises."""
        return (await self.served(pairs, deadline=_instant(timeout_seconds))).value

    async def _run(self, texts: Sequence[Pair], timeout_seconds: float | None) -> Scores:
        return await self._reranker.rerank(texts, timeout_seconds=timeout_seconds)

    def _length(self, text: Pair) -> int:
        return len(text.question) + len(text.text)

    def _rows(self, outcome: Scores) -> Rows:
        return outcome.scores

    def _made(self, rows: Rows, tokens: tuple[int, ...], truncated: tuple[int, ...]) -> Scores:
        return Scores(rows, tokens, truncated)


def _instant(timeout_seconds: float | None) -> float | None:
    return None if timeout_seconds is None else time.monotonic() + timeout_seconds
