"""`python -m app`: run the gateway."""

from __future__ import annotations

from app.main import create_app
from app.serving import run
from app.settings import Settings
from contracts.telemetry import APP


def main() -> None:
    run(APP, Settings, create_app, secrets, quiet=("httpx",))


def secrets(settings: Settings) -> list[str]:
    """What must never be in a log."""
    return [settings.milvus_token, *(key.key.get_secret_value() for key in settings.api_keys.values())]


if __name__ == "__main__":
    main()
