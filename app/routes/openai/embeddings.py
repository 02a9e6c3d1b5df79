"""POST /v1/embeddings: texts in, vectors out, in one batch with everything else that is to be encoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from app.disconnect import unless_disconnected
from app.errors import InvalidRequest
from app.merging import MergingEncoder
from app.routes.openai.bodies import EMBEDDING_TEXTS_MAX, EmbeddingBody, PlainRoute, in_openapi, read
from app.served_models import ServedModels
from app.terms import Terms, terms_of
from contracts import wire
from contracts.types import Encoding

TOKEN_IDS = (
    "input: holds token ids; send texts, since the ids of one model's tokenizer mean nothing to another. "
    "(LangChain's OpenAIEmbeddings sends texts with check_embedding_ctx_length=False.)"
)


class Embedding(msgspec.Struct, frozen=True):
    """One vector. msgspec writes bytes as base64."""

    index: int
    embedding: list[float] | bytes
    object: str = "embedding"


class EmbeddingUsage(msgspec.Struct, frozen=True):
    """Tokens of the texts, by the encoder's tokenizer."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(msgspec.Struct, frozen=True, omit_defaults=True):
    """OpenAI's answer. `truncated`, an extension, lists the texts that were cut to the encoder's window."""

    object: str
    model: str
    data: list[Embedding]
    usage: EmbeddingUsage
    truncated: tuple[int, ...] = ()


_decoder = msgspec.json.Decoder(EmbeddingBody)
_encoder = msgspec.json.Encoder()

_EXAMPLE = {
    "object": "list",
    "model": "all-MiniLM-L6-v2",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.0213, -0.0471]}],
    "usage": {"prompt_tokens": 8, "total_tokens": 8},
}


def router(served: ServedModels, encoder: MergingEncoder) -> APIRouter:
    """The route, around the encoder."""
    routes = APIRouter(route_class=PlainRoute)

    @routes.post(
        "/embeddings",
        summary="Texts to vectors",
        response_class=Response,
        openapi_extra=in_openapi(EmbeddingBody),
        responses={200: {"content": {wire.JSON: {"example": _EXAMPLE}}}},
    )
    async def embed(request: Request) -> Response:
        body = await read(request, _decoder)
        texts = texts_of(body.input)
        encoding = await unless_disconnected(request.receive, _encode(body, texts, terms_of(request)))
        answer = _answer(body, encoding)
        return Response(_encoder.encode(answer), media_type=wire.JSON)

    async def _encode(body: EmbeddingBody, texts: Sequence[str], terms: Terms) -> Encoding:
        card = await served.encoder(body.model)
        if body.dimensions not in (None, card.dimension):
            raise InvalidRequest(
                f"dimensions: {body.model!r} makes vectors of {card.dimension} dimensions and no others; leave it out.",
                param="dimensions",
            )
        encoding = (await encoder.served(texts, deadline=terms.deadline)).value
        if terms.quota is not None:
            terms.quota.use_tokens(sum(encoding.tokens))
        return encoding

    return routes


def texts_of(given: str | list[Any]) -> list[str]:
    """The texts to encode. Raises InvalidRequest."""
    texts = [given] if isinstance(given, str) else given
    if not 1 <= len(texts) <= EMBEDDING_TEXTS_MAX:
        raise InvalidRequest(
            f"input: has {len(texts):,} texts; send between 1 and {EMBEDDING_TEXTS_MAX:,} a call.", param="input"
        )
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise InvalidRequest(
                TOKEN_IDS if isinstance(text, int | list) else f"input[{i}]: is not a text.", param="input"
            )
        if not text:
            raise InvalidRequest("input: an empty text has no meaning to encode; leave it out.", param="input")
    return texts


def _answer(body: EmbeddingBody, encoding: Encoding) -> EmbeddingList:
    vectors = encoding.vectors.astype("<f4", copy=False)
    rows = [row.tobytes() for row in vectors] if body.encoding_format == "base64" else vectors.tolist()
    tokens = sum(encoding.tokens)
    return EmbeddingList(
        "list",
        body.model,
        [Embedding(i, row) for i, row in enumerate(rows)],
        EmbeddingUsage(tokens, tokens),
        encoding.truncated,
    )
