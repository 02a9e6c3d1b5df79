"""One model service (`app_llm`) over HTTP: `Encoder`, `Reranker`, `Generator`, and what it says of itself."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar, cast

import httpx
import msgspec

from app.adapters.transport import BODY_TIMEOUT, HttptoolsTransport
from app.errors import (
    DeadlineExceeded,
    Draining,
    InvalidRequest,
    ModelServiceDown,
    ModelServiceFailed,
    NoReranker,
    Overloaded,
    PharosError,
)
from app.replicas import Address
from contracts import wire
from contracts.telemetry import REQUEST_TIMEOUT_HEADER
from contracts.types import Delta, Encoding, Frame, ModelCard, Pair, Prompt, Readiness, Scores
from observability.trace_context import current_headers

T = TypeVar("T")

_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError)
"""What msgspec raises for a body that is not what it should be; the second one for text that is not UTF-8."""

READY_SECONDS = 1.0
"""A service that does not answer /readyz by then is not ready."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for a model service, in seconds: for a connection, for the answer to a call (for a token stream:
    for its first frame), and for the next frame of a stream. `connections` bounds the pool."""

    connect_seconds: float = 1.0
    call_seconds: float = 10.0
    silence_seconds: float = 120.0
    connections: int = 512


class HttpModelClient:
    """Implements `app.replicas.ModelClient`. Nothing connects before it is used."""

    def __init__(self, address: Address, patience: Patience) -> None:
        self._service = _Service(address, patience)
        self.encoder = HttpEncoder(self._service)
        self.reranker = HttpReranker(self._service)
        self.generator = HttpGenerator(self._service)

    async def readiness(self) -> Readiness:
        # 503 is how it says that it is draining.
        async with self._service.request("GET", "/readyz", call_seconds=READY_SECONDS, good_status=503) as response:
            return _decoded(await response.aread(), Readiness)

    async def card(self) -> ModelCard:
        async with self._service.request("GET", "/models") as response:
            return _decoded(await response.aread(), ModelCard)

    async def tokenizer(self) -> str:
        """The generator's tokenizer.json."""
        async with self._service.request("GET", "/models/generator/tokenizer") as response:
            return (await response.aread()).decode(errors="replace")  # what is no text is no tokenizer.json either

    async def close(self) -> None:
        await self._service.close()


class _Service:
    """Sends requests and turns everything that can go wrong into the gateway's errors."""

    def __init__(self, address: Address, patience: Patience) -> None:
        self._patience = patience
        self._sni = {"sni_hostname": httpx.URL(f"//{address.host}").host}
        self._http = httpx.AsyncClient(
            base_url=address.url,
            headers={"host": address.host},
            timeout=httpx.Timeout(
                patience.call_seconds, connect=patience.connect_seconds, pool=patience.connect_seconds
            ),
            transport=HttptoolsTransport(patience.connections),
        )

    @asynccontextmanager
    async def request(
        self,
        method: str,
        path: str,
        body: object = None,
        accept: str = wire.JSON,
        *,
        call_seconds: float | None = None,
        timeout_seconds: float | None = None,
        good_status: int = 200,
        also: Mapping[str, str] = MappingProxyType({}),
    ) -> AsyncGenerator[httpx.Response, None]:
        """A response whose body is still to be read, with a 2xx status or `good_status`. Raises PharosError.

        `timeout_seconds` is the caller's, and travels along; `call_seconds` replaces the patience for this call; `also`
        are more headers.
        """
        headers = {"accept": accept, "content-type": wire.JSON, **also}
        patience = self._patience
        read_seconds = call_seconds or patience.call_seconds
        if timeout_seconds is not None:
            if timeout_seconds <= 0:
                raise DeadlineExceeded("The request's time ran out before the model service was asked.")
            headers[REQUEST_TIMEOUT_HEADER] = f"{max(timeout_seconds, 0.001):.3f}"
            read_seconds = min(read_seconds, timeout_seconds)
        request = self._http.build_request(
            method,
            path,
            content=None if body is None else msgspec.json.encode(body),
            headers=headers,
            timeout=httpx.Timeout(read_seconds, connect=patience.connect_seconds, pool=patience.connect_seconds),
            extensions={BODY_TIMEOUT: patience.silence_seconds if accept == wire.NDJSON else read_seconds, **self._sni},
        )
        try:
            response = await self._http.send(request, stream=True)
            try:
                if response.is_error and response.status_code != good_status:
                    await response.aread()
                    raise _error_of(response)
                yield response
            finally:
                await response.aclose()
        except (httpx.ConnectError, httpx.ConnectTimeout) as exc:
            raise ModelServiceDown("The model service cannot be reached; try again in a moment.") from exc
        except (httpx.ReadError, httpx.WriteError, httpx.CloseError) as exc:
            raise ModelServiceDown("The model service closed the connection; try again in a moment.") from exc
        except (httpx.RemoteProtocolError, httpx.DecodingError) as exc:
            raise ModelServiceFailed("The model service answered with something that cannot be read.") from exc
        except httpx.PoolTimeout as exc:
            raise Overloaded("Every connection to the model service is in use; try again in a moment.") from exc
        except httpx.TimeoutException as exc:
            if timeout_seconds is not None and timeout_seconds <= read_seconds:
                raise DeadlineExceeded("The request's time ran out while the model service worked on it.") from exc
            raise ModelServiceFailed("The model service did not answer in time; try again later.") from exc

    async def close(self) -> None:
        await self._http.aclose()


