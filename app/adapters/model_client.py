"""`app_llm` over HTTP: `Encoder` and `Generator` through the network, and what the service says of itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import httpx
import msgspec
from tokenizers import Tokenizer

from app.asking import GeneratorFacts
from app.errors import InvalidRequest, ModelServiceDown, ModelServiceFailed, Overloaded, PharosError
from contracts import wire
from contracts.types import Delta, Encoding, Frame, ModelCard, Prompt

_UNREACHABLE = (httpx.ConnectError, httpx.ConnectTimeout)
READY_SECONDS = 1.0
"""A service that does not answer /readyz by then is not ready."""

_DROPPED = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError, httpx.CloseError)


def model_http_client(
    base_url: str, *, connect_seconds: float, read_seconds: float, connections: int
) -> httpx.AsyncClient:
    """A bounded, keep-alive pool to one model service. `read_seconds` bounds the silence between two frames."""
    return httpx.AsyncClient(
        base_url=base_url,
        timeout=httpx.Timeout(read_seconds, connect=connect_seconds, pool=connect_seconds),
        limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
        trust_env=False,  # a proxy between two services of one deployment is never wanted
    )


class ModelService:
    """Sends requests and turns everything that can go wrong into the gateway's errors."""

    def __init__(self, http: httpx.AsyncClient, call_seconds: float = 10.0) -> None:
        self._http = http
        patient = http.timeout
        self._call_timeout = httpx.Timeout(
            connect=patient.connect, read=call_seconds, write=patient.write, pool=patient.pool
        )
        self.outages = 0
        """Times it could not be reached; after one of them it may be another process with another model."""

    @asynccontextmanager
    async def request(
        self, method: str, path: str, body: object = None, accept: str = wire.JSON, *, streamed: bool = False
    ) -> AsyncGenerator[httpx.Response, None]:
        """A response whose body is still to be read, with a 2xx status. Raises PharosError.

        A `streamed` answer may pause for as long as the client's read timeout; any other must come within
        `call_seconds`.

        A kept-alive connection that the other side has closed meanwhile fails on first use, before any answer: that
        one case is sent again, once.
        """
        content = None if body is None else msgspec.json.encode(body)
        headers = {"accept": accept, "content-type": wire.JSON}
        timeout = self._http.timeout if streamed else self._call_timeout
        request = self._http.build_request(method, path, content=content, headers=headers, timeout=timeout)
        try:
            try:
                response = await self._http.send(request, stream=True)
            except _DROPPED:
                response = await self._http.send(request, stream=True)
            try:
                if response.is_error:
                    await response.aread()
                    raise _error_of(response)
                yield response
            finally:
                await response.aclose()
        except _UNREACHABLE as exc:
            self.outages += 1
            raise ModelServiceDown("The model service cannot be reached; try again in a moment.") from exc
        except _DROPPED as exc:
            self.outages += 1
            raise ModelServiceDown("The model service closed the connection; try again in a moment.") from exc
        except httpx.PoolTimeout as exc:
            raise Overloaded("Every connection to the model service is in use; try again in a moment.") from exc
        except httpx.TimeoutException as exc:
            raise ModelServiceFailed("The model service did not answer in time; try again later.") from exc

    async def ready(self) -> bool:
        """Whether it has warmed up and takes work."""
        try:
            async with asyncio.timeout(READY_SECONDS), self.request("GET", "/readyz"):
                return True
        except (PharosError, TimeoutError):
            return False


class HttpEncoder:
    """`Encoder` through POST /encode."""

    def __init__(self, service: ModelService) -> None:
        self._service = service

    async def encode(self, texts: Sequence[str]) -> Encoding:
        async with self._service.request("POST", "/encode", {"texts": list(texts)}, wire.MSGPACK) as response:
            body = await response.aread()
        try:
            encoding = wire.encoding_from_msgpack(body)
        except (msgspec.DecodeError, ValueError) as exc:
            raise ModelServiceFailed("The model service answered /encode with something else than vectors.") from exc
        if len(encoding.vectors) != len(texts):
            raise ModelServiceFailed(f"The model service sent {len(encoding.vectors)} vectors for {len(texts)} texts.")
        return encoding


