"""One request as it is remembered: filled while it runs, then made into metrics, a log line and a span."""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import NamedTuple

from app.asking import CacheHit
from app.disconnect import CLIENT_CLOSED_REQUEST
from app.errors import Draining, Overloaded
from contracts.telemetry import ALL_TOPICS, Outcome, Stage
from contracts.types import Usage
from observability.tracing import OpenSpan


class StageTime(NamedTuple):
    """When a stage began and ended, `time.monotonic()` instants."""

    stage: Stage
    began: float
    ended: float


class Problem(NamedTuple):
    """The error that was answered."""

    status: int
    code: str


@dataclass(slots=True)
class RequestRecord:
    """`asks` is whether an answer from an LLM was wanted. `left`: the client went away before it was complete; `cut`:
    the server stopped before it was. `topics` is None until they are searched, so that they are some that exist;
    `first_token` is when it came, a `time.monotonic()` instant; `tokens` counts those that came, and `usage` is what
    the engine says at the end. `cached` is how an earlier answer was found that was given again: no engine read or made
    anything for it, and no passage was looked for."""

    request_id: str
    method: str
    route: str
    asks: bool
    span: OpenSpan
    arrived: float = field(default_factory=time.monotonic)
    status: int | None = None
    problem: Problem | None = None
    left: bool = False
    cut: bool = False
    stream: bool = False
    stages: list[StageTime] = field(default_factory=list)
    topics: tuple[str, ...] | None = None
    api_key: str | None = None
    passages: int | None = None
    best_score: float | None = None
    first_token: float | None = None
    tokens: int = 0
    usage: Usage | None = None
    finish_reason: str | None = None
    cached: CacheHit | None = None
    question: str | None = None
    expansion: tuple[str, ...] | None = None
    answer: str | None = None

    def note(self, stage: Stage, began: float, ended: float | None = None) -> None:
        """A stage has ended, by default now."""
        self.stages.append(StageTime(stage, began, time.monotonic() if ended is None else ended))

    def extend(self, stage: Stage) -> None:
        """The last of the stages called `stage` has lasted until now after all."""
        for i in reversed(range(len(self.stages))):
            if self.stages[i].stage is stage:
                self.stages[i] = self.stages[i]._replace(ended=time.monotonic())
                return

    @property
    def topic(self) -> str:
        """The one topic of the question."""
        return self.topics[0] if self.topics is not None and len(self.topics) == 1 else ALL_TOPICS

    @property
    def outcome(self) -> Outcome:
        """How it ended. A client that went away has the last word: it saw nothing of what came after."""
        if self.left or self.status == CLIENT_CLOSED_REQUEST:
            return Outcome.CANCELLED
        if self.problem is not None:
            status, code = self.problem
            if status < 500 or code in (Overloaded.code, Draining.code):
                return Outcome.REJECTED
            return Outcome.TIMEOUT if status == 504 else Outcome.ERROR
        return Outcome.ERROR if self.cut or self.status is None or self.status >= 500 else Outcome.OK

    def stage_seconds(self) -> dict[Stage, float]:
        """Seconds in each stage it came through, all visits of one added up."""
        seconds: dict[Stage, float] = {}
        for stage, began, ended in self.stages:
            seconds[stage] = seconds.get(stage, 0.0) + ended - began
        return seconds

    def fields(self) -> dict[str, object]:
        """What its log line says: contracts.telemetry.REQUEST_FIELDS, where there is something to say."""
        seconds = {f"{stage}_seconds": round(value, 6) for stage, value in self.stage_seconds().items()}
        known = {
            "request_id": self.request_id,
            "trace_id": self.span.trace_id,
            "span_id": self.span.span_id,
            "route": self.route,
            "method": self.method,
            "status": self.status,
            "outcome": self.outcome.value,
            "code": None if self.problem is None else self.problem.code,
            "stream": self.stream if self.asks else None,
            "topic": None if self.topics is None else self.topic,
            "api_key": self.api_key,
            **seconds,
            "total_seconds": round(time.monotonic() - self.arrived, 6),
            "first_token_seconds": None if self.first_token is None else round(self.first_token - self.arrived, 6),
            "prompt_tokens": None if self.usage is None else self.usage.prompt_tokens,
            "completion_tokens": self.tokens if self.asks else None,
            "finish_reason": self.finish_reason,
            "passages": self.passages,
            "best_score": None if self.best_score is None else round(self.best_score, 4),
            "cached": self.cached,
            "question": self.question,
            "expansion": self.expansion,
            "answer": self.answer,
        }
        return {name: value for name, value in known.items() if value is not None}


current_record: ContextVar[RequestRecord | None] = ContextVar("current_record", default=None)
"""The record of the request that this code works for. None in work that is not one request's, such as a batch."""
