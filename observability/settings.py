"""What can be set about metrics, logs and traces, the same for every service, from the environment or `.env`."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class TelemetrySettings(BaseSettings):
    """Built once, in the entry point of each service, and passed in."""

    model_config = SettingsConfigDict(env_prefix="PHAROS_", env_file=".env", extra="ignore", frozen=True)

    environment: str = Field(
        "local", pattern=r"^[a-z0-9_-]{1,32}$", description="Name of this installation; the label `env` of its logs."
    )
    loki_url: str = Field("", description="Loki, as http://HOST:3100, to send logs to; empty: nowhere.")
    log_texts: bool = Field(False, description="Let questions, passages and answers into the logs.")
    traces_endpoint: str = Field(
        "", description="OTLP over HTTP, as http://HOST:4318/v1/traces, to send traces to; empty: nowhere."
    )
    traces_ratio: float = Field(1.0, ge=0, le=1, description="Share of traces that begin here which are kept.")


OFF = TelemetrySettings.model_construct()
"""The defaults, whatever the environment says."""
