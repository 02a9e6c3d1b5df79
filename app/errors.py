"""Every error the gateway answers with, drawn as one tree. (The model service shares those about load.)

PharosError
├── InvalidRequest          422  the caller can fix it
│   ├── MalformedBody       400
│   ├── UnknownTopic        422
│   ├── UnknownModel        404
│   └── PromptTooLong       413
├── Unauthorized            401  no API key, or one that is not known
├── QuotaExceeded           429  the caller is over the budget of its key
├── Overloaded              503  as much work as may be held is there already
│   └── Draining            503  shutting down: what runs is finished, nothing new begins
├── DeadlineExceeded        504  it cannot be, or was not, finished in the time the request had
├── ModelServiceDown        503  app_llm cannot be reached or is not ready
├── NoReranker              501  the served models have no cross-encoder
├── ModelServiceFailed      502  app_llm answered, but not with what it should
├── StoreDown               503  Milvus cannot be reached
└── StoreFailed             502  Milvus answered with an error
    └── WrongEncoder        502  the documents were encoded by another model than the questions are

`status`, `code` and `title` of the class are the whole table; `contracts/problems.py` writes them as RFC 9457 problem
bodies. Adapters translate what their library raises with `raise … from exc`.
"""

from __future__ import annotations

import logging

from contracts.problems import ProblemError

log = logging.getLogger(__name__)


class PharosError(ProblemError):
    """Base of all of them."""


class InvalidRequest(PharosError):
    status, code, title = 422, "invalid_request", "The request is not valid"


class MalformedBody(InvalidRequest):
    status, code, title = 400, "malformed_json", "The body is not JSON"


class UnknownTopic(InvalidRequest):
    code, title = "unknown_topic", "No documents under this topic"


class UnknownModel(InvalidRequest):
    status, code, title = 404, "model_not_found", "No model of this name"


class PromptTooLong(InvalidRequest):
    status, code, title = 413, "prompt_too_long", "The prompt does not fit the model's context window"


class Unauthorized(PharosError):
    status, code, title = 401, "unauthorized", "An API key is needed"


class QuotaExceeded(PharosError):
    status, code, title = 429, "quota_exceeded", "The budget of this API key is used up"


class Overloaded(PharosError):
    status, code, title = 503, "overloaded", "There is as much work as may be held"


class Draining(Overloaded):
    code, title = "draining", "The service is shutting down"


class DeadlineExceeded(PharosError):
    status, code, title = 504, "deadline_exceeded", "The request's time ran out"


class ModelServiceDown(PharosError):
    status, code, title = 503, "model_service_down", "The model service cannot be reached"


class ModelServiceFailed(PharosError):
    status, code, title = 502, "model_service_failed", "The model service failed"


class NoReranker(PharosError):
    status, code, title = 501, "no_reranker", "No reranker is served"


class StoreDown(PharosError):
    status, code, title = 503, "store_down", "The vector store cannot be reached"


class StoreFailed(PharosError):
    status, code, title = 502, "store_failed", "The vector store failed"


class WrongEncoder(StoreFailed):
    code, title = "wrong_encoder", "Documents and questions are encoded by different models"


def presentable(error: Exception) -> PharosError:
    """`error`, if it is meant for the caller; else a fault of ours, which is logged and not shown."""
    if isinstance(error, PharosError):
        return error
    log.error("a stream failed", exc_info=error)
    return PharosError("This is a fault in Pharos; its log says more.")
