"""How long a queue takes to drain, by what has left it."""

from __future__ import annotations

import pytest

from app.drain import ItemsAndCost


def test_small_items_that_left_do_not_make_a_large_one_seem_to_wait_for_ever() -> None:
    drain = ItemsAndCost()
    drain.blocked(0.0)
    for second in range(1, 5):
        drain.left(1, 6.0, float(second))
    # By cost it would be 900 / 6 = 150 s; but it is one item, and one leaves every second.
    assert drain.seconds_for(1, 900.0) == pytest.approx(1.0)
    # And many small ones do not wait as long as as many large ones would.
    assert drain.seconds_for(100, 6.0) == pytest.approx(1.0)


def test_nothing_is_known_before_something_had_to_wait() -> None:
    drain = ItemsAndCost()
    drain.left(1, 6.0, 1.0)
    assert drain.seconds_for(1, 6.0) is None
    assert drain.seconds_for(0, 0.0) == 0.0
    drain.blocked(2.0)
    drain.idle()
    drain.left(1, 6.0, 9.0)
    assert drain.seconds_for(1, 6.0) is None
