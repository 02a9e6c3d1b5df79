"""What can be set about ingestion, from the environment (`PHAROS_…`) or `.env`. The addresses are the gateway's own."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Built once, in `setup_milvus/__main__.py`, and passed in."""

    model_config = SettingsConfigDict(env_prefix="PHAROS_", env_file=".env", extra="ignore", frozen=True)

    model_url: str = Field(
        "http://127.0.0.1:8080",
        description="Addresses of the model service (app_llm), separated by commas; a name may resolve to many.",
    )
    milvus_uri: str = Field("http://127.0.0.1:19530", description="Milvus: Lite, Standalone or a cluster.")
    milvus_token: str = Field("", description="user:password or API key of Milvus, where it wants one.")
    collection: str = Field("news", pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,200}$", description="Milvus collection.")

    chunk_tokens: int = Field(200, ge=32, description="Passage length in the encoder's tokens, heading included.")
    chunk_overlap_tokens: int = Field(40, ge=0, description="Tokens two neighbouring passages share.")
    analyzer_language: Literal["english", "russian", "korean", "chinese", "none"] = Field(
        "english",
        description="Of the documents, for the search by words: english, russian, korean, chinese or none "
        "(docs/retrieval.md).",
    )
    ingest_batch_passages: int = Field(512, ge=1, le=4096, description="Passages per /encode call and per upsert.")
    ingest_in_flight: int = Field(3, ge=1, description="Batches worked on at the same time.")
    ingest_retry_seconds: float = Field(300, ge=0, description="How long to retry while app_llm or Milvus is away.")
    ingest_metrics_host: str = Field("127.0.0.1", description="Address of the job's own metrics.")
    ingest_metrics_port: int = Field(
        9108, ge=0, le=65535, description="Port on which the job's metrics are while it runs; 0: none."
    )

    @model_validator(mode="after")
    def _overlap_is_smaller(self) -> Self:
        if self.chunk_overlap_tokens * 2 > self.chunk_tokens:
            raise ValueError("PHAROS_CHUNK_OVERLAP_TOKENS must be at most half of PHAROS_CHUNK_TOKENS")
        return self
