"""`python -m app`: run the gateway."""

from __future__ import annotations

from app.main import create_app
from app.serving import run
from app.settings import Settings
from observability.settings import TelemetrySettings


def main() -> None:
    run(Settings, lambda settings, gate: create_app(settings, gate, telemetry=TelemetrySettings()), quiet=("httpx",))


if __name__ == "__main__":
    main()
