"""Names that dashboards, alerts, logs and callers rely on: headers, metrics with their labels and buckets, log fields.

docs/metrics.md is the table of `METRICS` for people; a test holds it, and what the services really serve, equal to
this. Every label has few values: none of them is a question, a request id, or what else a caller can make up.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REQUEST_ID_HEADER = "X-Request-Id"
REQUEST_TIMEOUT_HEADER = "X-Request-Timeout"
"""How long the caller is willing to wait, in seconds from when the request arrives."""
TRACEPARENT_HEADER = "traceparent"
"""W3C Trace Context, level 1."""


class Outcome(StrEnum):
    """How a request ended. REJECTED: we refused it, for its own faults or ours; `pharos_refused_total` says which."""

    OK = "ok"
    REJECTED = "rejected"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"
    ERROR = "error"


class Stage(StrEnum):
    """Where the time of a question goes. QUEUE is all its waiting in the gateway's batchers; TOTAL is all of it."""

    QUEUE = "queue"
    EXPAND = "expand"
    ENCODE = "encode"
    SEARCH = "search"
    RERANK = "rerank"
    ARRANGE = "arrange"
    PROMPT = "prompt"
    GENERATE = "generate"
    TOTAL = "total"


OTHER = "other"
"""The value of a label for whatever is not on its list."""
ALL_TOPICS = "all"
"""The topic of a question that names none, or several."""

DURATION_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60)
"""Seconds, from one Milvus search to a long answer on a CPU."""
TOPIC_DURATION_BUCKETS = (0.01, 0.05, 0.1, 0.5, 1, 2, 5, 10, 20)
"""Seconds; few, since there is a set of them for every topic and stage."""
PAUSE_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2)
"""Seconds in which a process did nothing else."""
FIRST_TOKEN_BUCKETS = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560,
)  # fmt: skip
INTER_TOKEN_BUCKETS = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80,
)  # fmt: skip
"""Seconds; both are vLLM's own (vllm/v1/metrics/buckets.py), so that its series and ours can be laid on each other."""
ITEMS_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
"""Sizes of batches, in powers of two."""
SCORE_BUCKETS = (0, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)
"""Cosine similarities; PHAROS_MIN_SCORE's default is one of them."""


