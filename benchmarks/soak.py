"""Does anything grow? A mix of everything that clients do, good and bad, against a simulated stack of its own.

    python -m benchmarks.soak --minutes 10 [--rate 20] [--seed 1]

Ends with status 1 when the memory of a process grew after the warm-up, the number of Prometheus series grew, an answer
had a status that its request does not deserve, a log holds a traceback, or something is still held at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import httpx

from app.adapters.transport import HttptoolsTransport
from tests.support import load
from tests.support.processes import Service
from tests.support.stack import Stack, held
from tests.support.vitals import Vitals, settled, vitals

SAMPLE_SECONDS = 3.0
RSS_GROWTH_MIB = 16.0
"""Between the median of the second quarter and that of the last one. Allocators and the kernel make some MiB of noise;
a leak of one kilobyte a request makes 6 MiB within ten minutes at 20 requests a second, and more in a longer run."""
LEAVE_SHARE = 0.35
LEAVE_SECONDS = 0.6
"""So many clients lose patience at a random moment within this, which is before most streams end and after most other
answers came: one in five leaves."""
REPLICA: dict[str, object] = {
    "simulated_first_token_seconds": 0.1,
    "simulated_token_seconds": 0.02,
    "simulated_answer_tokens": 64,
    "simulated_sequences": 32,
}


@dataclass(frozen=True, slots=True)
class Behaviour:
    """One kind of client: how it asks, how often (in relation to the others), and what it may get."""

    name: str
    ask: Callable[[httpx.AsyncClient, random.Random], load.Asking]
    statuses: frozenset[int] = frozenset({200})
    weight: int = 1
    may_break_off: bool = False


def behaviours() -> list[Behaviour]:
    """Everything that clients do."""

    def hurried(rng: random.Random) -> dict[str, str]:
        return {"X-Request-Timeout": f"{rng.choice((0.001, rng.uniform(0.001, 1))):.3f}"}

    topics = ("science", "business", "sports")
    late = frozenset({200, 504})
    return [
        Behaviour("ask", lambda http, rng: load.ask(http, max_tokens=rng.randint(1, 64)), weight=3),
        Behaviour(
            "ask, streamed", lambda http, rng: load.ask(http, stream=True, max_tokens=rng.randint(1, 64)), weight=4
        ),
        Behaviour("ask a topic", lambda http, rng: load.ask(http, topic=rng.choice(topics), max_tokens=8)),
        Behaviour("chat", lambda http, rng: load.chat(http, max_tokens=rng.randint(1, 64)), weight=2),
        Behaviour(
            "chat, streamed", lambda http, rng: load.chat(http, stream=True, max_tokens=rng.randint(1, 64)), weight=3
        ),
        Behaviour("chat from documents", lambda http, _: load.ask_documents(http, stream=True, max_tokens=32)),
        Behaviour("embeddings", lambda http, rng: load.embed(http, texts=[_words(rng)] * rng.randint(1, 20)), weight=2),
        Behaviour("topics", lambda http, _: load.get(http, "/topics")),
        Behaviour("models", lambda http, _: load.get(http, "/v1/models")),
        Behaviour("short deadline", lambda http, rng: load.ask(http, hurried(rng), max_tokens=64), late),
        Behaviour(
            "short deadline, streamed",
            lambda http, rng: load.chat(http, hurried(rng), stream=True, max_tokens=64),
            late,
            may_break_off=True,
        ),
        Behaviour("bad body", lambda http, _: load.post(http, "/ask", {"query": "?"}), frozenset({422})),
        Behaviour("bad topic", lambda http, rng: load.ask(http, topic=_words(rng)), frozenset({422})),
        Behaviour("bad model", lambda http, rng: load.chat(http, model=_words(rng)), frozenset({404})),
        Behaviour("bad path", lambda http, rng: load.get(http, f"/{rng.randrange(10**9)}"), frozenset({404})),
        Behaviour("too long", lambda http, _: load.ask(http, question="why " * 5000), frozenset({422})),
    ]


def _words(rng: random.Random) -> str:
    return " ".join(f"{rng.randrange(10**6):x}" for _ in range(5))


@dataclass
class Tally:
    """What came of the requests."""

    outcomes: Counter[str] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)

    def note(self, behaviour: Behaviour, answer: load.Answer) -> None:
        """An answer that came to its end."""
        self.outcomes[str(answer.status)] += 1
        good = answer.status in behaviour.statuses
        if answer.status == 200:
            good = answer.complete or (behaviour.may_break_off and _ran_out_of_time(answer))
        if not good:
            self.complaints.append(f"{behaviour.name}: {answer.status} {answer.names[-3:]} {str(answer.body)[:200]}")


def _ran_out_of_time(answer: load.Answer) -> bool:
    return answer.names[-1] == "error" and answer.body["error"]["code"] == "deadline_exceeded"


async def warm_up(url: str, rng: random.Random, tally: Tally) -> None:
    """Everything that can happen, some times, so that every series is there."""
    async with _connected(url) as http:
        for behaviour in behaviours():
            for leaves_within in (None, 0.02, 0.3):
                moments = [None if leaves_within is None else rng.uniform(0, leaves_within) for _ in range(8)]
                await asyncio.gather(*(_one(behaviour, behaviour.ask(http, rng), at, tally) for at in moments))


async def clients(url: str, minutes: float, rate: float, rng: random.Random, tally: Tally) -> None:
    """Requests at random instants, `rate` a second on average; some clients leave."""
    kinds = behaviours()
    until = time.monotonic() + minutes * 60
    async with _connected(url) as http, asyncio.TaskGroup() as group:
        while time.monotonic() < until:
            behaviour = rng.choices(kinds, [kind.weight for kind in kinds])[0]
            leaves = rng.uniform(0, LEAVE_SECONDS) if rng.random() < LEAVE_SHARE else None
            group.create_task(_one(behaviour, behaviour.ask(http, rng), leaves, tally))
            await asyncio.sleep(rng.expovariate(rate))


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url, transport=HttptoolsTransport(1000), timeout=60) as http:
        yield http


async def _one(behaviour: Behaviour, asking: load.Asking, leaves_after: float | None, tally: Tally) -> None:
    done, _ = await asyncio.wait({asking.task}, timeout=leaves_after)
    if not done:
        await load.leave([asking])
        tally.outcomes["left"] += 1
        return
    try:
        tally.note(behaviour, asking.task.result())
    except httpx.TransportError as error:
        tally.complaints.append(f"{behaviour.name}: {error!r}")


@dataclass
class Record:
    """The vitals of one service over the run."""

    service: Service
    name: str
    samples: list[Vitals] = field(default_factory=list)

    def quarter(self, number: int) -> list[Vitals]:
        """The samples of the first, second, third or fourth quarter."""
        size = max(1, len(self.samples) // 4)
        return self.samples[(number - 1) * size : number * size] or self.samples[-1:]

    def rss_growth_mib(self) -> float:
        """From the second quarter to the last one: the first is the warm-up."""
        second, last = self.quarter(2), self.quarter(4)
        return median(v.rss_mib for v in last) - median(v.rss_mib for v in second)

    def row(self) -> str:
        """One line of the table."""
        second, last = self.quarter(2), self.quarter(4)

        def change(of: Callable[[Vitals], float]) -> str:
            return f"{median(map(of, second)):.0f} -> {median(map(of, last)):.0f}"

        cells = (
            f"{median(v.rss_mib for v in second):.1f} -> {median(v.rss_mib for v in last):.1f}",
            change(lambda v: v.fds),
            change(lambda v: v.threads),
            change(lambda v: v.tasks),
            change(lambda v: len(v.series)),
        )
        return f"| {self.name} | " + " | ".join(cells) + " |"


async def sample(records: Sequence[Record]) -> None:
    """Look at every service, over and over, until cancelled."""
    while True:
        await asyncio.gather(*(_look(record) for record in records))
        await asyncio.sleep(SAMPLE_SECONDS)


async def _look(record: Record) -> None:
    record.samples.append(await asyncio.to_thread(vitals, record.service))


async def held_after(records: Sequence[Record], before: Sequence[Vitals], stack: Stack) -> list[str]:
    """What has not come back to where it was before the run."""
    found = []
    for record, was in zip(records, before, strict=True):
        now = await settled(record.service, was)
        if now.fds > was.fds or now.tasks > was.tasks:
            found.append(f"{record.name}: {was} -> {now}")
    return found + [f"{replica.url} still holds prompts" for replica in stack.replicas if held(replica)]


async def soak(minutes: float, rate: float, seed: int, folder: Path) -> int:
    """The whole run; its exit status."""
    stack = Stack(folder, replica=REPLICA, gateway={})
    services = {"gateway": stack.gateway, "replica 1": stack.replicas[0], "replica 2": stack.replicas[1]}
    records = [Record(service, name) for name, service in services.items()]
    tally = Tally()
    try:
        await asyncio.to_thread(stack.start)
        before = [vitals(record.service) for record in records]
        rng = random.Random(seed)
        await warm_up(stack.gateway.url, rng, tally)
        sampling = asyncio.create_task(sample(records))
        await clients(stack.gateway.url, minutes, rate, rng, tally)
        sampling.cancel()
        await asyncio.gather(sampling, return_exceptions=True)
        complaints = tally.complaints + await held_after(records, before, stack)
    finally:
        stack.stop()
    for record in records:
        if record.rss_growth_mib() > RSS_GROWTH_MIB:
            complaints.append(f"{record.name}: its memory grew by {record.rss_growth_mib():.1f} MiB")
        new = record.samples[-1].series - record.quarter(2)[-1].series
        if new:
            complaints.append(f"{record.name}: {len(new)} new series, {sorted(new)[:5]}")
        if "Traceback" in (log := record.service.log.read_text(errors="replace")):
            complaints.append(f"{record.name}: {log[log.index('Traceback') :][:2000]}")
    print(f"{tally.outcomes.total()} requests: " + ", ".join(f"{n} {what}" for what, n in tally.outcomes.most_common()))
    print("\nMedians of the second and of the last quarter:\n")
    print("| | RSS, MiB | open files | threads | tasks | series |\n|---|---|---|---|---|---|")
    for record in records:
        print(record.row())
    for complaint in complaints[:20]:
        print(f"\nWRONG: {complaint}")
    return 1 if complaints else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Run a mix of everything for some minutes and see what grows.")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--rate", type=float, default=20, help="requests a second")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        sys.exit(asyncio.run(soak(options.minutes, options.rate, options.seed, Path(temporary))))
