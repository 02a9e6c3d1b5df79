"""The model services this gateway may send work to: which of them are there, which are well, and which has least to do.

Placing, scaling and healing them is the cluster's work; here is only the choice among the addresses that are given.
Chosen by the power of two choices (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001): of two
random replicas the one with less outstanding work, which balances almost as well as asking all of them and does not
send every gateway to the same idle one.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from app.errors import Draining, ModelServiceDown, Overloaded, PharosError
from contracts.ports import Encoder, Generator, Reranker
from contracts.types import ModelCard, Readiness

log = logging.getLogger(__name__)

EJECTED_SECONDS_MAX = 30.0


class State(StrEnum):
    """READY takes work. DRAINING says itself that it takes none, EJECTED has failed; both are asked again."""

    READY = "ready"
    DRAINING = "draining"
    EJECTED = "ejected"


class Address(NamedTuple):
    """Where one replica listens: its own URL, and the name (for the Host header and TLS) it was found under."""

    url: str
    host: str


class ModelClient(Protocol):
    """One model service, through the network."""

    @property
    def encoder(self) -> Encoder: ...

    @property
    def reranker(self) -> Reranker: ...

    @property
    def generator(self) -> Generator: ...

    async def readiness(self) -> Readiness:
        """What it says of itself, within a second. Raises PharosError."""
        ...

    async def card(self) -> ModelCard: ...

    async def tokenizer(self) -> str: ...

    async def close(self) -> None: ...


@dataclass(slots=True, eq=False)
class Replica:
    """One model service and what this gateway has outstanding there: prompts, their tokens, and texts to encode or to
    score.

    `failures` of calls and `silences`, questions about its readiness that were not answered, are counted in a row, and
    apart: one that says it is well and fails whatever it is given must not be believed.
    """

    address: Address
    client: ModelClient
    state: State = State.EJECTED
    failures: int = 0
    silences: int = 0
    ejections: int = 0
    ejected_until: float = 0.0
    prompts: int = 0
    tokens: int = 0
    texts: int = 0
    prompts_max: float = math.inf

    @property
    def room(self) -> float:
        """Prompts it can take now without making them wait inside it."""
        return self.prompts_max - self.prompts


@dataclass(frozen=True, slots=True)
class Health:
    """When a replica is ejected, and how often all of them are asked how they are."""

    failures: int
    probe_seconds: float
    resolve_seconds: float
    prompts_max: int = 0
    """Most prompts of this gateway on one replica; 0: what it runs at once. More would wait inside it, and while they
    wait behind one replica another may have a slot free."""


@dataclass
class Replicas:
    """Every known replica. Enter it to start watching them; `resolve` gives the addresses there are now."""

    resolve: Callable[[], Awaitable[Iterable[Address]]]
    connect: Callable[[Address], ModelClient]
    health: Health
    epoch: int = 0
    """Grows whenever a replica begins to be used: it may serve other models than were known so far."""
    _all: dict[Address, Replica] = field(default_factory=dict)
    _gone: list[Replica] = field(default_factory=list)
    _listeners: list[Callable[[], None]] = field(default_factory=list)
    _watching: list[asyncio.Task[None]] = field(default_factory=list)

    def on_change(self, listener: Callable[[], None]) -> None:
        """`listener` is called when a replica becomes usable or stops being so."""
        self._listeners.append(listener)

    @property
    def all(self) -> Collection[Replica]:
        return self._all.values()

    @property
    def ready(self) -> list[Replica]:
        return [replica for replica in self._all.values() if replica.state is State.READY]

    def count(self) -> int:
        """How many are ready."""
        return len(self.ready)

    async def any_ready(self) -> bool:
        """Whether at least one is."""
        return bool(self.ready)

    def prompt_room(self) -> float:
        """The most prompts that one of the ready replicas can take now. Without a ready one there is no reason to wait
        either: what is sent then fails at once."""
        return max((replica.room for replica in self.ready), default=math.inf)

    def pick(self, load: Callable[[Replica], float], *, prompts: int = 0, without: Collection[Replica] = ()) -> Replica:
        """The less loaded of two random ready replicas, of those with room for `prompts` if there are any.

        Raises ModelServiceDown when none is left.
        """
        ready = [replica for replica in self.ready if replica not in without]
        candidates = [replica for replica in ready if replica.room >= prompts] or ready
        if not candidates:
            raise ModelServiceDown("No model service can be reached or is ready; try again in a moment.")
        return min(random.sample(candidates, min(2, len(candidates))), key=load)

    def succeeded(self, replica: Replica) -> None:
        """It has done what it was asked."""
        replica.failures = replica.ejections = 0

    def failed(self, replica: Replica, error: PharosError) -> None:
        """It has not. After too many in a row it gets no more work until it says that it is ready."""
        if isinstance(error, Draining):
            self._enter(replica, State.DRAINING)
            return
        if isinstance(error, Overloaded):  # a busy replica is well
            return
        replica.failures += 1
        if replica.failures >= self.health.failures:
            self._enter(replica, State.EJECTED)

    def _enter(self, replica: Replica, state: State) -> None:
        if replica.state is state:
            return
        if state is State.EJECTED:
            # One that says it is ready and then fails again and again stays away longer each time.
            replica.ejections += 1
            pause = self.health.probe_seconds * 2 ** (replica.ejections - 1)
            replica.ejected_until = time.monotonic() + min(pause, EJECTED_SECONDS_MAX)
        log.log(
            logging.INFO if state is State.READY else logging.WARNING,
            "model service %s: %s (%d calls in a row have failed, %d times no word of its readiness)",
            replica.address.url,
            state,
            replica.failures,
            replica.silences,
        )
        replica.state = state
        if state is State.READY:
            self.epoch += 1
        for listener in self._listeners:
            listener()

    async def _probe(self, replica: Replica) -> None:
        try:
            readiness = await replica.client.readiness()
        except Overloaded:  # every connection is in use: a busy replica is well
            return
        except PharosError:
            replica.silences += 1
            if replica.silences >= self.health.failures:
                self._enter(replica, State.EJECTED)
            return
        replica.silences = 0
        if readiness.status == "ready":
            at_once = readiness.prompts_at_once
            replica.prompts_max = self.health.prompts_max or at_once or math.inf
            if replica.state is not State.READY and time.monotonic() >= replica.ejected_until:
                replica.failures = 0
                self._enter(replica, State.READY)
        else:
            self._enter(replica, State.DRAINING)

    async def _resolve(self) -> None:
        addresses = set(await self.resolve())
        for address in addresses - self._all.keys():
            self._all[address] = Replica(address, self.connect(address))
        for address in self._all.keys() - addresses:
            # What runs there is finished; the connections close with it.
            gone = self._all.pop(address)
            log.info("model service %s is gone", address.url)
            self._gone.append(gone)
            self._enter(gone, State.DRAINING)

    async def _watch(self) -> None:
        while True:
            await asyncio.gather(*map(self._probe, self._all.values()))
            for replica in [replica for replica in self._gone if not replica.prompts and not replica.texts]:
                self._gone.remove(replica)
                await replica.client.close()
            await asyncio.sleep(self.health.probe_seconds)

    async def _keep_resolving(self) -> None:
        while True:
            await asyncio.sleep(self.health.resolve_seconds)
            # A name server that is down is no reason to forget what it said before.
            with suppress(OSError):
                await self._resolve()

    async def __aenter__(self) -> Self:
        with suppress(OSError):
            await self._resolve()
        await asyncio.gather(*map(self._probe, self._all.values()))
        self._watching = [asyncio.create_task(self._watch()), asyncio.create_task(self._keep_resolving())]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)
        for replica in (*self._all.values(), *self._gone):
            await replica.client.close()
