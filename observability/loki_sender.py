"""The thread that sends log records: a bounded queue before it, few and full batches, patience while Loki is away."""

from __future__ import annotations

import contextlib
import email.utils
import itertools
import logging
import multiprocessing.util
import os
import random
import threading
import time
import weakref
from collections import deque
from dataclasses import dataclass
from queue import Empty, SimpleQueue

import requests
import urllib3
from prometheus_client import CollectorRegistry, Counter

from contracts import telemetry
from observability.log_lines import Entry, Line, Lines
from observability.loki_push import Answer, LokiPush

log = logging.getLogger(__name__)

QUEUE_FULL, REFUSED, SHUTDOWN = "queue_full", "refused", "shutdown"

_RETRIED = {429, *range(500, 600)}
_NEVER = 1 << 62
_SLICE = 32
"""Lines made before the GIL is offered to the event loop: some 0.5 ms."""
_REFUSAL_SECONDS = 60.0
"""Between two complaints about refusals."""


@dataclass(frozen=True, slots=True)
class Limits:
    """A push is far below what Loki takes by default: 4 MiB between its parts, 6 MB in a burst."""

    queue_records: int = 10_000
    batch_records: int = 2_000
    batch_bytes: int = 1_048_576
    """Of lines, before compression; the last one may exceed it."""
    linger_seconds: float = 2.0
    """How long the first record of a batch waits for others. A push costs 0.7 ms of CPU whatever is in it."""
    connect_seconds: float = 2.0
    silence_seconds: float = 5.0
    backoff_seconds: float = 0.5
    backoff_seconds_max: float = 30.0
    retry_after_seconds_max: float = 60.0


USUAL = Limits()


