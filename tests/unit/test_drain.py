"""The measured rate at which a queue drains. Instants are made up: the class takes them as arguments."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.drain import HALF_LIFE_SECONDS, DrainRate, ItemsAndCost


def steady(rate: DrainRate, *, cost: float, every: float, times: int, start: float = 0.0) -> float:
    """`cost` leaves every so many seconds while more waits; when it ended."""
    rate.blocked(start)
    for i in range(1, times + 1):
        rate.left(cost, start + i * every)
    return start + times * every


def test_nothing_is_known_before_something_had_to_wait() -> None:
    rate = DrainRate()
    rate.left(100, 1.0)
    rate.idle()
    rate.left(100, 2.0)
    assert rate.seconds_for(1) is None
    assert rate.seconds_for(0) == 0


def test_a_steady_rate_is_measured_exactly() -> None:
    rate = DrainRate()
    steady(rate, cost=4, every=0.5, times=10)
    assert rate.seconds_for(16) == pytest.approx(2.0)


def test_only_blocked_time_counts() -> None:
    rate = DrainRate()
    ended = steady(rate, cost=10, every=1, times=3)
    rate.idle()
    steady(rate, cost=10, every=1, times=3, start=ended + 1000)
    assert rate.seconds_for(10) == pytest.approx(1.0)


def test_being_blocked_counts_from_its_beginning() -> None:
    rate = DrainRate()
    rate.blocked(0.0)
    rate.blocked(9.0)
    rate.left(10, 10.0)
    assert rate.seconds_for(1) == pytest.approx(1.0)


def test_what_leaves_in_the_same_instant_counts_too() -> None:
    rate = DrainRate()
    rate.blocked(0.0)
    rate.left(5, 1.0)
    rate.left(5, 1.0)
    assert rate.seconds_for(10) == pytest.approx(1.0, rel=0.1)


def test_after_a_half_life_old_and_new_count_the_same() -> None:
    rate = DrainRate()
    ended = steady(rate, cost=1, every=0.1, times=10_000)
    steady(rate, cost=3, every=0.1, times=round(HALF_LIFE_SECONDS / 0.1), start=ended)
    assert rate.seconds_for(1) == pytest.approx(1 / 20)  # halfway between 10 and 30 a second


def test_one_long_stall_is_soon_forgotten() -> None:
    rate = DrainRate()
    ended = steady(rate, cost=1, every=600, times=1)
    steady(rate, cost=1, every=0.01, times=round(3 * HALF_LIFE_SECONDS / 0.01), start=ended)
    estimate = rate.seconds_for(1)
    assert estimate is not None
    assert estimate < 0.012


@given(st.lists(st.tuples(st.floats(0.01, 1000), st.just(0.0) | st.floats(1e-9, 1000)), min_size=1, max_size=30))
def test_the_estimate_lies_between_the_slowest_and_the_fastest_that_was_seen(
    leavings: list[tuple[float, float]],
) -> None:
    rate, now = DrainRate(), 0.0
    rate.blocked(now)
    for cost, elapsed in leavings:
        now += elapsed
        rate.left(cost, now)
    estimate = rate.seconds_for(1)
    assert estimate is not None
    pace = [elapsed / cost for cost, elapsed in leavings]
    assert min(pace) * 0.99 - 1e-9 <= estimate <= max(pace) * 1.01 + 1e-9


def test_small_items_that_left_do_not_make_a_large_one_seem_to_wait_for_ever() -> None:
    drain = ItemsAndCost()
    drain.blocked(0.0)
    for second in range(1, 5):
        drain.left(1, 6.0, float(second))
    # By cost it would be 900 / 6 = 150 s; but it is one item, and one leaves every second.
    assert drain.seconds_for(1, 900.0) == pytest.approx(1.0)
    # And many small ones do not wait as long as as many large ones would.
    assert drain.seconds_for(100, 6.0) == pytest.approx(1.0)


def test_nothing_is_known_of_either_before_something_had_to_wait() -> None:
    drain = ItemsAndCost()
    drain.left(1, 6.0, 1.0)
    assert drain.seconds_for(1, 6.0) is None
    assert drain.seconds_for(0, 0.0) == 0.0
    drain.blocked(2.0)
    drain.idle()
    drain.left(1, 6.0, 9.0)
    assert drain.seconds_for(1, 6.0) is None
