"""The road to Loki, with a server of its push API at the end: rates, outages, refusals, shutdown."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from observability.context import LogContext, current
from observability.log_lines import Lines
from observability.loki import SafeLokiHandler
from observability.loki_sender import Limits
from observability.redaction import Redactor
from tests.support import processes
from tests.support.loki_server import LokiServer, Say

SOON = Limits(linger_seconds=0.05, backoff_seconds=0.05, backoff_seconds_max=0.2, silence_seconds=60)
"""Quick, but patient with a server that has no CPU for a moment: what is not answered in time is sent twice."""


@pytest.fixture
def loki() -> Iterator[LokiServer]:
    with LokiServer() as server:
        yield server
    assert server.violations == []


class Road:
    """A logger of its own with the real handler."""

    def __init__(self, url: str, limits: Limits) -> None:
        self.registry = CollectorRegistry()
        self.handler = SafeLokiHandler(
            url, {"service": "app", "env": "test"}, None, Lines(Redactor(), texts=False), self.registry, limits
        )
        self.log = logging.Logger("road", 1)
        self.log.addHandler(self.handler)

    def count(self, name: str, **labels: str) -> float:
        value = self.registry.get_sample_value(f"pharos_loki_records_{name}", labels)
        assert value is not None
        return value

    @property
    def sent(self) -> float:
        return self.count("sent_total")

    def dropped(self, reason: str) -> float:
        return self.count("dropped_total", reason=reason)


@pytest.fixture
def roads() -> Iterator[list[Road]]:
    made: list[Road] = []
    yield made
    for road in made:
        road.handler.sender.stop(10)  # else its thread would still be there, and log, in the next test


def road_to(loki: LokiServer, roads: list[Road], limits: Limits = SOON) -> Road:
    roads.append(Road(loki.url, limits))
    return roads[-1]


def eventually(met: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_5000_records_a_second_arrive_once_in_order_and_in_few_pushes(loki: LokiServer, roads: list[Road]) -> None:
    limits = Limits()
    road = road_to(loki, roads, limits)
    rate, seconds = 5_000, 4
    began = due = time.monotonic()
    busy = time.thread_time()
    for number in range(rate * seconds):
        road.log.info("POST /ask 200 ok %d", number, extra={"fields": {"event": "request", "request_id": f"r{number}"}})
        if number % 50 == 49:
            # What a busy machine has held up is not made up for: that would be another rate.
            due = max(due + 50 / rate, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))
            eventually(lambda: road.count("queued") < limits.queue_records * 0.8)
    # The time of the CPU, which is the same on a busy machine: who logs so much has time for something else.
    assert time.thread_time() - busy < seconds
    road.handler.sender.stop(60)
    took = time.monotonic() - began
    assert loki.messages() == [f"POST /ask 200 ok {number}" for number in range(rate * seconds)]
    assert [line.metadata["request_id"] for line in loki.lines] == [f"r{n}" for n in range(rate * seconds)]
    # A push is full, or its first record has waited.
    assert len(loki.pushes) <= rate * seconds / limits.batch_records + took / limits.linger_seconds + 1
    assert {push.headers.get("content-encoding") for push in loki.pushes} == {"gzip"}
    assert (road.sent, road.count("queued")) == (rate * seconds, 0)
    assert sum(road.dropped(reason) for reason in ("queue_full", "refused", "shutdown")) == 0


def test_records_of_many_threads_arrive_once(loki: LokiServer, roads: list[Road]) -> None:
    road = road_to(loki, roads)

    def work(thread: int) -> None:
        for number in range(500):
            road.log.info("%d", thread * 500 + number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    loki.wait_for(lines=4_000)
    assert sorted(map(int, loki.messages())) == list(range(4_000))


def test_a_lonely_record_waits_for_others_as_long_as_the_docs_say(loki: LokiServer, roads: list[Road]) -> None:
    road = road_to(loki, roads, Limits())
    began = time.monotonic()
    road.log.warning("alone")
    loki.wait_for(lines=1)
    assert Limits().linger_seconds <= time.monotonic() - began < Limits().linger_seconds + 20
    assert loki.lines[0].labels == {"service": "app", "env": "test", "level": "warning"}


def test_the_levels_are_streams_and_the_ids_metadata(loki: LokiServer, roads: list[Road]) -> None:
    road = road_to(loki, roads)
    token = current.set(LogContext("req-1", "a" * 32, "b" * 16))
    road.log.info("inside")
    current.reset(token)
    road.log.error("outside")
    road.log.log(7, "below debug")
    loki.wait_for(lines=3)
    inside, outside, below = sorted(loki.lines, key=lambda line: line.ns)
    assert inside.metadata == {"request_id": "req-1", "trace_id": "a" * 32}
    assert inside.fields["span_id"] == "b" * 16
    assert (outside.metadata, outside.labels["level"]) == ({}, "error")
    assert below.labels["level"] == "debug"


def test_the_newest_arrive_after_an_outage_and_the_oldest_are_counted(loki: LokiServer, roads: list[Road]) -> None:
    limits = Limits(500, 200, linger_seconds=0.05, backoff_seconds=0.05, backoff_seconds_max=0.2)
    road = road_to(loki, roads, limits)
    road.log.info("before")
    eventually(lambda: road.sent == 1)  # else it is sent again, or counts as dropped though Loki has it
    loki.stop()
    for number in range(3_000):
        road.log.info("%d", number)
        if number % 100 == 0:
            time.sleep(0.02)
    eventually(lambda: road.dropped("queue_full") >= 2_000)
    assert road.count("queued") <= 700  # the queue and what is in hand
    loki.start()
    road.log.info("after")
    eventually(lambda: loki.messages()[-1] == "after")
    numbers = list(map(int, loki.messages()[1:-1]))
    assert numbers == sorted(set(numbers))
    # Before the newest, which the queue held, come those that were in hand when it overflowed.
    assert numbers[-490:] == list(range(2_510, 3_000))
    assert len(numbers) >= 499
    assert road.dropped("queue_full") == 3_000 - len(numbers)
    eventually(lambda: road.sent == len(numbers) + 2)


def test_a_long_outage_costs_one_line_on_the_console(
    loki: LokiServer, roads: list[Road], caplog: pytest.LogCaptureFixture
) -> None:
    road = road_to(loki, roads)

    def said() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name == "observability.loki_sender"]

    logging.getLogger().addHandler(road.handler)  # what the sender says of itself must not feed it
    try:
        loki.stop()
        road.log.info("kept")
        eventually(lambda: said() != [])
        time.sleep(2)  # for more attempts, of which nothing is said
        loki.start()
        loki.wait_for(lines=1)
        eventually(lambda: len(said()) >= 2)
    finally:
        logging.getLogger().removeHandler(road.handler)
    assert said() == [
        "Loki takes no log records (ConnectionError); the newest 10000 are kept",
        "Loki takes log records again",
    ]
    assert loki.messages() == ["kept"]


def test_a_loki_that_hangs_holds_nobody_up(loki: LokiServer, roads: list[Road]) -> None:
    road = road_to(loki, roads)
    loki.next.append(Say(hang=True))
    road.log.info("first")
    loki.wait_for(pushes=1)
    for number in range(1_000):
        road.log.info("%d", number)
    assert len(loki.pushes) == 1, "it still hangs"
    loki.stop()
    loki.start()
    loki.wait_for(lines=1_001)
    assert loki.messages() == ["first", *map(str, range(1_000))]


def test_a_loki_that_says_nothing_for_too_long_is_asked_again(loki: LokiServer, roads: list[Road]) -> None:
    limits = Limits(linger_seconds=0.05, backoff_seconds=0.05, backoff_seconds_max=0.2, silence_seconds=0.5)
    road = road_to(loki, roads, limits)
    loki.next.append(Say(hang=True))
    road.log.info("first")
    loki.wait_for(pushes=1)
    assert loki.messages() == []
    eventually(lambda: road.sent == 1)
    assert set(loki.messages()) == {"first"}  # on a busy machine more than once


def test_what_is_left_at_the_end_is_counted_once(loki: LokiServer, roads: list[Road]) -> None:
    """By whoever ends the sender or by the sender's own thread: the patience of both ends at the same moment."""

    class Slow(logging.Handler):
        """A console that gives the other one time to count too; without a lock, for which that one would wait."""

        def handle(self, record: logging.LogRecord) -> bool:
            if "did not reach" in record.getMessage():
                lost.append(record.args)
                time.sleep(1)
            return True

    def senders() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name == "loki"}

    lost: list[object] = []
    others = senders()
    road = road_to(loki, roads, Limits(linger_seconds=60))  # nothing is sent before the end
    loki.next += [Say(hang=True)] * 10
    log, slow = logging.getLogger("observability.loki_sender"), Slow()
    for number in range(1_000):
        road.log.info("%d", number)
    log.addHandler(slow)
    try:
        road.handler.sender.stop(0.5)
        eventually(lambda: not senders() - others)
    finally:
        log.removeHandler(slow)
    assert (road.sent, road.dropped("shutdown")) == (0, 1_000)
    assert lost == [(1_000,)]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_may_be_over_soon_is_tried_again(loki: LokiServer, roads: list[Road], status: int) -> None:
    road = road_to(loki, roads)
    loki.next += [Say(status), Say(status)]
    road.log.info("once")
    loki.wait_for(lines=1)
    assert [push.status for push in loki.pushes] == [status, status, 204]
    eventually(lambda: road.sent == 1)
    assert loki.messages() == ["once"]


