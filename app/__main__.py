"""`python -m app`: run the gateway."""

from __future__ import annotations

from app.main import create_app
from app.serving import run
from app.settings import Settings


def main() -> None:
    run(Settings, create_app, quiet=("httpx",))


if __name__ == "__main__":
    main()
