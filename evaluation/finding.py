"""Asks a running gateway what it finds: POST /search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from contracts.types import ExpandMode, SearchMode
from evaluation.gateway import DEFAULT_HEADERS, Gateway, Headers

MODES: tuple[SearchMode, ...] = ("dense", "sparse", "hybrid")
EXPANSIONS: tuple[ExpandMode, ...] = ("off", "multi_query", "hyde")


@dataclass(frozen=True, slots=True)
class Found:
    """`documents` are the ids that ingestion gave them, one for each passage, best first, and `texts` the passages.
    `similarity` is the highest cosine among them, None where nothing was found. `mode` is what was really done;
    `seconds` is how long the caller waited, and `expand_seconds` how long of it for the LLM to expand the question by
    the texts of `expansion`; None where it was not to."""

    documents: tuple[str, ...]
    similarity: float | None
    mode: str
    seconds: float
    texts: tuple[str, ...] = ()
    expand_seconds: float | None = None
    expansion: tuple[str, ...] | None = None


class HttpFinder(Gateway):
    """POST /search of a gateway for so many `passages`; `rerank` and `expand` None are as the gateway is configured,
    and `more` and `headers` are further fields and headers of the request."""

    def __init__(
        self,
        url: str,
        mode: SearchMode,
        passages: int,
        *,
        rerank: bool | None = None,
        expand: ExpandMode | None = None,
        more: Mapping[str, Any] = {},
        headers: Headers = DEFAULT_HEADERS,
    ) -> None:
        body = {"mode": mode, "top_k": passages, "rerank": rerank, "expand": expand, "stages": False, **more}
        super().__init__(url, "/search", body, timeout_seconds=600, headers={"X-Request-Timeout": "600", **headers})

    async def find(self, question: str) -> Found:
        """Raises FindingFailed."""
        answer, seconds = await self.post(question)
        hits, expansion = answer["hits"], answer.get("expansion")
        return Found(
            tuple(hit["passage"]["document_id"] for hit in hits),
            max((hit["passage"]["score"] for hit in hits), default=None),
            answer["mode"],
            seconds,
            tuple(hit["passage"]["text"] for hit in hits),
            answer["timings"].get("expand"),
            None if expansion is None else tuple(expansion["texts"]),
        )
