"""CPU seconds of whole process trees."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import psutil


def tree_seconds(pid: int) -> float:
    """User and system CPU seconds of a process and all its descendants so far, ended ones included.

    The kernel counts in ticks of 10 ms, so measure seconds, not milliseconds.
    """
    total = 0.0
    root = psutil.Process(pid)
    for process in [root, *root.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:  # ended between the listing and now; its parent has inherited its seconds
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


@contextmanager
def metered(pids: Mapping[str, int]) -> Iterator[dict[str, float]]:
    """A dict that holds, after the block, the CPU seconds each named process tree used in it."""
    before = {name: tree_seconds(pid) for name, pid in pids.items()}
    used: dict[str, float] = {}
    yield used
    used.update({name: tree_seconds(pid) - before[name] for name, pid in pids.items()})
