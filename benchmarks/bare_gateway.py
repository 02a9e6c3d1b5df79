"""`python -m benchmarks.bare_gateway`: the gateway without metrics, records, logs and spans: what do they cost?

The product has no switch for this; the parts are taken out of app/main.py before it puts them together.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import app.main
from app.__main__ import main
from app.generation import UNWATCHED


class PassedOn:
    """ASGI middleware that does nothing."""

    def __init__(self, inner: Any, **_: object) -> None:
        self._inner = inner

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._inner(scope, receive, send)


@asynccontextmanager
async def _nothing(*_: object) -> Any:
    yield


def take_out() -> None:
    """From now on `create_app` makes bare gateways."""
    parts: dict[str, Any] = {
        "KindWatch": lambda *_: UNWATCHED,
        "Observed": PassedOn,
        "InstrumentedRetriever": lambda inner: inner,
        "InstrumentedGrounding": lambda inner: inner,
        "TracedEncoder": lambda inner, *_: inner,
        "TracedStore": lambda inner, *_: inner,
        "watched_dependencies": _nothing,
        "vitals": lambda *_: nullcontext(),
    }
    for name, replacement in parts.items():
        assert hasattr(app.main, name), f"app/main.py has no {name} any more"
        setattr(app.main, name, replacement)
    setattr(app.main, "http_metrics", SimpleNamespace(instrument=lambda *_: None))  # noqa: B010


if __name__ == "__main__":
    take_out()
    main()