def test_retry_after_is_respected(loki: LokiServer, roads: list[Road]) -> None:
    road = road_to(loki, roads)
    loki.next.append(Say(429, {"Retry-After": "2"}))
    road.log.info("patient")
    loki.wait_for(lines=1)
    first, second = loki.pushes
    assert 1.9 < second.at - first.at < 20


@pytest.mark.parametrize("status", [400, 401, 413, 260, 302])
def test_what_is_refused_is_counted_and_not_tried_again(loki: LokiServer, roads: list[Road], status: int) -> None:
    road = road_to(loki, roads)
    loki.next.append(Say(status))
    road.log.info("refused")
    loki.wait_for(pushes=1)
    eventually(lambda: road.dropped("refused") == 1)
    road.log.info("taken")
    loki.wait_for(lines=1)
    eventually(lambda: road.sent == 1)
    assert (loki.messages(), len(loki.pushes)) == (["taken"], 2)


def test_the_largest_lines_stay_below_lokis_limits(loki: LokiServer, roads: list[Road]) -> None:
    road = road_to(loki, roads, Limits(linger_seconds=0.3))
    nasty = "\x00\x1f\U0001f600\ud800" * 100_000
    for number in range(60):
        fields = {"event": "request", "topic": nasty, "route": nasty, "finish_reason": nasty, "request_id": nasty}
        road.log.info("%d %s", number, nasty, extra={"fields": fields}, exc_info=ValueError(nasty))
    loki.wait_for(lines=60, seconds=300)
    assert all("characters cut" in line.message for line in loki.lines)
    assert len(loki.pushes) > 1


