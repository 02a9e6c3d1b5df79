"""What can be set about metrics, logs and traces, the same for every service, from the environment or `.env`."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

EXAMPLES = {"PHAROS_LOKI_URL": "http://HOST:3100", "PHAROS_TRACES_ENDPOINT": "http://HOST:4318/v1/traces"}
INSTEAD = {
    "PHAROS_LOKI_URL": "set PHAROS_LOKI_USER instead",
    "PHAROS_TRACES_ENDPOINT": "set OTEL_EXPORTER_OTLP_TRACES_HEADERS instead",
}


class TelemetrySettings(BaseSettings):
    """Built once, in the entry point of each service, and passed in."""

    model_config = SettingsConfigDict(
        env_prefix="PHAROS_", env_file=".env", extra="ignore", frozen=True, hide_input_in_errors=True
    )

    environment: str = Field(
        "local", pattern=r"^[a-z0-9_-]{1,32}$", description="Name of this installation; the label `env` of its logs."
    )
    loki_url: str = Field("", description="Loki, as http://HOST:3100, to send logs to; empty: nowhere.")
    loki_user: str = Field("", description="User of Loki, where a proxy or Grafana Cloud asks for one.")
    loki_password: SecretStr = Field(SecretStr(""), description="Password of that user.")
    log_texts: bool = Field(False, description="Let questions, passages and answers into the logs.")
    traces_endpoint: str = Field(
        "", description="OTLP over HTTP, as http://HOST:4318/v1/traces, to send traces to; empty: nowhere."
    )
    traces_ratio: float = Field(1.0, ge=0, le=1, description="Share of traces that begin here which are kept.")

    @field_validator("loki_url", "traces_endpoint")
    @classmethod
    def _is_an_address(cls, url: str, info: ValidationInfo) -> str:
        """Found out at the start, and not by logs and traces that never arrive."""
        name = f"PHAROS_{(info.field_name or '').upper()}"
        url = url.strip()
        if not url:
            return url
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{name} must be like {EXAMPLES[name]}")
        if parts.username is not None:
            raise ValueError(f"{name} has a user in it, which logs would show: {INSTEAD[name]}")
        return url.rstrip("/")


OFF = TelemetrySettings.model_construct()
"""The defaults, whatever the environment says."""
