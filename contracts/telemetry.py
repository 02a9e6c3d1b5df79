"""Names that dashboards, logs and callers rely on: headers, metrics and their buckets."""

from __future__ import annotations

REQUEST_ID_HEADER = "X-Request-Id"
REQUEST_TIMEOUT_HEADER = "X-Request-Timeout"
"""How long the caller is willing to wait, in seconds from when the request arrives."""

STAGE_SECONDS = "pharos_stage_duration_seconds"
FIRST_TOKEN_SECONDS = "pharos_time_to_first_token_seconds"
BATCH_ITEMS = "pharos_batch_items"
BATCH_WAIT_SECONDS = "pharos_batch_wait_seconds"
ASYNCIO_TASKS = "pharos_asyncio_tasks"

SECONDS_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60)
"""For durations from one Milvus search to a long answer on a CPU."""
ITEMS_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
"""For sizes of batches, in powers of two."""