class Metric(NamedTuple):
    """One metric: made into a `prometheus_client` object by the method of its kind."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    services: tuple[str, ...]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    def counter(self, registry: CollectorRegistry) -> Counter:
        """Registered in `registry`."""
        return Counter(self.name, self.help, self.labels, registry=registry)

    def gauge(self, registry: CollectorRegistry) -> Gauge:
        """Registered in `registry`."""
        return Gauge(self.name, self.help, self.labels, registry=registry)

    def histogram(self, registry: CollectorRegistry) -> Histogram:
        """Registered in `registry`."""
        return Histogram(self.name, self.help, self.labels, registry=registry, buckets=self.buckets)


APP, APP_LLM, SETUP = "app", "app_llm", "setup_milvus"
"""The services, as in Prometheus' label `job` and in Loki's label `service`."""
_BOTH = (APP, APP_LLM)
_ALL = (APP, APP_LLM, SETUP)
_GATEWAY = (APP,)
_MODELS = (APP_LLM,)
_INGEST = (SETUP,)

REQUESTS = Metric(
    "pharos_requests_total", "counter", _GATEWAY, "Requests that have ended.", ("route", "outcome")
)  # fmt: skip
REQUESTS_IN_FLIGHT = Metric("pharos_requests_in_flight", "gauge", _GATEWAY, "Requests being served.")
REQUESTS_MAX = Metric("pharos_requests_max", "gauge", _GATEWAY, "Most requests that are served at once.")
REFUSED = Metric("pharos_refused_total", "counter", _GATEWAY, "Requests refused, by problem code.", ("reason",))
STAGE_SECONDS = Metric(
    "pharos_stage_duration_seconds", "histogram", _GATEWAY,
    "Time of one question in each stage it came through.", ("stage",), DURATION_BUCKETS,
)  # fmt: skip
TOPIC_STAGE_SECONDS = Metric(
    "pharos_topic_stage_duration_seconds", "histogram", _GATEWAY,
    "The same for each topic; topics beyond the first 32 are `other`.", ("topic", "stage"), TOPIC_DURATION_BUCKETS,
)  # fmt: skip
FIRST_TOKEN_SECONDS = Metric(
    "pharos_time_to_first_token_seconds", "histogram", _GATEWAY,
    "From a request's arrival to its first token.", (), FIRST_TOKEN_BUCKETS,
)  # fmt: skip
INTER_TOKEN_SECONDS = Metric(
    "pharos_inter_token_latency_seconds", "histogram", _GATEWAY,
    "Between two tokens of one answer, as they reach the gateway.", (), INTER_TOKEN_BUCKETS,
)  # fmt: skip
NO_FIRST_TOKEN = Metric(
    "pharos_no_first_token_total", "counter", _GATEWAY,
    "Requests for an answer that ended before its first token: an outcome, nothing_relevant, or cached.", ("reason",),
)  # fmt: skip
PROMPT_TOKENS = Metric("pharos_prompt_tokens_total", "counter", _GATEWAY, "Tokens of the prompts that were answered.")
GENERATION_TOKENS = Metric("pharos_generation_tokens_total", "counter", _GATEWAY, "Tokens received from the engine.")
BEST_SCORE = Metric(
    "pharos_best_score", "histogram", _GATEWAY,
    "Similarity of a question's best passage, before the cut at PHAROS_MIN_SCORE.", (), SCORE_BUCKETS,
)  # fmt: skip
NOT_IN_DOCUMENTS = Metric(
    "pharos_not_in_documents_total", "counter", _GATEWAY, "Questions for which no passage was relevant enough."
)  # fmt: skip

RERANK_SKIPPED = Metric(
    "pharos_rerank_skipped_total", "counter", _GATEWAY,
    "Questions whose passages kept the order of the search because reranking failed, by problem code.", ("reason",),
)  # fmt: skip
EXPAND_SKIPPED = Metric(
    "pharos_expand_skipped_total", "counter", _GATEWAY,
    "Questions that were searched as they are although the LLM was to find more ways to say them: the problem code of "
    "its failure, or nothing_usable.", ("reason",),
)  # fmt: skip

Cache = Literal["vectors", "answers"]
CACHES: tuple[Cache, ...] = ("vectors", "answers")
CACHE_LOOKUPS = Metric(
    "pharos_cache_lookups_total", "counter", _GATEWAY,
    "Look-ups in the caches of question vectors and answers: exact or semantic (found), miss, or skipped (the request "
    "did not want it, or nothing may be kept for it).",
    ("cache", "result"),
)  # fmt: skip
CACHE_EVICTIONS = Metric(
    "pharos_cache_evictions_total", "counter", _GATEWAY,
    "Entries that left a cache: full, expired, or outdated (the documents changed).", ("cache", "reason"),
)  # fmt: skip
CACHE_ENTRIES = Metric("pharos_cache_entries", "gauge", _GATEWAY, "Entries in a cache.", ("cache",))
CACHE_BYTES = Metric("pharos_cache_bytes", "gauge", _GATEWAY, "About what they take up.", ("cache",))

BATCH_ITEMS = Metric(
    "pharos_batch_items", "histogram", _BOTH, "Items in a batch sent to a backend.", ("kind",), ITEMS_BUCKETS
)  # fmt: skip
BATCH_WAIT_SECONDS = Metric(
    "pharos_batch_wait_seconds", "histogram", _BOTH,
    "How long the oldest item of a batch had waited as it left.", ("kind",), DURATION_BUCKETS,
)  # fmt: skip
QUEUE_ITEMS = Metric("pharos_queue_items", "gauge", _BOTH, "Items waiting in a batcher.", ("kind",))
QUEUE_ITEMS_MAX = Metric("pharos_queue_items_max", "gauge", _BOTH, "Most items that may wait in it.", ("kind",))
QUEUE_DROPPED = Metric(
    "pharos_queue_dropped_total", "counter", _BOTH,
    "Items that never reached a backend: overloaded or draining (refused at once), deadline, cancelled.",
    ("kind", "reason"),
)  # fmt: skip

REPLICA_STATE = Metric(
    "pharos_replica_state", "gauge", _GATEWAY, "1 for the state a model service is in.", ("replica", "state")
)  # fmt: skip
REPLICA_TOKENS = Metric(
    "pharos_replica_outstanding_tokens", "gauge", _GATEWAY, "Tokens this gateway waits for there.", ("replica",)
)  # fmt: skip
REPLICA_PROMPTS = Metric(
    "pharos_replica_outstanding_prompts", "gauge", _GATEWAY, "Prompts this gateway has there.", ("replica",)
)  # fmt: skip
DEPENDENCY_UP = Metric(
    "pharos_dependency_up", "gauge", _GATEWAY,
    "1 when the dependency answered the last check: milvus, model_service.", ("dependency",),
)  # fmt: skip

PROMPTS_HELD = Metric("pharos_llm_prompts_held", "gauge", _MODELS, "Prompts accepted and not ended.")
PROMPTS_AT_ONCE = Metric("pharos_llm_prompts_at_once", "gauge", _MODELS, "Prompts the engine runs at the same time.")
PROMPT_REASONS = ("stop", "length", "abort", "timeout", "refused", "error")
"""How a prompt ends at the model service. ABORT also: the caller has gone; REFUSED: it could never have run."""
PROMPTS_ENDED = Metric(
    "pharos_llm_prompts_total", "counter", _MODELS,
    "Prompts that have ended: stop, length, abort, timeout, refused, error.", ("reason",),
)  # fmt: skip
LLM_TOKENS = Metric("pharos_llm_generation_tokens_total", "counter", _MODELS, "Tokens the engine has made.")
ENCODED_TEXTS = Metric("pharos_llm_encoded_texts_total", "counter", _MODELS, "Texts encoded.")
ENCODED_TOKENS = Metric("pharos_llm_encoded_tokens_total", "counter", _MODELS, "Tokens of the texts encoded.")
ENCODE_SECONDS = Metric(
    "pharos_llm_encode_duration_seconds", "histogram", _MODELS, "One batch through the encoder.", (), DURATION_BUCKETS
)  # fmt: skip
RERANKED_PAIRS = Metric("pharos_llm_reranked_pairs_total", "counter", _MODELS, "Pairs of question and text scored.")
RERANKED_TOKENS = Metric("pharos_llm_reranked_tokens_total", "counter", _MODELS, "Tokens of the pairs scored.")
RERANK_SECONDS = Metric(
    "pharos_llm_rerank_duration_seconds", "histogram", _MODELS, "One batch through the reranker.", (), DURATION_BUCKETS
)  # fmt: skip
GPU_UTILISATION = Metric(
    "pharos_gpu_utilization_ratio", "gauge", _MODELS, "Share of time in which a kernel ran (NVML).", ("gpu",)
)  # fmt: skip
GPU_MEMORY_USED = Metric("pharos_gpu_memory_used_bytes", "gauge", _MODELS, "Memory in use (NVML).", ("gpu",))
GPU_MEMORY_TOTAL = Metric("pharos_gpu_memory_total_bytes", "gauge", _MODELS, "Memory there is (NVML).", ("gpu",))
GPU_POWER = Metric("pharos_gpu_power_watts", "gauge", _MODELS, "Power drawn (NVML).", ("gpu",))
GPU = (GPU_UTILISATION, GPU_MEMORY_USED, GPU_MEMORY_TOTAL, GPU_POWER)
"""Only where there is an NVIDIA GPU."""

INGEST_RUNNING = Metric("pharos_ingest_running", "gauge", _INGEST, "1 while the job runs.")
INGEST_ROWS = Metric("pharos_ingest_rows", "gauge", _INGEST, "Rows of the data set that is being loaded.")
INGEST_ROWS_READ = Metric("pharos_ingest_rows_read_total", "counter", _INGEST, "Rows read from it.")
INGEST_DOCUMENTS = Metric(
    "pharos_ingest_documents_total", "counter", _INGEST, "Documents all of whose passages are stored."
)  # fmt: skip
INGEST_PASSAGES = Metric(
    "pharos_ingest_passages_total", "counter", _INGEST,
    "Passages done: stored, or present from an earlier run.", ("result",),
)  # fmt: skip
INGEST_LAG = Metric("pharos_ingest_lag_passages", "gauge", _INGEST, "Passages read and not yet stored.")
INGEST_PROGRESS_TIME = Metric(
    "pharos_ingest_last_progress_timestamp_seconds", "gauge", _INGEST,
    "When passages were last done, or the job began (Unix time).",
)  # fmt: skip

BUILD_INFO = Metric("pharos_build_info", "gauge", _ALL, "1; what runs here.", ("service", "version", "python"))
ASYNCIO_TASKS = Metric("pharos_asyncio_tasks", "gauge", _BOTH, "Tasks of the event loop that have not ended.")
EVENT_LOOP_LAG = Metric(
    "pharos_event_loop_lag_seconds", "histogram", _BOTH,
    "How much later than asked for the event loop woke a timer, twice a second.", (), PAUSE_BUCKETS,
)  # fmt: skip
GC_PAUSE = Metric(
    "pharos_gc_pause_seconds", "histogram", _ALL, "Pauses for garbage collection.", ("generation",), PAUSE_BUCKETS
)  # fmt: skip
LOKI_SENT = Metric("pharos_loki_records_sent_total", "counter", _ALL, "Log records that Loki has accepted.")
LOKI_DROPPED = Metric(
    "pharos_loki_records_dropped_total", "counter", _ALL,
    "Log records that Loki never got: queue_full (while it is away), refused, shutdown.", ("reason",),
)  # fmt: skip
LOKI_QUEUED = Metric("pharos_loki_records_queued", "gauge", _ALL, "Log records waiting to be sent.")

METRICS: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
"""All of them, in the order above."""

LOG_LABELS = ("service", "env", "level")
"""Loki's labels: each combination is a stream, so there must be few."""
LOG_METADATA = ("request_id", "trace_id")
"""Loki's structured metadata: found without parsing the line, and no stream of their own."""
REQUEST_LOGGER = "app.requests"
"""Its lines are for machines: the console shows only those that are warnings."""
REQUEST_EVENT = "request"
"""`event` of the one line that says how a request went."""
LOG_FIELDS = ("time", "level", "logger", "message", "event", "request_id", "trace_id", "span_id", "exception")
"""Of every line, where they apply."""
REQUEST_FIELDS = (
    "route", "method", "status", "outcome", "code", "stream", "topic", "api_key",
    "queue_seconds", "expand_seconds", "encode_seconds", "search_seconds", "rerank_seconds", "arrange_seconds",
    "prompt_seconds", "generate_seconds", "total_seconds", "first_token_seconds", "prompt_tokens",
    "completion_tokens", "finish_reason", "passages", "best_score", "cached", "question", "expansion", "answer",
)  # fmt: skip
"""Of a request's line, where they apply; the last three only with PHAROS_LOG_TEXTS."""
