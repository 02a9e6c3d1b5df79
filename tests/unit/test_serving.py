"""The gate that counts what is running. (What uvicorn does around it is tested with real processes.)"""

from __future__ import annotations

import asyncio

from app.serving import Gate


async def turn() -> None:
    await asyncio.sleep(0)


async def test_an_unused_gate_is_empty_at_once() -> None:
    await Gate().empty()


async def test_empty_waits_for_the_last_one_to_leave() -> None:
    gate = Gate()
    gate.enter()
    gate.enter()
    emptied = asyncio.ensure_future(gate.empty())
    await turn()
    gate.leave()
    await turn()
    assert (emptied.done(), gate.inside) == (False, 1)
    gate.leave()
    await emptied
    assert gate.inside == 0


async def test_who_enters_again_is_waited_for_again() -> None:
    gate = Gate()
    gate.enter()
    gate.leave()
    gate.enter()
    emptied = asyncio.ensure_future(gate.empty())
    await turn()
    assert not emptied.done()
    gate.leave()
    await emptied


async def test_closing_leaves_those_inside_alone() -> None:
    gate = Gate()
    gate.enter()
    gate.closed = True
    assert gate.inside == 1
    gate.leave()
    await gate.empty()
