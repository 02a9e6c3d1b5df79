"""Where the users' results go: Locust's statistics and report, the figures for Prometheus, and from workers to the
master."""

from __future__ import annotations

from typing import Any

from locust.env import Environment
from locust.stats import StatsEntry

from locust_testing import figures
from locust_testing.figures import METHOD, Figures, Result
from locust_testing.thresholds import Observed

FIRST_TOKEN, INTER_TOKEN, REFUSED, LEFT = "first token", "inter-token", "refused", "left"
"""Rows of Locust's report beside the requests' own, which have the HTTP method here."""


class RequestFailed(Exception):
    """What Locust's list of failures shows."""


class Recorder:
    """One in each process. Add `report` and `merge` to Locust's events for what workers send.

    Times of tokens get rows of their own in Locust's report; they are not requests, so its totals are without them, and
    without the requests that were refused or left.
    """

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self.figures = Figures()

    def add(self, result: Result) -> None:
        """Note one result."""
        self.figures.add(result)
        if result.outcome in ("ok", "failed"):
            self._environment.events.request.fire(
                request_type=METHOD,
                name=result.name,
                response_time=result.seconds * 1000,
                response_length=result.bytes,
                exception=RequestFailed(result.why) if result.outcome == "failed" else None,
                context={},
            )
        else:
            self._row(result.name, REFUSED if result.outcome == "refused" else LEFT, result.seconds)
        if result.first_token_seconds is not None:
            self._row(result.name, FIRST_TOKEN, result.first_token_seconds)
            for gap in result.gaps:
                self._row(result.name, INTER_TOKEN, gap)

    def _row(self, name: str, kind: str, seconds: float) -> None:
        self._environment.stats.get(name, kind).log(round(seconds * 1000, 3), 0)  # type: ignore[arg-type]

    def report(self, data: dict[str, Any], **_: object) -> None:
        """Locust's event `report_to_master`, in a worker."""
        data["pharos"] = self.figures.take()

    def merge(self, data: dict[str, Any], **_: object) -> None:
        """Locust's event `worker_report`, in the master."""
        self.figures.add_taken(data["pharos"])

    def observed(self) -> list[Observed]:
        """The run so far, for each kind of request."""
        entries = self._environment.stats.entries
        by_name: dict[str, dict[str, int]] = {}
        for name, method, outcome in self.figures.labels(figures.REQUESTS):
            count = self.figures.count(figures.REQUESTS, name, method, outcome)
            by_name.setdefault(name, {})[outcome] = int(count)
        return [
            Observed(
                name,
                ok=counts.get("ok", 0),
                failed=counts.get("failed", 0),
                refused=counts.get("refused", 0),
                implausible=int(self.figures.count(figures.IMPLAUSIBLE, name)),
                p95_first_token_seconds=_p95(entries.get((name, FIRST_TOKEN))),
                p95_total_seconds=_p95(entries.get((name, METHOD))),
            )
            for name, counts in by_name.items()
        ]


def _p95(entry: StatsEntry | None) -> float | None:
    """In seconds, to the two digits that Locust keeps."""
    if entry is None or not entry.num_requests:
        return None
    return entry.get_response_time_percentile(0.95) / 1000
