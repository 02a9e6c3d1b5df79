"""Asks a running gateway what it finds: POST /search."""

from __future__ import annotations

from dataclasses import dataclass

from contracts.types import SearchMode
from evaluation.gateway import Gateway

MODES: tuple[SearchMode, ...] = ("dense", "sparse", "hybrid")


@dataclass(frozen=True, slots=True)
class Found:
    """`documents` are the ids that ingestion gave them, one for each passage, best first. `similarity` is the highest
    cosine among them, None where nothing was found. `mode` is what was really done; `seconds` is how long the caller
    waited."""

    documents: tuple[str, ...]
    similarity: float | None
    mode: str
    seconds: float


class HttpFinder(Gateway):
    """POST /search of a gateway for so many `passages`; `rerank` None is as the gateway is configured."""

    def __init__(self, url: str, mode: SearchMode, passages: int, *, rerank: bool | None = None) -> None:
        body = {"mode": mode, "top_k": passages, "rerank": rerank, "stages": False}
        super().__init__(url, "/search", body, timeout_seconds=120)

    async def find(self, question: str) -> Found:
        """Raises FindingFailed."""
        answer, seconds = await self.post(question)
        hits = answer["hits"]
        return Found(
            tuple(hit["passage"]["document_id"] for hit in hits),
            max((hit["passage"]["score"] for hit in hits), default=None),
            answer["mode"],
            seconds,
        )
