"""From the configured addresses of the model service to the replicas behind them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

import httpx

from app.replicas import Address


class Discovery:
    """Each URL is one replica, or, when its name resolves to several addresses, as many. Call it to resolve afresh."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = [httpx.URL(url) for url in urls]

    async def __call__(self) -> set[Address]:
        """Raises OSError when no name can be resolved."""
        found = await asyncio.gather(*map(_resolve, self._urls), return_exceptions=True)
        failures = [outcome for outcome in found if isinstance(outcome, BaseException)]
        for failure in failures:
            if not isinstance(failure, OSError) or len(failures) == len(found):
                raise failure
        return {address for outcome in found if not isinstance(outcome, BaseException) for address in outcome}


async def _resolve(url: httpx.URL) -> list[Address]:
    port = url.port or (443 if url.scheme == "https" else 80)
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
    # A name with addresses of both families (localhost, say) is one host, not two.
    family = min((entry[0] for entry in found), key=lambda family: family != socket.AF_INET)
    addresses = sorted({str(entry[4][0]) for entry in found if entry[0] == family})
    return [Address(str(url.copy_with(host=ip)), url.netloc.decode()) for ip in addresses]
