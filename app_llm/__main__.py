"""`python -m app_llm`: run the model service."""

from __future__ import annotations

from app.serving import run
from app_llm.main import create_app
from app_llm.settings import Settings
from contracts.telemetry import APP_LLM


def main() -> None:
    quiet = ("httpx", "sentence_transformers", "transformers")
    run(APP_LLM, Settings, create_app, secrets=lambda _: (), quiet=quiet)


if __name__ == "__main__":
    main()
