"""On what terms a request is served; set by admission.py, obeyed by every stage after it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import NamedTuple

from starlette.requests import Request

from app.quota import Quota


class CacheUse(NamedTuple):
    """Whether a request takes an answer that was kept, and lets its own be kept."""

    reads: bool = True
    stores: bool = True


CACHED = CacheUse()
"""Both, of a request that says nothing about it."""


@dataclass(frozen=True, slots=True)
class Terms:
    """When the request came, until when it is wanted (both `time.monotonic()` instants), at whose expense, and what it
    lets caches do."""

    arrived: float = field(default_factory=time.monotonic)
    deadline: float | None = None
    quota: Quota | None = None
    cache: CacheUse = CACHED

    @property
    def seconds_left(self) -> float | None:
        """None: as long as it takes."""
        return None if self.deadline is None else self.deadline - time.monotonic()


UNLIMITED = Terms(arrived=0.0)
"""For work that no request asked for."""


def terms_of(request: Request) -> Terms:
    """The terms that `Admission` has set."""
    terms = request.scope["state"]["terms"]
    assert isinstance(terms, Terms)
    return terms
