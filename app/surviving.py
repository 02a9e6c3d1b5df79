"""Failures of a step that makes an answer better: the question goes on without it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from app.errors import PharosError


class Survival:
    """Counts each failure by its code (`count`), and says in `log` that `what` when they begin: once, not for each
    question, until it `went_well` again."""

    def __init__(self, log: logging.Logger, what: str, count: Callable[[str], None]) -> None:
        self._log = log
        self._what = what
        self._count = count
        self._failing = False

    def survived(self, failure: PharosError, *, must: bool = False, deadline: float | None = None) -> None:
        """A question goes on without the step. Raises `failure` where it insists on the step (`must`), or is past its
        `deadline`, a `time.monotonic()` instant: then nothing is left to go on for."""
        if must or (deadline is not None and time.monotonic() >= deadline):
            raise failure
        self._count(failure.code)
        if not self._failing:
            self._failing = True
            self._log.warning("%s: %s", self._what, failure.detail)

    def went_well(self) -> None:
        """The step has been done."""
        self._failing = False