def test_user_and_password_are_sent(loki: LokiServer, roads: list[Road]) -> None:
    road = road_to(loki, roads)
    road.handler.emitter.auth = ("me", "secret")
    road.log.info("hello")
    loki.wait_for(lines=1)
    assert loki.pushes[0].headers["authorization"] == "Basic bWU6c2VjcmV0"


def test_closing_all_handlers_as_dictconfig_does_ends_nothing(loki: LokiServer, roads: list[Road]) -> None:
    road = road_to(loki, roads)
    road.handler.flush()
    road.handler.close()
    road.log.info("still here")
    loki.wait_for(lines=1)


PROGRAM = """
import itertools, logging, os, signal, sys, threading, time, multiprocessing
from prometheus_client import CollectorRegistry
from observability import logs
from observability.settings import TelemetrySettings

log = logging.getLogger("program")
registry = CollectorRegistry()
counted = lambda: {s.name + str(s.labels.get("reason", "")): s.value for m in registry.collect() for s in m.samples
                   if s.name.endswith("_total")}

def chatter():
    for number in range(10**9):
        log.info("chatter %d", number)
        time.sleep(0.0005)

def logs_to_loki():
    return logs.configure("app", TelemetrySettings(), "info", ["a-secret-key"], registry)
"""


def run_program(loki_url: str, body: str, *, signal_after: float | None = None) -> tuple[float, str]:
    """Run PROGRAM and `body` against this Loki; its exit status must be 0. Returns seconds and what it printed."""
    environment = {**os.environ, "PHAROS_LOKI_URL": loki_url, "PYTHONPATH": str(processes.ROOT)}
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM + textwrap.dedent(body)],
        cwd=processes.ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        if signal_after is not None:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(signal_after)
            process.send_signal(signal.SIGTERM)
            began = time.monotonic()
        out, errors = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 0, errors[-3000:]
    return time.monotonic() - began, out


