"""Which version of the documents answers are kept for, and since when."""

from __future__ import annotations

import logging

import pytest

from app.caching.version import KnownVersion, KnownVersions
from app.errors import StoreDown
from contracts.types import CollectionVersion
from tests.unit.caching.support import Clock


class Store:
    """Says what it is told to, or fails; counts how often it was asked."""

    def __init__(self, clock: Clock, ttl_seconds: float = 0, settle_seconds: float = 30) -> None:
        self.version: CollectionVersion | None = CollectionVersion("v1")
        self.down = False
        self.asked = 0
        self.changes = 0
        self.versions = KnownVersions(
            self._read, ttl_seconds=ttl_seconds, settle_seconds=settle_seconds, changed=self._changed, clock=clock
        )

    async def _read(self) -> CollectionVersion | None:
        self.asked += 1
        if self.down:
            raise StoreDown("away")
        return self.version

    def _changed(self) -> None:
        self.changes += 1


async def test_a_version_is_settled_once_it_has_been_known_for_some_time() -> None:
    clock = Clock()
    store = Store(clock)
    assert await store.versions.current() == KnownVersion("v1", settled=False)
    clock.now = 29.9
    assert await store.versions.current() == KnownVersion("v1", settled=False)
    clock.now = 30
    assert await store.versions.current() == KnownVersion("v1", settled=True)
    store.version = CollectionVersion("v2")
    assert await store.versions.current() == KnownVersion("v2", settled=False)
    assert store.changes == 2


async def test_while_documents_change_there_is_none_and_the_next_one_settles_anew() -> None:
    clock = Clock()
    store = Store(clock)
    await store.versions.current()
    clock.now = 100
    store.version = CollectionVersion("v2", changing=True)
    assert await store.versions.current() is None
    store.version = CollectionVersion("v3")
    assert await store.versions.current() == KnownVersion("v3", settled=False)


async def test_it_is_asked_now_and_then() -> None:
    clock = Clock()
    store = Store(clock, ttl_seconds=1)
    store.version = None
    for _ in range(3):
        await store.versions.current()
    assert store.asked == 1, "also where there is none"
    clock.now += 1.1
    await store.versions.current()
    assert store.asked == 2


async def test_what_the_store_raises_is_raised_and_forgets_nothing() -> None:
    clock = Clock()
    store = Store(clock, settle_seconds=0)
    await store.versions.current()
    store.down = True
    with pytest.raises(StoreDown):
        await store.versions.current()
    store.down = False
    assert await store.versions.current() == KnownVersion("v1", settled=True)
    assert store.changes == 1


async def test_why_nothing_is_kept_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "app.caching.version")
    store = Store(Clock())
    for version in (None, None, CollectionVersion("a", changing=True), CollectionVersion("b", changing=True)):
        store.version = version
        await store.versions.current()
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    first, second = caplog.messages
    assert "has no version" in first
    assert "being changed" in second
    for version in (CollectionVersion("c"), CollectionVersion("d", changing=True)):
        store.version = version
        await store.versions.current()
    assert len(caplog.records) == 3
