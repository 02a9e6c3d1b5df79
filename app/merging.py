"""An `Encoder` around another one, that merges small calls into one batch and cuts big ones into slices.

The gateway merges the texts of many requests into one call over the network; the model service merges the calls of many
gateways into one forward pass. Like batching.py, this module is shared by both.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from opentelemetry.trace import SpanContext

from app.batching import Batcher, BatchLimits, Served
from app.watching import UNWATCHED, BatchWatch
from contracts.ports import Encoder
from contracts.types import Encoding
from observability.trace_context import current_context, on_behalf_of


@dataclass(frozen=True, slots=True)
class _Call:
    texts: Sequence[str]
    deadline: float | None
    caller: SpanContext | None = field(default_factory=current_context)


class MergingEncoder:
    """A call of more than `slice_texts` texts is sorted by length and goes slice by slice, the next one only when the
    last is back. So a question waits for a slice of each big call that is running, not for its hundreds of passages.

    `limits` count calls; their cost is texts. `batcher` is the context to enter and leave.
    """

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
        self._slice_texts = slice_texts
        self.batcher: Batcher[_Call, Encoding] = Batcher(
            self._encode, limits, cost=lambda call: len(call.texts), backends=backends, watch=watch
        )

    async def encode(self, texts: Sequence[str], *, timeout_seconds: float | None = None) -> Encoding:
        """As the port says. Raises what `Batcher.submit` raises."""
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        return (await self.served(texts, deadline=deadline)).value

    async def served(self, texts: Sequence[str], *, deadline: float | None = None) -> Served[Encoding]:
        """`encode`, with where its time went; `deadline` is a `time.monotonic()` instant."""
        if len(texts) <= self._slice_texts:
            return await self.batcher.submit(_Call(texts, deadline), deadline=deadline)
        # Texts of like length share a slice, so that a forward pass pads little.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        rows: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(texts)
        tokens = [0] * len(texts)
        truncated: list[int] = []
        queued = served = 0.0
        for start in range(0, len(order), self._slice_texts):
            indices = order[start : start + self._slice_texts]
            part = await self.batcher.submit(_Call([texts[i] for i in indices], deadline), deadline=deadline)
            queued += part.queued_seconds
            served += part.served_seconds
            for index, vector, count in zip(indices, part.value.vectors, part.value.tokens, strict=True):
                rows[index] = vector
                tokens[index] = count
            truncated += [indices[i] for i in part.value.truncated]
        return Served(Encoding(np.stack(rows), tuple(tokens), tuple(sorted(truncated))), queued, served)

    async def _encode(self, calls: Sequence[_Call]) -> Sequence[Encoding]:
        # The batch is wanted until the last of its callers gives up.
        deadlines = [math.inf if call.deadline is None else call.deadline for call in calls]
        left = max(deadlines) - time.monotonic()
        with on_behalf_of([call.caller for call in calls]):
            merged = await self._encoder.encode(
                [text for call in calls for text in call.texts], timeout_seconds=None if math.isinf(left) else left
            )
        parts: list[Encoding] = []
        start = 0
        for call in calls:
            end = start + len(call.texts)
            truncated = tuple(i - start for i in merged.truncated if start <= i < end)
            parts.append(Encoding(merged.vectors[start:end], merged.tokens[start:end], truncated))
            start = end
        return parts
