"""`python -m app`: run the gateway."""

from __future__ import annotations

import logging
import sys

import uvicorn

from app.main import create_app
from app.settings import Settings


def main() -> None:
    try:
        settings = Settings()
        application = create_app(settings)
    except ValueError as exc:
        sys.exit(f"pharos: the settings cannot work: {exc}")
    logging.basicConfig(level=settings.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    uvicorn.run(
        application,
        host=settings.host,
        port=settings.port,
        log_level=settings.log_level,
        access_log=False,  # /metrics counts requests; a line for each would only slow them down
        timeout_graceful_shutdown=settings.shutdown_grace_seconds,
    )


if __name__ == "__main__":
    main()
