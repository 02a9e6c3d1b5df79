"""What a gateway of our own is configured to do with a question, so that a run says under what it was made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.settings import Settings
from contracts.types import ModelCard
from setup_milvus.settings import Settings as SetupSettings

SETTINGS = (
    "fusion",
    "min_score",
    "min_coverage",
    "rerank_candidates",
    "rerank_prior",
    "self_query",
    "expand",
    "answerability",
    "prompt_tokens",
)
"""Those of the gateway that change what is found, or what the model reads of it."""


def configured(card: ModelCard, passages_by: ModelCard, settings: Mapping[str, object]) -> dict[str, Any]:
    """By names of a run's setup. `card` is of what serves questions, `passages_by` of what encoded the passages, and
    `settings` are those that the gateway is started with beside the environment's. Raises pydantic's ValidationError.
    """
    gateway, documents = Settings(**settings), SetupSettings()  # type: ignore[arg-type]
    reranks = bool(card.reranker) and gateway.rerank == "auto"
    said = {
        "encoder": encoder_of(card),
        "generator": card.generator,
        "chunks": f"{documents.chunk_tokens}/{documents.chunk_overlap_tokens}",
        "rerank": reranks,
        "reranker": card.reranker,
        "ranking": str(gateway.ranking),
        **{name: getattr(gateway, name) for name in SETTINGS},
    }
    passages = encoder_of(passages_by)
    return said if passages == said["encoder"] else said | {"passages_encoder": passages}


def encoder_of(card: ModelCard) -> str:
    """What vectors depend on: the encoder, and its backend where that is not exact."""
    exact = not card.encoder_backend.endswith("int8")
    return Path(card.encoder).name + ("" if exact else f"_{card.encoder_backend}")
