"""POST /search of a gateway that may be busy: what passes is waited for."""

from __future__ import annotations

from typing import Any

import httpx
from tenacity import retry, retry_if_exception, stop_after_delay, wait_exponential_jitter

RETRY_SECONDS = 120


def _may_pass(error: BaseException) -> bool:
    """A gateway that is there and busy, as opposed to one that is not there."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code in (502, 503, 504)
    return isinstance(error, httpx.ReadTimeout)


@retry(
    retry=retry_if_exception(_may_pass),
    stop=stop_after_delay(RETRY_SECONDS),
    wait=wait_exponential_jitter(multiplier=0.5, max=10),
    reraise=True,
)
async def search(http: httpx.AsyncClient, url: str, body: dict[str, Any]) -> dict[str, Any]:
    """The answer of POST `url`. Raises httpx.HTTPError."""
    response = await http.post(url, json=body)
    response.raise_for_status()
    return dict(response.json())