class HttpEncoder:
    """`Encoder` through POST /encode."""

    def __init__(self, service: _Service) -> None:
        self._service = service

    async def encode(self, texts: Sequence[str], *, timeout_seconds: float | None = None) -> Encoding:
        """As the port says. Raises PharosError."""
        body = {"texts": list(texts)}
        async with self._service.request(
            "POST", "/encode", body, wire.MSGPACK, timeout_seconds=timeout_seconds, also=current_headers()
        ) as response:
            content = await response.aread()
        try:
            encoding = wire.encoding_from_msgpack(content)
        except (msgspec.DecodeError, ValueError) as exc:
            raise ModelServiceFailed("The model service answered /encode with something else than vectors.") from exc
        if len(encoding.vectors) != len(texts):
            raise ModelServiceFailed(f"The model service sent {len(encoding.vectors)} vectors for {len(texts)} texts.")
        return encoding


class HttpReranker:
    """`Reranker` through POST /rerank."""

    def __init__(self, service: _Service) -> None:
        self._service = service

    async def rerank(self, pairs: Sequence[Pair], *, timeout_seconds: float | None = None) -> Scores:
        """As the port says. Raises PharosError, NoReranker among them."""
        body = {"pairs": list(pairs)}
        async with self._service.request(
            "POST", "/rerank", body, wire.MSGPACK, timeout_seconds=timeout_seconds, also=current_headers()
        ) as response:
            content = await response.aread()
        try:
            scores = wire.scores_from_msgpack(content)
        except (msgspec.DecodeError, ValueError) as exc:
            raise ModelServiceFailed("The model service answered /rerank with something else than scores.") from exc
        if len(scores.scores) != len(pairs):
            raise ModelServiceFailed(f"The model service sent {len(scores.scores)} scores for {len(pairs)} pairs.")
        return scores


class HttpGenerator:
    """`Generator` through POST /generate and POST /abort."""

    def __init__(self, service: _Service) -> None:
        self._service = service

    async def generate(self, prompts: Sequence[Prompt]) -> AsyncGenerator[Frame, None]:
        """As the port says. Raises PharosError."""
        body = {"prompts": [wire.prompt_to_body(prompt) for prompt in prompts]}
        try:
            async with self._service.request("POST", "/generate", body, wire.NDJSON) as response:
                rest = b""
                # The bare stream, not aiter_lines: no decoding to str and no second pass over every token.
                stream = cast(httpx.AsyncByteStream, response.stream)
                async for chunk in stream:
                    frames, rest = wire.frames_from_ndjson(rest + chunk)
                    for frame in frames:
                        yield frame
        except _UNREADABLE as exc:
            raise ModelServiceFailed("The model service sent a frame that cannot be read.") from exc
        except AllRefused as exc:
            yield Frame(exc.deltas)

    async def abort(self, request_ids: Sequence[str]) -> None:
        """As the port says. Raises PharosError."""
        async with self._service.request("POST", "/abort", {"request_ids": list(request_ids)}):
            pass


class AllRefused(InvalidRequest):
    """The model service refused every prompt of a batch, each for its own reason."""

    def __init__(self, deltas: tuple[Delta, ...]) -> None:
        super().__init__("Every prompt of the batch was refused.")
        self.deltas = deltas


class _Problem(msgspec.Struct):
    detail: str = ""
    code: str = ""


_SHARED = {error.code: error for error in (Overloaded, Draining, DeadlineExceeded, NoReranker)}
"""What means the same in both services."""


def _error_of(response: httpx.Response) -> PharosError:
    """The gateway's error for a response of the model service that is no success."""
    try:
        if b'"refused"' in response.content:
            refused = msgspec.json.decode(response.content, type=wire.RefusedBatch).refused
            return AllRefused(
                tuple(Delta(entry.request_id, finish_reason="error", error=entry.problem) for entry in refused)
            )
        problem = msgspec.json.decode(response.content, type=_Problem)
    except _UNREADABLE:
        problem = _Problem()
    if problem.code in _SHARED:
        return _SHARED[problem.code](problem.detail)
    if response.status_code == 503:
        return ModelServiceDown(problem.detail or "The model service is not ready; try again in a moment.")
    return ModelServiceFailed(
        f"The model service answered with status {response.status_code}. {problem.detail}".strip()
    )


def _decoded(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except _UNREADABLE as exc:
        raise ModelServiceFailed(f"The model service's {kind.__name__} cannot be read.") from exc
