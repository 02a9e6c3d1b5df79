"""The encoder of `app_llm`, as ingestion uses it: big batches, patient."""

from __future__ import annotations

from collections.abc import Sequence

import httpx
import msgspec
from tokenizers import Tokenizer

from contracts import wire
from contracts.types import Encoding, ModelCard


class ModelService:
    """The first of the addresses that the gateway shares its work between. Raises httpx' errors; the caller retries."""

    def __init__(self, urls: str) -> None:
        url = urls.split(",")[0].strip()
        # A batch of 512 long texts takes half a minute on two CPU cores.
        self._http = httpx.AsyncClient(base_url=url, timeout=httpx.Timeout(600, connect=5), trust_env=False)

    async def card(self) -> ModelCard:
        """What the service serves."""
        return msgspec.json.decode(await self._get("/models"), type=ModelCard)

    async def encoder_tokenizer(self) -> Tokenizer:
        """The encoder's tokenizer, neither truncating nor padding."""
        return Tokenizer.from_str((await self._get("/models/encoder/tokenizer")).decode())

    async def encode(self, texts: Sequence[str]) -> Encoding:
        """As the `Encoder` port."""
        response = await self._http.post("/encode", json={"texts": list(texts)}, headers={"accept": wire.MSGPACK})
        response.raise_for_status()
        return wire.encoding_from_msgpack(response.content)

    async def _get(self, path: str) -> bytes:
        response = await self._http.get(path)
        response.raise_for_status()
        return response.content

    async def close(self) -> None:
        await self._http.aclose()
