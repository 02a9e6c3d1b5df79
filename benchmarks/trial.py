"""One load against one service with its CPU seconds, and several of them summed up."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.cpu import metered
from benchmarks.load.calibration import headroom
from benchmarks.load.drive import doubts, drive
from benchmarks.load.types import Load, Outcome
from benchmarks.services import pid
from tests.support.processes import Service


@dataclass(frozen=True, slots=True)
class Trial:
    """What came back and what it cost."""

    load: Load
    outcome: Outcome
    cpu_seconds: dict[str, float]
    """By name of the service; "generator" is the load generator's."""


def attempt(load: Load, *services: Service) -> Trial:
    """Drive `load` and meter `services` meanwhile. Raises RuntimeError when not a single request is answered."""
    with metered({service.name: pid(service) for service in services}) as used:
        outcome = drive(load)
    if not outcome.answered:
        raise RuntimeError(f"{load.url} answered only {', '.join(outcome.latency)}: {outcome.first_body[:500]}")
    return Trial(load, outcome, {**used, "generator": outcome.cpu_seconds})


@dataclass(frozen=True, slots=True)
class Trials:
    """Repetitions of one load."""

    trials: Sequence[Trial]

    def median(self, figure: Callable[[Outcome], float]) -> float:
        """The median of a figure over the repetitions."""
        return statistics.median(figure(trial.outcome) for trial in self.trials)

    @property
    def cpu_seconds(self) -> dict[str, float]:
        """Summed up over the repetitions."""
        total: dict[str, float] = defaultdict(float)
        for trial in self.trials:
            for name, seconds in trial.cpu_seconds.items():
                total[name] += seconds
        return {name: round(seconds, 2) for name, seconds in total.items()}

    @property
    def tokens(self) -> int:
        return sum(trial.outcome.tokens for trial in self.trials)

    @property
    def chunks(self) -> int:
        return sum(trial.outcome.chunks for trial in self.trials)

    def doubts(self, of: str = "", failures_allowed: bool = False) -> list[str]:
        """Whatever speaks against the figures, the generator's own limits included (it is calibrated here). `of` names
        the side that was measured, where it is not ours."""
        found = [doubt for trial in self.trials for doubt in doubts(trial.outcome)]
        failed = sum(trial.outcome.failed for trial in self.trials)
        if failed and not failures_allowed:
            found.append(f"{failed} of {sum(t.outcome.requests for t in self.trials)} requests failed")
        fastest = max(self.trials, key=lambda trial: trial.outcome.requests / trial.outcome.wall_seconds)
        found += headroom(fastest.load, fastest.outcome)
        return [f"{of}: {doubt}" if of else doubt for doubt in dict.fromkeys(found)]