class Sender:
    """`put` may be called by any thread, also in a signal handler: it appends to a deque and sometimes puts into a
    SimpleQueue, both of which are re-entrant. Everything else is done by the sender's own thread, which it starts.

    What overflows is the oldest. `put` does not count it, which would take a lock: the sender does, by the numbers of
    the records that it gets. At the end whoever calls `stop` counts what is left, perhaps while the sender's own thread
    does so too, or hears from Loki after all: these two share a lock, and each record is counted by one of them.
    """

    def __init__(self, lines: Lines, emitter: LokiPush, registry: CollectorRegistry, limits: Limits = USUAL) -> None:
        self._lines = lines
        self._emitter = emitter
        self._limits = limits
        self._begin(registry)
        itself = weakref.ref(self)

        def forked() -> None:
            if (sender := itself()) is not None:
                sender._begin(CollectorRegistry())  # the old counters' locks may be held for ever

        os.register_at_fork(after_in_child=forked)
        self._start()

    def _begin(self, registry: CollectorRegistry) -> None:
        """As new: what is queued in a parent process is the parent's to send."""
        self._sent = telemetry.LOKI_SENT.counter(registry)
        self._dropped = telemetry.LOKI_DROPPED.counter(registry)
        for reason in (QUEUE_FULL, REFUSED, SHUTDOWN):
            self._dropped.labels(reason)
        telemetry.LOKI_QUEUED.gauge(registry).set_function(self.waiting)
        self._queue: deque[tuple[int, Entry]] = deque(maxlen=self._limits.queue_records)
        self._numbers = itertools.count()
        self._next = 0  # after the highest number taken out of the queue
        self._taken = 0  # so many were taken out of it
        self._overflowed = 0  # so many were counted as lost
        self._full = False  # the queue has been full, so that missing numbers are losses
        self._in_hand = 0
        self._counting = threading.Lock()
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._wake_at = _NEVER
        self._stop_by: float | None = None
        self._over = False
        self._away = False
        self._complained = -_REFUSAL_SECONDS
        self._thread: threading.Thread | None = None
        self._emitter.forget_connections()

    def _start(self) -> None:
        # A daemon, for whose end the interpreter does not wait. multiprocessing's hook ends it in time, also in
        # multiprocessing's own children, where atexit's hooks do not run.
        self._thread = threading.Thread(target=self._run, name="loki", daemon=True)
        self._at_exit = multiprocessing.util.Finalize(None, self.stop, exitpriority=0)
        self._thread.start()

    def put(self, entry: Entry) -> None:
        """Queue an entry; from a full queue the oldest one falls out. After `stop` it goes nowhere."""
        if self._thread is None:  # a forked child
            with contextlib.suppress(RuntimeError):  # it ends already, and starts no threads any more
                self._start()
        self._queue.append((next(self._numbers), entry))
        waiting = len(self._queue)
        if waiting == self._limits.queue_records:
            self._full = True
        if waiting >= self._wake_at:
            self._wake_at = _NEVER
            self._wake.put(None)

    def waiting(self) -> int:
        """Records that Loki has not got yet."""
        return len(self._queue) + self._in_hand

    def is_current_thread(self) -> bool:
        """True in the sender's own thread."""
        return self._thread is not None and threading.get_ident() == self._thread.ident

    def stop(self, seconds: float = 2.0) -> None:
        """Send what is queued and end, after `seconds` at most. What is left then is dropped and counted."""
        thread = self._thread
        if thread is None or self._stop_by is not None:
            return
        self._at_exit.cancel()
        self._stop_by = time.monotonic() + seconds
        self._wake.put(None)
        thread.join(seconds)
        if thread.is_alive():  # in the middle of a push to a Loki that hangs
            self._leave()

    def _run(self) -> None:
        while self._collect():
            try:
                if not self._deliver(self._take()):
                    break
            except Exception:  # the boundary of the thread: without it nothing would be sent any more
                log.exception("log records could not be sent")
                self._settle(self._dropped.labels(REFUSED))
        self._leave()

    def _leave(self) -> None:
        with self._counting:
            while self._pop() is not None:
                pass
            self._count_overflow()
            left = 0 if self._over else self._in_hand
            self._dropped.labels(SHUTDOWN).inc(left)
            self._over = True
        if left:
            log.warning("%d log records did not reach Loki before the end", left)

    def _collect(self) -> bool:
        """Wait for a batch: a full one, or one whose first record has waited long enough. False: there will be none."""
        self._wait_for(1, None)
        self._wait_for(self._limits.batch_records, self._limits.linger_seconds)
        return bool(self._queue) and (self._stop_by is None or time.monotonic() < self._stop_by)

    def _wait_for(self, records: int, seconds: float | None) -> None:
        deadline = None if seconds is None else time.monotonic() + seconds
        self._wake_at = records
        # Whoever sets _wake_at to _NEVER after this also puts a token, so that no wake is lost.
        while len(self._queue) < records and self._stop_by is None:
            try:
                self._wake.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
            except Empty:
                break
            self._wake_at = records
        self._wake_at = _NEVER

    def _take(self) -> list[Line]:
        batch: list[Line] = []
        size = 0
        while len(batch) < self._limits.batch_records and size < self._limits.batch_bytes:
            with self._counting:
                entry = self._pop()
            if entry is None:
                break
            line = self._lines.line(entry)
            batch.append(line)
            size += len(line.text)
            if len(batch) % _SLICE == 0:
                time.sleep(0)
        with self._counting:
            self._count_overflow()
        return batch

    def _pop(self) -> Entry | None:
        try:
            number, entry = self._queue.popleft()
        except IndexError:
            return None
        self._in_hand += 1
        self._taken += 1
        self._next = max(self._next, number + 1)
        return entry

    def _count_overflow(self) -> None:
        """Numbers below the highest that never came have overflowed.

        One may still come, which was logged by a thread or under a signal handler that had its turn in the middle of a
        `put`. Then one too many is counted, and one too few the next time.
        """
        lost = self._next - self._taken - self._overflowed
        if self._full and lost > 0 and not self._over:
            self._overflowed += lost
            self._dropped.labels(QUEUE_FULL).inc(lost)

    def _settle(self, counter: Counter) -> None:
        """What is in hand goes to `counter`; but after the end it has been counted as dropped."""
        with self._counting:
            if not self._over:
                counter.inc(self._in_hand)
                self._in_hand = 0

    def _deliver(self, batch: list[Line]) -> bool:
        """Send `batch`, for as long as it takes. False: the process ends, and Loki is away."""
        body = self._emitter.body(batch)
        for failures in itertools.count():
            last = self._stop_by is not None
            wait = self._attempt(body, len(batch), failures)
            if wait is None:
                return True
            if last:
                return False
            if self._overflows_within(wait):
                # What is in hand is older than what has overflowed.
                self._settle(self._dropped.labels(QUEUE_FULL))
                return True
        raise AssertionError("unreachable")

    def _attempt(self, body: bytes, records: int, failures: int) -> float | None:
        """One push. Returns None when it is settled, and otherwise the seconds to wait before the next one."""
        left = 1e9 if self._stop_by is None else max(0.1, self._stop_by - time.monotonic())
        try:
            answer = self._emitter.push(
                body, min(self._limits.connect_seconds, left), min(self._limits.silence_seconds, left)
            )
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as exc:
            self._say_away(type(exc).__name__)
            return self._backoff(failures)
        if answer.status in (200, 204):
            self._settle(self._sent)
            self._say_back()
            return None
        if answer.status in _RETRIED:
            self._say_away(f"status {answer.status}")
            return self._retry_after(answer) or self._backoff(failures)
        self._settle(self._dropped.labels(REFUSED))
        self._say_refused(answer, records)
        return None

    def _backoff(self, failures: int) -> float:
        longest = min(self._limits.backoff_seconds_max, self._limits.backoff_seconds * 2 ** min(failures, 20))
        return random.uniform(longest / 2, longest)

    def _retry_after(self, answer: Answer) -> float:
        """The seconds Loki asks for, or 0."""
        if answer.retry_after.isdigit():
            seconds = float(answer.retry_after)
        else:
            try:
                seconds = email.utils.parsedate_to_datetime(answer.retry_after).timestamp() - time.time()
            except ValueError:
                seconds = 0.0
        return max(0.0, min(seconds, self._limits.retry_after_seconds_max))

    def _overflows_within(self, seconds: float) -> bool:
        """Wait, unless the process ends. True as soon as records have fallen out of the queue."""
        until = time.monotonic() + seconds
        while self._stop_by is None and (left := until - time.monotonic()) > 0:
            with contextlib.suppress(Empty):
                self._wake.get(timeout=min(left, 1.0))
            if len(self._queue) == self._limits.queue_records and self._queue[0][0] > self._next:
                return True
        return False

    # What is said here reaches the console only: the handler takes nothing from this thread.

    def _say_away(self, why: str) -> None:
        if not self._away:
            self._away = True
            log.warning("Loki takes no log records (%s); the newest %d are kept", why, self._limits.queue_records)

    def _say_back(self) -> None:
        if self._away:
            self._away = False
            log.warning("Loki takes log records again")

    def _say_refused(self, answer: Answer, records: int) -> None:
        if time.monotonic() - self._complained >= _REFUSAL_SECONDS:
            self._complained = time.monotonic()
            log.warning("Loki refused %d log records: %d %s", records, answer.status, answer.reason)
