"""vLLM's logs on the same road as ours.

vLLM sets its own logger up as it is imported, and again in the process of its engine, from the JSON file that
VLLM_LOGGING_CONFIG_PATH names (vllm/logger.py). Ours, vllm_logging.json, asks here for the handlers.
"""

from __future__ import annotations

import logging
from pathlib import Path

from prometheus_client import CollectorRegistry

from contracts.telemetry import APP_LLM
from observability.log_lines import ConsoleFormatter
from observability.logs import loki_handler, redactor
from observability.loki import SafeLokiHandler
from observability.settings import TelemetrySettings

CONFIG = Path(__file__).with_name("vllm_logging.json")


def environment(telemetry: TelemetrySettings) -> dict[str, str]:
    """What makes vLLM log to Loki; nothing where there is none. Loki gets what is of interest, the console errors."""
    return {"VLLM_LOGGING_CONFIG_PATH": str(CONFIG), "VLLM_LOGGING_LEVEL": "INFO"} if telemetry.loki_url else {}


def console() -> logging.Handler:
    """Called by dictConfig."""
    handler = logging.StreamHandler()
    handler.setFormatter(ConsoleFormatter(redactor(TelemetrySettings())))
    return handler


def loki() -> logging.Handler:
    """Called by dictConfig, more than once. This process' handler; the engine's, unless it was forked with one, makes
    one from the environment, whose counters /metrics does not show."""
    for handler in (*logging.getLogger().handlers, *logging.getLogger("vllm").handlers):
        if isinstance(handler, SafeLokiHandler):
            return handler
    telemetry = TelemetrySettings()
    return loki_handler(APP_LLM, telemetry, redactor(telemetry), CollectorRegistry())
