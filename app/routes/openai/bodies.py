"""What clients send under /v1, read by msgspec: typed and strict, at a tenth of what a pydantic model costs."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Coroutine
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from fastapi import HTTPException, Request
from fastapi.routing import APIRoute
from msgspec import Meta
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from app.disconnect import CLIENT_CLOSED_REQUEST, ClientGone
from app.errors import InvalidRequest, MalformedBody
from contracts import wire
from contracts.problems import DECLARE_JSON

Body = TypeVar("Body")

EMBEDDING_TEXTS_MAX = 2048
"""Texts in one call; OpenAI's own limit."""
STOPS_MAX = 4
"""Stop strings; OpenAI's own limit."""


class Part(msgspec.Struct, frozen=True):
    """One part of a message's content; only text can be read."""

    type: str
    text: str | None = None


class ChatMessage(msgspec.Struct, frozen=True):
    """One turn of the conversation. `developer` is OpenAI's newer name of `system`."""

    role: Annotated[str, Meta(description="system, developer, user or assistant", examples=["user"])]
    content: Annotated[
        str | list[Part] | None, Meta(description="Text, or parts that are text.", examples=["What is new?"])
    ] = None
    tool_calls: Annotated[list[Any] | None, Meta(description="Not supported.")] = None


class StreamOptions(msgspec.Struct, frozen=True):
    """How to stream."""

    include_usage: Annotated[bool | None, Meta(description="A last chunk with the usage.", examples=[True])] = None


class ChatBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /v1/chat/completions."""

    model: Annotated[str, Meta(description="A name from GET /v1/models.", examples=["topic:science"])]
    messages: Annotated[
        list[ChatMessage],
        Meta(
            min_length=1,
            description="The conversation. From the documents, the last user message is the question.",
            examples=[[{"role": "user", "content": "When will the comet be nearest to us?"}]],
        ),
    ]
    max_completion_tokens: Annotated[
        Annotated[int, Meta(ge=1)] | None, Meta(description="Longest answer, in tokens.", examples=[128])
    ] = None
    max_tokens: Annotated[Annotated[int, Meta(ge=1)] | None, Meta(description="Its older name.", examples=[128])] = None
    temperature: Annotated[
        Annotated[float, Meta(ge=0, le=2)] | None,
        Meta(description="0, the default, always picks the likeliest token.", examples=[0]),
    ] = None
    top_p: Annotated[
        Annotated[float, Meta(gt=0, le=1)] | None,
        Meta(description="Pick among the likeliest tokens that make up this share.", examples=[1]),
    ] = None
    stop: Annotated[
        Annotated[str, Meta(min_length=1)] | Annotated[list[str], Meta(max_length=STOPS_MAX)] | None,
        Meta(description="Text to end before; one or up to four.", examples=[["\n\n"]]),
    ] = None
    seed: Annotated[
        Annotated[int, Meta(ge=0, le=2**63 - 1)] | None, Meta(description="Makes sampling repeatable.", examples=[7])
    ] = None
    stream: Annotated[bool | None, Meta(description="Answer as chunks, token by token.", examples=[False])] = None
    stream_options: Annotated[StreamOptions | None, Meta(examples=[{"include_usage": True}])] = None

    # Taken only with the value that changes nothing (`NEUTRAL`).
    n: Any = None
    tools: Any = None
    tool_choice: Any = None
    functions: Any = None
    function_call: Any = None
    parallel_tool_calls: Any = None
    response_format: Any = None
    logprobs: Any = None
    top_logprobs: Any = None
    logit_bias: Any = None
    presence_penalty: Any = None
    frequency_penalty: Any = None
    modalities: Any = None
    audio: Any = None
    web_search_options: Any = None
    reasoning_effort: Any = None
    verbosity: Any = None

    # Ignored: they change nothing about the answer.
    user: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None
    prediction: Any = None


NEUTRAL: dict[str, tuple[object, ...]] = {
    "n": (1,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "response_format": ({"type": "text"},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "modalities": (["text"],),
    "audio": (),
    "web_search_options": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
}
"""Parameters of OpenAI's that are not supported, and the values (beside null) that ask for what happens anyway."""


class EmbeddingBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /v1/embeddings."""

    model: Annotated[str, Meta(description="The encoder's name, from GET /v1/models.", examples=["all-MiniLM-L6-v2"])]
    input: Annotated[
        str | list[Any], Meta(description="A text, or up to 2,048 texts.", examples=[["Oil fell to 41 dollars."]])
    ]
    encoding_format: Annotated[
        Literal["float", "base64"] | None,
        Meta(description="base64: little-endian float32. The default is float.", examples=["base64"]),
    ] = None
    dimensions: Annotated[int | None, Meta(description="Only the encoder's own.", examples=[384])] = None
    user: Annotated[Any, Meta(description="Ignored.", examples=["u-17"])] = None


async def read(request: Request, decoder: msgspec.json.Decoder[Body]) -> Body:
    """The request's body. Raises PharosError or, like FastAPI's own reading, HTTPException."""
    if "json" not in request.headers.get("content-type", ""):
        raise HTTPException(415, DECLARE_JSON)
    body = await request.body()
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as exc:
        raise _invalid(str(exc)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        # JSON can escape half a character, which no tokenizer takes; msgspec says "truncated" then.
        half = ", or holds half a character (a lone surrogate)" if b"\\ud" in body.lower() else ""
        raise MalformedBody(f"The body is not valid JSON{half}: {exc}.") from None


def refuse_unsupported(body: ChatBody) -> None:
    """Raise InvalidRequest if a parameter asks for what cannot be done, since ignoring it would change the answer."""
    for name, neutral in NEUTRAL.items():
        value = getattr(body, name)
        if value is not None and value not in neutral:
            only = " or ".join(msgspec.json.encode(v).decode() for v in neutral)
            raise InvalidRequest(
                f"{name}: is not supported; leave it out" + (f" (only {only} is accepted)." if only else "."),
                param=name,
            )


class PlainRoute(APIRoute):
    """A route whose handler takes the request and nothing else, so that FastAPI need not work out what to pass (19 of
    81 microseconds for one embedding). The client's leaving ends it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        endpoint: Callable[[Request], Awaitable[Response]] = self.endpoint

        async def handle(request: Request) -> Response:
            try:
                return await endpoint(request)
            except (ClientGone, ClientDisconnect):
                return Response(status_code=CLIENT_CLOSED_REQUEST)

        return handle


def in_openapi(body: type[msgspec.Struct]) -> dict[str, Any]:
    """`openapi_extra` of a route that takes `body`."""
    (schema,), definitions = msgspec.json.schema_components([body])
    return {"requestBody": {"required": True, "content": {wire.JSON: {"schema": _inlined(schema, definitions)}}}}


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    """`schema` with each reference replaced by what it refers to."""
    if isinstance(schema, list):
        return [_inlined(part, definitions) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        schema = {**definitions[schema["$ref"].rsplit("/", 1)[1]], **schema}
        del schema["$ref"]
    return {key: _inlined(value, definitions) for key, value in schema.items()}


_PLACE = re.compile(r"^(.*) - at `\$\.?(.*)`$", re.DOTALL)
_FIELD = re.compile(r"^Object (contains unknown|missing required) field `(.*)`$", re.DOTALL)


def _invalid(message: str) -> InvalidRequest:
    """msgspec's message as an error that names the parameter."""
    placed = _PLACE.match(message)
    what, param = placed.groups() if placed else (message, None)
    field = _FIELD.match(what)
    if field:
        param = f"{param}.{field[2]}" if param else field[2]
        what = "is missing." if field[1] == "missing required" else "is no parameter of this API; leave it out."
    return InvalidRequest(f"{param}: {what}" if param else what, param=param)
