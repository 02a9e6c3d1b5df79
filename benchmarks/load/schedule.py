"""When requests of an open load are due."""

from __future__ import annotations

import random

from benchmarks.load.types import Open


def due_times(arrivals: Open) -> list[float]:
    """Seconds after the start, ascending, all below `arrivals.seconds`. The same seed gives the same times."""
    if arrivals.spacing == "fixed":
        return [i / arrivals.per_second for i in range(round(arrivals.per_second * arrivals.seconds))]
    chance = random.Random(arrivals.seed)
    times: list[float] = []
    due = chance.expovariate(arrivals.per_second)
    while due < arrivals.seconds:
        times.append(due)
        due += chance.expovariate(arrivals.per_second)
    return times
