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
        self._last: dict[httpx.URL, list[Address]] = {}

    async def __call__(self) -> set[Address]:
        """A name that cannot be resolved now keeps the addresses it had. Raises OSError when there are none at all."""
        found = await asyncio.gather(*map(_resolve, self._urls), return_exceptions=True)
        failure: OSError | None = None
        for url, outcome in zip(self._urls, found, strict=True):
            if isinstance(outcome, OSError):
                failure = outcome
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                self._last[url] = outcome
        if failure is not None and not self._last:
            raise failure
        return {address for addresses in self._last.values() for address in addresses}


async def _resolve(url: httpx.URL) -> list[Address]:
    port = url.port or (443 if url.scheme == "https" else 80)
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
    # A name with addresses of both families (localhost, say) is one host, not two.
    family = min((entry[0] for entry in found), key=lambda family: family != socket.AF_INET)
    addresses = sorted({str(entry[4][0]) for entry in found if entry[0] == family})
    return [Address(str(url.copy_with(host=ip)), url.netloc.decode()) for ip in addresses]
