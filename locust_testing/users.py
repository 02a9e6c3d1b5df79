"""The users: who asks what, how often, and whether they wait for the answer."""

from __future__ import annotations

import random
import time
from typing import ClassVar

import gevent
from locust import User, task
from locust.env import Environment

from locust_testing import plausibility
from locust_testing.client import Client, Unanswered, listen
from locust_testing.figures import Outcome, Phase, Result
from locust_testing.problem import HttpProblem
from locust_testing.questions import Question, Questions
from locust_testing.recorder import Recorder
from locust_testing.stream import Hear, Stream, hear_ask, hear_chat

RETRY_SECONDS = 1.0
"""Pause after a failure, where the server names none, so that one that is down is not hammered."""
HEAD_SECONDS = 0.1
"""How long the head of an answer is thought to take before one was seen."""
MID_STREAM_EVENTS = 10
"""A user who leaves in the middle of a text does so within this many token events."""


class PharosUser(User):
    """Base of all users. The locustfile sets what they share before the first one is made."""

    abstract = True
    recorder: ClassVar[Recorder]
    questions: ClassVar[Questions]
    rng: ClassVar[random.Random] = random.Random()

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        options = environment.parsed_options
        assert options is not None
        assert self.host is not None
        self.max_tokens: int = options.max_tokens
        self._think_seconds: float = options.think_seconds
        self.client = Client(self.host, options.silence_seconds, options.api_key)

    def wait_time(self) -> float:
        """Between an answer and the next question: exponential, so that users do not march in step."""
        return self.rng.expovariate(1 / self._think_seconds) if self._think_seconds else 0.0

    def on_stop(self) -> None:
        self.client.close()

    def ended_early(self, name: str, started: float, exc: Exception) -> None:
        """Note a request that was refused or failed, and wait as the server says."""
        seconds = time.perf_counter() - started
        refused = isinstance(exc, HttpProblem) and exc.refused
        self.recorder.add(Result(name, "refused" if refused else "failed", seconds, why=str(exc)))
        wait = exc.retry_after_seconds if isinstance(exc, HttpProblem) else None
        gevent.sleep(RETRY_SECONDS if wait is None else wait)

    def stream(self, name: str, path: str, body: dict[str, object], hear: Hear) -> None:
        """One streamed answer to its end."""
        stream = Stream(time.perf_counter())
        try:
            with self.client.request("POST", path, body) as response:
                size = sum(listen(response, stream, hear))
        except (HttpProblem, Unanswered, ValueError, LookupError) as exc:
            self.ended_early(name, stream.sent, exc)
            return
        self.recorder.add(_judged(name, stream, self.max_tokens, size))


class AskUser(PharosUser):
    """Asks and waits for the whole answer, as JSON."""

    weight = 3

    @task
    def ask(self) -> None:
        question = self.questions.draw(self.rng)
        started = time.perf_counter()
        try:
            answer, size = self.client.post("/ask", question.body(max_tokens=self.max_tokens, stream=False))
            seconds = time.perf_counter() - started
            wrong = plausibility.of_answer(answer, seconds, self.max_tokens)
        except (HttpProblem, Unanswered, ValueError, LookupError) as exc:
            self.ended_early("ask", started, exc)
            return
        outcome: Outcome = "failed" if wrong else "ok"
        why = _implausible(wrong)
        self.recorder.add(Result("ask", outcome, seconds, bytes=size, why=why, implausible=bool(wrong)))


class StreamUser(PharosUser):
    """Asks and reads the answer as it is made."""

    weight = 5

    @task
    def ask_stream(self) -> None:
        question = self.questions.draw(self.rng)
        self.stream("ask_stream", "/ask", question.body(max_tokens=self.max_tokens, stream=True), hear_ask)


class ChatUser(PharosUser):
    """Reads a streamed answer through the OpenAI API."""

    weight = 1

    @task
    def chat_stream(self) -> None:
        body = _chat_body(self.questions.draw(self.rng), self.max_tokens)
        self.stream("chat_stream", "/v1/chat/completions", body, hear_chat)


class LeavingUser(PharosUser):
    """Asks for a stream and goes away: while it waits, before the first token, or in the middle of the text."""

    weight = 1
    _head_seconds = HEAD_SECONDS

    @task
    def ask_leaving(self) -> None:
        body = self.questions.draw(self.rng).body(max_tokens=self.max_tokens, stream=True)
        intent: Phase = self.rng.choice(("waiting", "first_token", "mid_stream"))
        stream = Stream(time.perf_counter())
        # The head comes when the engine has accepted the prompt: who leaves while waiting must be faster than that.
        patience = self.rng.uniform(0, self._head_seconds) if intent == "waiting" else None
        events = self.rng.randint(1, MID_STREAM_EVENTS)
        phase: Phase | None = None
        try:
            with gevent.Timeout(patience):
                response = self.client.request("POST", "/ask", body)
            self._head_seconds = time.perf_counter() - stream.sent
            with response:
                phase = "first_token"
                if intent != "waiting":
                    for _ in listen(response, stream, hear_ask):
                        if intent == "first_token" and "sources" in stream.names:
                            break
                        if len(stream.token_times) >= events:
                            break
                    if stream.token_times:
                        phase = "mid_stream"
        except gevent.Timeout:
            phase = "waiting"
        except (HttpProblem, Unanswered, ValueError, LookupError) as exc:
            self.ended_early("ask_leaving", stream.sent, exc)
            return
        if stream.ended is not None:
            # The answer was shorter than the user's patience.
            self.recorder.add(_judged("ask_leaving", stream, self.max_tokens, 0))
            return
        seconds = time.perf_counter() - stream.sent
        self.recorder.add(
            Result(
                "ask_leaving",
                "left",
                seconds,
                first_token_seconds=stream.first_token_seconds,
                gaps=stream.gaps,
                phase=phase,
            )
        )


NAMES = ("ask", "ask_stream", "chat_stream", "ask_leaving")
"""Of the tasks, as in Locust's report and in the label `name`."""


def _judged(name: str, stream: Stream, max_tokens: int, size: int) -> Result:
    """The result of a stream that came to its end."""
    wrong = plausibility.of_stream(stream, max_tokens)
    failed = wrong or stream.error is not None
    why = _implausible(wrong)
    if stream.error is not None and not wrong:
        why = f"in the stream: {stream.error.get('code') or 'error'}"
    return Result(
        name,
        "failed" if failed else "ok",
        stream.total_seconds,
        first_token_seconds=None if wrong else stream.first_token_seconds,
        gaps=() if wrong else stream.gaps,
        bytes=size,
        why=why,
        implausible=bool(wrong),
    )


def _implausible(wrong: list[str]) -> str:
    return f"implausible: {'; '.join(wrong)}" if wrong else ""


def _chat_body(question: Question, max_tokens: int) -> dict[str, object]:
    return {
        "model": "documents" if question.topic is None else f"topic:{question.topic}",
        "messages": [{"role": "user", "content": question.text}],
        "max_completion_tokens": max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
