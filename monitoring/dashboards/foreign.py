"""Series of others that the dashboards show, with their labels, and who serves them.

Each was read off a live `/metrics`: Milvus 2.3.5 (and checked against 2.5's source), vLLM 0.32, node_exporter 1.5,
prometheus-client 0.26, prometheus-fastapi-instrumentator 8.1. tests/data/scrapes holds what they said.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["counter", "gauge", "histogram"]


class Series(NamedTuple):
    """As far as a query has to know it; `contracts.telemetry.Metric` has the same names."""

    name: str
    kind: Kind
    labels: tuple[str, ...] = ()


JOB, INSTANCE = "job", "instance"
"""Labels that Prometheus gives every series it scrapes."""

# Prometheus itself
UP = Series("up", "gauge")
ALERTS = Series("ALERTS", "gauge", ("alertname", "alertstate", "severity"))
SLO_WINDOWS = ("5m", "30m", "1h", "6h", "3d")
SLO_ERRORS = {window: Series(f"pharos:slo_errors:ratio_rate{window}", "gauge", ("slo",)) for window in SLO_WINDOWS}
"""Recording rules: the share of requests that missed the objective."""

# prometheus-client and prometheus-fastapi-instrumentator, in our services
CPU_SECONDS = Series("process_cpu_seconds_total", "counter")
RESIDENT_BYTES = Series("process_resident_memory_bytes", "gauge")
START_TIME = Series("process_start_time_seconds", "gauge")
HTTP_REQUESTS = Series("http_requests_total", "counter", ("handler", "method", "status"))
HTTP_SECONDS = Series("http_request_duration_highr_seconds", "histogram")

# vLLM, through app_llm
_VLLM = ("model_name", "engine")
VLLM_RUNNING = Series("vllm:num_requests_running", "gauge", _VLLM)
VLLM_WAITING = Series("vllm:num_requests_waiting", "gauge", _VLLM)
VLLM_KV_CACHE = Series("vllm:kv_cache_usage_perc", "gauge", _VLLM)
VLLM_PREFIX_QUERIES = Series("vllm:prefix_cache_queries_total", "counter", _VLLM)
VLLM_PREFIX_HITS = Series("vllm:prefix_cache_hits_total", "counter", _VLLM)
VLLM_PREEMPTIONS = Series("vllm:num_preemptions_total", "counter", _VLLM)
VLLM_PROMPT_TOKENS = Series("vllm:prompt_tokens_total", "counter", _VLLM)
VLLM_GENERATION_TOKENS = Series("vllm:generation_tokens_total", "counter", _VLLM)
VLLM_FIRST_TOKEN = Series("vllm:time_to_first_token_seconds", "histogram", _VLLM)
VLLM_INTER_TOKEN = Series("vllm:inter_token_latency_seconds", "histogram", _VLLM)
VLLM_QUEUE = Series("vllm:request_queue_time_seconds", "histogram", _VLLM)

# Milvus; the latencies are in milliseconds
MILVUS_REQUESTS = Series("milvus_proxy_req_count", "counter", ("node_id", "function_name", "status"))
MILVUS_LATENCY = Series("milvus_proxy_sq_latency", "histogram", ("node_id", "query_type"))
MILVUS_QUEUE = Series("milvus_querynode_sq_queue_latency", "histogram", ("node_id", "query_type"))
MILVUS_ROWS = Series("milvus_datacoord_stored_rows_num", "gauge", ("collection_id", "segment_state"))

# node_exporter
NODE_CPU = Series("node_cpu_seconds_total", "counter", ("cpu", "mode"))
NODE_MEMORY_AVAILABLE = Series("node_memory_MemAvailable_bytes", "gauge")
NODE_MEMORY_TOTAL = Series("node_memory_MemTotal_bytes", "gauge")
NODE_DISK_AVAILABLE = Series("node_filesystem_avail_bytes", "gauge", ("device", "fstype", "mountpoint"))
NODE_DISK_SIZE = Series("node_filesystem_size_bytes", "gauge", ("device", "fstype", "mountpoint"))

# dcgm-exporter, which compose starts beside a GPU
_DCGM = ("gpu", "UUID", "device", "modelName", "Hostname")
DCGM_TEMPERATURE = Series("DCGM_FI_DEV_GPU_TEMP", "gauge", _DCGM)
DCGM_XID_ERRORS = Series("DCGM_FI_DEV_XID_ERRORS", "gauge", _DCGM)

# locust_testing
LOCUST_USERS = Series("locust_users", "gauge")
LOCUST_REQUESTS = Series("locust_requests_total", "counter", ("name", "method", "result"))
LOCUST_SECONDS = Series("locust_response_time_seconds", "histogram", ("name",))
LOCUST_FIRST_TOKEN = Series("locust_time_to_first_token_seconds", "histogram", ("name",))
LOCUST_INTER_TOKEN = Series("locust_inter_token_latency_seconds", "histogram", ("name",))
LOCUST_DISCONNECTS = Series("locust_disconnects_total", "counter", ("phase",))

FOREIGN: tuple[Series, ...] = (
    *(value for value in list(globals().values()) if isinstance(value, Series)),
    *SLO_ERRORS.values(),
)
"""All of them."""