class HttpGenerator:
    """`Generator` through POST /generate and POST /abort."""

    def __init__(self, service: ModelService) -> None:
        self._service = service

    async def generate(self, prompts: Sequence[Prompt]) -> AsyncGenerator[Frame, None]:
        body = {"prompts": [wire.prompt_to_body(prompt) for prompt in prompts]}
        try:
            async with self._service.request("POST", "/generate", body, wire.NDJSON, streamed=True) as response:
                rest = b""
                # aiter_raw, not aiter_lines: no decoding to str and no second pass over every token.
                async for chunk in response.aiter_raw():
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        yield wire.frame_from_json(line)
        except msgspec.DecodeError as exc:
            raise ModelServiceFailed("The model service sent a frame that cannot be read.") from exc
        except AllRefused as exc:
            yield Frame(exc.deltas)

    async def abort(self, request_ids: Sequence[str]) -> None:
        async with self._service.request("POST", "/abort", {"request_ids": list(request_ids)}):
            pass


class ModelFacts:
    """The model card and the generator's tokenizer, fetched when first needed and kept.

    They are fetched rather than read from a shared folder, so that the gateway needs no model files; and again after an
    outage, since a restarted model service may serve another model.
    """

    def __init__(self, service: ModelService) -> None:
        self._service = service
        self._facts: GeneratorFacts | None = None
        self._outages_then = 0
        self._lock = asyncio.Lock()

    async def get(self) -> GeneratorFacts:
        """Raises PharosError when the service cannot say."""
        async with self._lock:
            if self._facts is None or self._outages_then != self._service.outages:
                outages = self._service.outages
                self._facts = await self._fetch()
                self._outages_then = outages
            return self._facts

    async def _fetch(self) -> GeneratorFacts:
        async with self._service.request("GET", "/models") as response:
            card_body = await response.aread()
        async with self._service.request("GET", "/models/generator/tokenizer") as response:
            tokenizer_body = await response.aread()
        try:
            card = msgspec.json.decode(card_body, type=ModelCard)
            ruler = TokenizerRuler(Tokenizer.from_str(tokenizer_body.decode()))
        except Exception as exc:  # tokenizers raises bare Exception for a body that is no tokenizer
            raise ModelServiceFailed("The model service's description of its models cannot be read.") from exc
        return GeneratorFacts(card, ruler)


class TokenizerRuler:
    """`TokenRuler` by the generator's own tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def count(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def cut(self, text: str, tokens: int) -> str:
        offsets = self._tokenizer.encode(text, add_special_tokens=False).offsets
        return text if len(offsets) <= tokens else text[: offsets[tokens - 1][1]] if tokens > 0 else ""


class AllRefused(InvalidRequest):
    """The model service refused every prompt of a batch, each for its own reason."""

    def __init__(self, deltas: tuple[Delta, ...]) -> None:
        super().__init__("Every prompt of the batch was refused.")
        self.deltas = deltas


class _Problem(msgspec.Struct):
    detail: str = ""
    code: str = ""


def _error_of(response: httpx.Response) -> PharosError:
    """The gateway's error for a response of the model service that is no success."""
    if response.status_code in (413, 422) and b'"refused"' in response.content:
        refused = msgspec.json.decode(response.content, type=wire.RefusedBatch).refused
        return AllRefused(
            tuple(Delta(entry.request_id, finish_reason="error", error=entry.problem) for entry in refused)
        )
    try:
        problem = msgspec.json.decode(response.content, type=_Problem)
    except msgspec.DecodeError:
        problem = _Problem()
    if problem.code == "busy":
        return Overloaded(problem.detail)
    if response.status_code == 503:
        return ModelServiceDown(problem.detail or "The model service is not ready; try again in a moment.")
    return ModelServiceFailed(
        f"The model service answered with status {response.status_code}. {problem.detail}".strip()
    )