END = """
with logs_to_loki():
    threading.Thread(target=chatter, daemon=True).start()
    for number in range(3000):
        log.info("%d", number)
    since = time.monotonic()
print(time.monotonic() - since)
"""
END_SECONDS = 4.5
"""The end takes 2 s at most, and a busy machine some more; to wait for a Loki that hangs would take 5 s."""


def test_at_the_end_everything_is_flushed(loki: LokiServer) -> None:
    _, out = run_program(loki.url, END)
    assert [m for m in loki.messages() if "chatter" not in m] == [str(number) for number in range(3_000)]
    assert float(out) < END_SECONDS


@pytest.mark.parametrize("how", ["nobody listens", "hangs"])
def test_the_end_does_not_wait_for_a_loki_that_is_away(loki: LokiServer, how: str) -> None:
    if how == "hangs":
        loki.next += [Say(hang=True)] * 50
    else:
        loki.stop()
    _, out = run_program(loki.url, END + "print(counted()['pharos_loki_records_dropped_totalshutdown'] >= 3000)")
    seconds, counted = out.split()
    assert float(seconds) < END_SECONDS
    assert counted == "True"


@pytest.mark.parametrize("up", [True, False])
def test_the_end_by_sigterm(loki: LokiServer, up: bool) -> None:
    if not up:
        loki.stop()
    body = """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with logs_to_loki():
        threading.Thread(target=chatter, daemon=True).start()
        log.info("begun")
        print("ready", flush=True)
        try:
            while True:
                log.info("main")
                time.sleep(0.001)
        finally:
            log.warning("ended by the signal")
    """
    seconds, _ = run_program(loki.url, body, signal_after=1.5)
    assert seconds < 20
    if up:
        assert loki.messages()[0].startswith(("chatter", "begun"))
        assert "ended by the signal" in loki.messages()


def test_an_end_without_the_context_manager_s_end_flushes_too(loki: LokiServer) -> None:
    run_program(loki.url, "left_open = logs_to_loki()\nleft_open.__enter__()\nlog.info('last words')")
    assert loki.messages() == ["last words"]


@pytest.mark.parametrize("push_seconds", [0.0, 0.5])
def test_a_signal_handler_may_log_at_any_moment(loki: LokiServer, push_seconds: float) -> None:
    """Also while the queue overflows, and at the end of the program before Loki has all."""
    loki.next += [Say(seconds=push_seconds)] * 100
    body = """
    with logs_to_loki():
        for handler in logging.getLogger().handlers[:1]:
            logging.getLogger().removeHandler(handler)  # the console's stream is not re-entrant
        numbers = itertools.count()
        def tick(*_):
            log.info("tick %d", next(numbers))
        signal.signal(signal.SIGALRM, tick)
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        for number in range(30000):
            log.info("%d", number)
            if number % 1000 == 0: time.sleep(0.1)
        signal.setitimer(signal.ITIMER_REAL, 0)
    counts = counted()
    print(next(numbers), int(counts["pharos_loki_records_sent_total"]), int(sum(counts.values())))
    """
    _, out = run_program(loki.url, body)
    ticks, sent, accounted = map(int, out.split())
    assert ticks > 100
    assert accounted == 30_000 + ticks
    assert sent <= len(loki.lines) == len(set(loki.messages())) <= accounted


def test_a_forked_child_sends_its_own_records_and_not_its_parents(loki: LokiServer) -> None:
    body = """
    def child():
        log.info("child")
    with logs_to_loki():
        log.info("parent")
        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join()
        assert process.exitcode == 0
        log.info("parent again")
    """
    run_program(loki.url, body)
    assert sorted(loki.messages()) == ["child", "parent", "parent again"]


