"""Starts the generator as a process of its own and says whether its figures can be believed."""

from __future__ import annotations

import subprocess
import sys

import msgspec

from benchmarks.load.types import Load, Outcome

CPU_SHARE_MAX = 0.85
"""A generator that uses more of its core may be what is slow."""
LATE_SECONDS_MAX = 0.005
"""A request in a hundred that leaves later than this: the generator does not keep its schedule."""


def drive(load: Load) -> Outcome:
    """Run `load` to its end. Raises RuntimeError with the generator's words when it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load"],
        input=msgspec.json.encode(load),
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"the load generator failed on {load.url}:\n{done.stderr.decode()[-2000:]}")
    return msgspec.json.decode(done.stdout, type=Outcome)


def doubts(outcome: Outcome) -> list[str]:
    """Why the figures of `outcome` say more of the generator than of what it drove; empty when they do not."""
    found: list[str] = []
    share = outcome.cpu_seconds / outcome.wall_seconds
    if share > CPU_SHARE_MAX:
        found.append(f"the generator used {share:.0%} of a core")
    if outcome.late.p99 > LATE_SECONDS_MAX:
        found.append(f"the generator sent 1 % of the requests more than {outcome.late.p99 * 1000:.0f} ms late")
    return found
