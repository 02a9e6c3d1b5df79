"""`python -m app_llm`: run the model service."""

from __future__ import annotations

import logging
import sys

from app.serving import Gate, serve
from app_llm.main import create_app
from app_llm.settings import Settings


def main() -> None:
    gate = Gate()
    try:
        settings = Settings()
        application = create_app(settings, gate)
    except ValueError as exc:
        sys.exit(f"pharos: the settings cannot work: {exc}")
    logging.basicConfig(level=settings.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
    for chatty in ("httpx", "sentence_transformers", "transformers"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    serve(
        application,
        gate,
        host=settings.host,
        port=settings.port,
        log_level=settings.log_level,
        grace_seconds=settings.shutdown_grace_seconds,
    )


if __name__ == "__main__":
    main()
