"""The graph backends in tests: where their packages are, which `make test` installs."""

from __future__ import annotations

from typing import get_args

import pytest

from app_llm.graphs.packages import require
from app_llm.graphs.types import Backend, GraphError

GRAPHS: tuple[Backend, ...] = tuple(name for name in get_args(Backend) if name != "torch")


def needs(backend: Backend) -> None:
    """Skip the test, saying what is missing."""
    try:
        require(backend, to_export=True)
    except GraphError as exc:
        pytest.skip(str(exc))