def test_a_spawned_child_that_configures_itself_sends_too(loki: LokiServer, tmp_path: Path) -> None:
    program = tmp_path / "spawning.py"
    program.write_text(
        PROGRAM
        + textwrap.dedent("""
        def child():
            global left_open
            left_open = logs_to_loki()
            left_open.__enter__()
            log.info("child")
        if __name__ == "__main__":
            with logs_to_loki():
                process = multiprocessing.get_context("spawn").Process(target=child)
                process.start()
                process.join()
                log.info("parent")
        """)
    )
    environment = {**os.environ, "PHAROS_LOKI_URL": loki.url, "PYTHONPATH": str(processes.ROOT)}
    subprocess.run([sys.executable, str(program)], cwd=processes.ROOT, env=environment, check=True, timeout=300)
    assert loki.messages() == ["child", "parent"]


VLLM = """
import logging, os
from prometheus_client import REGISTRY
from app_llm import vllm_logs
from observability import logs
from observability.settings import TelemetrySettings

def speak(who):
    from vllm.config.logging import LoggingConfig
    from vllm.logger import configure_logging, init_logger
    for _ in range(2):  # as vLLM does, in its engine's process too
        configure_logging(LoggingConfig())
    init_logger("vllm.somewhere").info("%s says question='my knee'", who)
    init_logger("vllm.somewhere").error("%s has an error", who)

if __name__ == "__main__":
    import multiprocessing
    telemetry = TelemetrySettings()
    os.environ.update(vllm_logs.environment(telemetry))
    with logs.configure("app_llm", telemetry, "info", [], REGISTRY):
        speak("the service")
        engine = multiprocessing.get_context("spawn").Process(target=speak, args=("the engine",))
        engine.start()
        engine.join()
        logging.getLogger("app_llm").info("and we do")
"""


def test_vllm_s_logger_takes_the_same_road_in_its_own_processes_too(loki: LokiServer, tmp_path: Path) -> None:
    program = tmp_path / "speaking.py"
    program.write_text(VLLM)
    environment = {**os.environ, "PHAROS_LOKI_URL": loki.url, "PYTHONPATH": str(processes.ROOT)}
    done = subprocess.run(
        [sys.executable, str(program)],
        cwd=processes.ROOT,
        env=environment,
        check=True,
        timeout=300,
        capture_output=True,
        text=True,
    )
    said = [line for line in loki.lines if line.fields["logger"] in ("vllm.somewhere", "app_llm")]
    assert sorted(line.message for line in said) == [
        "and we do",
        "the engine has an error",
        "the engine says question='…'",
        "the service has an error",
        "the service says question='…'",
    ]
    assert {line.labels["service"] for line in loki.lines} == {"app_llm"}
    shown = [line for line in done.stderr.splitlines() if "vllm.somewhere" in line]
    assert shown == [f"ERROR vllm.somewhere: the {who} has an error" for who in ("service", "engine")]


WRONG_ADDRESS = ("loki:3100", "must be like http://HOST:3100")


@pytest.mark.parametrize(
    ("module", "url", "why"),
    [
        ("app", *WRONG_ADDRESS),
        ("app_llm", *WRONG_ADDRESS),
        ("setup_milvus", *WRONG_ADDRESS),
        ("setup_milvus", "http://me:pass-word@loki:3100", "has a user in it"),
    ],
)
def test_an_address_that_is_none_is_said_at_the_start(module: str, url: str, why: str) -> None:
    arguments = ["--dataset", "none.csv"] if module == "setup_milvus" else []
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=processes.ROOT,
        env={**os.environ, "PHAROS_LOKI_URL": url},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode != 0
    assert why in done.stderr
    assert "Traceback" not in done.stderr
    assert "pass-word" not in done.stderr


def test_what_is_pushed_is_what_the_contract_says(loki: LokiServer, roads: list[Road]) -> None:
    road = road_to(loki, roads)
    road.log.info("hello", extra={"fields": {"event": "request", "status": 200, "unknown": "x"}})
    loki.wait_for(lines=1)
    (stream,) = json.loads(loki.raw[0])["streams"]
    (ns, line), *_ = stream["values"]
    assert stream["stream"] == {"service": "app", "env": "test", "level": "info"}
    assert json.loads(line) == {
        "time": json.loads(line)["time"],
        "level": "info",
        "logger": "road",
        "message": "hello",
        "event": "request",
        "status": 200,
    }
    assert abs(int(ns) - time.time_ns()) < 60 * 10**9
