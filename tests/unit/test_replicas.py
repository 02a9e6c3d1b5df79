"""Which replicas are used: chosen by load, ejected when they fail, asked again, and found and lost by their names."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter

import pytest

from app.errors import Draining, ModelServiceDown, ModelServiceFailed, Overloaded, PharosError
from app.replicas import EJECTED_SECONDS_MAX, Replica, State
from contracts.types import Readiness
from tests.support.model_services import Fleet

DOWN = ModelServiceDown("gone")


def load_of(replica: Replica) -> float:
    return replica.tokens


async def test_of_two_the_less_loaded_is_chosen() -> None:
    fleet = Fleet("ab")
    async with fleet.replicas as replicas:
        fleet["a"].tokens = 10
        assert {replicas.pick(load_of).address.host for _ in range(20)} == {"b"}
        fleet["b"].tokens = 11
        assert {replicas.pick(load_of).address.host for _ in range(20)} == {"a"}


async def test_of_many_any_but_the_most_loaded_may_be_chosen() -> None:
    """Two random ones are compared, so that several gateways do not all go to the same idle one."""
    fleet = Fleet("abcd")
    async with fleet.replicas as replicas:
        for tokens, name in enumerate("abcd"):
            fleet[name].tokens = tokens
        chosen = Counter(replicas.pick(load_of).address.host for _ in range(600))
        assert set(chosen) == {"a", "b", "c"}  # d loses against each of the others
        assert chosen["a"] > chosen["b"] > chosen["c"]  # expected: 300, 200, 100


async def test_those_that_were_tried_are_left_out() -> None:
    fleet = Fleet("ab")
    async with fleet.replicas as replicas:
        assert replicas.pick(load_of, without=[fleet["a"]]) is fleet["b"]
        with pytest.raises(ModelServiceDown):
            replicas.pick(load_of, without=[fleet["a"], fleet["b"]])


async def test_room_comes_before_load() -> None:
    fleet = Fleet("ab", prompts_max=10)
    async with fleet.replicas as replicas:
        fleet["a"].prompts, fleet["a"].tokens = 8, 1
        fleet["b"].prompts, fleet["b"].tokens = 2, 9
        assert replicas.prompt_room() == 8
        assert {replicas.pick(load_of, prompts=2).address.host for _ in range(20)} == {"a"}
        assert {replicas.pick(load_of, prompts=3).address.host for _ in range(20)} == {"b"}
        # Room for nobody: a retry goes to the less loaded one all the same.
        assert {replicas.pick(load_of, prompts=9).address.host for _ in range(20)} == {"a"}


@pytest.mark.parametrize(("prompts_max", "at_once", "room"), [(7, 100, 7), (0, 8, 8), (0, None, math.inf)])
async def test_room_is_what_is_set_or_what_runs_at_once(prompts_max: int, at_once: int | None, room: float) -> None:
    fleet = Fleet("a", prompts_max=prompts_max)
    fleet.services["a"].status = Readiness("ready", prompts_at_once=at_once)
    async with fleet.replicas as replicas:
        assert replicas.prompt_room() == room


async def test_without_a_ready_replica_there_is_no_reason_to_wait() -> None:
    fleet = Fleet("a", prompts_max=1)
    fleet.services["a"].silent = DOWN
    async with fleet.replicas as replicas:
        assert replicas.prompt_room() == math.inf
        assert not await replicas.any_ready()
        with pytest.raises(ModelServiceDown):
            replicas.pick(load_of)


async def test_one_that_is_ready_is_used_from_the_start() -> None:
    fleet = Fleet("ab")
    fleet.services["b"].silent = DOWN
    async with fleet.replicas as replicas:
        assert [replica.address.host for replica in replicas.ready] == ["a"]
        assert (replicas.count(), replicas.epoch) == (1, 1)


async def test_failures_in_a_row_eject_and_a_success_begins_the_row_anew() -> None:
    fleet = Fleet("ab")
    async with fleet.replicas as replicas:
        for error in (DOWN, ModelServiceFailed("nonsense")):
            replicas.failed(fleet["a"], error)
        replicas.succeeded(fleet["a"])
        for _ in range(2):
            replicas.failed(fleet["a"], DOWN)
        assert replicas.count() == 2
        replicas.failed(fleet["a"], DOWN)
        assert [replica.address.host for replica in replicas.ready] == ["b"]


async def test_a_busy_replica_is_well() -> None:
    fleet = Fleet("a", probe_seconds=0.001)
    async with fleet.replicas as replicas:
        for _ in range(10):
            replicas.failed(fleet["a"], Overloaded("busy"))
        fleet.services["a"].silent = Overloaded("every connection is in use")
        for _ in range(10):
            await fleet.services["a"].probe()
        assert fleet["a"].state is State.READY


async def test_one_that_drains_gets_nothing_and_is_not_punished() -> None:
    fleet = Fleet("a", probe_seconds=0.001)
    service = fleet.services["a"]
    async with fleet.replicas as replicas:
        service.status = Readiness("draining")
        replicas.failed(fleet["a"], Draining("shutting down"))
        assert fleet["a"].state is State.DRAINING
        await service.probe()
        assert fleet["a"].state is State.DRAINING
        service.status = Readiness("ready")
        await service.probe()
        assert (fleet["a"].state, fleet["a"].ejections) == (State.READY, 0)
        service.status = Readiness("draining")
        await service.probe()
        assert fleet["a"].state is State.DRAINING


async def test_silence_ejects_and_the_answer_brings_back() -> None:
    fleet = Fleet("a", probe_seconds=0.001)
    service = fleet.services["a"]
    heard: list[tuple[State, int]] = []
    # At each change, since it is asked again and again: a look afterwards may come a question too late.
    fleet.replicas.on_change(lambda: heard.append((fleet["a"].state, fleet["a"].silences)))
    async with fleet.replicas as replicas:
        service.silent = DOWN
        while fleet["a"].state is State.READY:
            await service.probe()
        service.silent = None
        while fleet["a"].state is not State.READY:
            await service.probe()
        assert heard == [(State.READY, 0), (State.EJECTED, 3), (State.READY, 0)]
        assert replicas.epoch == 2


async def test_one_that_says_it_is_well_and_fails_what_it_is_given_is_not_believed() -> None:
    fleet = Fleet("a", probe_seconds=0.001)
    async with fleet.replicas as replicas:
        for _ in range(3):
            assert fleet["a"].state is State.READY
            replicas.failed(fleet["a"], DOWN)
            await fleet.services["a"].probe()
        assert fleet["a"].ejections == 1


async def test_each_ejection_is_longer_than_the_last_until_something_has_succeeded() -> None:
    probe_seconds = 0.002
    fleet = Fleet("a", failures=1, probe_seconds=probe_seconds)

    async def pause() -> float:
        while fleet["a"].state is not State.READY:
            assert fleet["a"].ejected_until > 0
            await fleet.services["a"].probe()
        before = time.monotonic()
        replicas.failed(fleet["a"], DOWN)
        assert before <= fleet["a"].ejected_until <= time.monotonic() + EJECTED_SECONDS_MAX
        return fleet["a"].ejected_until - before

    async with fleet.replicas as replicas:
        assert [await pause() >= probe_seconds * factor for factor in (1, 2, 4, 8)] == [True] * 4
        assert fleet["a"].ejections == 4
        replicas.succeeded(fleet["a"])
        await pause()
        assert fleet["a"].ejections == 1
        fleet["a"].ejections = 60
        fleet["a"].state = State.READY
        assert await pause() >= EJECTED_SECONDS_MAX


async def test_an_ejected_one_is_not_back_before_its_time() -> None:
    fleet = Fleet("a", failures=1, probe_seconds=0.001)
    async with fleet.replicas as replicas:
        fleet["a"].ejections = 60  # half a minute
        replicas.failed(fleet["a"], DOWN)
        for _ in range(5):
            await fleet.services["a"].probe()
        assert fleet["a"].state is State.EJECTED


async def test_listeners_hear_of_every_change() -> None:
    fleet = Fleet("ab", failures=1, resolve_seconds=0.001)
    heard: list[int] = []
    fleet.replicas.on_change(lambda: heard.append(fleet.replicas.count()))
    async with fleet.replicas as replicas:
        assert heard == [1, 2]
        replicas.failed(fleet["a"], DOWN)
        replicas.failed(fleet["a"], DOWN)
        assert heard == [1, 2, 1]
        fleet.addresses = ["a"]
        await fleet.resolve()
        assert heard == [1, 2, 1, 0]


async def test_the_epoch_grows_only_when_one_begins_to_be_used() -> None:
    fleet = Fleet("ab", failures=1, probe_seconds=0.001)
    async with fleet.replicas as replicas:
        assert replicas.epoch == 2
        replicas.failed(fleet["a"], DOWN)
        assert replicas.epoch == 2
        while fleet["a"].state is not State.READY:
            await fleet.services["a"].probe()
        assert replicas.epoch == 3


async def test_an_address_that_appears_is_asked_and_used() -> None:
    fleet = Fleet("a", probe_seconds=0.001, resolve_seconds=0.001)
    async with fleet.replicas as replicas:
        fleet.addresses = ["a", "b"]
        await fleet.resolve()
        await fleet.services["b"].probe()
        assert {replica.address.host for replica in replicas.ready} == {"a", "b"}


async def test_one_that_vanishes_finishes_its_work_before_its_connections_close() -> None:
    fleet = Fleet("ab", probe_seconds=0.001, resolve_seconds=0.001)
    async with fleet.replicas as replicas:
        gone = fleet["a"]
        gone.prompts, gone.texts = 1, 1
        fleet.addresses = ["b"]
        await fleet.resolve()
        assert [replica.address.host for replica in replicas.all] == ["b"]
        for done in ("prompts", "texts"):
            await fleet.services["b"].probe()
            assert not fleet.services["a"].closed
            setattr(gone, done, 0)
        await fleet.services["b"].probe()
        await fleet.services["b"].probe()
        assert fleet.services["a"].closed
        assert not fleet.services["b"].closed


async def test_an_address_that_comes_back_is_a_new_replica() -> None:
    fleet = Fleet("a", probe_seconds=0.001, resolve_seconds=0.001)
    async with fleet.replicas as replicas:
        old = fleet["a"]
        old.prompts = 1
        fleet.addresses = []
        await fleet.resolve()
        fleet.addresses = ["a"]
        await fleet.resolve()
        while not replicas.ready:
            await fleet.services["a"].probe()
        assert fleet["a"] is not old
        assert fleet["a"].prompts == 0


async def test_a_name_server_that_is_down_changes_nothing() -> None:
    fleet = Fleet("a", resolve_seconds=0.001)
    async with fleet.replicas as replicas:
        fleet.unresolvable = True
        await fleet.resolve()
        await fleet.resolve()
        assert replicas.count() == 1


async def test_a_name_server_that_is_down_at_the_start_is_asked_again() -> None:
    fleet = Fleet("a", probe_seconds=0.001, resolve_seconds=0.001)
    fleet.unresolvable = True
    ready = asyncio.Event()
    fleet.replicas.on_change(ready.set)
    async with fleet.replicas as replicas:
        assert replicas.count() == 0
        fleet.unresolvable = False
        await ready.wait()
        assert replicas.count() == 1


async def test_leaving_closes_every_client() -> None:
    fleet = Fleet("ab", resolve_seconds=0.001)
    async with fleet.replicas:
        fleet["a"].prompts = 1
        fleet.addresses = ["b"]
        await fleet.resolve()
    assert all(service.closed for service in fleet.services.values())


@pytest.mark.parametrize("error", [DOWN, Draining("bye")])
async def test_one_that_fails_again_while_away_changes_nothing(error: PharosError) -> None:
    fleet = Fleet("a", failures=1)
    async with fleet.replicas as replicas:
        replicas.failed(fleet["a"], error)
        state, until, ejections = fleet["a"].state, fleet["a"].ejected_until, fleet["a"].ejections
        replicas.failed(fleet["a"], error)
        assert (fleet["a"].state, fleet["a"].ejected_until, fleet["a"].ejections) == (state, until, ejections)
