"""The names of what spans say. No other module writes one down.

HTTP, database, error and service names are OpenTelemetry's stable ones, taken from opentelemetry-semantic-conventions
(schema 1.44.0). The GenAI conventions have left that package for a repository of their own and are not stable: its
constants are marked as moved and will go, so those names are written here; a test holds them equal to the package's
while it has them. What no convention knows is `pharos.*`.
"""

from __future__ import annotations

from typing import Final

from opentelemetry.semconv.attributes import (
    db_attributes,
    deployment_attributes,
    error_attributes,
    http_attributes,
    service_attributes,
)
from opentelemetry.semconv.schemas import Schemas

from contracts.types import Encoding, Prompt, Scores

SCHEMA_URL: Final = Schemas.V1_44_0.value

SERVICE_NAME: Final = service_attributes.SERVICE_NAME
SERVICE_NAMESPACE: Final = service_attributes.SERVICE_NAMESPACE
SERVICE_VERSION: Final = service_attributes.SERVICE_VERSION
DEPLOYMENT_ENVIRONMENT_NAME: Final = deployment_attributes.DEPLOYMENT_ENVIRONMENT_NAME
HTTP_REQUEST_METHOD: Final = http_attributes.HTTP_REQUEST_METHOD
HTTP_RESPONSE_STATUS_CODE: Final = http_attributes.HTTP_RESPONSE_STATUS_CODE
HTTP_ROUTE: Final = http_attributes.HTTP_ROUTE
ERROR_TYPE: Final = error_attributes.ERROR_TYPE
DB_SYSTEM_NAME: Final = db_attributes.DB_SYSTEM_NAME
DB_OPERATION_NAME: Final = db_attributes.DB_OPERATION_NAME
DB_OPERATION_BATCH_SIZE: Final = db_attributes.DB_OPERATION_BATCH_SIZE
DB_COLLECTION_NAME: Final = db_attributes.DB_COLLECTION_NAME

GEN_AI_OPERATION_NAME: Final = "gen_ai.operation.name"
GEN_AI_REQUEST_MODEL: Final = "gen_ai.request.model"
GEN_AI_REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
GEN_AI_REQUEST_TEMPERATURE: Final = "gen_ai.request.temperature"
GEN_AI_REQUEST_TOP_P: Final = "gen_ai.request.top_p"
GEN_AI_REQUEST_SEED: Final = "gen_ai.request.seed"
GEN_AI_RESPONSE_ID: Final = "gen_ai.response.id"
GEN_AI_RESPONSE_FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
"""Seconds. The convention's name on a span; `gen_ai.server.time_to_first_token` is that of a metric."""
GEN_AI_USAGE_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
GEN_AI_USAGE_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
GEN_AI_EMBEDDINGS_DIMENSION_COUNT: Final = "gen_ai.embeddings.dimension.count"

CHAT: Final = "chat"
TEXT_COMPLETION: Final = "text_completion"
EMBEDDINGS: Final = "embeddings"
"""Values of gen_ai.operation.name."""
RERANK: Final = "rerank"
"""Another, which the convention does not list."""

DB_RESPONSE_RETURNED_ROWS: Final = "db.response.returned_rows"
"""In development, as the package says."""
MILVUS: Final = "milvus"
"""Value of db.system.name; the conventions list no vector database of this name."""

PHAROS: Final = "pharos"
"""Value of service.namespace, and the tracer's name."""
PHAROS_REQUEST_ID: Final = "pharos.request_id"
PHAROS_OUTCOME: Final = "pharos.outcome"
"""contracts.telemetry.Outcome."""
PHAROS_PROBLEM_CODE: Final = "pharos.problem.code"
"""`code` of the problem body a request was answered with."""
PHAROS_STREAM: Final = "pharos.stream"
PHAROS_TOPIC: Final = "pharos.topic"
"""The one that was searched, or contracts.telemetry.ALL_TOPICS. All there are, where metrics know the first few."""
PHAROS_PASSAGES: Final = "pharos.passages"
PHAROS_BEST_SCORE: Final = "pharos.best_score"
PHAROS_CACHED: Final = "pharos.cached"
PHAROS_TEXTS: Final = "pharos.encode.texts"
PHAROS_TEXTS_TRUNCATED: Final = "pharos.encode.texts_truncated"
PHAROS_PAIRS: Final = "pharos.rerank.pairs"
PHAROS_PAIRS_TRUNCATED: Final = "pharos.rerank.pairs_truncated"
PHAROS_QUEUE_SECONDS: Final = "pharos.queue.seconds"
"""How long work waited in a batcher."""
PHAROS_CALLERS: Final = "pharos.batch.callers"
"""Requests whose work one call did; the span's links lead to them."""


def of_prompt(prompt: Prompt, model: str) -> dict[str, str | int | float]:
    """What was asked of the generator."""
    sampling = prompt.sampling
    attributes: dict[str, str | int | float] = {
        GEN_AI_OPERATION_NAME: CHAT if prompt.text is None else TEXT_COMPLETION,
        GEN_AI_REQUEST_MODEL: model,
        GEN_AI_REQUEST_MAX_TOKENS: sampling.max_tokens,
        GEN_AI_REQUEST_TEMPERATURE: sampling.temperature,
        GEN_AI_REQUEST_TOP_P: sampling.top_p,
        GEN_AI_RESPONSE_ID: prompt.request_id,
    }
    if sampling.seed is not None:
        attributes[GEN_AI_REQUEST_SEED] = sampling.seed
    return attributes


def of_encoding(encoding: Encoding) -> dict[str, str | int]:
    """What the encoder did."""
    rows, columns = encoding.vectors.shape
    return {
        GEN_AI_OPERATION_NAME: EMBEDDINGS,
        GEN_AI_EMBEDDINGS_DIMENSION_COUNT: int(columns),
        GEN_AI_USAGE_INPUT_TOKENS: sum(encoding.tokens),
        PHAROS_TEXTS: int(rows),
        PHAROS_TEXTS_TRUNCATED: len(encoding.truncated),
    }


def of_scores(scores: Scores) -> dict[str, str | int]:
    """What the reranker did."""
    return {
        GEN_AI_OPERATION_NAME: RERANK,
        GEN_AI_USAGE_INPUT_TOKENS: sum(scores.tokens),
        PHAROS_PAIRS: len(scores.scores),
        PHAROS_PAIRS_TRUNCATED: len(scores.truncated),
    }
