"""Load on a running Pharos: `make load`, or `locust -f locust_testing/locustfile.py` for Locust's own web page."""

from __future__ import annotations

import logging
import time
from typing import Any

from locust import LoadTestShape, events
from locust.env import Environment
from locust.exception import StopTest
from locust.runners import MasterRunner, WorkerRunner

from locust_testing import HOST, exporter, options, questions
from locust_testing.client import Client, Unanswered
from locust_testing.collector import FiguresCollector
from locust_testing.problem import HttpProblem
from locust_testing.questions import Questions
from locust_testing.recorder import Recorder
from locust_testing.shapes import SHAPES
from locust_testing.thresholds import misses
from locust_testing.users import NAMES, AskUser, ChatUser, LeavingUser, PharosUser, StreamUser

__all__ = ["AskUser", "ChatUser", "ChosenShape", "LeavingUser", "StreamUser"]

log = logging.getLogger("pharos.load")

PharosUser.host = HOST


class ChosenShape(LoadTestShape):
    """The shape of --shape, for --users and --run-time."""

    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        assert self.runner is not None
        given: Any = self.runner.environment.parsed_options
        shape = SHAPES[given.shape]
        elapsed = time.perf_counter() - self.start_time
        users = shape.at(elapsed, given.num_users or options.USERS, given.run_time or shape.seconds)
        # All of a step's users within a second, since Locust looks at the time again only when they are there.
        return None if users is None else (users, float(max(users, self.runner.user_count)))


def _start(environment: Environment, **_: object) -> None:
    recorder = PharosUser.recorder = Recorder(environment)
    runner = environment.runner
    assert runner is not None
    if isinstance(runner, WorkerRunner):
        environment.events.report_to_master.add_listener(recorder.report)
        return
    environment.events.worker_report.add_listener(recorder.merge)
    environment.events.quitting.add_listener(_judge)
    recorder.figures.expect(NAMES)
    given: Any = environment.parsed_options
    if given.metrics_port:
        collector = FiguresCollector(recorder.figures, lambda: runner.user_count)
        exporter.serve(collector, given.metrics_port, given.metrics_host)


def _prepare(environment: Environment, **_: object) -> None:
    """Learn the server's topics, in each process that has users."""
    host = environment.host or HOST
    given: Any = environment.parsed_options
    if not isinstance(environment.runner, WorkerRunner):
        log.info("the load goes to %s", host)
    if isinstance(environment.runner, MasterRunner):
        return
    try:
        topics = Client(host, given.silence_seconds, given.api_key).get("/topics")["topics"]
    except (Unanswered, HttpProblem, ValueError, LookupError) as exc:
        environment.process_exit_code = 2
        raise StopTest(f"{host}/topics: {exc}") from None
    sizes = [(topic["topic"], topic["passages"]) for topic in topics]
    PharosUser.questions = Questions(sizes, questions.sample_questions(), given.skew)


def _judge(environment: Environment, **_: object) -> None:
    """The exit code: 1 and a sentence for each threshold that was missed, 2 where the test could not be run."""
    runner = environment.runner
    if environment.process_exit_code is not None or runner is None:
        return
    sentences = misses(options.thresholds(environment.parsed_options), PharosUser.recorder.observed())
    sentences += [f"A user broke: {row['msg']}" for row in runner.exceptions.values()]
    for sentence in sentences:
        log.error("missed: %s", sentence)
    if not sentences:
        log.info("all thresholds were kept")
    environment.process_exit_code = 1 if sentences else 0


events.init_command_line_parser.add_listener(options.add_options)
events.init.add_listener(_start)
events.test_start.add_listener(_prepare)
