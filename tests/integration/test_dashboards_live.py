"""Every query of the dashboards against a real Prometheus, which scrapes one of each series that there may be.

That the services serve them under load is tested where the whole stack runs; here, that each query is PromQL, finds
its series by the labels they have, and makes numbers of them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from contracts.telemetry import APP, APP_LLM, SETUP
from monitoring.dashboards import foreign
from monitoring.queries import NEEDS, queries
from tests.support import exporter
from tests.support.dashboard_queries import answered_by_prometheus, unanswered
from tests.support.prometheus import RULES, Prometheus, prometheus

ABSENT = {"alerts", "restarts"}
"""Nothing goes wrong here, and nothing starts anew."""
HAVE = {need for _, need in NEEDS} - ABSENT
RATE_SECONDS = 5


@pytest.fixture(scope="module")
def scraping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Prometheus, float, float]]:
    """A Prometheus that has scraped everything for some seconds, and from when until when."""
    gpu = exporter.page([exporter.of_series(series) for series in foreign.FOREIGN if series.name.startswith("DCGM_")])
    load = exporter.page(
        [exporter.of_series(series) for series in foreign.FOREIGN if series.name.startswith("locust_")]
    )
    service = exporter.scrape("service")
    with ExitStack() as stack:
        targets = {
            job: [stack.enter_context(exporter.serving(*pages))]
            for job, pages in {
                APP: (exporter.ours(APP), service),
                APP_LLM: (exporter.ours(APP_LLM), service, exporter.scrape("vllm")),
                SETUP: (exporter.ours(SETUP),),
                "milvus": (exporter.scrape("milvus"),),
                "node": (exporter.scrape("node"),),
                "gpu": (gpu,),
                "locust": (load,),
            }.items()
        }
        folder = tmp_path_factory.mktemp("dashboards")
        running = stack.enter_context(prometheus(folder, targets, [RULES / "recording.yml"]))
        running.wait_for_scrapes(3)
        start = time.time()
        running.wait_until(f'{foreign.SLO_ERRORS["3d"].name}{{slo="ttft"}}', 60)
        running.wait_for_scrapes(2 * RATE_SECONDS)
        yield running, start, time.time()


def test_every_query_gives_numbers(scraping: tuple[Prometheus, float, float]) -> None:
    running, start, end = scraping
    assert unanswered(running, HAVE, start, end, rate_seconds=RATE_SECONDS) == []


def test_what_may_find_nothing_is_promql_too(scraping: tuple[Prometheus, float, float]) -> None:
    running, _, end = scraping
    rest = [query for query in queries() if query.datasource == "prometheus" and query.needs & ABSENT]
    assert rest
    for query in rest:
        running.query(query.filled(), end)


def test_queries_that_find_nothing_are_told(scraping: tuple[Prometheus, float, float]) -> None:
    running, start, _ = scraping
    long_ago = start - 100_000
    wrong = unanswered(running, HAVE, long_ago, long_ago + 60)
    # All but those that say 0 where there is nothing.
    assert len(wrong) > len(answered_by_prometheus(HAVE)) * 0.9
