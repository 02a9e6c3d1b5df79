"""Asks a running gateway: POST /ask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from app.prompting import as_read
from contracts.types import Passage
from evaluation.answer_figures import Reply
from evaluation.gateway import DEFAULT_HEADERS, Gateway, Headers


class HttpAsker(Gateway):
    """POST /ask of a gateway; `body` is what goes with each question (top_k, max_tokens, mode, …), and so do further
    `headers`."""

    def __init__(self, url: str, body: Mapping[str, Any], headers: Headers = DEFAULT_HEADERS) -> None:
        super().__init__(url, "/ask", body, timeout_seconds=600, headers={"X-Request-Timeout": "600", **headers})

    async def ask(self, question: str) -> Reply:
        """Raises FindingFailed."""
        answer, seconds = await self.post(question)
        sources = msgspec.convert(answer["sources"], tuple[Passage, ...])
        return Reply(
            answer["answer"],
            tuple(as_read(source).strip() for source in sources),
            seconds,
            tuple(source.document_id for source in sources),
            answer["usage"]["prompt_tokens"],
        )
