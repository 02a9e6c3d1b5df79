"""`python -m app`: run the gateway."""

from __future__ import annotations

import logging
import sys

from app.main import create_app
from app.serving import Gate, serve
from app.settings import Settings


def main() -> None:
    gate = Gate()
    try:
        settings = Settings()
        application = create_app(settings, gate)
    except ValueError as exc:
        sys.exit(f"pharos: the settings cannot work: {exc}")
    logging.basicConfig(level=settings.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
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
