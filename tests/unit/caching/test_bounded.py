"""What is kept is bounded in entries, bytes and age, and what leaves is said."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.caching.bounded import Bounded, Bounds
from tests.unit.caching.support import ROOMY, Clock, Seen


def test_what_was_used_least_recently_goes_first() -> None:
    seen, gone = Seen(), []
    kept: Bounded[str, int] = Bounded(Bounds(2, 1000, 60), seen, gone.append)
    for i, key in enumerate("ab"):
        kept.put(key, i, 1)
    assert kept.get("a") == 0
    kept.put("c", 2, 1)
    assert (kept.get("a"), kept.get("b"), kept.get("c")) == (0, None, 2)
    assert (gone, seen.left) == (["b"], {"full": 1})


def test_bytes_bound_it_too_and_what_is_larger_than_all_of_it_is_not_kept() -> None:
    seen = Seen()
    kept: Bounded[str, str] = Bounded(Bounds(100, 10, 60), seen)
    assert kept.put("a", "x", 6)
    assert kept.put("b", "y", 6)
    assert (kept.get("a"), kept.get("b")) == (None, "y")
    assert not kept.put("c", "z", 11)
    assert (kept.entries, kept.bytes, seen.left) == (1, 6, {"full": 1})


def test_what_is_too_old_is_not_found_and_goes() -> None:
    clock, seen, gone = Clock(), Seen(), []
    kept: Bounded[str, int] = Bounded(Bounds(9, 100, 60), seen, gone.append, clock)
    kept.put("a", 1, 1)
    clock.now = 59
    kept.put("b", 2, 1)
    assert kept.get("a") == 1
    clock.now = 60
    assert (kept.get("a"), kept.get("b")) == (None, 2)
    kept.expire()
    assert (gone, seen.left, kept.entries) == (["a"], {"expired": 1}, 1)


def test_putting_a_key_again_replaces_it_and_nothing_leaves() -> None:
    seen, gone = Seen(), []
    kept: Bounded[str, int] = Bounded(Bounds(1, 100, 60), seen, gone.append)
    kept.put("a", 1, 1)
    kept.put("a", 2, 5)
    assert (kept.get("a"), kept.entries, kept.bytes, gone, seen.left) == (2, 1, 5, [], {})


def test_all_of_it_can_be_forgotten() -> None:
    seen, gone = Seen(), []
    kept: Bounded[str, int] = Bounded(ROOMY, seen, gone.append)
    kept.clear("outdated")
    for key in "abc":
        kept.put(key, 1, 7)
    kept.clear("outdated")
    assert (sorted(gone), seen.left, kept.entries, kept.bytes) == (["a", "b", "c"], {"outdated": 3}, 0, 0)
    assert kept.get("a") is None


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 40), st.integers(0, 20)), max_size=60))
def test_whatever_is_put_the_bounds_hold_and_every_entry_leaves_once(steps: list[tuple[int, int, int]]) -> None:
    clock, seen = Clock(), Seen()
    inside: set[int] = set()
    kept: Bounded[int, int] = Bounded(Bounds(4, 60, 50), seen, inside.remove, clock)
    for key, size, wait in steps:
        clock.now += wait
        if kept.put(key, size, size):
            inside.add(key)
        assert kept.entries <= 4
        assert kept.bytes <= 60
        assert kept.entries == len(inside)
        assert all(kept.get(i) is not None for i in inside)
