"""Everything that can be set about the gateway, from the environment (`PHAROS_…`) or `.env`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.quota import ApiKey
from app.ranking.options import RankingOptions
from contracts.types import ExpandMode, Fusion, SearchMode
from contracts.wire import ENCODE_TEXTS_MAX, PROMPTS_MAX, RERANK_PAIRS_MAX


class Settings(BaseSettings):
    """Built once, in `app/__main__.py`, and passed in. Units are in the names."""

    model_config = SettingsConfigDict(env_prefix="PHAROS_", env_file=".env", extra="ignore", frozen=True)

    host: str = Field("127.0.0.1", description="Address the gateway listens on.")
    port: int = Field(8000, ge=1, le=65535, description="Port the gateway listens on.")
    model_url: str = Field(
        "http://127.0.0.1:8080",
        description="Addresses of the model service (app_llm), separated by commas; a name may resolve to many.",
    )
    milvus_uri: str = Field("http://127.0.0.1:19530", description="Milvus: Lite, Standalone or a cluster.")
    milvus_token: str = Field("", description="user:password or API key of Milvus, where it wants one.")
    collection: str = Field("news", pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,200}$", description="Milvus collection.")

    question_chars_max: int = Field(2000, ge=1, description="Longer questions are refused.")
    top_k_max: int = Field(20, ge=1, le=1000, description="Most passages a question may ask for.")
    search_top_k_max: int = Field(100, ge=1, le=1000, description="The same of POST /search.")
    max_tokens: int = Field(256, ge=1, description="Answer length when a request does not say.")
    max_tokens_max: int = Field(2048, ge=1, description="Longest answer a request may ask for.")
    prompt_tokens: int = Field(
        1024, ge=128, description="Prompt budget. Reading 1,024 tokens takes 3 s on 2 CPU cores; raise it on a GPU."
    )
    min_score: float = Field(
        0.25, ge=-1, le=1, description="Cosine similarity below which a passage is not relevant (docs/benchmarks.md)."
    )
    search_mode: SearchMode = Field(
        "hybrid", description="How to search where a request does not say: hybrid, dense (vectors) or sparse (words)."
    )
    fusion: Fusion = Field(
        "scores", description="How a hybrid search makes one of its legs: by their scores, or by reciprocal ranks."
    )
    min_coverage: float = Field(
        0.75,
        ge=0,
        le=1,
        description="Share of the question's words with which a passage is relevant however dissimilar.",
    )

    rerank: Literal["auto", "off"] = Field(
        "auto", description="auto: passages are reranked where the model service has a reranker; off: never."
    )
    rerank_candidates: int = Field(50, ge=1, le=1000, description="Passages the reranker reads for a question.")
    rerank_prior: float = Field(
        2.0,
        ge=0,
        le=20,
        description="What the search's order counts beside the reranker's scores (docs/reranking.md); 0: nothing.",
    )
    rerank_batch_pairs: int = Field(
        128, ge=1, le=RERANK_PAIRS_MAX, description="Most pairs in one /rerank; 1024 suits a GPU."
    )
    rerank_in_flight: int = Field(2, ge=1, description="Concurrent /rerank calls.")
    ranking: RankingOptions = Field(
        {},  # type: ignore[assignment]  # a literal, like every default: it is read from the source too
        description='How passages are chosen and ordered, as JSON: {"mmr_lambda": 0.7} (docs/ranking.md).',
    )
    self_query: bool = Field(
        False, description="Turn what an English question says about dates and topics into filters."
    )
    expand: ExpandMode = Field(
        "off",
        description="What the LLM adds to a question for the search: multi_query (phrasings), hyde (a passage), off.",
    )
    expand_phrasings: int = Field(3, ge=1, le=8, description="Phrasings of a question beside its own (multi_query).")
    expand_passages: int = Field(1, ge=1, le=8, description="Passages made up for a question (hyde); each is a prompt.")
    expand_tokens: int = Field(96, ge=8, le=1024, description="Most tokens made in each of these prompts.")
    expand_timeout_seconds: float = Field(
        10.0, gt=0, description="Longest wait for them; then the question is searched as it is."
    )
    answerability: str = Field(
        "", description="File by python -m training.answerability: questions that it doubts are refused. Empty: none."
    )

    cache_vectors: int = Field(0, ge=0, description="Vectors of questions that are kept (docs/caching.md); 0: none.")
    cache_answers: int = Field(0, ge=0, description="Answers that are kept; 0: none.")
    cache_similarity: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Cosine with another question from which it gets that one's answer; 0: same words only.",
    )
    cache_bytes: int = Field(67_108_864, ge=1, description="Most bytes in each of the two.")
    cache_seconds: float = Field(3600.0, gt=0, description="How long they keep anything.")
    cache_version_seconds: float = Field(
        1.0, ge=0, description="How soon a change of the documents ends what was kept; 0: asked with each question."
    )
    cache_settle_seconds: float = Field(
        30.0, ge=0, description="No answer is kept so soon after one, since searches may lag behind it."
    )

    encode_batch_items: int = Field(64, ge=1, le=ENCODE_TEXTS_MAX, description="Most questions in one /encode.")
    encode_in_flight: int = Field(2, ge=1, description="Concurrent /encode calls.")
    search_batch_items: int = Field(64, ge=1, description="Most questions in one Milvus search.")
    search_in_flight: int = Field(4, ge=1, description="Concurrent Milvus searches.")
    generate_batch_items: int = Field(64, ge=1, le=PROMPTS_MAX, description="Most prompts in one /generate.")
    generate_in_flight: int = Field(4, ge=1, description="Concurrent submissions (not streams).")
    queue_items: int = Field(1024, ge=1, description="Most items waiting for each of the four; beyond it 503.")
    queue_tokens: int = Field(262_144, ge=1, description="Most tokens waiting, to be read and made; beyond it 503.")
    queue_seconds: float = Field(
        20.0, gt=0, description="Longest wait in a queue, as it now drains, that a request is let into; else 503."
    )
    encode_max_wait_seconds: float = Field(
        0.0, ge=0, description="Hold a batch of questions that is not full this long, although an encoder is idle."
    )
    requests_max: int = Field(2048, ge=1, description="Most requests being served; beyond it 503, before parsing.")
    request_timeout_seconds: float = Field(
        120.0, gt=0, description="Deadline of a request without X-Request-Timeout; what cannot meet it gets 504."
    )
    request_timeout_max_seconds: float = Field(3600.0, gt=0, description="Longest X-Request-Timeout.")
    api_keys: dict[str, ApiKey] = Field(
        {},
        description='Keys by name, as JSON: {"team": {"key": "...", "requests_per_minute": 60, "tokens_per_minute": '
        "10000}}. Empty: no key is asked for.",
    )

    replica_prompts: int = Field(
        0, ge=0, description="Most prompts on one model service; 0: as many as it runs at once."
    )
    replica_failures: int = Field(3, ge=1, description="Failures in a row that eject a model service.")
    replica_probe_seconds: float = Field(1.0, gt=0, description="How often each model service is asked how it is.")
    replica_resolve_seconds: float = Field(5.0, gt=0, description="How often their names are resolved.")

    model_connect_timeout_seconds: float = Field(1.0, gt=0, description="To reach the model service.")
    model_call_timeout_seconds: float = Field(10.0, gt=0, description="For one /encode or /rerank call.")
    model_read_timeout_seconds: float = Field(120.0, gt=0, description="Longest silence of a token stream.")
    model_connections: int = Field(512, ge=1, description="Most connections to the model service.")
    milvus_timeout_seconds: float = Field(5.0, gt=0, description="For one Milvus call.")
    topics_ttl_seconds: float = Field(10.0, ge=0, description="How old the counts of GET /topics may be.")
    retry_after_seconds: int = Field(2, ge=1, description="Retry-After where nothing better has been measured.")
    body_timeout_seconds: float = Field(10.0, gt=0, description="To receive the whole body of a request.")
    ping_seconds: float = Field(15.0, gt=0, description="A comment keeps a silent event stream open this often.")
    shutdown_grace_seconds: int = Field(20, ge=0, description="Time running answers have to finish on SIGTERM.")

    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="Least severity logged.")

    @model_validator(mode="after")
    def _can_work(self) -> Settings:
        """Limits that exclude each other are refused here, with the reason, and not found out under load."""
        batch, batch_name = max(
            (self.encode_batch_items, "PHAROS_ENCODE_BATCH_ITEMS"),
            (self.search_batch_items, "PHAROS_SEARCH_BATCH_ITEMS"),
            (self.generate_batch_items, "PHAROS_GENERATE_BATCH_ITEMS"),
        )
        for most, name in ((self.requests_max, "PHAROS_REQUESTS_MAX"), (self.queue_items, "PHAROS_QUEUE_ITEMS")):
            if most < batch:
                raise ValueError(
                    f"{name}={most} can never fill a batch of {batch} ({batch_name}): raise the one or lower the other"
                )
        if self.request_timeout_seconds > self.request_timeout_max_seconds:
            raise ValueError(
                f"PHAROS_REQUEST_TIMEOUT_SECONDS={self.request_timeout_seconds:g} is longer than "
                f"PHAROS_REQUEST_TIMEOUT_MAX_SECONDS={self.request_timeout_max_seconds:g}"
            )
        if self.cache_similarity and not (self.cache_answers and self.cache_vectors):
            raise ValueError(
                f"PHAROS_CACHE_SIMILARITY={self.cache_similarity:g} needs PHAROS_CACHE_ANSWERS, and "
                "PHAROS_CACHE_VECTORS so that no question is encoded twice"
            )
        if self.max_tokens > self.max_tokens_max:
            raise ValueError(
                f"PHAROS_MAX_TOKENS={self.max_tokens} is more than PHAROS_MAX_TOKENS_MAX={self.max_tokens_max}"
            )
        return self

    @property
    def model_urls(self) -> list[str]:
        """`model_url`, taken apart."""
        return [url.strip() for url in self.model_url.split(",") if url.strip()]
