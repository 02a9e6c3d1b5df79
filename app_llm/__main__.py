"""`python -m app_llm`: run the model service."""

from __future__ import annotations

from app.serving import run
from app_llm.main import create_app
from app_llm.settings import Settings
from observability.settings import TelemetrySettings


def main() -> None:
    run(
        Settings,
        lambda settings, gate: create_app(settings, gate, TelemetrySettings()),
        quiet=("httpx", "sentence_transformers", "transformers"),
    )


if __name__ == "__main__":
    main()
