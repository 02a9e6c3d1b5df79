"""From configured URLs to addresses. Only names that every machine resolves by itself are used."""

from __future__ import annotations

import asyncio
import socket

import pytest

from app.adapters.discovery import Discovery
from app.replicas import Address

NOBODY = "http://nobody.invalid:8080"
"""RFC 6761: this name is never resolved."""


async def test_each_address_of_a_name_is_a_replica_that_keeps_the_name() -> None:
    found = await Discovery(["http://localhost:8080"])()
    assert found == {Address("http://127.0.0.1:8080", "localhost:8080")}


async def test_several_urls_are_several_replicas() -> None:
    found = await Discovery(["http://127.0.0.1:1", "http://127.0.0.1:2", "https://127.0.0.1"])()
    assert {address.url for address in found} == {"http://127.0.0.1:1", "http://127.0.0.1:2", "https://127.0.0.1"}


async def test_an_ipv6_address_stays_one() -> None:
    (address,) = await Discovery(["http://[::1]:8080"])()
    assert address == Address("http://[::1]:8080", "[::1]:8080")


async def test_a_name_nobody_knows_does_not_hide_the_others() -> None:
    found = await Discovery([NOBODY, "http://127.0.0.1:1"])()
    assert found == {Address("http://127.0.0.1:1", "127.0.0.1:1")}


async def test_when_nothing_can_be_resolved_that_is_an_error() -> None:
    with pytest.raises(socket.gaierror):
        await Discovery([NOBODY])()


async def test_a_name_that_cannot_be_resolved_for_once_keeps_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are looked up afresh all the same."""
    known = {"one": ["10.0.0.1", "10.0.0.2"], "two": ["10.0.1.1"]}

    async def name_server(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        if host not in known:
            raise socket.gaierror("no answer")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in known[host]]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", name_server)
    discovery = Discovery(["http://one:1", "http://two:1"])
    assert {address.url for address in await discovery()} == {f"http://10.0.{n}:1" for n in ("0.1", "0.2", "1.1")}
    del known["one"]
    known["two"] = ["10.0.1.9"]
    assert {address.url for address in await discovery()} == {f"http://10.0.{n}:1" for n in ("0.1", "0.2", "1.9")}
    known.clear()
    assert len(await discovery()) == 3
