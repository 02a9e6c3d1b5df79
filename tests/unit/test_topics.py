"""The directory of topics: what it caches, and how often it asks the store."""

from __future__ import annotations

import asyncio

import pytest

from app.adapters.memory import MemoryStore
from app.errors import StoreDown, UnknownTopic
from app.topics import TopicDirectory


class Store(MemoryStore):
    """Counts how often it is asked; may be down."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.names = list(names)
        self.asked = 0
        self.down = False

    async def topic_names(self) -> list[str]:
        self.asked += 1
        await asyncio.sleep(0.01)
        if self.down:
            raise StoreDown("away")
        return self.names


async def test_a_known_topic_costs_one_call_for_all_questions() -> None:
    store = Store("sports", "science")
    directory = TopicDirectory(store, ttl_seconds=10)
    await asyncio.gather(*(directory.require(["sports"]) for _ in range(20)))
    await directory.require(["science", "sports"])
    assert store.asked == 1


async def test_an_unknown_topic_is_refused_with_those_there_are_and_not_looked_up_each_time() -> None:
    store = Store("science", "sports")
    directory = TopicDirectory(store, ttl_seconds=60, refresh_seconds=60)
    for _ in range(5):
        with pytest.raises(UnknownTopic, match=r"Unknown topic 'gardening'\. Topics: science, sports\."):
            await directory.require(["sports", "gardening"])
    assert store.asked == 1


async def test_a_topic_that_has_just_been_loaded_is_found() -> None:
    store = Store("sports")
    directory = TopicDirectory(store, ttl_seconds=10, refresh_seconds=0)
    await directory.require(["sports"])
    store.names.append("gardening")
    await directory.require(["gardening"])


async def test_while_the_store_is_away_everybody_learns_it_at_once() -> None:
    store = Store("sports")
    store.down = True
    directory = TopicDirectory(store, ttl_seconds=10)
    outcomes = await asyncio.gather(*(directory.require(["sports"]) for _ in range(20)), return_exceptions=True)
    assert all(isinstance(outcome, StoreDown) for outcome in outcomes)
    assert store.asked == 1
    store.down = False
    await directory.require(["sports"])


async def test_nothing_loaded_says_what_to_do() -> None:
    with pytest.raises(UnknownTopic, match="make ingest"):
        await TopicDirectory(Store(), ttl_seconds=10).require(["sports"])
